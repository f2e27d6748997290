"""Stages 1 to 3: clips of up to two objects from annotated videos."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from datasets.clip import Clip, make_clip
from datasets.images import read_mask
from datasets.paste import Paste
from datasets.static import check_pair
from datasets.transforms import colour, draw_jitter, read_reduced, video_warps, warp_ids, warp_image
from util.errors import InputError

MAX_OBJECTS = 2
VIDEOS, DRAWS = 10, 5  # videos tried for one clip, and clips drawn from each, until the first frame shows an object


def max_jump(progress: float, last_drop: float = 0.9, divisor: int = 1) -> int:
    """The largest distance of neighbouring frames of a clip, after ``progress`` (0 to 1) of the training.

    5 at first; 10, 15, 20 and 25 after 10, 20, 30 and 40 %; 5 again after ``last_drop``. All divided by ``divisor``,
    for videos that are annotated every so many frames.
    """
    steps = ((0.1, 10), (0.2, 15), (0.3, 20), (0.4, 25), (last_drop, 5))
    return max(1, ([5] + [jump for start, jump in steps if progress >= start])[-1] // divisor)


def choose_frames(rng: np.random.Generator, length: int, num_frames: int, jump: int) -> np.ndarray:
    """``num_frames`` frame numbers below ``length``, at most ``jump`` apart, backwards half of the time.

    No frame repeats, unless ``length < num_frames``: then the last does. All starts that fit are equally likely.
    """
    if length < num_frames:
        chosen = np.minimum(np.arange(num_frames), length - 1)
    else:
        furthest = min(jump, (length - 1) // max(1, num_frames - 1))
        steps = np.cumsum(rng.integers(1, furthest, num_frames - 1, endpoint=True))
        span = steps[-1] if len(steps) else 0
        chosen = rng.integers(0, length - span) + np.concatenate(([0], steps)).astype(int)
    return chosen[::-1] if rng.random() < 0.5 else chosen


class VideoClips:
    """Videos with a mask for every frame, as clips of up to two objects (K = 2).

    ``images/<video>/*.jpg`` (or png) with ``masks/<video>/<same name>.png``; frames without a mask are left out.
    ``videos`` names those to use (default: all in ``images``). ``min_area``: of the random crop. ``last_drop`` and
    ``divisor``: see `max_jump`. ``large_objects``: only objects that are not tiny in the first frame (for BL30K).
    ``paste`` puts a second object into clips that show one only.

    Raises `InputError`, naming the folder or file, if there are no videos, if one has no annotated frames, or if its
    first mask has another size than the frame.
    """

    def __init__(
        self,
        images: Path,
        masks: Path,
        videos: Sequence[str] | None = None,
        *,
        num_frames: int = 3,
        size: int = 384,
        min_area: float = 0.36,
        last_drop: float = 0.9,
        divisor: int = 1,
        large_objects: bool = False,
        paste: Paste | None = None,
    ) -> None:
        self.images, self.masks, self.paste = images, masks, paste
        self.num_frames, self.size, self.min_area = num_frames, size, min_area
        self.last_drop, self.divisor, self.large_objects = last_drop, divisor, large_objects
        if videos is None:
            videos = [path.name for path in images.iterdir() if path.is_dir()] if images.is_dir() else []
        self.videos = sorted(videos)
        if not self.videos:
            raise InputError(f"{images}: no videos; expected a folder of frames for each")
        with ThreadPoolExecutor() as pool:
            self._frames = list(pool.map(self._list_frames, self.videos))

    def _list_frames(self, video: str) -> str:
        """The file names of the annotated frames, one per line: one object per video for workers to share."""
        annotated = {name.removesuffix(".png") for name in _names(self.masks / video)}
        frames = [name for name in _names(self.images / video) if name.rpartition(".")[0] in annotated]
        if not frames:
            raise InputError(
                f"{self.masks / video}: no annotations; expected a PNG for the frames in {self.images / video}"
            )
        frames.sort(key=lambda name: (len(name), name))  # 2 before 10
        check_pair(self.images / video / frames[0], self._mask(video, frames[0]))
        return "\n".join(frames)

    def _mask(self, video: str, frame: str) -> Path:
        return (self.masks / video / frame).with_suffix(".png")

    def __len__(self) -> int:
        return len(self.videos)

    def sample(self, index: int, rng: np.random.Generator, progress: float = 0.0) -> Clip:
        """A clip of video ``index``, or of another one if that shows no object. ``progress``: see `max_jump`."""
        jump = max_jump(progress, self.last_drop, self.divisor)
        for draw in range(VIDEOS * DRAWS):
            if draw and draw % DRAWS == 0:
                index = int(rng.integers(len(self)))
            video, frames = self.videos[index], self._frames[index].split("\n")
            frames = [frames[i] for i in choose_frames(rng, len(frames), self.num_frames, jump)]
            masks = [read_mask(self._mask(video, frame)) for frame in frames]
            for frame, mask in zip(frames, masks, strict=True):
                if mask.shape != masks[0].shape:
                    raise InputError(f"{self._mask(video, frame)}: expected the same size as the mask of {frames[0]}")
            warps = video_warps(rng, *masks[0].shape, self.num_frames, self.size, self.min_area)
            ids = np.stack([warp_ids(mask, warp) for mask, warp in zip(masks, warps, strict=True)])
            objects = self._objects(ids)
            if len(objects):
                break
        else:
            raise InputError(
                f"{self.masks}: no object in {VIDEOS * DRAWS} clips drawn (the last from {video});"
                " expected masks of objects"
            )
        images = []
        for frame, mask, warp in zip(frames, masks, warps, strict=True):
            image = read_reduced(self.images / video / frame, mask.shape, warp.shrink())
            images.append(warp_image(image, warp, warp.shrink()))
        if self.paste and len(objects) < MAX_OBJECTS:
            objects = np.intersect1d([*objects, *self.paste(rng, images, ids)], ids[0])
        shared = draw_jitter(rng, 0.1, 0.03, 0.03, grey=0.05)
        pictures = np.empty((self.num_frames, 3, self.size, self.size), np.float32)
        for picture, image in zip(pictures, images, strict=True):
            colour(image, (shared, draw_jitter(rng, 0.01, 0.01, 0.01)), out=picture)
        chosen = rng.choice(objects, min(MAX_OBJECTS, len(objects)), replace=False)
        return make_clip(pictures, ids, chosen, MAX_OBJECTS, f"{video}/{Path(frames[0]).stem}")

    def _objects(self, ids: np.ndarray) -> np.ndarray:
        """The ids (T×S×S) in the first frame; if asked, without those that are tiny there and not always small."""
        counted = ids if self.large_objects else ids[:1]
        area = np.stack([np.bincount(frame.ravel(), minlength=256) for frame in counted])
        area[:, 0] = 0
        fits = area[0] > 0
        if self.large_objects:
            always_small = area[1:].max(0, initial=0) < 20 * 20
            fits = (area[0] > 30 * 30) | (area[0] > 10 * 10) & always_small
        return np.flatnonzero(fits)


def _names(folder: Path) -> list[str]:
    """The files in a folder, none if it is missing. BL30K has ten million: `Path` objects would take a minute."""
    return next(os.walk(folder), ("", [], []))[2]
