"""Colour augmentation of training clips, applied as one matrix per frame.

Brightness, contrast, saturation and greyscale are one affine map of the colour: they commute (up to clipping), so their
order is fixed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

_GREY = np.array([0.299, 0.587, 0.114])  # luma of ITU-R 601


class JitterRange(NamedTuple):
    """Each factor is uniform in 1 ± its bound; with probability ``grey`` the image becomes greyscale."""

    brightness: float
    contrast: float
    saturation: float
    grey: float = 0.0


Jitter = tuple[float, float, float]  # factors of brightness, contrast and saturation; 1 changes nothing


def draw_jitter(rng: np.random.Generator, bounds: JitterRange) -> Jitter:
    """Draw the factors of one jitter."""
    brightness, contrast, saturation = (rng.uniform(1 - bound, 1 + bound) for bound in bounds[:3])
    return brightness, contrast, 0.0 if rng.random() < bounds.grey else saturation


def apply_jitters(image: np.ndarray, jitters: Sequence[Jitter]) -> np.ndarray:
    """H×W×3 uint8 RGB after the jitters, one after the other."""
    matrix, offset = np.eye(3), 0.0
    grey_mean = _GREY @ cv2.mean(image)[:3]  # contrast scales around it; saturation does not change it
    for brightness, contrast, saturation in jitters:
        saturate = saturation * np.eye(3) + (1 - saturation) * _GREY
        matrix = brightness * contrast * saturate @ matrix
        offset = brightness * (contrast * offset + (1 - contrast) * grey_mean)
        grey_mean *= brightness
    return cv2.transform(image, np.column_stack((matrix, [offset] * 3)))


def jitter_clip(
    rng: np.random.Generator, images: Sequence[np.ndarray], shared: JitterRange, single: JitterRange
) -> list[np.ndarray]:
    """Jitter T frames H×W×3 uint8 RGB: all by the same factors, drawn from ``shared``, and each by its own."""
    clip = draw_jitter(rng, shared)
    return [apply_jitters(image, (clip, draw_jitter(rng, single))) for image in images]


def shift_hue(image: np.ndarray, turn: float) -> np.ndarray:
    """Turn the hue of an H×W×3 uint8 RGB image by ``turn`` of the full circle."""
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL))
    hue += np.uint8(round(turn * 256) % 256)
    return cv2.cvtColor(cv2.merge((hue, saturation, value)), cv2.COLOR_HSV2RGB_FULL)
