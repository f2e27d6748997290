"""Which frames and which objects a training clip shows."""

import numpy as np
import pytest
from PIL import Image

from datasets.images import read_static_mask, write_mask
from datasets.sampling import choose_frames, max_jump, split_objects, visible_objects
from util.errors import InputError


def test_max_jump_follows_the_schedule():
    assert [max_jump(p) for p in (0, 0.099, 0.1, 0.2, 0.3, 0.4, 0.89, 0.9, 1)] == [5, 5, 10, 15, 20, 25, 25, 5, 5]
    assert [max_jump(p, last_drop=0.8) for p in (0.79, 0.8)] == [25, 5]
    assert [max_jump(p, divisor=5) for p in (0, 0.1, 0.4, 0.95)] == [1, 2, 5, 1]


def published_gaps(rng: np.random.Generator, length: int, jump: int) -> tuple[int, int]:
    """Both gaps of a clip as the STCN program draws them; 0 where it repeats a frame."""
    jump = min(jump, length)
    first = int(rng.integers(length - jump + 1))
    second = min(first + 1 + int(rng.integers(jump + 1)), length - jump, length - 1)
    third = min(second + 1 + int(rng.integers(jump + 1)), length - jump // 2, length - 1)
    return max(0, second - first), max(0, third - second)


@pytest.mark.parametrize(
    ("lengths", "jump", "mean"),
    [((20, 36), 1, 1.38), ((60, 90), 25, 11.4), ((60, 90), 5, 3.4), ((20, 36), 5, 3.2)],
)
def test_gaps_are_those_of_the_published_program(lengths, jump, mean):
    """YouTube-VOS at the smallest jump, DAVIS at the largest, and the reverse."""
    rng = np.random.default_rng(0)
    draws = rng.integers(lengths[0], lengths[1], 20_000, endpoint=True)
    published = np.array([published_gaps(rng, int(length), jump) for length in draws])
    ours = np.diff([np.sort(choose_frames(rng, int(length), 3, jump)) for length in draws], axis=1)
    assert abs(published.mean() - mean) < 0.2
    assert abs(ours.mean() - published.mean()) < 0.1
    for i in range(2):  # not only on average: instead of a repeat, there is a gap of 1
        frequencies = [np.bincount(np.maximum(gaps[:, i], 1), minlength=27) / len(draws) for gaps in (published, ours)]
        assert np.abs(frequencies[0] - frequencies[1]).max() < 0.05


def test_frames_of_a_clip_never_repeat_unless_the_video_is_too_short():
    rng = np.random.default_rng(0)
    for num_frames in (2, 3, 5, 8):
        for length in (1, 2, 3, 4, 7, 10, 40):
            for jump in (1, 10, 25):
                clips = np.array([choose_frames(rng, length, num_frames, jump) for _ in range(50)])
                assert clips.min() >= 0 and clips.max() < length
                assert all(len(set(clip)) == min(num_frames, length) for clip in clips)
                steps = np.diff(clips, axis=1)
                assert ((steps >= 0).all(1) | (steps <= 0).all(1)).all() and np.abs(steps).max() <= jump + 1


def test_clips_start_anywhere_and_go_both_ways():
    rng = np.random.default_rng(0)
    clips = np.array([choose_frames(rng, 40, 3, 10) for _ in range(2000)])
    steps = np.diff(clips, axis=1)
    assert set(np.abs(steps).ravel()) == set(range(1, 12))
    assert 0.45 < (steps > 0).all(1).mean() < 0.55 and (steps < 0).all(1).mean() > 0.45
    assert set(clips.min(1)) == set(range(31)) and clips.max() == 35  # 40 - 10 and 40 - 10 // 2
    assert len({tuple(choose_frames(rng, 10, 3, 25)) for _ in range(300)}) > 20  # a short video, a large jump


def test_objects_are_in_the_first_frame():
    ids = np.zeros((3, 100, 100), np.uint8)
    ids[:, 50:90, 50:90] = 1  # large
    ids[0, :15, :15] = 2  # small at first, large later
    ids[1, :30, :30] = 2
    ids[:, :15, 80:95] = 3  # always small
    ids[:, 95:, 95:] = 4  # a few pixels
    ids[1:, 95:, :5] = 5  # later only
    assert visible_objects(ids).tolist() == [1, 2, 3, 4]
    assert visible_objects(ids, large=True).tolist() == [1, 3]


def split(path, most=1, seed=0):
    return split_objects(np.random.default_rng(seed), *read_static_mask(path), most)


def test_index_masks_give_objects_that_are_large_enough(tmp_path):
    ids = np.zeros((100, 100), np.uint8)
    ids[10:50, 10:50], ids[50:90, 50:90], ids[95:97, 0:3], ids[:5] = 3, 9, 5, 255  # 255 is void, 5 tiny
    write_mask(tmp_path / "palette.png", ids)
    Image.fromarray(np.where(ids == 255, 0, ids)).save(tmp_path / "grey.png")
    for name in ("palette.png", "grey.png"):
        drawn = [split(tmp_path / name, seed=seed) for seed in range(20)]
        assert {tuple(np.unique(ids[mask == 255])) for (mask,) in drawn} == {(3,), (9,)}
        assert len(split(tmp_path / name, 2)) == 2
    ids[ids == 3], ids[ids == 9] = 0, 0
    write_mask(tmp_path / "tiny.png", ids)
    (tiny,) = split(tmp_path / "tiny.png", 2)
    assert set(np.unique(ids[tiny == 255])) == {5}  # all there is
    write_mask(tmp_path / "empty.png", np.zeros_like(ids))
    (empty,) = split(tmp_path / "empty.png", 2)
    assert empty.shape == ids.shape and not empty.any()


@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_in_the_transparency_are_refused(tmp_path, channels):
    shape = np.eye(10, dtype=np.uint8) * np.uint8(255)
    for grey in (0, 3, 255):
        Image.fromarray(np.dstack([np.full_like(shape, grey)] * channels + [shape])).save(tmp_path / "a.png")
        with pytest.raises(InputError, match="a.png: may be a mask by its transparency"):
            split(tmp_path / "a.png")
    Image.fromarray(np.dstack([shape] * (channels + 1))).save(tmp_path / "a.png")  # black where it is transparent
    assert np.array_equal(split(tmp_path / "a.png")[0], shape)
    Image.fromarray(np.zeros((10, 10, channels + 1), np.uint8)).save(tmp_path / "a.png")  # no object at all
    assert not split(tmp_path / "a.png")[0].any()


def test_binary_masks_keep_their_soft_edge(tmp_path):
    soft = np.full((10, 10), 100, np.uint8)
    soft[5:] = 190
    Image.fromarray(soft).save(tmp_path / "binary.png")
    (mask,) = split(tmp_path / "binary.png", 2)
    assert np.array_equal(mask, soft)  # the threshold comes after sampling
    write_mask(tmp_path / "void.png", (soft > 127) * np.uint8(255))
    (alone,) = split(tmp_path / "void.png")
    assert np.array_equal(alone > 0, soft > 127)
