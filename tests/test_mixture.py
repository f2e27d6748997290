"""The training data of each stage, and the checks of its settings."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from datasets.config import DataConfig, parse_extra
from datasets.images import write_mask
from datasets.loader import sample_requests
from datasets.mixture import Mixture, build_dataset
from datasets.sources import StaticClips, VideoClips
from tests.folders import bars, blob, save_photo, write_static, write_videos
from util.errors import InputError


def data_in(root: Path, **settings) -> DataConfig:
    roots = {name: root / name for name in ("static_root", "bl_root", "yv_root", "davis_root")}
    return DataConfig(**(roots | settings))


def sizes(mixture: Mixture) -> dict[str, tuple[int, int]]:
    return {name: (len(clips), repeat) for name, clips, repeat in mixture.entries}


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_static_mixture_takes_what_is_there(tmp_path, caplog):
    root = tmp_path / "static_root"
    write_static(root / "fss" / "cat", 2)
    write_static(root / "fss" / "dog", 1)
    write_static(root / "HRSOD_small", 2)
    write_static(root / "own", 3)
    for i in range(2):
        save_photo(tmp_path / "images" / f"{i}.png", blob(20, 30))
        write_mask(tmp_path / "masks" / f"{i}.png", blob(20, 30))
    mixture = build_dataset(0, data_in(tmp_path, extra=(f"{tmp_path}/images:{tmp_path}/masks:4",)))
    assert sizes(mixture) == {"HRSOD_small": (2, 5), "fss": (3, 1), "own": (3, 1), f"{tmp_path}/images": (2, 4)}
    assert len(mixture) == 24 and "= 24 samples" in str(mixture)
    (warning,) = warnings(caplog)
    assert all(name in warning for name in ("DUTS-TR", "DUTS-TE", "ecssd", "BIG_small", str(mixture)))
    epoch = [mixture[request].name for request in sample_requests(24, 0, 24)]
    assert epoch.count("HRSOD_small/1.jpg") == 5 and epoch.count("dog/0.jpg") == 1


@pytest.mark.parametrize("layout", ["2017/trainval", "2016"])
def test_video_mixture_uses_training_videos_only(tmp_path, layout, caplog):
    davis, youtube = tmp_path / "davis_root" / layout, tmp_path / "yv_root" / "train_480p"
    for folder in ("JPEGImages", "Annotations"):
        (davis / folder).mkdir(parents=True)
    write_videos(tmp_path / "made", ["bear", "blackswan", "swing"], frames=3)
    for folder in ("JPEGImages", "Annotations"):
        (tmp_path / "made" / folder).rename(davis / folder / "480p")
    write_videos(youtube, ["a", "b"], frames=3)
    (tmp_path / "list.txt").write_text("b\n")
    mixture = build_dataset(3, data_in(tmp_path, yv_list=tmp_path / "list.txt"))
    assert sizes(mixture) == {f"DAVIS {layout[:4]}": (2, 5), "YouTube-VOS": (1, 1)}  # blackswan is for validation
    assert mixture.entries[1].clips.divisor == 5
    (davis / "ImageSets" / layout[:4]).mkdir(parents=True)
    (davis / "ImageSets" / layout[:4] / "train.txt").write_text("blackswan\n")
    caplog.clear()
    assert sizes(build_dataset(2, data_in(tmp_path)))[f"DAVIS {layout[:4]}"] == (1, 5) and not warnings(caplog)
    build_dataset(2, data_in(tmp_path, yv_root=tmp_path))
    assert f"there is no YouTube-VOS in {tmp_path}; training on DAVIS" in warnings(caplog)[-1]
    bl30k = build_dataset(1, data_in(tmp_path, bl_root=youtube)).entries[0].clips
    assert (bl30k.min_area, bl30k.last_drop, bl30k.large_objects) == (0.25, 0.8, True)
    (tmp_path / "list.txt").write_text("../../DAVIS\n")
    with pytest.raises(InputError, match="list.txt: holds the name '../../DAVIS'"):
        build_dataset(2, data_in(tmp_path, yv_list=tmp_path / "list.txt"))


def test_extra_data_are_stills_or_videos_with_a_rate_of_their_own(tmp_path):
    save_photo(tmp_path / "stills/a.jpg", bars(90, 120, (2, 5, 9)))
    write_mask(tmp_path / "stills/a.png", bars(90, 120, (2, 5, 9)))
    write_videos(tmp_path, ["a"], frames=3)
    videos = f"{tmp_path}/JPEGImages:{tmp_path}/Annotations:2:5"
    mixture = build_dataset(3, data_in(tmp_path, extra=(f"{tmp_path}/stills:{tmp_path}/stills:3", videos), synthetic=7))
    assert sizes(mixture) == {f"{tmp_path}/stills": (1, 3), f"{tmp_path}/JPEGImages": (1, 2), "generated": (7, 1)}
    stills, clips, _ = (entry.clips for entry in mixture.entries)
    assert isinstance(stills, StaticClips) and isinstance(clips, VideoClips) and clips.divisor == 5
    assert stills.sample(0, np.random.default_rng(0), 0.0).valid.tolist() == [1, 1]  # two slots in a video stage


def test_hidden_files_links_that_lead_back_and_capital_suffixes(tmp_path):
    own, videos = tmp_path / "static_root/own", tmp_path / "JPEGImages"
    write_static(own, 2)
    write_videos(tmp_path, ["a"], frames=3)
    (own / "self").symlink_to(own, target_is_directory=True)
    for folder in (own.parent, own, own / ".Trash", videos, videos / ".Trash"):
        save_photo(folder / "._0.jpg", blob(20, 30))
    shutil.copy(own / "0.jpg", own / ".Trash")
    for mask in (own / "1.png", tmp_path / "Annotations/a/00001.png"):
        mask.rename(mask.with_suffix(".PNG"))
    assert sizes(build_dataset(0, data_in(tmp_path))) == {"own": (2, 1)}
    clips = build_dataset(3, data_in(tmp_path, extra=(f"{videos}:{tmp_path}/Annotations",))).entries[0].clips
    assert len(clips) == 1 and clips.videos.frames(0) == [f"{t:05d}.jpg" for t in range(3)]
    assert clips.videos.pair(0, "00001.jpg").mask.is_file()


def test_copy_paste_needs_images(tmp_path):
    data = data_in(tmp_path, extra=(f"{tmp_path}/JPEGImages:{tmp_path}/Annotations",), paste=0.5)
    write_videos(tmp_path, ["a"], frames=3)
    with pytest.raises(InputError, match="static_root: no images with masks, which --paste cuts"):
        build_dataset(3, data)
    write_static(tmp_path / "static_root", 2)
    clips = build_dataset(3, data).entries[0].clips
    assert isinstance(clips, VideoClips) and len(clips.cutouts) == 2


def test_no_data_at_all_is_told(tmp_path):
    for stage, names in ((0, "fss"), (1, "BL30K"), (2, "DAVIS in .* and no YouTube-VOS")):
        with pytest.raises(InputError, match=f"no training data for stage {stage}: there is no {names}"):
            build_dataset(stage, data_in(tmp_path))
    with pytest.raises(InputError, match="stage 4: unknown"):
        build_dataset(4, data_in(tmp_path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:b", ("a", "b", 1, 1)),
        ("a:b:3", ("a", "b", 3, 1)),
        ("a:b:3:5", ("a", "b", 3, 5)),
        ("/data/a:/masks:2", ("/data/a", "/masks", 2, 1)),
        ("a:/masks:2", ("a", "/masks", 2, 1)),
        (r"C:\x:C:\y", (r"C:\x", r"C:\y", 1, 1)),
        (r"C:\x y:d:/y:2:5", (r"C:\x y", "d:/y", 2, 5)),
        (r"rel:C:\y:4", ("rel", r"C:\y", 4, 1)),
        (r"C:\x:rel", (r"C:\x", "rel", 1, 1)),
    ],
)
def test_extra_is_two_folders_and_two_numbers(text, expected):
    images, masks, repeat, divisor = expected
    assert parse_extra(text) == (Path(images), Path(masks), repeat, divisor)


@pytest.mark.parametrize("text", ["", "a", "a:", ":b", "a:b:0", "a:b:x", "a:b:1:0", "a:b:1:2:3", "a:b:", "a:b:-1"])
def test_other_texts_are_no_extra_data(text):
    with pytest.raises(InputError, match=f"--extra {text}: expected IMAGES:MASKS"):
        DataConfig(extra=("a:b", text)).check(2)


@pytest.mark.parametrize(
    ("stage", "settings", "message"),
    [
        (0, {"paste": 0.5}, "--paste 0.5: expected in the video stages"),
        (3, {"paste": 1.1}, "--paste 1.1: expected a probability"),
        (3, {"paste": float("nan")}, "--paste nan: expected a probability"),
        (3, {"paste": -0.1}, "--paste -0.1"),
        (3, {"synthetic": -1}, "--synthetic -1"),
        (3, {"num_frames": 1}, "--num_frames 1"),
        (3, {"num_frames": 26}, "--num_frames 26"),
        (3, {"crop": 0}, "--crop 0"),
        (3, {"crop": 100}, "--crop 100: expected a multiple of 16"),
    ],
)
def test_values_that_make_no_sense_are_refused(stage, settings, message):
    DataConfig().check(stage)
    with pytest.raises(InputError, match=message):
        DataConfig(**settings).check(stage)
