"""Thin-plate spline warp: the smoothest map that moves given points to given places (Bookstein 1989).

Coordinates are (x, y) in units of the image size: (0, 0) the first pixel, (1, 1) the last.
"""

import numpy as np


def tps_theta(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Fit a spline that pulls ``source`` to ``target``: at ``target[i]`` the output shows ``source[i]``.

    Both are N×2, no two targets equal. Returns (N+3)×2 float32: per axis N kernel weights, offset, slopes
    along x and y of the displacement ``source - target``.
    """
    target = np.asarray(target, np.float64)
    n = len(target)
    affine = np.column_stack((np.ones(n), target))
    system = np.zeros((n + 3, n + 3))
    system[:n, :n] = _kernel(((target[:, None] - target[None]) ** 2).sum(-1))
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
    squared, kernel = np.empty((2, height, width), np.float32)  # reused: fresh memory costs more than the sums
    for (px, py), weights in zip(np.asarray(target, np.float32), theta, strict=False):
        np.add((x - px) ** 2, (y - py) ** 2, out=squared)
        _kernel(squared, out=kernel)
        for axis, weight in zip(grid, weights, strict=True):
            axis += np.multiply(kernel, weight, out=squared)
    return grid


def _kernel(squared: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """r² log r, from squared distances; the small number only keeps the logarithm finite at r = 0."""
    out = np.sqrt(squared, out=out)
    out += out.dtype.type(1e-6)
    np.log(out, out=out)
    out *= squared
    return out


def random_spline(rng: np.random.Generator, size: int, points: int = 12, sigma: float = 0.02) -> np.ndarray:
    """2×S×S float32: the (x, y) in pixels that each pixel of an S×S output shows.

    Random control points, each moved by N(0, sigma) image sizes along both axes; no two share a row or a column, which
    keeps the fit well conditioned.
    """
    source = np.column_stack([rng.choice(size, points, replace=False) for _ in "xy"]) / size
    target = source + rng.normal(scale=sigma, size=source.shape)
    return tps_grid(tps_theta(source, target), target, size, size) * np.float32(size - 1)
