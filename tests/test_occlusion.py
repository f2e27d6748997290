"""Parts that come into view: what the first frame hides, and the flags that ask for it."""

import dataclasses

import cv2
import numpy as np
import pytest

from datasets.augmentation import HIDDEN, occlude
from datasets.config import DataConfig
from datasets.mixture import SampleRequest, build_dataset
from datasets.warps import static_warps
from util.errors import InputError


def test_a_part_is_hidden_in_the_first_frame_only():
    for seed in range(20):
        ids = np.zeros((3, 64, 64), np.uint8)
        ids[:, 12:40, 20:50] = 4
        ids[:, 50:60, 5:15] = 7
        frames = [np.full((64, 64, 3), 100, np.uint8) for _ in range(3)]
        before = ids.copy()
        left = occlude(np.random.default_rng(seed), frames, ids, np.array([4]), 1.0)
        assert list(left) == [4]
        assert np.array_equal(ids[1:], before[1:]) and all((frame == 100).all() for frame in frames[1:])
        hidden = (before[0] == 4) & (ids[0] == 0)
        assert HIDDEN[0] - 0.05 < hidden.sum() / (before[0] == 4).sum() < HIDDEN[1] + 0.05
        assert (frames[0][cv2.erode(hidden.view(np.uint8), np.ones((3, 3))) > 0] != 100).any(1).mean() > 0.9
        assert (frames[0][ids[0] == 4] != 100).any(1).mean() < 0.2  # the edge of the occluder


def test_flags_reach_every_clip(tmp_path):
    """Half of a white disk is hidden in the first frame of nearly every clip with ``reveal``, of none without."""
    (tmp_path / "set").mkdir()
    y, x = np.mgrid[:96, :96]
    disk = ((y - 48) ** 2 + (x - 48) ** 2 < 20**2) * np.uint8(255)
    cv2.imwrite(str(tmp_path / "set/disk.jpg"), np.dstack([disk] * 3))
    cv2.imwrite(str(tmp_path / "set/disk.png"), disk)
    data = DataConfig(static_root=tmp_path, crop=96, deform=0.0)
    for reveal, expected in ((0.0, 0), (1.0, 20)):
        mixture = build_dataset(0, dataclasses.replace(data, reveal=reveal))
        clips = [mixture[SampleRequest(0, (seed,), 0.0)] for seed in range(20)]
        areas = [clip.slots.flatten(1).float().sum(1) for clip in clips]
        assert sum(bool(area[0] < 0.85 * area[1:].max()) for area in areas) == pytest.approx(expected, abs=2)


def test_deform_is_a_factor_of_what_differs_between_frames():
    def angles(deform: float) -> np.ndarray:
        rng = np.random.default_rng(0)
        warps = [static_warps(rng, 64, 64, 2, 32, 0, deform) for _ in range(200)]
        turns = [a.matrix[:, :2] @ np.linalg.inv(b.matrix[:, :2]) for a, b in warps]
        return np.degrees([np.arctan2(turn[1, 0], turn[0, 0]) for turn in turns])

    assert np.allclose(angles(0.0), 0, atol=1e-6)
    assert np.std(angles(2.0)) == pytest.approx(2 * np.std(angles(1.0)), rel=0.05)


@pytest.mark.parametrize(
    "values", [{"reveal": 1.5}, {"reveal": -0.1}, {"blur": 1.5}, {"deform": -1.0}, {"deform": float("nan")}]
)
def test_refused(values):
    with pytest.raises(InputError, match="expected"):
        DataConfig(**values).check(0)
