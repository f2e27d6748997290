"""Reduce a tree of images and masks to the size that training reads. Used by resize_youtube.py and resize_length.py."""

import argparse
import io
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from datasets.frames import FRAME_SUFFIXES
from datasets.images import write_image
from datasets.video import inference_size
from util.errors import InputError
from util.files import write_bytes
from util.parallel import parallel_map


class Resized(NamedTuple):
    """Result of `resize_tree`, in numbers of files."""

    written: int
    kept: int  # existed before
    failed: list[str]  # one line for each file that could not be read


def resize_tree(source: Path, target: Path, short_side: int, workers: int | None = None) -> Resized:
    """Copy every file below ``source`` to ``target``, images reduced to a short side of ``short_side`` pixels.

    Photos are averaged over the area of a pixel; masks, that is PNGs without colour or with a palette, use nearest
    neighbour. Smaller images and other files are copied unchanged. Existing files are kept: files are written
    atomically, so they are complete. ``workers``: threads (default: one for each core). Raises `InputError` if
    ``source`` is not a folder with images, or if ``target`` cannot be written or lies in ``source``.
    """
    if short_side < 1:
        raise InputError(f"--size {short_side}: expected at least one pixel")
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; expected the images to resize")
    if target.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{target}: lies in {source}; expected another place for the resized images")
    paths = sorted(path for path in source.rglob("[!.]*") if path.is_file())
    if not any(path.suffix.lower() in FRAME_SUFFIXES for path in paths):
        raise InputError(f"{source}: holds no .jpg or .png files; expected the images to resize")
    missing = [path for path in paths if not (target / path.relative_to(source)).exists()]

    def convert(path: Path) -> str | None:
        try:
            _convert(path, target / path.relative_to(source), short_side)
        except _Unreadable as error:
            return f"{path}: cannot be read ({error})"
        return None

    failed = [line for line in parallel_map(convert, missing, f"Resizing to {short_side}", workers) if line]
    return Resized(len(missing) - len(failed), len(paths) - len(missing), failed)


class _Unreadable(Exception):
    pass


def _convert(path: Path, target: Path, short_side: int) -> None:
    try:
        data = path.read_bytes()
        if path.suffix.lower() in FRAME_SUFFIXES:
            image = Image.open(io.BytesIO(data))
            image.load()
        else:
            image = None
    except Exception as error:  # Pillow raises many types for damaged files
        reason = str(error).partition(" <_io.BytesIO")[0]
        raise _Unreadable(" ".join(reason.split())) from error
    height, width = inference_size((image.height, image.width), short_side) if image else (0, 0)
    if image is None or (width, height) == image.size:
        write_bytes(target, data)
    elif image.format == "PNG" and image.mode in ("P", "L", "1", "I;16", "I"):
        resized = io.BytesIO()
        image.resize((width, height), Image.Resampling.NEAREST).save(resized, format="PNG")
        write_bytes(target, resized.getvalue())
    else:
        write_image(target, cv2.resize(np.array(image.convert("RGB")), (width, height), interpolation=cv2.INTER_AREA))


def resize_program(doc: str, short_side: int, default: tuple[str, str] | None, arguments: list[str] | None) -> int:
    """The command line of the resize scripts.

    ``doc``: the script's docstring; ``default``: the usual source and target, if any. Returns the exit code: 0, or 1
    if some images could not be read. Raises `InputError`.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    nargs, words = ("?", " (default: %(default)s)") if default else (None, "")
    source, target = default or (None, None)
    parser.add_argument("source", type=Path, nargs=nargs, default=source, help=f"folder of images and masks{words}")
    parser.add_argument("target", type=Path, nargs=nargs, default=target, help=f"folder for the copy{words}")
    parser.add_argument("--size", type=int, default=short_side, metavar="N", help="short side (default: %(default)s)")
    parser.add_argument("--workers", type=int, metavar="N", help="threads (default: one for each core)")
    args = parser.parse_args(arguments)
    resized = resize_tree(args.source, args.target, args.size, args.workers)
    for line in resized.failed:
        print(f"error: {line}")
    outcome = f"{resized.written} files written, {resized.kept} existed, {len(resized.failed)} failed"
    print(f"{args.target}: {outcome}")
    return 1 if resized.failed else 0
