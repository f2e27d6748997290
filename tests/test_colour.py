"""Colour augmentation equals its steps one by one, and is drawn as specified."""

import cv2
import numpy as np
import torch
from torchvision.transforms import functional as tv  # type: ignore[import-untyped]  # it comes without types

from datasets.augmentation import JitterRange, apply_jitters, jitter_clip, shift_hue
from tests.test_warps import is_uniform


def test_colour_matrix_equals_the_steps_one_by_one():
    image = cv2.resize(np.random.default_rng(0).integers(60, 200, (9, 12, 3), np.uint8), (96, 72))
    jitters = ((1.2, 0.7, 0.8), (0.8, 1.3, 1.1))
    steps = torch.from_numpy(image).permute(2, 0, 1) / 255
    for brightness, contrast, saturation in jitters:
        steps = tv.adjust_contrast(tv.adjust_brightness(steps, brightness), contrast)
        steps = tv.adjust_saturation(steps, saturation)
    ours = apply_jitters(image, jitters)
    np.testing.assert_allclose(ours, steps.permute(1, 2, 0).numpy() * 255, atol=1.6)  # of 8-bit rounding
    turned = tv.adjust_hue(torch.from_numpy(image).permute(2, 0, 1), 0.04).permute(1, 2, 0).numpy()
    assert np.abs(shift_hue(image, 0.04).astype(int) - turned).max() <= 6


def test_jitter_is_drawn_as_specified():
    rng = np.random.default_rng(0)
    drawn = np.array([JitterRange(0.1, 0.05, 0.02, grey=0.05).draw(rng) for _ in range(2000)])
    grey = drawn[:, 2] == 0
    assert 0.035 < grey.mean() < 0.065
    for values, bound in zip((drawn[:, 0], drawn[:, 1], drawn[~grey, 2]), (0.1, 0.05, 0.02), strict=True):
        assert is_uniform(values, 1 - bound, 1 + bound)


def test_frames_have_one_jitter_in_common_and_one_of_their_own():
    frames = [np.full((4, 4, 3), (120, 100, 80), np.uint8)] * 40
    rng = np.random.default_rng(0)
    none, bright = JitterRange(0, 0, 0), JitterRange(0.1, 0, 0)
    brightness = np.array([np.mean(jitter_clip(rng, frames, bright, none), (1, 2, 3)) / 100 for _ in range(40)])
    assert (np.ptp(brightness, axis=1) == 0).all() and brightness.min() < 0.93 and brightness.max() > 1.07
    brightness = np.mean(jitter_clip(rng, frames, none, bright), (1, 2, 3)) / 100
    assert is_uniform(brightness, 0.895, 1.105, slack=0.2)
