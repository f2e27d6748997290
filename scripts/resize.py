"""Reduce a tree of images and masks to the size that training reads. Used by resize_youtube.py and resize_length.py."""

import io
import os
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from datasets.frames import FRAME_SUFFIXES, check_folder
from datasets.images import exif_orientation, write_image
from datasets.video import inference_size
from util.errors import InputError, Parser, exit_on_input_error
from util.files import files_below, read_bytes, write_bytes
from util.parallel import parallel_map

TURNS = dict(enumerate(map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2)), start=2))  # by EXIF orientation


@exit_on_input_error
def resize_program(doc: str, short_side: int, default: tuple[str, str] | None, arguments: list[str] | None) -> int:
    """Copy every file below a source folder, images reduced to a short side of ``short_side`` pixels.

    Photos are averaged over the area of a pixel; masks, that is PNGs without colour or with a palette, use nearest
    neighbour. Both are turned upright. Smaller images and other files are copied unchanged. Existing files are kept:
    files are written atomically, so they are complete.

    ``doc``: the script's docstring; ``default``: the usual source and target, if any. Returns the exit code: 0, or 1
    if some images could not be read. Raises `InputError` if the source is not a folder with images, or if the target
    cannot be written or lies in it.
    """
    parser = Parser(doc)
    nargs, words = ("?", " (default: %(default)s)") if default else (None, "")
    source, target = default or (None, None)
    parser.add_argument("source", type=Path, nargs=nargs, default=source, help=f"folder of images and masks{words}")
    parser.add_argument("target", type=Path, nargs=nargs, default=target, help=f"folder for the copy{words}")
    parser.add_argument("--size", type=int, default=short_side, metavar="N", help="short side (default: %(default)s)")
    parser.add_argument("--workers", type=int, metavar="N", help="threads (default: one for each core)")
    args = parser.parse_args(arguments)
    source, target = args.source, args.target
    if args.size < 1:
        raise InputError(f"--size {args.size}: expected at least one pixel")
    check_folder(source, "the images to resize")
    if Path(os.path.realpath(target)).is_relative_to(os.path.realpath(source)):
        raise InputError(f"{target}: lies in {source}; expected another place for the resized images")
    paths = sorted(files_below(source))
    if not any(path.suffix.lower() in FRAME_SUFFIXES for path in paths):
        raise InputError(f"{source}: holds no .jpg or .png files; expected the images to resize")
    missing = [path for path in paths if not (target / path.relative_to(source)).exists()]

    def convert(path: Path) -> bool:
        return _convert(path, target / path.relative_to(source), args.size)

    written = sum(parallel_map(convert, missing, f"Resizing to {args.size}", args.workers))
    failed = len(missing) - written
    print(f"{target}: {written} files written, {len(paths) - len(missing)} existed, {failed} failed")
    return int(failed > 0)


def _convert(path: Path, target: Path, short_side: int) -> bool:
    """Whether the file could be read; says why it could not."""
    try:
        data = read_bytes(path, "a file")
        image: Image.Image | None = None
        if path.suffix.lower() in FRAME_SUFFIXES:
            image = Image.open(io.BytesIO(data))
            orientation = exif_orientation(image)
            image.load()
    except Exception as error:  # Pillow raises many types for damaged files
        reason = str(error).removeprefix(f"{path}: ").partition(" <_io.BytesIO")[0].partition("\n")[0]
        print(f"error: {path}: cannot be read ({reason})")
        return False
    if image is None or min(image.size) <= short_side:
        write_bytes(target, data)
        return True
    is_png = image.format == "PNG"
    if orientation in TURNS:
        image = image.transpose(TURNS[orientation])
    size = inference_size((image.height, image.width), short_side)[::-1]
    if is_png and image.mode in ("P", "L", "1", "I;16", "I"):
        resized = io.BytesIO()
        image.resize(size, Image.Resampling.NEAREST).save(resized, format="PNG")
        write_bytes(target, resized.getvalue())
    else:
        write_image(target, cv2.resize(np.array(image.convert("RGB")), size, interpolation=cv2.INTER_AREA))
    return True
