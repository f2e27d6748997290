"""A smaller copy of a tree of images and masks, as training wants it."""

import argparse
import shutil
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from datasets.frames import FRAME_SUFFIXES
from datasets.images import write_image
from datasets.video import inference_size
from util.errors import InputError
from util.files import atomic_path
from util.parallel import parallel_map


class Resized(NamedTuple):
    """What `resize_tree` did, in files."""

    written: int
    kept: int  # were there before
    failed: list[str]  # one line for each file that could not be read


def resize_tree(source: Path, target: Path, short_side: int, workers: int | None = None) -> Resized:
    """Copy every file below ``source`` to ``target``, images reduced to a short side of ``short_side`` pixels.

    Photos by area; masks, that is PNGs without colour or with a palette, by nearest neighbour. Smaller images and other
    files are copied as they are. Files that are there already are kept: they are complete, because
    each appears under its name only when it is. ``workers``: threads (default: one for each core). Raises `InputError`
    for a source that is no folder or holds no image, and for a target that cannot be written.
    """
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; expected the images to resize")
    if target.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{target}: lies in {source}; expected another place for the resized images")
    paths = sorted(path for path in source.rglob("[!.]*") if path.is_file())
    if not any(path.suffix.lower() in FRAME_SUFFIXES for path in paths):
        raise InputError(f"{source}: holds no .jpg or .png files; expected the images to resize")
    left = [path for path in paths if not (target / path.relative_to(source)).exists()]

    def convert(path: Path) -> str | None:
        try:
            _convert(path, target / path.relative_to(source), short_side)
        except _Unreadable as error:
            return f"{path}: cannot be read ({error})"
        return None

    failed = [line for line in parallel_map(convert, left, f"Resizing to {short_side}", workers) if line]
    return Resized(len(left) - len(failed), len(paths) - len(left), failed)


class _Unreadable(Exception):
    pass


def _convert(path: Path, target: Path, short_side: int) -> None:
    image = None
    if path.suffix.lower() in FRAME_SUFFIXES:
        try:
            image = Image.open(path)
            image.load()
        except Exception as error:  # Pillow raises many types for damaged files
            raise _Unreadable(str(error).splitlines()[0]) from error
        height, width = inference_size((image.height, image.width), short_side)
    if image is None or (width, height) == image.size:
        with atomic_path(target) as temporary:
            shutil.copyfile(path, temporary)
    elif path.suffix.lower() == ".png" and image.mode in ("P", "L", "1", "I;16", "I"):
        with atomic_path(target) as temporary:
            image.resize((width, height), Image.Resampling.NEAREST).save(temporary, format="PNG")
    else:
        write_image(target, cv2.resize(np.array(image.convert("RGB")), (width, height), interpolation=cv2.INTER_AREA))


def resize_program(doc: str, short_side: int, default: tuple[str, str] | None, arguments: list[str] | None) -> int:
    """The command line of the resize scripts.

    ``doc``: the script's docstring, description and examples; ``default``: source and target, where there are usual
    ones. Returns the exit code: 0, or 1 if some images could not be read. Raises `InputError`.
    """
    description, _, examples = doc.partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    nargs, words = ("?", " (default %(default)s)") if default else (None, "")
    source, target = default or (None, None)
    parser.add_argument("source", type=Path, nargs=nargs, default=source, help=f"folder of images and masks{words}")
    parser.add_argument("target", type=Path, nargs=nargs, default=target, help=f"folder for the copy{words}")
    parser.add_argument("--size", type=int, default=short_side, metavar="N", help="short side (default %(default)s)")
    parser.add_argument("--workers", type=int, metavar="N", help="threads (default: one for each core)")
    args = parser.parse_args(arguments)
    resized = resize_tree(args.source, args.target, args.size, args.workers)
    for line in resized.failed:
        print(f"error: {line}")
    outcome = f"{resized.written} files written, {resized.kept} were there before, {len(resized.failed)} failed"
    print(f"{outcome}: {args.target}")
    return 1 if resized.failed else 0
