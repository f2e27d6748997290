"""Copy-paste augmentation: objects cut from still images become a second object in video clips that have one only."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from datasets.colour import shift_hue
from datasets.images import read_image, read_static_mask
from datasets.pairs import Pair
from datasets.sampling import split_objects
from datasets.warps import Warp, around, draw_affine, translation, warp_alpha, warp_image


class CopyPaste(NamedTuple):
    """Pastes, with ``probability``, an object of the still images ``pairs``, which moves on a path of its own.

    It passes in front of the video's objects or behind them, half of the time each, but never in front where it would
    hide most of them in the first frame.
    """

    pairs: Sequence[Pair]
    probability: float

    def __call__(self, rng: np.random.Generator, frames: list[np.ndarray], ids: np.ndarray) -> list[int]:
        """Draw into T ``frames`` S×S×3 uint8 and ``ids`` T×S×S uint8, in place; return the new id, if any.

        It is the lowest free one. Its object may be hidden or outside of the frame.
        """
        if rng.random() >= self.probability:
            return []
        pair = self.pairs[int(rng.integers(len(self.pairs)))]
        mask = (split_objects(rng, *read_static_mask(pair.mask))[0] > 127) * np.uint8(255)
        box = cv2.boundingRect(mask)
        if not box[2]:
            return []
        warps = _draw_path(rng, box, *ids.shape[:2])
        shrink = min(warp.shrink() for warp in warps)
        while shrink > min(box[2:]):  # something must be left of a very thin object
            shrink //= 2
        image = shift_hue(read_image(pair.image, shrink, mask.shape), rng.uniform(-0.05, 0.05))
        alphas = [warp_alpha(mask, warp) for warp in warps]
        covered = ids[0] > 0
        in_front = rng.random() < 0.5 and (covered & (alphas[0] > 0.5)).sum() <= covered.sum() / 2
        new_id = int(np.flatnonzero(np.bincount(ids.ravel(), minlength=256)[1:] == 0)[0]) + 1
        for frame, frame_ids, alpha, warp in zip(frames, ids, alphas, warps, strict=True):
            if not in_front:
                alpha = alpha * (frame_ids == 0)
            pasted = warp_image(image, warp, shrink)
            frame[:] = np.rint(frame + alpha[..., None] * (pasted - frame.astype(np.float32)))
            frame_ids[alpha > 0.5] = new_id
        return [new_id]


def _draw_path(rng: np.random.Generator, box: Sequence[int], num_frames: int, size: int) -> list[Warp]:
    """Warps of a cut-out (``box``: left, top, width, height in its image) into T frames of S×S pixels.

    Its longer side is 0.2 to 0.7 of the frame; it starts inside of the frame and moves at a constant speed.
    """
    left, top, width, height = box
    longer = size * rng.uniform(0.2, 0.7)
    start = rng.uniform(0.1, 0.9, 2) * size
    speed = rng.normal(0, 0.1, 2) * size
    flip_and_scale = np.diag([rng.choice([-1, 1]), 1]) * max(width, height) / longer
    warps = []
    window = (left, top, left + width, top + height)
    to_middle = translation((left + width / 2, top + height / 2))
    for t in range(num_frames):
        affine = np.linalg.inv(draw_affine(rng, degrees=15, shear=10, zoom=(0.9, 1.1)))
        to_source = to_middle @ around(np.zeros(2), flip_and_scale @ affine) @ translation(-start - t * speed)
        warps.append(Warp(to_source[:2], window, size))
    return warps
