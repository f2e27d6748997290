"""Generated clips: same bytes everywhere, masks that belong to the frames, layouts that the readers accept."""

import hashlib
import json

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from datasets.davis import davis_videos
from datasets.folder import folder_videos
from datasets.images import read_image, read_mask
from datasets.loader import Mixture, build_loader
from datasets.scene import MAX_OBJECTS, Scene
from datasets.synthetic import SyntheticClips, iter_synthetic, synthetic_clip
from scripts.make_synthetic import main

SIZE = (96, 170)


def test_bytes_depend_on_the_arguments_alone():
    """The digest was the same for OpenCV 4.8, 4.12 and 5.0, NumPy 1.26 to 2.4, with and without vector units."""
    frames, ids = synthetic_clip((7, 3), 3, (60, 107), num_objects=4, late=1, leaving=1)
    assert hashlib.sha256(frames.tobytes() + ids.tobytes()).hexdigest()[:16] == "8d1c719c2dbe989f"
    scene = Scene((7, 3), 3, (60, 107), 4, late=1, leaving=1)
    for t in (2, 0):  # in any order
        image, mask = scene.render(t)
        assert np.array_equal(image, frames[t])
        assert np.array_equal(mask, ids[t])
    assert not np.array_equal(synthetic_clip((7, 4), 1, (60, 107), 4)[0], frames[:1])


def test_a_scene_is_the_same_at_any_size():
    large, small = (Scene(2, 20, (height, width), 3).render(7)[1] for height, width in ((192, 320), (96, 160)))
    shrunk = large[::2, ::2]
    for i in (1, 2, 3):
        assert ((shrunk == i) & (small == i)).sum() > 0.8 * ((shrunk == i) | (small == i)).sum()


@pytest.mark.parametrize("num_objects", [1, 3, MAX_OBJECTS])
@pytest.mark.parametrize("size", [(97, 133), (160, 64)])
def test_all_objects_are_in_the_first_frame(size, num_objects):
    for seed in range(3):
        image, ids = next(iter_synthetic(seed, 10, size, num_objects))
        assert image.shape == (*size, 3)
        assert image.dtype == ids.dtype == np.uint8
        assert set(np.unique(ids)) - {0} == set(range(1, num_objects + 1))


def test_masks_are_registered_with_the_frames():
    """Moving an object's mask away from the object loses the edges in the picture that lie under its outline."""
    ratios = []
    for seed in range(6):
        (image, ids), shift = Scene(seed, 10, (160, 284), 2).render(3), 6
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        slope = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
        outline = cv2.dilate(ids, np.ones((3, 3), np.uint8)) != cv2.erode(ids, np.ones((3, 3), np.uint8))
        moved = [np.roll(outline, by, axis) for axis in (0, 1) for by in (-shift, shift)]
        ratios.append(slope[outline].mean() / max(slope[other].mean() for other in moved))
    assert np.median(ratios) > 1.5
    assert min(ratios) > 1


def test_objects_enter_and_leave_and_come_back():
    num_frames = 60
    scene = Scene(5, num_frames, SIZE, 3, late=1, leaving=1)
    shown = np.array([np.bincount(scene.render(t)[1].ravel(), minlength=4)[1:] for t in range(num_frames)]) > 0
    entry = int(np.argmax(shown[:, 2]))
    assert 1 < entry < num_frames // 2
    assert shown[entry:, 2].all()
    gone = np.flatnonzero(~shown[:, 0])
    assert 5 < len(gone) < num_frames // 2
    assert shown[0, 0]
    assert shown[-1, 0]
    assert np.array_equal(gone, np.arange(gone[0], gone[-1] + 1))


def test_objects_move_and_overlap():
    """Frames differ, objects travel, and at times one hides part of another."""
    frames, ids = synthetic_clip(3, 20, SIZE, 3)
    assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 4
    centres = np.array([[np.argwhere(ids[t] == i).mean(0) for i in (1, 2, 3)] for t in (0, 19)])
    assert np.hypot(*(centres[1] - centres[0]).T).max() > 8


@pytest.mark.parametrize(
    "wrong", [{"num_objects": 0}, {"num_objects": 21}, {"late": 3}, {"leaving": 4}, {"size": (8, 99)}]
)
def test_arguments_that_do_not_fit(wrong):
    with pytest.raises(ValueError, match="got|must not"):
        Scene(**{"seed": 0, "num_frames": 5, "size": SIZE, "num_objects": 3} | wrong)


@pytest.mark.parametrize("max_objects", [1, 2])
def test_training_clips(max_objects):
    dataset = SyntheticClips(40, size=96, max_objects=max_objects)
    assert len(dataset) == 40
    clips = [dataset.sample(i, np.random.default_rng((0, 2, i)), progress=0.5).unpack("cpu") for i in range(6)]
    again = dataset.sample(17, np.random.default_rng((0, 2, 3)), progress=0.5).unpack("cpu")
    assert torch.equal(again.frames, clips[3].frames)
    assert torch.equal(again.masks, clips[3].masks)
    batch = default_collate(clips)
    assert batch.frames.shape == (6, 3, 3, 96, 96)
    assert batch.masks.shape == (6, 3, max_objects, 96, 96)
    assert batch.frames.dtype == batch.masks.dtype == batch.valid.dtype == torch.float32
    assert 0 <= batch.frames.min() < 0.2
    assert 0.6 < batch.frames.max() <= 1
    assert set(batch.masks.unique().tolist()) == {0.0, 1.0}
    shown = batch.masks[:, 0].flatten(2).sum(2) > 0
    assert torch.equal(shown, batch.valid > 0)  # valid objects are in the first frame, no others
    assert batch.valid[:, 0].all()
    assert (batch.masks.sum(2) <= 1).all()


def test_clips_go_through_the_loader():
    mixture = Mixture([("synthetic", SyntheticClips(3, size=64), 2)])
    one, two = (
        [clip.frames for clip in build_loader(mixture, batch_size=2, stop=4, num_workers=workers)] for workers in (0, 1)
    )
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def make(tmp_path, *options):
    flags = f"--num_videos 2 --num_frames 21 --size {SIZE[0]}x{SIZE[1]} --seed 3".split()
    main(["--output", str(tmp_path), *flags, *options])


@pytest.mark.parametrize("year", [2016, 2017])
def test_davis_layout(tmp_path, year):
    make(tmp_path, "--layout", f"davis{year}")
    videos = davis_videos(tmp_path, year, "val", 480)
    assert [video.name for video in videos] == ["synthetic-0003", "synthetic-0004"]
    frames, ids = synthetic_clip(4, 21, SIZE, 3)
    base = tmp_path / "trainval" if year == 2017 else tmp_path
    for t in (0, 20):
        stored = read_mask(base / f"Annotations/480p/synthetic-0004/{t:05d}.png")
        assert np.array_equal(stored, ids[t] if year == 2017 else (ids[t] > 0) * 255)
        image = read_image(base / f"JPEGImages/480p/synthetic-0004/{t:05d}.jpg")
        assert np.abs(image.astype(int) - frames[t]).mean() < 5
    assert len(list(videos[1])) == 21


def test_generic_layout(tmp_path):
    make(tmp_path, "--layout", "generic", "--late", "1")
    for video in folder_videos(tmp_path, 480):
        given = [set(np.unique(f.mask)) - {0} for f in video if f.mask is not None]
        assert given == [{1, 2}, {3}]
        truth = [read_mask(path) for path in sorted((tmp_path / "GroundTruth" / video.name).glob("*.png"))]
        first = next(t for t, ids in enumerate(truth) if (ids == 3).any())
        mask = read_mask(tmp_path / "Annotations" / video.name / f"{first:05d}.png")
        assert np.array_equal(mask == 3, truth[first] == 3)


def test_youtube_layout(tmp_path):
    make(tmp_path, "--layout", "youtube", "--late", "1", "--num_frames", "41")
    meta = json.loads((tmp_path / "valid/meta.json").read_text())["videos"]
    assert sorted(meta) == ["synthetic-0003", "synthetic-0004"]
    for name, video in meta.items():
        assert len(list((tmp_path / "all_frames/valid_all_frames/JPEGImages" / name).glob("*.jpg"))) == 41
        dense = tmp_path / "all_frames/valid_all_frames/GroundTruth" / name
        assert len(list(dense.glob("*.png"))) == 41
        sparse = [f"{t:05d}" for t in range(0, 41, 5)]
        for kind in ("JPEGImages", "GroundTruth"):
            assert sorted(path.stem for path in (tmp_path / "valid" / kind / name).iterdir()) == sparse
        assert sorted(video["objects"]) == ["1", "2", "3"]
        given = {
            path.stem: set(np.unique(read_mask(path)).tolist()) - {0}
            for path in (tmp_path / "valid/Annotations" / name).glob("*.png")
        }
        starts = {i: entry["frames"][0] for i, entry in video["objects"].items()}
        assert starts["1"] == starts["2"] == "00000" < starts["3"]
        assert given == {"00000": {1, 2}, starts["3"]: {3}}
        assert all(
            entry["frames"] == [f for f in sparse if f >= entry["frames"][0]] for entry in video["objects"].values()
        )
        early = [read_mask(dense / f"{t:05d}.png") for t in range(int(starts["3"]))]
        assert not (np.stack(early) == 3).any()


def test_again_gives_the_same_files(tmp_path):
    for run in ("a", "b"):
        make(tmp_path / run, "--layout", "generic", "--num_frames", "3")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*g"))
    assert len(files) == 2 * (3 + 3 + 1)
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def test_contact_sheet_and_bad_options(tmp_path, capsys):
    main(["--contact_sheet", str(tmp_path / "sheet.jpg"), "--size", "96x170", "--num_frames", "8"])
    assert read_image(tmp_path / "sheet.jpg").shape == (2 * 96, 3 * 170, 3)
    for options, message in (
        ([], "--output"),
        (["--output", "x", "--late", "1"], "--late"),
        (["--output", "x", "--size", "480"], "HEIGHTxWIDTH"),
        (["--output", "x", "--num_objects", "30"], "1 to 20"),
    ):
        with pytest.raises(SystemExit) as done:
            main(options)
        assert done.value.code == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
