"""Videos from wherever a caller has them: a file, a folder of frames or arrays; as a stream, or frame by frame."""

import operator
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from functools import cache, partial
from itertools import chain
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from datasets.frames import list_frames
from datasets.images import read_mask
from datasets.video import Frames, Video, VideoFrame, frames_video, make_frame
from util.errors import InputError

Source = str | PathLike | Iterable[np.ndarray]
MaskSource = str | PathLike | np.ndarray


def open_video(source: Source, short_side: int) -> Video:
    """A stream of frames without masks, for the engine at ``short_side`` (see `inference_size`).

    ``source``: a video file, a folder of images, or an iterable of H×W×3 uint8 RGB arrays, which may never end; it is
    read in the caller's thread, and never ahead. Raises `InputError` for what is none of these.
    """
    if isinstance(source, str | PathLike):
        path = Path(source).absolute()  # FFmpeg takes a relative path up to a colon for a protocol
        if path.is_dir():
            return frames_video(path.resolve().name, list_frames(path), {}, short_side)
        return video_files().file_video(path, {}, short_side)
    first, arrays = _first(source)
    size = first.shape[:2]

    def jobs() -> Iterator[Callable[[], VideoFrame | None]]:
        for index, array in enumerate(arrays):
            image = check_image(array, f"frame {index}", size)
            yield partial(make_frame, f"{index:05d}", image, None, True, short_side)

    names = tuple(f"{i:05d}" for i in range(len(source))) if isinstance(source, list | tuple | np.ndarray) else None
    frames = partial(open_frames, source)
    return Video("video", size, len(names or ()), names, Fraction(24), (), (), jobs, 0, dict, frames)


@cache
def video_files() -> ModuleType:
    """The module for video files: imported when it is needed, because PyAV takes 0.2 s, and kept for ``hubconf``."""
    from datasets import video_file

    return video_file


def _first(source: Iterable[np.ndarray]) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """The first array, and an iterator over all of them."""
    try:
        arrays = iter(source)
    except TypeError as error:
        raise InputError(f"{type(source).__name__}: expected a video file, a folder or frames as arrays") from error
    first = next(arrays, None)
    if first is None:
        raise InputError("the video has no frames; expected at least one")
    return check_image(first, "frame 0"), chain([first], arrays)


def open_frames(source: Source) -> Frames:
    """Random access to a video file, a folder of images or a list of H×W×3 uint8 RGB arrays.

    Raises `InputError` for what is none of these or has no frames.
    """
    if isinstance(source, str | PathLike):
        return open_video(source, 1).frames()
    if not isinstance(source, list | tuple | np.ndarray):
        raise InputError(f"{type(source).__name__}: expected a video file, a folder, or a list of arrays")
    arrays, size = source, _first(source)[0].shape[:2]

    def read(index: int) -> np.ndarray:
        return check_image(arrays[index], f"frame {index}", size)

    return Frames("video", size, Fraction(24), len(arrays), read)


def check_image(image: np.ndarray, name: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Return an array that is H×W×3 uint8, of ``size`` (H, W) if given. Raises `InputError` for another."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} array of {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"{name}: is a {found}; expected an array of H×W×3 uint8 RGB")
    if size is not None and image.shape[:2] != size or not image.size:
        raise InputError(f"{name}: is {image.shape[1]}×{image.shape[0]} pixels; expected one size for all frames")
    # PyTorch takes no negative strides, as of frame[..., ::-1], and warns of what is read-only, as of np.frombuffer.
    return np.require(image, requirements=["C", "W"])


def load_mask(mask: MaskSource, name: str, size: tuple[int, int]) -> np.ndarray:
    """H×W uint8 ids from a mask file, or from an H×W array of integers up to 255 or of truth values.

    Raises `InputError`, with ``name`` for an array, for what is no mask of a video of ``size`` (H, W).
    """
    if isinstance(mask, str | PathLike):
        ids, name = read_mask(Path(mask)), str(mask)
    else:
        ids = np.asarray(mask)
        if ids.ndim != 2 or ids.dtype.kind not in "bui" or not ids.size or ids.min() < 0 or ids.max() > 255:
            raise InputError(f"{name}: is a {ids.dtype} array of {ids.shape}; expected H×W integer ids from 0 to 255")
    if ids.shape != size:
        raise InputError(
            f"{name}: the mask is {ids.shape[1]}×{ids.shape[0]} pixels, but the video is {size[1]}×{size[0]};"
            " expected equal sizes"
        )
    return np.array(ids, np.uint8)


def check_frame_number(index: Any, length: int | None = None) -> int:
    """A frame number from 0, below ``length`` if that is known, as an int. Raises `InputError` for anything else."""
    try:
        number = operator.index(index)
    except TypeError:
        number = -1
    if number < 0 or length is not None and number >= length:
        last = "" if length is None else f" to {length - 1}"
        raise InputError(f"there is no frame {index!r}; expected a whole number from 0{last}")
    return number
