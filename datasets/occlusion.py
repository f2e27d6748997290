"""Occlusion of an object in the first frame only: a network that sees nothing but whole objects loses what appears
later, such as the new side of a car that turns."""

import cv2
import numpy as np

HIDDEN = (0.2, 0.6)  # smallest and largest hidden fraction of the object
TEXTURE = 5  # random colours along each side of the frame


def occlude(
    rng: np.random.Generator, frames: list[np.ndarray], ids: np.ndarray, objects: np.ndarray, probability: float
) -> np.ndarray:
    """Paint, with ``probability``, over a part of the first of T ``frames`` S×S×3 uint8 and clear it in ``ids`` T×S×S
    uint8, both in place.

    ``objects``: those in the first frame, one or more. Returns those that are still there: all, or all but some
    that were behind the occluder of another.

    A straight edge through the object hides 20 to 60 % of it; the occluder is limited to the surroundings of the
    object, or fills all of its side of the frame, half of the time each.
    """
    if not probability or rng.random() >= probability:
        return objects
    size = ids.shape[1]
    object_mask = ids[0] == rng.choice(objects)
    direction = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size]
    along = x * np.cos(direction) + y * np.sin(direction)
    hidden = along < np.quantile(along[object_mask], rng.uniform(*HIDDEN))
    if rng.random() < 0.5:
        left, top, width, height = cv2.boundingRect(object_mask.view(np.uint8))
        near = np.zeros_like(hidden)
        top, left = max(0, top - height // 4), max(0, left - width // 4)
        near[top : top + height * 3 // 2, left : left + width * 3 // 2] = True
        hidden &= near
    colours = rng.integers(0, 256, (TEXTURE, TEXTURE, 3), dtype=np.uint8)
    occluder = cv2.resize(colours, (size, size), interpolation=cv2.INTER_CUBIC)
    opacity = cv2.GaussianBlur(hidden.astype(np.float32), (3, 3), 0)[..., None]
    frames[0][:] = np.rint(frames[0] + opacity * (occluder - frames[0].astype(np.float32)))
    ids[0][hidden] = 0
    return np.intersect1d(objects, ids[0])
