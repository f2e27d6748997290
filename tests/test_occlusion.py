"""Parts that come into view, copies of objects, and the flags that ask for them."""

import dataclasses

import cv2
import numpy as np
import pytest

from datasets.augmentation import HIDDEN, distract, occlude
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


def test_a_copy_of_the_object_is_background_in_every_frame():
    painted = 0
    for seed in range(20):
        ids = np.zeros((3, 64, 64), np.uint8)
        for t in range(3):
            ids[t, 12 + t : 32 + t, 20:36] = 4
            ids[t, 50:60, 5:15] = 7
        frames = [np.full((64, 64, 3), 100, np.uint8) for _ in range(3)]
        for frame, frame_ids in zip(frames, ids, strict=True):
            frame[frame_ids == 4] = (220, 40, 30)
        before, clean = ids.copy(), [frame.copy() for frame in frames]
        distract(np.random.default_rng(seed), frames, ids, np.array([4]), 1.0)
        assert np.array_equal(ids, before)
        changed = [(one != other).any(2) for one, other in zip(frames, clean, strict=True)]
        assert not any(change[frame_ids > 0].any() for change, frame_ids in zip(changed, ids, strict=True))
        area = changed[0].sum() / (ids[0] == 4).sum()
        red = [frame[change].mean(0) for frame, change in zip(frames, changed, strict=True) if change.sum() > 9]
        assert area < 2.5 and all(colour[0] > 2 * colour[2] for colour in red)
        painted += area > 0.2
    assert painted >= 15  # others lie behind the objects or beyond the border
    everywhere = np.full((1, 64, 64), 4, np.uint8)  # leaves no room
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    frames = [frame.copy()]
    distract(np.random.default_rng(0), frames, everywhere, np.array([4]), 1.0)
    assert np.array_equal(frames[0], frame)


def test_flags_reach_every_clip(tmp_path):
    """Half of a white disk is hidden in the first frame of nearly every clip with ``reveal``, of none without; with
    ``distract`` there is more white than the disk.
    """
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
    for probability, expected in ((0.0, 0), (1.0, 20)):
        mixture = build_dataset(0, dataclasses.replace(data, distract=probability))
        clips = [mixture[SampleRequest(0, (seed,), 0.0)] for seed in range(20)]
        # Some copies lie behind the object or beyond the border.
        white = [(clip.frames.float().mean(1) > 130) & (clip.slots == 0) for clip in clips]
        assert sum(bool(area.float().mean() > 0.01) for area in white) == pytest.approx(expected, abs=6)


def test_deform_is_a_factor_of_what_differs_between_frames():
    def angles(deform: float) -> np.ndarray:
        rng = np.random.default_rng(0)
        warps = [static_warps(rng, 64, 64, 2, 32, 0, deform) for _ in range(200)]
        turns = [a.matrix[:, :2] @ np.linalg.inv(b.matrix[:, :2]) for a, b in warps]
        return np.degrees([np.arctan2(turn[1, 0], turn[0, 0]) for turn in turns])

    assert np.allclose(angles(0.0), 0, atol=1e-6)
    assert np.std(angles(2.0)) == pytest.approx(2 * np.std(angles(1.0)), rel=0.05)


@pytest.mark.parametrize(
    "values",
    [{"distract": 1.5}, {"reveal": 1.5}, {"reveal": -0.1}, {"blur": 1.5}, {"deform": -1.0}, {"deform": float("nan")}],
)
def test_refused(values):
    with pytest.raises(InputError, match="expected"):
        DataConfig(**values).check(0)
