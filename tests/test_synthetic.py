"""Generated clips: reproducible, with masks that belong to the frames, in layouts that the readers accept."""

import json

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from datasets.images import read_image, read_mask
from datasets.listing import davis_videos, folder_videos, youtube_videos
from datasets.loader import Mixture, clip_batches
from datasets.scene import MAX_OBJECTS, Scene
from datasets.synthetic import SyntheticClips
from scripts.make_synthetic import main

SIZE = (96, 170)


def test_same_seed_same_bytes_in_any_order():
    sequence = [Scene(7, 9, SIZE, 4, late=1, leaving=1).render(t) for t in range(9)]
    scene = Scene(7, 9, SIZE, 4, late=1, leaving=1)
    for t in (8, 3, 3, 0):
        image, ids = scene.render(t)
        assert np.array_equal(image, sequence[t][0])
        assert np.array_equal(ids, sequence[t][1])
    assert np.abs(np.subtract(sequence[8][0], sequence[0][0], dtype=int)).mean() > 4
    assert not np.array_equal(Scene(8, 9, SIZE, 4, late=1, leaving=1).render(0)[1], sequence[0][1])


def test_a_scene_is_the_same_at_any_size():
    large, small = (Scene(2, 20, (height, 2 * height), 3).render(7)[1] for height in (192, 96))
    for i in (1, 2, 3):
        assert ((large[::2, ::2] == i) & (small == i)).sum() > 0.8 * ((large[::2, ::2] == i) | (small == i)).sum()


@pytest.mark.parametrize("num_objects", [1, 3, MAX_OBJECTS])
@pytest.mark.parametrize("size", [(97, 133), (160, 64)])
def test_all_objects_are_in_the_first_frame(size, num_objects):
    for seed in range(3):
        image, ids = Scene(seed, 10, size, num_objects).render(0)
        assert image.shape == (*size, 3)
        assert image.dtype == ids.dtype == np.uint8
        assert set(np.unique(ids)) - {0} == set(range(1, num_objects + 1))


def with_actors(seed: int, *keep: int) -> Scene:
    """A scene without motion blur that shows only some of its figures, numbered from the back."""
    scene = Scene(seed, 10, SIZE, 3)
    scene._shutter = 0
    scene._actors = [scene._actors[i] for i in keep]
    return scene


@pytest.mark.parametrize("seed", range(4))
def test_masks_show_what_each_figure_covers(seed):
    """A pixel has the id of the frontmost figure there, which is also the one seen; look-alikes have none."""
    t, crowd = 40, range(len(Scene(seed, 10, SIZE, 3)._actors))
    image, ids = with_actors(seed, *crowd).render(t)
    empty = with_actors(seed).render(t)[0]
    expected = np.zeros(SIZE, np.uint8)
    annotated = []
    for i in crowd:
        alone = with_actors(seed, i)
        annotated.append(alone._actors[0].id)
        if annotated[-1] == 0:
            assert not alone.render(t)[1].any()
        alone._actors[0].id = 100
        figure, mask = alone.render(t)
        drawn = (figure != empty).any(axis=2)
        around = cv2.dilate(mask, np.ones((3, 3), np.uint8)) > 0
        assert not (drawn & ~around).any()
        assert drawn[mask > 0].mean() > 0.9
        expected[mask > 0] = annotated[-1]
        front = cv2.erode(mask, np.ones((3, 3), np.uint8)) > 0
    # Nothing hides the last figure. What is behind shines through a little where the smooth edges of two parts meet.
    assert (image[front] == figure[front]).mean() > 0.98
    assert np.array_equal(ids, expected)
    assert sorted(set(annotated) - {0}) == [1, 2, 3]


def test_look_alikes_wear_the_skins_of_objects():
    for seed in range(6):
        actors = Scene(seed, 10, SIZE, 3)._actors
        worn = {id(part.texture) for actor in actors if actor.id for part in actor.parts}
        assert all(id(actor.parts[-1].texture) in worn or len(actor.parts) == 1 for actor in actors)
    assert any(actor.id == 0 for seed in range(6) for actor in Scene(seed, 10, SIZE, 3)._actors)


def test_objects_enter_and_leave_and_come_back():
    for seed in range(4):
        scene = Scene(seed, 60, SIZE, 2, late=1, leaving=1)
        only = [actor for actor in scene._actors if actor.id]  # nothing hides them
        scene._actors = only
        shown = np.array([np.bincount(scene.render(t)[1].ravel(), minlength=3)[1:] for t in range(60)]) > 0
        entry = int(np.argmax(shown[:, 1]))
        assert 1 < entry < 30
        assert shown[entry:, 1].all()
        gone = np.flatnonzero(~shown[:, 0])
        assert 5 < len(gone) < 30
        assert shown[[0, -1], 0].all()
        assert np.array_equal(gone, np.arange(gone[0], gone[-1] + 1))
        assert scene.present(0) == [1]
        assert 1 not in scene.present(int(gone[0]))


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
        [clip.frames for clip in clip_batches(mixture, batch_size=2, stop=4, num_workers=workers)] for workers in (0, 1)
    )
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def make(output, *options):
    flags = f"--num_videos 2 --num_frames 21 --size {SIZE[0]}x{SIZE[1]} --seed 3".split()
    main(["--output", str(output), *flags, *options])


@pytest.mark.parametrize("year", [2016, 2017])
def test_davis_layout(tmp_path, year):
    make(tmp_path, "--layout", f"davis{year}")
    videos = davis_videos(tmp_path, year, "val", 480)
    assert [video.name for video in videos] == ["synthetic-0003", "synthetic-0004"]
    assert [len(list(video)) for video in videos] == [21, 21]
    base, scene = tmp_path / "trainval" if year == 2017 else tmp_path, Scene(4, 21, SIZE, 3)
    for t in (0, 20):
        image, ids = scene.render(t)
        stored = read_mask(base / f"Annotations/480p/synthetic-0004/{t:05d}.png")
        assert np.array_equal(stored, ids if year == 2017 else (ids > 0) * 255)
        stored = read_image(base / f"JPEGImages/480p/synthetic-0004/{t:05d}.jpg")
        assert np.abs(stored.astype(int) - image).mean() < 5


def test_generic_layout(tmp_path):
    make(tmp_path, "--layout", "generic", "--late", "1")
    for video in folder_videos(tmp_path, 480):
        given = [set(np.unique(f.mask)) - {0} for f in video if f.mask is not None]
        assert given == [{1, 2}, {3}]
        truth = {path.name: read_mask(path) for path in sorted((tmp_path / "GroundTruth" / video.name).glob("*.png"))}
        assert len(truth) == 21
        first = next(name for name, ids in truth.items() if (ids == 3).any())
        assert first > "00000.png"
        assert np.array_equal(read_mask(tmp_path / "Annotations" / video.name / first) == 3, truth[first] == 3)


def test_youtube_layout(tmp_path):
    make(tmp_path, "--layout", "youtube", "--late", "1", "--num_frames", "41")
    sparse = [f"{t:05d}" for t in range(0, 41, 5)]
    for video in youtube_videos(tmp_path, "valid", 480):
        frames = list(video)
        assert len(frames) == 41
        assert [frame.name for frame in frames if frame.needed] == sparse
        given = {frame.name: set(np.unique(frame.mask)) - {0} for frame in frames if frame.mask is not None}
        late = max(given)
        assert given == {"00000": {1, 2}, late: {3}}
        entries = json.loads((tmp_path / "valid/meta.json").read_text())["videos"][video.name]["objects"]
        assert {i: entry["frames"] for i, entry in entries.items()} == {
            "1": sparse,
            "2": sparse,
            "3": [name for name in sparse if name >= late],
        }
        dense = tmp_path / "all_frames/valid_all_frames/GroundTruth" / video.name
        assert len(list(dense.iterdir())) == 41
        assert not any((read_mask(dense / f"{t:05d}.png") == 3).any() for t in range(int(late)))
    assert len(youtube_videos(tmp_path, "valid", 480, six_fps=True)) == 2


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_again_gives_the_same_files_and_no_others(tmp_path):
    make(tmp_path, "--layout", "generic", "--num_frames", "3")
    before = files(tmp_path)
    assert len(before) == 2 * (3 + 3 + 1) + 1
    make(tmp_path, "--layout", "generic", "--num_frames", "6", "--seed", "4")
    make(tmp_path, "--layout", "generic", "--num_frames", "3", "--seed", "4")
    make(tmp_path, "--layout", "generic", "--num_frames", "3")
    now = files(tmp_path)
    assert before.items() <= now.items()
    assert {path.parts[-2] for path in now.keys() - before.keys()} == {"synthetic-0005"}


@pytest.mark.parametrize(
    ("layout", "name", "content"),
    [
        ("youtube", "valid/meta.json", '{"videos": {"003234408d": {"objects": {"1": {"frames": ["00000"]}}}}}'),
        ("davis2016", "ImageSets/2016/val.txt", "blackswan\n"),
        ("davis2016", "ImageSets/2016/val.txt", "synthetic-0003\n"),
        ("davis2017", "synthetic.txt", "mine"),
        ("davis2017", "trainval/ImageSets/2017/val.txt", "synthetic-0003\nbike-packing\n"),
        ("generic", "JPEGImages/synthetic-0004/00000.jpg", "mine"),
        ("youtube", "valid/Annotations/synthetic-0003/00000.png", "mine"),
    ],
)
def test_files_of_others_are_never_replaced(tmp_path, capsys, layout, name, content):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    before = files(tmp_path)
    with pytest.raises(SystemExit) as done:
        make(tmp_path, "--layout", layout)
    assert done.value.code == 2
    message = capsys.readouterr().err
    assert str(path.parent) in message and message.count("\n") == 1
    assert files(tmp_path) == before


def test_a_list_that_replaced_a_generated_one_is_kept(tmp_path, capsys):
    make(tmp_path, "--num_frames", "2")
    listing = tmp_path / "trainval/ImageSets/2017/val.txt"
    listing.write_text("bike-packing\n")
    with pytest.raises(SystemExit):
        make(tmp_path, "--num_frames", "2")
    assert str(listing) in capsys.readouterr().err
    assert listing.read_text() == "bike-packing\n"


def test_contact_sheet_and_bad_options(tmp_path, capsys):
    sheet = ["--contact_sheet", str(tmp_path / "sheet.jpg")]
    main([*sheet, "--size", "96x170", "--num_frames", "8"])
    assert read_image(tmp_path / "sheet.jpg").shape == (2 * 96, 3 * 170, 3)
    output = ["--output", str(tmp_path / "out")]
    for options, message in (
        ([], "--output"),
        (sheet, "exists"),
        ([*output, "--late", "1"], "--late"),
        ([*output, "--size", "480"], "HEIGHTxWIDTH"),
        ([*output, "--size", "8x99"], "16x16"),
        ([*output, "--num_objects", "30"], "1 to 20"),
        ([*output, "--layout", "generic", "--late", "3"], "not late"),
        ([*output, "--layout", "generic", "--late", "1", "--num_frames", "13"], "--num_frames above 13"),
        ([*output, "--leaving", "4"], "at most the 3"),
        ([*output, "--split", "../../x"], "--split"),
        ([*output, "--layout", "youtube", "--split", ".."], "--split"),
    ):
        with pytest.raises(SystemExit) as done:
            main(options)
        assert done.value.code == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.jpg"]
