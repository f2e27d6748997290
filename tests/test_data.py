"""Training data: the spline, the drawn augmentation, image and mask together, the stream, and faulty folders."""

import logging
import os
import signal
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as tv

from datasets.clip import Clip
from datasets.images import write_mask
from datasets.loader import Mixture, StreamSampler, build_dataset, build_loader, parse_extra
from datasets.static import StaticImages, draw_objects
from datasets.tps import random_spline, tps_grid, tps_theta
from datasets.transforms import Jitter, colour, draw_jitter, shift_hue, static_warps, video_warps
from datasets.vos import VideoClips, choose_frames, max_jump
from util.errors import InputError

RED, BLUE = (230, 30, 30), (30, 30, 230)


def blob(height: int, width: int, seed: int = 0, object_id: int = 1) -> np.ndarray:
    """H×W uint8 ids: a star-shaped object somewhere in the middle."""
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    radius = rng.uniform(0.15, 0.35, 16) * min(height, width)
    directions = np.column_stack((np.cos(angle), np.sin(angle)))
    corners = rng.uniform(0.4, 0.6, 2) * (width, height) + directions * radius[:, None]
    return cv2.fillPoly(np.zeros((height, width), np.uint8), [corners.astype(np.int32)], object_id)


def save_photo(path: Path, ids: np.ndarray) -> None:
    """A picture that shows its own mask: objects red, the rest blue."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.where(ids[..., None] > 0, RED, BLUE).astype(np.uint8)).save(path, quality=95, subsampling=0)


def write_static(folder: Path, count: int = 3, size: tuple[int, int] = (80, 100), binary: bool = True) -> Path:
    for i in range(count):
        ids = blob(*size, seed=i)
        save_photo(folder / f"{i}.jpg", ids)
        write_mask(folder / f"{i}.png", ids, binary=binary)
    return folder


def write_videos(images: Path, masks: Path, names, frames: int = 8, size=(72, 96), object_id: int = 1) -> None:
    for v, name in enumerate(names):
        for t in range(frames):
            ids = np.roll(blob(*size, seed=v, object_id=object_id), 2 * t, axis=1)
            save_photo(images / name / f"{t:05d}.jpg", ids)
            write_mask(masks / name / f"{t:05d}.png", ids)


def assert_mask_sticks(clip: Clip, most: float = 0.5) -> None:
    """The red parts of the frames are the masks, to the pixel and with little drift on the average, in pixels."""
    drift = []
    for frame, masks in zip(clip.frames.numpy(), clip.masks.numpy(), strict=True):
        red, mask = frame[0] - frame[2] > 0.3, masks.any(0)
        assert cv2.erode((red != mask).astype(np.uint8), np.ones((3, 3))).sum() == 0
        if mask.sum() > 100:
            drift.append(np.argwhere(red).mean(0) - np.argwhere(mask).mean(0))
    assert np.abs(np.mean(drift, 0)).max() < most if drift else True


# --- thin-plate spline ------------------------------------------------------------------------------------------


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
    away = np.abs(cv2.remap(image, x, y, cv2.INTER_LINEAR).astype(int) - warped)
    assert away.max() <= (1 if cv2.__version__ >= "5" else 4)  # OpenCV 4 samples in steps of 1/32 pixel
    assert (away <= 1).mean() > 0.97
    assert (cv2.remap(mask, x, y, cv2.INTER_NEAREST) != warped_mask).sum() <= 2


def test_random_spline_moves_pixels_by_about_two_percent():
    rng = np.random.default_rng(0)
    identity = np.stack(np.meshgrid(np.arange(96), np.arange(96)))
    moved = np.stack([random_spline(rng, 96) - identity for _ in range(60)]) / 96
    assert 0.01 < np.median(np.abs(moved)) < 0.03
    assert np.abs(np.median(moved)) < 0.005


# --- drawn geometry ---------------------------------------------------------------------------------------------


def rotation_shear_zoom(linear: np.ndarray) -> tuple[float, float, float]:
    """Degrees, degrees and factor of a forward map zoom · rotation · shear along x."""
    first, second = linear.T
    zoom, angle = np.hypot(*first), np.arctan2(first[1], first[0])
    rotated = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) @ second / zoom
    return np.degrees(angle), np.degrees(np.arctan(-rotated[0])), zoom


def uniform_in(values, low: float, high: float, slack: float = 0.06) -> bool:
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
            splines.append(warp.bend is not None)
            linear = np.linalg.inv(warp.matrix[:, :2] * ([-1], [1]) if flips[-1] else warp.matrix[:, :2])
            angle, shear, zoom = rotation_shear_zoom(linear)
            angles.append(angle), shears.append(shear)
            if scale > 1:
                zooms.append(zoom / scale)
            # on a square image every step keeps the centre
            np.testing.assert_allclose(warp.matrix @ (32, 32, 1), (32, 32), atol=1e-9)
        scales.append(scale)
    assert uniform_in([s for s in scales if s > 1], 1, 1.5) and 0.2 < np.mean(np.array(scales) <= 1) < 0.37
    assert uniform_in(angles, -20, 20) and uniform_in(shears, -10, 10) and uniform_in(zooms, 0.9, 1.1)
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
    assert uniform_in(angles, -15, 15) and uniform_in(shears, -10, 10)
    assert 0.42 < np.mean(flips) < 0.58
    edges = np.array([video_warps(rng, 12, 16, 1, 64)[0].window for _ in range(300)])
    assert edges.min(0)[:2].tolist() == [0, 0] and edges.max(0)[2:].tolist() == [16, 12]
    left, top, right, bottom = video_warps(rng, 10, 1000, 1, 64)[0].window  # nothing fits: the middle
    assert (top, bottom) == (0, 10) and right - left == 13 and left == 493


# --- image and mask together ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(80, 100), (700, 500), (1500, 1900)])
@pytest.mark.parametrize("binary", [True, False])
def test_static_mask_sticks_to_the_object(tmp_path, size, binary):
    images = StaticImages(write_static(tmp_path, 1, size, binary), size=160, spline=0.5)
    coloured = 0
    for seed in range(6):
        clip = images.sample(0, np.random.default_rng(seed))
        assert clip.frames.shape == (3, 3, 160, 160) and clip.masks.shape == (3, 1, 160, 160)
        assert clip.frames.dtype == clip.masks.dtype == clip.valid.dtype == torch.float32
        assert clip.frames.min() >= 0 and clip.frames.max() <= 1
        assert set(clip.masks.unique().tolist()) == {0, 1} and clip.masks[0].any()
        assert not torch.equal(clip.masks[0], clip.masks[1])
        if not torch.equal(clip.frames[:, 0], clip.frames[:, 2]):  # not made greyscale
            assert_mask_sticks(clip)
            coloured += 1
    assert coloured >= 4


@pytest.mark.parametrize("size", [(72, 96), (900, 1400)])
def test_video_mask_sticks_to_the_object(tmp_path, size):
    write_videos(tmp_path / "J", tmp_path / "A", ["a"], frames=4, size=size, object_id=7)
    videos = VideoClips(tmp_path / "J", tmp_path / "A", size=128)
    for seed in range(6):
        clip = videos.sample(0, np.random.default_rng(seed))
        assert clip.frames.shape == (3, 3, 128, 128) and clip.masks.shape == (3, 2, 128, 128)
        assert clip.valid.tolist() == [1, 0] and clip.masks[0, 0].any() and not clip.masks[:, 1].any()
        if not torch.equal(clip.frames[:, 0], clip.frames[:, 2]):
            assert_mask_sticks(clip)


def test_index_masks_give_one_large_enough_object(tmp_path):
    ids = np.zeros((100, 100), np.uint8)
    ids[10:50, 10:50], ids[50:90, 50:90], ids[95:97, 0:3], ids[:5] = 3, 9, 5, 255  # 255 is void, 5 tiny
    write_mask(tmp_path / "a.png", ids)
    Image.fromarray(np.where(ids == 255, 0, ids)).save(tmp_path / "grey.png")
    Image.fromarray((ids > 4) * np.uint8(90) + 100).save(tmp_path / "binary.png")
    rng = np.random.default_rng(0)
    for name in ("a.png", "grey.png"):
        drawn = [draw_objects(rng, tmp_path / name) for _ in range(20)]
        assert {tuple(np.unique(ids[mask == 255])) for (mask,) in drawn} == {(3,), (9,)}
    (soft,) = draw_objects(rng, tmp_path / "binary.png", 2)
    assert np.unique(soft).tolist() == [100, 190]  # as stored; the cut comes after sampling
    ids[ids == 3], ids[ids == 9] = 0, 0
    write_mask(tmp_path / "a.png", ids)
    (tiny,) = draw_objects(rng, tmp_path / "a.png", 2)
    assert set(np.unique(ids[tiny == 255])) == {5}  # all there is


def test_index_masks_give_two_objects_in_the_video_stages(tmp_path):
    ids = np.zeros((90, 120), np.uint8)
    for k, object_id in enumerate((2, 5, 9)):
        ids[10:80, 5 + 40 * k : 35 + 40 * k] = object_id
    save_photo(tmp_path / "a.jpg", ids)
    write_mask(tmp_path / "a.png", ids)
    mixture = build_dataset(3, extra=[(tmp_path, tmp_path, 3)], size=64)
    assert shares(mixture) == {str(tmp_path): (1, 3)}
    clip = mixture.parts[0][1].sample(0, np.random.default_rng(1))
    assert clip.valid.tolist() == [1, 1] and clip.masks[0].flatten(1).any(1).all() and clip.masks.sum(1).max() == 1


def test_pasted_objects_pass_in_front_and_behind(tmp_path):
    write_videos(tmp_path / "J", tmp_path / "A", ["a"], frames=9, size=(120, 160))
    write_static(tmp_path / "static", 2)
    options = {"static_root": tmp_path / "static", "extra": [(tmp_path / "J", tmp_path / "A", 1)], "size": 96}
    plain, pasting = (build_dataset(3, paste=paste, **options).parts[0][1] for paste in (0.0, 1.0))
    in_front = behind = 0
    for seed in range(30):
        before, after = (videos.sample(0, np.random.default_rng(seed)) for videos in (plain, pasting))
        if not after.valid.all():
            continue  # the one is wholly behind the other in the first frame, or outside of the picture
        if not torch.equal(after.frames[:, 0], after.frames[:, 2]):
            assert_mask_sticks(after, most=1)  # what is cut out has a blue seam
        video = before.masks[:, 0]
        old, new = sorted(after.masks.unbind(1), key=lambda mask: -(mask * video).sum())
        assert (old <= video).all() and (old * new).sum() == 0 and old[0].sum() >= 0.4 * video[0].sum()
        in_front += bool((new * video).any())
        behind += torch.equal(old, video)
        assert not torch.equal(new[0], new[1])
    assert in_front >= 5 and behind >= 5
    with pytest.raises(InputError, match="pasted objects are cut from"):
        build_dataset(3, paste=0.5, **options | {"static_root": tmp_path / "none"})


def test_two_of_several_video_objects_each_in_its_slot(tmp_path):
    ids = np.zeros((60, 90), np.uint8)
    for k, object_id in enumerate((2, 5, 9)):
        ids[10:50, 10 + 25 * k : 30 + 25 * k] = object_id
    for t in range(3):
        save_photo(tmp_path / "J" / "v" / f"{t}.jpg", ids)
        write_mask(tmp_path / "A" / "v" / f"{t}.png", ids)
    clip = VideoClips(tmp_path / "J", tmp_path / "A", size=64).sample(0, np.random.default_rng(1))
    assert clip.valid.tolist() == [1, 1] and clip.masks[0].flatten(1).any(1).all()
    assert clip.masks.sum(1).max() == 1


# --- colour -----------------------------------------------------------------------------------------------------


def test_colour_matrix_equals_the_steps_one_by_one():
    image = cv2.resize(np.random.default_rng(0).integers(60, 200, (9, 12, 3), np.uint8), (96, 72))
    jitters = (Jitter(1.2, 0.7, 0.8), Jitter(0.8, 1.3, 1.1))
    slow = torch.from_numpy(image).permute(2, 0, 1) / 255
    for brightness, contrast, saturation in jitters:
        slow = tv.adjust_contrast(tv.adjust_brightness(slow, brightness), contrast)
        slow = tv.adjust_saturation(slow, saturation)
    fast = np.empty((3, 72, 96), np.float32)
    colour(image, jitters, out=fast)
    np.testing.assert_allclose(fast, slow.numpy(), atol=1.6 / 255)  # of 8-bit rounding
    turned = tv.adjust_hue(torch.from_numpy(image).permute(2, 0, 1), 0.04).permute(1, 2, 0).numpy()
    assert np.abs(shift_hue(image, 0.04).astype(int) - turned).max() <= 6


def test_jitter_is_drawn_as_specified():
    rng = np.random.default_rng(0)
    drawn = np.array([draw_jitter(rng, 0.1, 0.05, 0.02, grey=0.05) for _ in range(2000)])
    grey = drawn[:, 2] == 0
    assert 0.035 < grey.mean() < 0.065
    for values, bound in zip((drawn[:, 0], drawn[:, 1], drawn[~grey, 2]), (0.1, 0.05, 0.02), strict=True):
        assert uniform_in(values, 1 - bound, 1 + bound)


# --- frames of a clip -------------------------------------------------------------------------------------------


def test_max_jump_follows_the_schedule():
    assert [max_jump(p) for p in (0, 0.099, 0.1, 0.2, 0.3, 0.4, 0.89, 0.9, 1)] == [5, 5, 10, 15, 20, 25, 25, 5, 5]
    assert [max_jump(p, last_drop=0.8) for p in (0.79, 0.8)] == [25, 5]
    assert [max_jump(p, divisor=5) for p in (0, 0.1, 0.4, 0.95)] == [1, 2, 5, 1]


def test_frames_of_a_clip_never_repeat_unless_the_video_is_too_short():
    rng = np.random.default_rng(0)
    for length in (1, 2, 3, 4, 7, 40):
        clips = [choose_frames(rng, length, 3, 10) for _ in range(300)]
        assert all(clip.min() >= 0 and clip.max() < length for clip in clips)
        assert all(len(set(clip)) == min(3, length) for clip in clips)
        steps = np.diff(clips, axis=1)
        assert (steps >= 0).all(1).any() and (steps <= 0).all(1).any()  # both directions
        assert ((steps >= 0).all(1) | (steps <= 0).all(1)).all()
    assert set(np.abs(steps).ravel()) == set(range(1, 11))
    assert 0.4 < (steps > 0).all(1).mean() < 0.6
    assert {clip.min() for clip in clips} >= set(range(20)) and max(clip.max() for clip in clips) == 39


def test_the_first_frame_holds_the_objects(tmp_path):
    """Object 4 is there in two of twelve frames, and 6 only where the clip cannot begin with it."""
    for t in range(12):
        ids = blob(60, 80, object_id=4) * np.uint8(t in (5, 6))
        save_photo(tmp_path / "J" / "v" / f"{t}.jpg", ids)
        write_mask(tmp_path / "A" / "v" / f"{t}.png", ids)
    videos = VideoClips(tmp_path / "J", tmp_path / "A", size=48)
    for seed in range(15):
        clip = videos.sample(0, np.random.default_rng(seed), progress=0.5)
        assert clip.valid.tolist() == [1, 0] and clip.masks[0, 0].any() and clip.name in ("v/5", "v/6")


def test_bl30k_objects_are_large_in_the_first_frame():
    videos = object.__new__(VideoClips)
    videos.large_objects = True
    ids = np.zeros((3, 100, 100), np.uint8)
    ids[:, 50:90, 50:90] = 1  # large
    ids[0, :15, :15] = 2  # small at first, large later
    ids[1, :30, :30] = 2
    ids[:, :15, 80:95] = 3  # always small
    ids[:, 95:, 95:] = 4  # a few pixels
    assert videos._objects(ids).tolist() == [1, 3]
    videos.large_objects = False
    assert videos._objects(ids).tolist() == [1, 2, 3, 4]


# --- the stream -------------------------------------------------------------------------------------------------


def batches(dataset: Mixture, **options) -> list[Clip]:
    return list(build_loader(dataset, **{"batch_size": 2, "stop": 12, "seed": 5, **options}))


def assert_same(first: list[Clip], second: list[Clip]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.name == b.name
        assert all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))


def test_stream_is_the_same_for_any_workers_ranks_and_start(tmp_path):
    write_static(tmp_path / "set", 5)
    dataset = build_dataset(0, static_root=tmp_path, size=32)
    alone = batches(dataset)
    assert len(alone) == 6 and alone[0].frames.shape == (2, 3, 3, 32, 32) and alone[0].valid.shape == (2, 1)
    assert_same(alone, batches(dataset, num_workers=1))
    assert_same(alone, batches(dataset, num_workers=2))
    assert_same(alone[2:], batches(dataset, start=4))
    ranks = [batches(dataset, batch_size=1, rank=rank, world_size=2) for rank in (0, 1)]
    for whole, *parts in zip(alone, *ranks, strict=True):
        assert list(whole.name) == [name for part in parts for name in part.name]
        assert torch.equal(whole.frames, torch.cat([part.frames for part in parts]))
    names = [name for batch in alone for name in batch.name]
    assert sorted(names[:5]) == sorted(names[5:10]) and len(set(names[:5])) == 5
    assert names[:5] != names[5:10]  # every image once an epoch, in a new order
    pictures = torch.cat([batch.frames for batch in alone])
    assert len(torch.unique(pictures.flatten(1), dim=0)) == 12  # no two alike, in this epoch or the next
    assert not torch.equal(alone[0].frames, batches(dataset, seed=6)[0].frames)
    assert [draw.progress for draw in StreamSampler(5, 9, 12)] == [9 / 12, 10 / 12, 11 / 12]


# --- folders ----------------------------------------------------------------------------------------------------


def shares(mixture: Mixture) -> dict[str, tuple[int, int]]:
    return {name: (len(dataset), repeat) for name, dataset, repeat in mixture.parts}


def test_static_mixture_takes_what_is_there(tmp_path, caplog):
    write_static(tmp_path / "fss" / "cat", 2)
    write_static(tmp_path / "fss" / "dog", 1)
    write_static(tmp_path / "HRSOD_small", 2)
    write_static(tmp_path / "own", 3)
    masks = tmp_path / "extra" / "masks"
    for i in range(2):
        save_photo(tmp_path / "extra" / "images" / f"{i}.png", blob(20, 30))
        write_mask(masks / f"{i}.png", blob(20, 30))
    (tmp_path / "extra").rename(tmp_path.with_name("extra"))
    text = f"{tmp_path.with_name('extra')}/images:{tmp_path.with_name('extra')}/masks:4"
    mixture = build_dataset(0, static_root=tmp_path, extra=[parse_extra(text)])
    assert shares(mixture) == {
        "HRSOD_small": (2, 5),
        "fss": (3, 1),
        "own": (3, 1),
        text.split(":")[0]: (2, 4),
    }
    assert len(mixture) == 24 and "= 24 samples" in str(mixture)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert all(name in warning for name in ("DUTS-TR", "DUTS-TE", "ecssd", "BIG_small", str(mixture)))
    epoch = [mixture[draw].name for draw in StreamSampler(24, 0, 24)]
    assert epoch.count("HRSOD_small/1.jpg") == 5 and epoch.count("dog/0.jpg") == 1


@pytest.mark.parametrize("layout", ["2017/trainval", "2016"])
def test_video_mixture_uses_training_videos_only(tmp_path, layout, caplog):
    davis, youtube = tmp_path / "DAVIS" / layout, tmp_path / "YouTube" / "train_480p"
    write_videos(davis / "JPEGImages/480p", davis / "Annotations/480p", ["bear", "blackswan", "swing"], frames=3)
    write_videos(youtube / "JPEGImages", youtube / "Annotations", ["a", "b"], frames=3)
    (tmp_path / "list.txt").write_text("b\n")
    build = partial(build_dataset, 3, davis_root=tmp_path / "DAVIS", yv_root=tmp_path / "YouTube")
    mixture = build(yv_list=tmp_path / "list.txt")
    assert shares(mixture) == {f"DAVIS {layout[:4]}": (2, 5), "YouTube-VOS": (1, 1)}  # blackswan is for validation
    assert mixture.parts[1][1].divisor == 5
    (davis / "ImageSets" / layout[:4]).mkdir(parents=True)
    (davis / "ImageSets" / layout[:4] / "train.txt").write_text("blackswan\n")
    caplog.clear()
    assert shares(build())[f"DAVIS {layout[:4]}"] == (1, 5)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "there is no YouTube-VOS" in str(build_dataset(2, davis_root=tmp_path / "DAVIS") and caplog.text)
    bl30k = build_dataset(1, bl_root=youtube).parts[0][1]
    assert (bl30k.min_area, bl30k.last_drop, bl30k.large_objects) == (0.25, 0.8, True)


# --- faulty input -----------------------------------------------------------------------------------------------


def fails(call, *names: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value) and all(name in str(caught.value) for name in names), caught.value


def test_faulty_static_folders_are_named(tmp_path):
    build = partial(build_dataset, 0, static_root=tmp_path, size=32)
    fails(build, "stage 0", "fss")  # nothing there at all
    (tmp_path / "empty").mkdir()
    fails(build, "empty: no images")
    (tmp_path / "empty").rmdir()
    write_static(tmp_path / "fss" / "cat", 2)
    (tmp_path / "fss/cat/1.png").unlink()
    fails(build, "1.jpg", "has no mask", "1.png")
    save_photo(tmp_path / "fss/cat/1.png", blob(64, 99))  # a photo among the masks, of another size
    fails(build, "1.png: is 99×64", "100×80")
    save_photo(tmp_path / "fss/cat/1.png", blob(80, 100))  # and of the same
    fails(lambda: batches(build()), "1.png: is a colour picture")
    write_mask(tmp_path / "fss/cat/1.png", np.zeros((80, 100), np.uint8))
    (tmp_path / "fss/cat/0.jpg").unlink()
    fails(lambda: batches(build()), "1.png: no object")
    fails(lambda: build_dataset(4), "stage 4")
    for text in ("a", "a:b:0", "a:b:x", ":b"):
        fails(lambda text=text: parse_extra(text), text)


def test_faulty_videos_are_named(tmp_path):
    images, masks = tmp_path / "JPEGImages", tmp_path / "Annotations"
    build = partial(build_dataset, 1, bl_root=tmp_path, size=32)
    fails(build, "JPEGImages: no videos")
    write_videos(images, masks, ["a", "b"], frames=3)
    for mask in (masks / "b").iterdir():
        mask.unlink()
    fails(build, "Annotations/b: no annotations")
    write_mask(masks / "b" / "00000.png", np.zeros((9, 9), np.uint8))
    fails(build, "b/00000.png: is 9×9")
    for video in "ab":
        for t in range(3):
            write_mask(masks / video / f"{t:05d}.png", np.zeros((72, 96), np.uint8))
    fails(lambda: batches(build()), "Annotations: no object in 50 clips")
    fails(lambda: build_dataset(3, davis_root=tmp_path, yv_list=tmp_path / "x"), "DAVIS", "YouTube")


def test_what_goes_wrong_in_a_worker_ends_in_one_line(tmp_path):
    write_static(tmp_path / "set", 1)
    dataset = build_dataset(0, static_root=tmp_path, size=32)
    photo = tmp_path / "set" / "0.jpg"
    photo.write_bytes(photo.read_bytes()[:-400])
    for workers in (0, 1):
        fails(lambda workers=workers: batches(dataset, num_workers=workers), f"{photo}: truncated")

    class Dies:
        def __len__(self):
            return 1

        def sample(self, index, rng, progress):
            os.kill(os.getpid(), signal.SIGKILL)

    fails(lambda: batches(Mixture([("dies", Dies(), 1)]), num_workers=1), "worker died", "--num_workers")
