"""Geometric augmentation of training clips: all steps of a frame (flip, scale, affine, crop, resize, thin-plate spline)
are composed into one map from output (S×S) to source (H×W), so that an image and its mask are each sampled once.

Coordinates are (x, y) in pixels; pixel (0, 0) covers [0, 1)×[0, 1).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

from datasets.images import SHRINKS

FILL = (124, 116, 104)  # mean colour of ImageNet, around images; masks are 0 there


class Warp(NamedTuple):
    """Where the pixels of an S×S output come from."""

    matrix: np.ndarray  # 2×3 float64: output (x, y, 1) → source (x, y)
    window: tuple[float, float, float, float]  # left, top, right, bottom in the source: outside of it, there is fill
    size: int  # S
    spline: np.ndarray | None = None  # 2×S×S float32: pixel indices (x, y) to look up before `matrix` applies

    def spacing(self) -> np.ndarray:
        """Distance of neighbouring output pixels in source pixels, along the source's x and y."""
        return np.hypot(self.matrix[:, 0], self.matrix[:, 1])

    def shrink(self) -> int:
        """1, 2, 4 or 8: the factor by which the source may be reduced beforehand without loss in the output."""
        return max(factor for factor in SHRINKS if factor <= max(1, self.spacing().min()))


def static_warps(
    rng: Generator, height: int, width: int, num_frames: int, size: int, spline: float = 1 / 3, deform: float = 1.0
) -> list[Warp]:
    """Stage 0: a clip from one H×W image. Flip and scale for the clip; affine, crop and spline for each frame.

    ``spline`` is the probability of a thin-plate spline in a frame, ``deform`` a factor of the affine's angles and of
    the logarithm of its zoom.
    """
    scale, flip = rng.uniform(0.8, 1.5), -1 if rng.random() < 0.5 else 1
    centre = np.array([width / 2, height / 2])
    to_source = around(centre, np.diag([flip / scale, 1 / scale]))
    visible = centre / max(scale, 1)
    window = (*(centre - visible), *(centre + visible))
    shorter = min(height, width)
    resized = np.array([size * width // shorter, size * height // shorter])
    resize = np.diag([width / resized[0], height / resized[1], 1])
    warps = []
    for _ in range(num_frames):
        affine = around(centre, np.linalg.inv(draw_affine(rng, 20 * deform, 10 * deform, (0.9**deform, 1.1**deform))))
        matrix = to_source @ affine @ resize @ translation(rng.integers(0, resized - size, endpoint=True))
        places = random_spline(rng, size) if rng.random() < spline else None
        warps.append(Warp(matrix[:2], window, size, places))
    return warps


def video_warps(
    rng: Generator, height: int, width: int, num_frames: int, size: int, min_area: float = 0.36
) -> list[Warp]:
    """Video stages: flip and random resized crop (``min_area`` to 1 of H×W) for the clip, an affine for each frame."""
    left, top, crop_width, crop_height = _draw_crop(rng, height, width, min_area)
    flip = -1 if rng.random() < 0.5 else 1
    centre = np.array([size / 2, size / 2])
    crop = translation((left, top)) @ np.diag([crop_width / size, crop_height / size, 1])
    to_source = crop @ around(centre, np.diag([flip, 1]))
    window = (left, top, left + crop_width, top + crop_height)
    affines = (np.linalg.inv(draw_affine(rng, degrees=15, shear=10)) for _ in range(num_frames))
    return [Warp((to_source @ around(centre, affine))[:2], window, size) for affine in affines]


def translation(offset: Sequence[float] | np.ndarray) -> np.ndarray:
    """3×3: a shift by ``offset`` (x, y) in pixels."""
    matrix = np.eye(3)
    matrix[:2, 2] = offset
    return matrix


def around(centre: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """3×3: the 2×2 ``linear`` map around a fixed ``centre``."""
    matrix = translation(centre - linear @ centre)
    matrix[:2, :2] = linear
    return matrix


def draw_affine(rng: Generator, degrees: float, shear: float, zoom: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """2×2: shear along x, then zoom and rotation; both angles are uniform in ± their bound, in degrees."""
    angle, slant = np.radians(rng.uniform(-degrees, degrees)), np.radians(rng.uniform(-shear, shear))
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return rng.uniform(*zoom) * rotation @ [[1, -math.tan(slant)], [0, 1]]


def _draw_crop(rng: Generator, height: int, width: int, min_area: float) -> tuple[int, int, int, int]:
    """Left, top, width, height of a crop: area uniform in min_area…1, aspect log-uniform in 3/4…4/3."""
    for _ in range(10):
        area = height * width * rng.uniform(min_area, 1)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h
    # A very long or very high image: as much of its middle as the aspect allows.
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return (width - w) // 2, (height - h) // 2, w, h


def warp_image(image: np.ndarray, warp: Warp, shrink: int = 1) -> np.ndarray:
    """Sample a source that was reduced by ``shrink`` (H×W×3 uint8), bicubic, filled with `FILL`: S×S×3 uint8."""
    # The rest of the reduction (a factor of at most about 2) would alias without some smoothing.
    sigma = 0.5 * np.sqrt(np.maximum((warp.spacing() / shrink) ** 2 - 1, 1e-4))
    return _sample(image, warp, cv2.INTER_CUBIC, shrink, FILL, sigma if sigma.max() > 0.3 else None)


def warp_ids(ids: np.ndarray, warp: Warp) -> np.ndarray:
    """Sample H×W uint8 object ids, nearest neighbour, filled with 0: S×S uint8."""
    return _sample(ids, warp, cv2.INTER_NEAREST)


def warp_binary(mask: np.ndarray, warp: Warp) -> np.ndarray:
    """Sample an H×W uint8 mask of 0 to 255, bicubic, and threshold it at one half: S×S bool."""
    return _sample(mask, warp, cv2.INTER_CUBIC) > 127


def warp_alpha(mask: np.ndarray, warp: Warp) -> np.ndarray:
    """Sample an H×W uint8 mask of 0 to 255 as an opacity, with smooth edges: S×S float32 in [0, 1]."""
    return cv2.GaussianBlur(_sample(mask, warp, cv2.INTER_LINEAR), (3, 3), 0) * np.float32(1 / 255)


def _sample(
    source: np.ndarray, warp: Warp, interpolation: int, shrink: int = 1, fill=0, sigma: np.ndarray | None = None
) -> np.ndarray:
    left, top, right, bottom = (round(edge / shrink) for edge in warp.window)
    source = source[top:bottom, left:right]
    if sigma is not None:
        source = cv2.GaussianBlur(source, (3, 3), sigmaX=sigma[0], sigmaY=sigma[1])
    matrix = warp.matrix / shrink
    # OpenCV counts from the centre of a pixel, and here from the corner of the window.
    matrix[:, 2] += matrix[:, :2].sum(1) / 2 - 0.5 - (left, top)
    if warp.spline is None:
        size, flags = (warp.size, warp.size), interpolation | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(source, matrix, size, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=fill)
    matrix = matrix.astype(np.float32)
    x, y = (row[0] * warp.spline[0] + row[1] * warp.spline[1] + row[2] for row in matrix)
    return cv2.remap(source, x, y, interpolation, borderMode=cv2.BORDER_CONSTANT, borderValue=fill)


def random_spline(rng: Generator, size: int) -> np.ndarray:
    """2×S×S float32: the (x, y) in pixels that each pixel of an S×S output shows.

    Twelve random points, each moved by N(0, 0.02) image sizes along both axes; no two share a row or a column, which
    keeps the fit well conditioned.
    """
    source = np.column_stack([rng.choice(size, 12, replace=False) for _ in "xy"]) / size
    target = source + rng.normal(scale=0.02, size=source.shape)
    return tps_grid(tps_theta(source, target), target, size, size) * np.float32(size - 1)


def tps_theta(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Fit the smoothest map that moves given points to given places (thin-plate spline, Bookstein 1989).

    Both are N×2 (x, y), in units of the image size, no two targets equal; at ``target[i]`` the output shows
    ``source[i]``. Returns (N+3)×2 float32: per axis N kernel weights, offset, slopes along x and y of the displacement
    ``source - target``.
    """
    n = len(target)
    affine = np.column_stack((np.ones(n), target))
    system = np.zeros((n + 3, n + 3))
    system[:n, :n] = _tps_kernel(((target[:, None] - target[None]) ** 2).sum(-1, dtype=np.float64))
    system[:n, n:], system[n:, :n] = affine, affine.T
    return np.linalg.solve(system, np.vstack((source - target, np.zeros((3, 2))))).astype(np.float32)


def tps_grid(theta: np.ndarray, target: np.ndarray, height: int, width: int) -> np.ndarray:
    """2×H×W float32: the (x, y) that every output pixel shows, by the spline that ``tps_theta`` fitted."""
    x = np.linspace(0, 1, width, dtype=np.float32)
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    offset, slope_x, slope_y = theta[-3:, :, None, None]
    grid = offset + slope_x * x + slope_y * y
    grid[0] += x
    grid[1] += y
    for (px, py), weights in zip(target.astype(np.float32), theta, strict=False):
        kernel = _tps_kernel((x - px) ** 2 + (y - py) ** 2)
        for axis, weight in zip(grid, weights, strict=True):
            axis += weight * kernel
    return grid


def _tps_kernel(squared: np.ndarray) -> np.ndarray:
    """r² log r, from squared distances; the small number only keeps the logarithm finite at r = 0."""
    root = np.sqrt(squared)
    root += root.dtype.type(1e-6)
    return np.log(root, out=root) * squared  # in place: fresh memory costs more than the logarithm
