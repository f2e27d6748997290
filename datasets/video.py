"""Videos, as lazy streams of frames that threads decode a few ahead, or frame by frame; here, of image files."""

import math
import os
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from datasets.images import check_ids, check_mask_size, image_size, mask_ids, read_image, read_mask
from util.errors import InputError

WORKERS = min(4, os.cpu_count() or 1)
# What small videos are enlarged by and to, at most; docs/RESULTS.md has what that brings.
ENLARGE, ENLARGED_PIXELS = 2, 1920 * 1080


class VideoFrame(NamedTuple):
    """One frame, ready for the engine, at inference size h×w (see `inference_size`)."""

    name: str  # of its file, without suffix, and of its result
    image: np.ndarray  # h×w×3 uint8 RGB
    mask: np.ndarray | None  # h×w uint8 raw ids where this frame is annotated
    needed: bool  # whether its result is to be written
    original: np.ndarray  # H×W×3 uint8 RGB at the video's own size
    given: np.ndarray | None = None  # the mask H×W uint8 at that size


@dataclass(frozen=True)
class Frames:
    """The frames of a video in any order; none is kept but the latest few of a video file."""

    name: str
    size: tuple[int, int]  # (H, W)
    fps: Fraction
    length: int
    read: Callable[[int], np.ndarray]  # frame number from 0 → H×W×3 uint8 RGB; raises `InputError` for a damaged frame


@dataclass(frozen=True)
class Video:
    """Iteration yields `VideoFrame`s; a damaged frame raises `InputError` when its turn comes."""

    name: str
    size: tuple[int, int]  # (H, W) of the video and of its results
    num_frames: int  # an estimate for video files, 0 if even that is unknown
    outputs: tuple[str, ...] | None  # names of the frames that are needed; None: known only after decoding
    fps: Fraction  # of previews
    masks: tuple[Path, ...]  # the given masks
    sources: tuple[Path, ...]  # the files of the frames, or the video file
    jobs: Callable[[], Iterator[Callable[[], VideoFrame | None]]]  # one per frame; one that returns None ends the video
    workers: int  # threads that decode; 0: the caller's
    given: Callable[[], dict[int, np.ndarray]]  # reads the given masks: frame number from 0 → H×W uint8
    frames: Callable[[], Frames]  # opens it for random access; raises `InputError` for a stream

    def __iter__(self) -> Generator[VideoFrame, None, None]:
        jobs, pending = self.jobs(), deque[Future[VideoFrame | None]]()
        while not self.workers and (job := next(jobs, None)) and (frame := job()):
            yield frame
        if not self.workers:
            return
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                pending.extend(pool.submit(job) for job in islice(jobs, self.workers + 2))
                while pending and (frame := pending.popleft().result()):
                    pending.extend(pool.submit(job) for job in islice(jobs, 1))
                    yield frame
            finally:
                pool.shutdown(cancel_futures=True)


class FaultyVideo(Video):
    """A video that cannot be opened: its files and frames raise the `InputError` that says why."""

    def __init__(self, name: str, fault: str) -> None:
        self.__dict__.update(name=name, num_frames=0, outputs=(), fault=fault)

    def __getattr__(self, name: str) -> Any:  # for what `__init__` has left out
        raise InputError(self.__dict__["fault"])


def inference_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """(h, w) of a video (H, W), with a shorter side of ``short_side`` pixels or as large as it may be enlarged."""
    short = min(size)
    most = max(1, min(ENLARGE, math.sqrt(ENLARGED_PIXELS / math.prod(size))))
    target = min(short_side, most * short)
    height, width = (int(target * side / short) for side in size)
    return height, width


def is_enlarged(size: tuple[int, int], short_side: int) -> bool:
    """Whether a video (H, W) is smaller than `inference_size`; before 2026-11-26, none was enlarged."""
    return inference_size(size, short_side) > size


def image_frames(name: str, files: Sequence[Path], size: tuple[int, int]) -> Frames:
    """The frames in image ``files``, all of ``size`` (H, W)."""
    return Frames(name, size, Fraction(24), len(files), lambda index: read_image(files[index], 1, size))


def make_frame(name: str, original: np.ndarray, mask: np.ndarray | None, needed: bool, short_side: int) -> VideoFrame:
    """A frame H×W×3 uint8 and its mask H×W uint8, at inference size."""
    size = inference_size(original.shape[:2], short_side)
    image = _resize(original, size, Image.Resampling.BICUBIC)
    return VideoFrame(name, image, None if mask is None else fit_mask(mask, size), needed, original, mask)


def with_given(given: np.ndarray, result: np.ndarray) -> np.ndarray:
    """A result, but the given mask's objects are exactly where that has them; all H×W uint8 ids."""
    held = np.zeros(256, bool)
    held[given] = True
    return np.where((given > 0) | held[result], given, result)


def fit_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """H×W uint8 ids at ``size`` (h, w); an object that would vanish keeps one pixel."""
    small = _resize(mask, size, Image.Resampling.NEAREST)
    for lost in np.setdiff1d(mask, small):
        spare = np.argwhere(np.bincount(small.ravel())[small] > 1)  # pixels that are not the last of another object
        distances = spare + 0.5 - (np.argwhere(mask == lost).mean(0) + 0.5) * size / mask.shape
        if len(spare):
            small[tuple(spare[np.square(distances).sum(1).argmin()])] = lost
    return small


def _resize(array: np.ndarray, size: tuple[int, int], resample: Image.Resampling) -> np.ndarray:
    return array if array.shape[:2] == size else np.array(Image.fromarray(array).resize(size[::-1], resample))


def check_masks(masks: Iterable[tuple[np.ndarray, Path, str, tuple[int, int]]]) -> None:
    """Check that every (mask H×W, its file, name and (H, W) of its frame) fits, and that they hold objects, if any.

    Raises `InputError` that names the file of the first that does not.
    """
    path, ids = None, set[int]()
    for mask, path, frame, size in masks:
        check_mask_size(path, mask.shape, frame, size)
        ids |= mask_ids(mask)
        check_ids(ids, path)
    if path is not None and not ids:
        raise InputError(f"{path}: no mask of this video holds an object; expected ids from 1 to 254")


def frames_video(
    name: str,
    frames: list[Path],
    masks: Mapping[str, Path],
    short_side: int,
    *,
    read: Callable[[Path], np.ndarray] = read_mask,
    needed: Collection[str] | None = None,
) -> Video:
    """A video of image files.

    ``frames``: in order. ``masks``: frame name (file name without suffix) → mask file. ``read`` turns a
    mask file into H×W uint8 ids. ``needed``: names of the frames whose result is wanted (None: all).
    Raises `InputError` unless the first frame and every mask decode, fit each other and hold an object.
    """
    names = [path.stem for path in frames]
    needed = set(names if needed is None else needed)
    for stem in sorted(masks.keys() - set(names)):
        raise InputError(f"{masks[stem]}: video {name} has no frame {stem}; expected the name of a frame")
    size = read_image(frames[0]).shape[:2]
    check_masks((read(masks[p.stem]), masks[p.stem], p.name, image_size(p)) for p in frames if p.stem in masks)

    def load(path: Path) -> VideoFrame:
        image = read_image(path, 1, size)
        mask = read(masks[path.stem]) if path.stem in masks else None
        return make_frame(path.stem, image, mask, path.stem in needed, short_side)

    return Video(
        name=name,
        size=size,
        num_frames=len(frames),
        outputs=tuple(stem for stem in names if stem in needed),
        fps=Fraction(24),
        masks=tuple(masks.values()),
        sources=tuple(frames),
        jobs=lambda: (partial(load, path) for path in frames),
        workers=WORKERS,
        given=lambda: {i: read(masks[stem]) for i, stem in enumerate(names) if stem in masks},
        frames=lambda: image_frames(name, frames, size),
    )
