"""Objects cut from still images and pasted into video clips: a second object where a video has one only."""

from collections.abc import Sequence

import cv2
import numpy as np

from datasets.static import StaticImages, draw_objects
from datasets.transforms import (
    Warp,
    about,
    draw_affine,
    read_reduced,
    shift_hue,
    translation,
    warp_alpha,
    warp_image,
)


class Paste:
    """Pastes, with ``probability``, an object of ``sources`` that moves through the clip on a path of its own.

    It passes in front of the video's objects or behind them, half of the time each; never in front where it would
    hide most of them in the first frame.
    """

    def __init__(self, sources: Sequence[StaticImages], probability: float) -> None:
        self.probability = probability
        self.pairs = [pair for source in sources for pair in source.pairs]

    def __call__(self, rng: np.random.Generator, images: list[np.ndarray], ids: np.ndarray) -> list[int]:
        """Draw into T ``images`` S×S×3 uint8 and ``ids`` T×S×S uint8, in place; return the ids that are new.

        That is the lowest free one, or none if nothing was pasted; it may be hidden or outside of the picture.
        """
        if rng.random() >= self.probability:
            return []
        image_path, mask_path = self.pairs[rng.integers(len(self.pairs))]
        mask = (draw_objects(rng, mask_path)[0] > 127) * np.uint8(255)
        left, top, width, height = cv2.boundingRect(mask)
        if not width:
            return []
        size = ids.shape[1]
        window = (left, top, left + width, top + height)
        longer = size * rng.uniform(0.2, 0.7)
        at = rng.uniform(0.1, 0.9, 2) * size
        speed = rng.normal(0, 0.1, 2) * size
        zoom = np.diag([rng.choice([-1, 1]), 1]) * max(width, height) / longer
        warps = []
        for t in range(len(ids)):
            affine = np.linalg.inv(draw_affine(rng, degrees=15, shear=10, zoom=(0.9, 1.1)))
            to_source = translation((left + width / 2, top + height / 2)) @ about(np.zeros(2), zoom @ affine)
            warps.append(Warp((to_source @ translation(-at - t * speed))[:2], window, size))

        shrink = min(warp.shrink() for warp in warps)
        while shrink > min(width, height):  # of a very thin object something must be left
            shrink //= 2
        picture = shift_hue(read_reduced(image_path, mask.shape, shrink), rng.uniform(-0.05, 0.05))
        alphas = [warp_alpha(mask, warp) for warp in warps]
        taken = ids[0] > 0
        front = rng.random() < 0.5 and (taken & (alphas[0] > 0.5)).sum() <= taken.sum() / 2
        new = int(np.flatnonzero(np.bincount(ids.ravel(), minlength=256)[1:] == 0)[0]) + 1
        for image, frame_ids, alpha, warp in zip(images, ids, alphas, warps, strict=True):
            if not front:
                alpha = alpha * (frame_ids == 0)
            pasted = warp_image(picture, warp, shrink)
            image[:] = np.rint(image + alpha[..., None] * (pasted - image.astype(np.float32)))
            frame_ids[alpha > 0.5] = new
        return [new]
