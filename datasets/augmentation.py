"""Augmentation of a clip's frames: colour, copy-paste, copies of objects, occlusion in the first frame, and blur."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

from datasets.images import read_image, read_static_mask
from datasets.pairs import Pair
from datasets.sampling import split_objects
from datasets.warps import Warp, around, draw_affine, translation, warp_alpha, warp_image

GREY = np.array([0.299, 0.587, 0.114])  # luma of ITU-R 601
HIDDEN = (0.2, 0.6)  # smallest and largest fraction of an object that an occluder hides
LOW_RESOLUTION = (1.5, 4.0)  # smallest and largest factor by which `blur` reduces frames
MOTION = 1 / 12  # longest path of `blur`, relative to the frame's side
TEXTURE = 5  # random colours of an occluder along each side of the frame


class JitterRange(NamedTuple):
    """Each factor is uniform in 1 ± its bound; with probability ``grey`` the image becomes greyscale."""

    brightness: float
    contrast: float
    saturation: float
    grey: float = 0.0

    def draw(self, rng: Generator) -> tuple[float, float, float]:
        """Factors of brightness, contrast and saturation."""
        brightness, contrast, saturation = (rng.uniform(1 - bound, 1 + bound) for bound in self[:3])
        return brightness, contrast, 0.0 if rng.random() < self.grey else saturation


def apply_jitters(image: np.ndarray, jitters: Sequence[tuple[float, float, float]]) -> np.ndarray:
    """H×W×3 uint8 RGB after the jitters, one after the other, as one matrix.

    Brightness, contrast, saturation and greyscale are affine maps of the colour that commute (up to clipping).
    """
    matrix, offset = np.eye(3), 0.0
    grey_mean = GREY @ cv2.mean(image)[:3]  # contrast scales around it; saturation does not change it
    for brightness, contrast, saturation in jitters:
        saturate = saturation * np.eye(3) + (1 - saturation) * GREY
        matrix = brightness * contrast * saturate @ matrix
        offset = brightness * (contrast * offset + (1 - contrast) * grey_mean)
        grey_mean *= brightness
    return cv2.transform(image, np.column_stack((matrix, [offset] * 3)))


def jitter_clip(
    rng: Generator, images: Sequence[np.ndarray], shared: JitterRange, single: JitterRange
) -> list[np.ndarray]:
    """Jitter T frames H×W×3 uint8 RGB: all by the same factors, drawn from ``shared``, and each by its own."""
    clip = shared.draw(rng)
    return [apply_jitters(image, (clip, single.draw(rng))) for image in images]


def shift_hue(image: np.ndarray, turn: float) -> np.ndarray:
    """Turn the hue of an H×W×3 uint8 RGB image by ``turn`` of the full circle."""
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL))
    hue += np.uint8(round(turn * 256) % 256)
    return cv2.cvtColor(cv2.merge((hue, saturation, value)), cv2.COLOR_HSV2RGB_FULL)


def copy_paste(
    rng: Generator, frames: list[np.ndarray], ids: np.ndarray, pairs: Sequence[Pair], probability: float
) -> list[int]:
    """Paste, with ``probability``, an object of the still images ``pairs``, which moves on a path of its own.

    Draws into T ``frames`` S×S×3 uint8 and ``ids`` T×S×S uint8, in place; returns the new id, the lowest free one, if
    any. The object passes in front of the video's objects or behind them, half of the time each, but never in front
    where it would hide most of them in the first frame. It may be hidden or outside of the frame.
    """
    if rng.random() >= probability:
        return []
    pair = pairs[int(rng.integers(len(pairs)))]
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
    new_id = int(np.setdiff1d(np.arange(1, 256), ids)[0])
    for frame, frame_ids, alpha, warp in zip(frames, ids, alphas, warps, strict=True):
        if not in_front:
            alpha = alpha * (frame_ids == 0)
        _blend(frame, warp_image(image, warp, shrink), alpha)
        frame_ids[alpha > 0.5] = new_id
    return [new_id]


def _draw_path(rng: Generator, box: Sequence[int], num_frames: int, size: int) -> list[Warp]:
    """Warps of a cut-out (``box``: left, top, width, height in its image) into T frames of S×S pixels.

    Its longer side is 0.2 to 0.7 of the frame; it starts inside of the frame and moves at a constant speed.
    """
    left, top, width, height = box
    longer = size * rng.uniform(0.2, 0.7)
    start = rng.uniform(0.1, 0.9, 2) * size
    speed = rng.normal(0, 0.1, 2) * size
    flip_and_scale = np.diag([rng.choice([-1, 1]), 1]) * max(width, height) / longer
    warps = []
    for t in range(num_frames):
        affine = np.linalg.inv(draw_affine(rng, degrees=15, shear=10, zoom=(0.9, 1.1)))
        to_middle = translation((left + width / 2, top + height / 2)) @ around(np.zeros(2), flip_and_scale @ affine)
        to_source = to_middle @ translation(-start - t * speed)
        warps.append(Warp(to_source[:2], (left, top, left + width, top + height), size))
    return warps


def distract(
    rng: Generator, frames: list[np.ndarray], ids: np.ndarray, objects: np.ndarray, probability: float
) -> None:
    """Paint, with ``probability``, a moving copy of an object into T ``frames`` S×S×3 uint8, in place.

    It lies behind all objects and stays background in ``ids`` T×S×S uint8: the object has to be told from another of
    its kind. It is mirrored half of the time, zoomed by 0.7 to 1.4, a little turned, brighter or darker, and of another
    hue.
    ``objects``: those in the first frame, one or more.
    """
    if not probability or rng.random() >= probability:
        return
    size, chosen = ids.shape[1], rng.choice(objects)
    left, top, *box = cv2.boundingRect((ids[0] == chosen).view(np.uint8))
    centre = np.add((left, top), np.divide(box, 2))
    places = rng.uniform(0.05, 0.95, (10, 2)) * size
    apart = places[(np.abs(places - centre) / box).max(1) > 0.8]
    if not len(apart):  # the object fills the frame
        return
    zoom = math.exp(rng.uniform(-0.35, 0.35))
    linear = draw_affine(rng, degrees=15, shear=5, zoom=(zoom, zoom)) @ np.diag([rng.choice([-1, 1]), 1])
    speed = rng.normal(0, 0.03, 2) * size
    hue, light = rng.uniform(-0.03, 0.03), rng.uniform(0.8, 1.2)
    for t, (frame, frame_ids) in enumerate(zip(frames, ids, strict=True)):
        to_place = np.column_stack([linear, apart[0] + t * speed - linear @ centre])
        copy, mask = (cv2.warpAffine(x, to_place, (size, size)) for x in (frame, np.uint8(255) * (frame_ids == chosen)))
        alpha = cv2.GaussianBlur(mask, (3, 3), 0) * np.float32(1 / 255) * (frame_ids == 0)
        _blend(frame, cv2.convertScaleAbs(shift_hue(copy, hue), alpha=light), alpha)


def occlude(
    rng: Generator, frames: list[np.ndarray], ids: np.ndarray, objects: np.ndarray, probability: float
) -> np.ndarray:
    """Paint, with ``probability``, over a part of the first of T ``frames`` S×S×3 uint8 and clear it in ``ids`` T×S×S
    uint8, both in place. Otherwise a network would see whole objects only and lose what comes into view later.

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
    _blend(frames[0], occluder, cv2.GaussianBlur(hidden.astype(np.float32), (3, 3), 0))
    ids[0][hidden] = 0
    return np.intersect1d(objects, ids[0])


def blur(rng: Generator, frames: list[np.ndarray], probability: float) -> list[np.ndarray]:
    """Blur, with ``probability``, T frames S×S×3 uint8 as real video is blurred, sharp as small crops of it may look.

    Half of the time the clip has a lower resolution; else every frame is blurred along a path of its own.
    """
    if not probability or rng.random() >= probability:
        return frames
    size = len(frames[0])
    if rng.random() < 0.5:
        small = round(size / rng.uniform(*LOW_RESOLUTION))
        reduced = [cv2.resize(frame, (small, small), interpolation=cv2.INTER_AREA) for frame in frames]
        return [cv2.resize(frame, (size, size), interpolation=cv2.INTER_CUBIC) for frame in reduced]
    return [cv2.filter2D(frame, -1, _path_kernel(*rng.uniform(-MOTION, MOTION, 2) * size)) for frame in frames]


def _path_kernel(x: float, y: float) -> np.ndarray:
    """Kernel that averages over a straight path of ``x`` pixels to the right and ``y`` down."""
    steps = np.linspace(-0.5, 0.5, 2 * math.ceil(max(abs(x), abs(y))) + 1)
    radius = math.ceil(max(abs(x), abs(y)) / 2)
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    np.add.at(
        kernel, (np.rint(steps * y).astype(int) + radius, np.rint(steps * x).astype(int) + radius), 1 / len(steps)
    )
    return kernel


def _blend(frame: np.ndarray, top: np.ndarray, alpha: np.ndarray) -> None:
    """Lay ``top`` over ``frame`` (both S×S×3 uint8), in place, with opacity ``alpha`` (S×S float32)."""
    frame[:] = np.rint(frame + alpha[..., None] * (top - frame.astype(np.float32)))
