"""What a training clip shows: which frames of a video, and which objects."""

import numpy as np
from numpy.random import Generator

MIN_AREA = 1 / 400  # of a still image, for an object to be chosen, unless all are smaller


def max_jump(progress: float, last_drop: float = 0.9, divisor: int = 1) -> int:
    """The largest distance of neighbouring frames of a clip, after ``progress`` (0 to 1) of the training.

    5 at first; 10, 15, 20 and 25 after 10, 20, 30 and 40 %; 5 again after ``last_drop``. All divided by ``divisor``,
    for videos of which only every ``divisor``-th frame is annotated.
    """
    steps = ((0.1, 10), (0.2, 15), (0.3, 20), (0.4, 25), (last_drop, 5))
    return max(1, ([5] + [jump for start, jump in steps if progress >= start])[-1] // divisor)


def choose_frames(rng: Generator, length: int, num_frames: int, jump: int) -> np.ndarray:
    """``num_frames`` frame numbers below ``length``, in reverse order half of the time.

    The distribution of the STCN program: a uniform start up to ``length - jump``, then gaps uniform in 1 to
    ``jump + 1``, with frame i of the clip at ``length - jump // i`` at most. Where these limits would repeat a frame,
    the next one is taken instead. Videos shorter than the clip repeat their last frame.
    """
    chosen = np.minimum(np.arange(num_frames), length - 1)
    if length >= num_frames:
        last_start = length - num_frames  # leaves room for the other frames
        jump = min(jump, last_start + 1)
        chosen[0] = min(rng.integers(0, length - jump, endpoint=True), last_start)
        for i in range(1, num_frames):
            gap = rng.integers(1, jump + 1, endpoint=True)
            limit = min(length - jump // i, last_start + i)
            chosen[i] = max(chosen[i - 1] + 1, min(chosen[i - 1] + gap, limit))
    return chosen[::-1] if rng.random() < 0.5 else chosen


def visible_objects(ids: np.ndarray, large: bool = False) -> np.ndarray:
    """The ids of T×S×S uint8 that are in the first frame, without background, ascending.

    ``large``: only those with more than 900 pixels there, or more than 100 if they stay below 400 in all later frames.
    """
    first = np.bincount(ids[0].ravel(), minlength=256)
    enough = first > 0
    if large:
        later = np.max([np.bincount(frame.ravel(), minlength=256) for frame in ids[1:]], axis=0)
        enough = (first > 30 * 30) | (first > 10 * 10) & (later < 20 * 20)
    return np.flatnonzero(enough[1:]) + 1


def split_objects(rng: Generator, values: np.ndarray, are_ids: bool, most: int = 1) -> list[np.ndarray]:
    """Up to ``most`` objects of a still image's mask (H×W uint8), at least one mask: each H×W uint8, 0 to 255.

    If the values ``are_ids``, the objects are chosen at random, and their masks are 0 and 255; one mask of zeros if
    there is none. 255 is void unless it is alone. Otherwise the mask is returned as it is, with its soft edge.
    """
    if not are_ids:
        return [values]
    area = np.bincount(values.ravel(), minlength=256)
    area[0] = 0
    if area[1:255].any():
        area[255] = 0
    enough = np.flatnonzero(area >= max(1, min(values.size * MIN_AREA, area.max())))
    if not len(enough):
        return [np.zeros_like(values)]
    chosen = rng.choice(enough, min(most, len(enough)), replace=False)
    return [(values == object_id) * np.uint8(255) for object_id in chosen]
