"""Geometric augmentation: the spline, what is drawn, and where each pixel comes from."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.warps import (
    FILL,
    Warp,
    random_spline,
    static_warps,
    tps_grid,
    tps_theta,
    video_warps,
    warp_alpha,
    warp_binary,
    warp_ids,
    warp_image,
)


@pytest.mark.parametrize("case", [0, 1, 2])
def test_spline_equals_the_reference(case):
    stored = np.load(Path(__file__).parent / "fixtures" / "tps.npz")
    source, target, theta, grid, image, mask, warped, warped_mask = (
        stored[f"{case}/{key}"]
        for key in ("c_src", "c_dst", "theta_full", "grid", "img", "mask", "warp_img", "warp_mask")
    )
    height, width = mask.shape
    np.testing.assert_allclose(tps_theta(source, target), theta, atol=1e-5)
    ours = tps_grid(tps_theta(source, target), target, height, width)
    np.testing.assert_allclose(ours.transpose(1, 2, 0), grid, atol=1e-5)
    x, y = ours[0] * width, ours[1] * height
    difference = np.abs(cv2.remap(image, x, y, cv2.INTER_LINEAR).astype(int) - warped)
    assert difference.max() <= (1 if cv2.__version__ >= "5" else 4)  # OpenCV 4 samples in steps of 1/32 pixel
    assert (difference <= 1).mean() > 0.97
    assert (cv2.remap(mask, x, y, cv2.INTER_NEAREST) != warped_mask).sum() <= 2


def test_random_spline_moves_pixels_by_about_two_percent():
    rng = np.random.default_rng(0)
    identity = np.stack(np.meshgrid(np.arange(96), np.arange(96)))
    moved = np.stack([random_spline(rng, 96) - identity for _ in range(60)]) / 96
    assert 0.01 < np.median(np.abs(moved)) < 0.03
    assert np.abs(np.median(moved)) < 0.005


# --- what is drawn ----------------------------------------------------------------------------------------------


def rotation_shear_zoom(linear: np.ndarray) -> tuple[float, float, float]:
    """Degrees, degrees and factor of a forward map zoom · rotation · shear along x."""
    first, second = linear.T
    zoom, angle = np.hypot(*first), np.arctan2(first[1], first[0])
    rotated = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) @ second / zoom
    return np.degrees(angle), np.degrees(np.arctan(-rotated[0])), zoom


def is_uniform(values, low: float, high: float, slack: float = 0.06) -> bool:
    """All inside, mean and spread those of a uniform distribution."""
    values, span = np.array(values), high - low
    inside = values.min() >= low - 1e-6 and values.max() <= high + 1e-6
    return bool(
        inside
        and abs(values.mean() - (low + high) / 2) < slack * span
        and abs(values.std() * 12**0.5 - span) < 2 * slack * span
    )


def test_static_geometry_is_drawn_as_specified():
    rng = np.random.default_rng(0)
    scales, flips, angles, shears, zooms, splines = [], [], [], [], [], []
    for _ in range(400):
        warps = static_warps(rng, 64, 64, 3, 64)
        scale = 64 / (warps[0].window[2] - warps[0].window[0])  # below 1 the window is the whole image
        flips.append(np.linalg.det(warps[0].matrix[:, :2]) < 0)
        for warp in warps:
            splines.append(warp.spline is not None)
            linear = np.linalg.inv(warp.matrix[:, :2] * ([-1], [1]) if flips[-1] else warp.matrix[:, :2])
            angle, shear, zoom = rotation_shear_zoom(linear)
            angles.append(angle), shears.append(shear)
            if scale > 1:
                zooms.append(zoom / scale)
            # on a square image every step keeps the centre
            np.testing.assert_allclose(warp.matrix @ (32, 32, 1), (32, 32), atol=1e-9)
        scales.append(scale)
    assert is_uniform([s for s in scales if s > 1], 1, 1.5) and 0.2 < np.mean(np.array(scales) <= 1) < 0.37
    assert is_uniform(angles, -20, 20) and is_uniform(shears, -10, 10) and is_uniform(zooms, 0.9, 1.1)
    assert 0.42 < np.mean(flips) < 0.58 and 0.28 < np.mean(splines) < 0.39
    offsets = [static_warps(rng, 64, 128, 1, 64, 0)[0].matrix @ (32, 32, 1) for _ in range(300)]
    assert np.ptp(offsets, axis=0)[0] > 50  # the crop wanders along the longer side


def test_video_geometry_is_drawn_as_specified():
    rng = np.random.default_rng(0)
    areas, aspects, angles, shears, flips = [], [], [], [], []
    for _ in range(400):
        for warp in video_warps(rng, 480, 854, 1, 64):
            left, top, right, bottom = warp.window
            assert 0 <= left < right <= 854 and 0 <= top < bottom <= 480
            areas.append((right - left) * (bottom - top) / (480 * 854))
            aspects.append((right - left) / (bottom - top))
            unit = warp.matrix[:, :2] / [[(right - left) / 64], [(bottom - top) / 64]]
            flips.append(np.linalg.det(unit) < 0)
            angle, shear, zoom = rotation_shear_zoom(np.linalg.inv(unit * ([-1], [1]) if flips[-1] else unit))
            angles.append(angle), shears.append(shear)
            assert abs(zoom - 1) < 1e-9
    assert 0.355 < min(areas) < 0.4 and 0.7 < max(areas) < 0.751  # of 16:9, more does not fit 4:3
    assert 0.745 < min(aspects) < 0.8 and 1.28 < max(aspects) < 1.34
    assert is_uniform(angles, -15, 15) and is_uniform(shears, -10, 10)
    assert 0.42 < np.mean(flips) < 0.58
    edges = np.array([video_warps(rng, 12, 16, 1, 64)[0].window for _ in range(300)])
    assert edges.min(0)[:2].tolist() == [0, 0] and edges.max(0)[2:].tolist() == [16, 12]
    left, top, right, bottom = video_warps(rng, 10, 1000, 1, 64)[0].window  # nothing fits: the middle
    assert (top, bottom) == (0, 10) and right - left == 13 and left == 493


# --- where pixels come from -------------------------------------------------------------------------------------


def scaling(scale: float, shift: tuple[float, float], size: int, window: tuple[int, int, int, int], **options) -> Warp:
    return Warp(np.array([[scale, 0, shift[0]], [0, scale, shift[1]]]), window, size, **options)


def test_pixels_come_from_exactly_where_the_matrix_says():
    """Identity, a shift by whole pixels and enlargement by two, of an image without structure larger than a pixel."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    ids = noise[..., 0]
    whole = (0, 0, 16, 16)
    assert np.array_equal(warp_image(noise, scaling(1, (0, 0), 16, whole)), noise)
    shifted = warp_image(noise, scaling(1, (3, -2), 16, whole))
    assert np.array_equal(shifted[2:, :13], noise[:14, 3:]) and (shifted[:2] == FILL).all()
    assert np.array_equal(warp_ids(ids, scaling(0.5, (0, 0), 32, whole)), ids.repeat(2, 0).repeat(2, 1))
    inner = warp_ids(ids, scaling(1, (0, 0), 16, (4, 5, 12, 15)))  # outside of its window there is nothing
    assert np.array_equal(inner[5:15, 4:12], ids[5:15, 4:12]) and inner.sum() == ids[5:15, 4:12].sum()
    here = np.stack(np.meshgrid(np.arange(16), np.arange(16))).astype(np.float32)
    assert np.array_equal(warp_image(noise, scaling(1, (0, 0), 16, whole, spline=here)), noise)
    assert np.array_equal(warp_ids(ids, scaling(1, (0, 0), 16, whole, spline=here + 1))[:-1, :-1], ids[1:, 1:])


@pytest.mark.parametrize("scale", [0.4, 0.75, 1.0, 1.7, 2.6, 4.3])
@pytest.mark.parametrize("with_spline", [False, True])
def test_image_and_masks_are_sampled_at_the_same_place_to_a_tenth_of_a_pixel(scale, with_spline):
    """A square of 60 output pixels is where the matrix says, on average over places between the pixels."""
    mask = np.zeros((400, 400), np.uint8)
    side = round(60 * scale)
    mask[80 : 80 + side, 100 : 100 + side] = 255
    centre = np.array([100, 80]) + side / 2
    errors: dict[str, list[np.ndarray]] = {"image": [], "binary": [], "alpha": [], "ids": []}
    for i in range(20):
        place = np.array([47, 48]) + ((i + 0.5) / 20, (7 * i % 20 + 0.5) / 20)  # every twentieth of a pixel
        identity = np.stack(np.meshgrid(np.arange(96), np.arange(96))).astype(np.float32)
        shift = tuple(centre - scale * place)
        warp = scaling(scale, shift, 96, (0, 0, 400, 400), spline=identity if with_spline else None)
        shrink = warp.shrink()
        image = cv2.resize(mask, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)
        inside = warp_ids(np.ones_like(mask), warp)  # without the fill around the image
        samples = {
            "image": inside * (warp_image(cv2.merge([image] * 3), warp, shrink)[..., 0] / 255),
            "binary": warp_binary(mask, warp).astype(float),
            "alpha": warp_alpha(mask, warp).astype(float),
            "ids": warp_ids(mask, warp) / 255,
        }
        rows, columns = np.mgrid[:96, :96] + 0.5
        for name, sample in samples.items():
            found = np.array([(sample * columns).sum(), (sample * rows).sum()]) / sample.sum()
            errors[name].append(found - place)
            assert abs(np.sqrt(sample.sum()) - side / scale) < 1.2, name
    for name, differences in errors.items():
        assert np.abs(np.mean(differences, axis=0)).max() < 0.1, name


def test_reduction_is_smoothed_along_the_axis_that_is_reduced():
    """Lines along x, sampled at every second row: without smoothing all of them or none would be seen."""
    lines = np.zeros((64, 32, 3), np.uint8)
    lines[::2] = 255
    warp = Warp(np.array([[1.0, 0, 0], [0, 2.0, -0.5]]), (0, 0, 32, 64), 32)
    assert np.abs(warp_image(lines, warp)[4:-4].astype(int) - 127).max() < 25
    turned = Warp(np.array([[2.0, 0, -0.5], [0, 1.0, 0]]), (0, 0, 64, 32), 32)
    assert np.abs(warp_image(lines.transpose(1, 0, 2), turned)[:, 4:-4].astype(int) - 127).max() < 25
    assert np.ptp(warp_image(lines, scaling(1, (0, 0), 32, (0, 0, 32, 64)))) == 255
