"""Names of videos and frames: one order everywhere, and none that leads out of its folder."""

import json
from itertools import permutations

import numpy as np
import pytest

from datasets.frames import check_name, list_frames, natural_order, read_names
from datasets.images import write_image, write_mask
from datasets.listing import davis_videos, folder_videos, read_meta, youtube_videos
from datasets.pairs import VideoFolder
from datasets.video_file import file_video
from tests.folders import frame, ids_at, make_testdev, save_photo
from util.errors import InputError

SHOTS = ["shot1_8", "shot1_9", "shot1_10", "shot2_1"]  # neither by characters nor by length


def test_order_of_names_is_by_number_and_total():
    ordered = ["", "0", "01", "1", "9", "10", "a", "a1b9", "a1b10", "a02b1", "a2b1", *SHOTS]
    for names in (ordered[::-1], sorted(ordered), *list(permutations(ordered[:6]))[::50]):
        assert sorted(names, key=natural_order) == [name for name in ordered if name in names]
    assert len({repr(natural_order(name)) for name in ordered}) == len(ordered)


def test_frames_are_in_natural_order_for_training_and_for_evaluation(tmp_path):
    for place, name in enumerate(SHOTS):
        save_photo(tmp_path / "JPEGImages/v" / f"{name}.jpg", ids_at(0, 1))
        write_mask(tmp_path / "Annotations/v" / f"{name}.png", ids_at(0, *range(1, place // 2 + 2)))
    for name in (".shot1_9.jpg", "notes.txt"):
        (tmp_path / "JPEGImages/v" / name).touch()
    assert [path.stem for path in list_frames(tmp_path / "JPEGImages/v")] == SHOTS
    training = VideoFolder(tmp_path / "JPEGImages", tmp_path / "Annotations")
    assert training.frames(0) == [f"{name}.jpg" for name in SHOTS]
    (video,) = folder_videos(tmp_path, 480)
    assert [image.name for image in video] == SHOTS and video.outputs == tuple(SHOTS)
    save_photo(tmp_path / "JPEGImages/v/shot1_9.png", ids_at(0, 1))
    with pytest.raises(InputError, match="shot1_9 in two formats"):
        VideoFolder(tmp_path / "JPEGImages", tmp_path / "Annotations")


def test_youtube_frames_go_by_number(tmp_path):
    """Objects 1 and 2 are given at frame 8 and at frame 10; frames 9 to 11 are asked for."""
    for t in range(7, 13):
        write_image(tmp_path / f"all_frames/valid_all_frames/JPEGImages/v/{t}.jpg", frame(t))
    write_mask(tmp_path / "valid/Annotations/v/8.png", ids_at(0, 1))
    write_mask(tmp_path / "valid/Annotations/v/10.png", ids_at(0, 1, 2))
    objects = {"1": {"frames": ["9", "10"]}, "2": {"frames": ["11"]}}
    (tmp_path / "valid/meta.json").write_text(json.dumps({"videos": {"v": {"objects": objects}}}))
    (video,) = youtube_videos(tmp_path, "valid", 480)
    frames = {image.name: image.mask for image in video}
    assert list(frames) == ["8", "9", "10", "11"] and video.outputs == ("9", "10", "11")
    assert set(np.unique(frames["8"])) == {0, 1} and set(np.unique(frames["10"])) == {0, 2}


BAD_NAMES = ["", " ", ".", "..", "...", ".finished", "../up", "/etc", "a/b", "a\\b", "..\\up", "a\0b", "a\nb"]


@pytest.mark.parametrize("name", [*BAD_NAMES, 5, 5.0, None, ["a"], {"a": 1}])
def test_names_that_are_no_names_are_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"list\.txt: holds") as caught:
        check_name(name, tmp_path / "list.txt")
    assert "\n" not in str(caught.value)
    meta = tmp_path / "meta.json"
    meta.write_text(json.dumps({"videos": {"v": {"objects": {"1": {"frames": ["00000", name]}}}}}))
    with pytest.raises(InputError, match=r"meta\.json: "):
        read_meta(meta)
    if isinstance(name, str):
        meta.write_text(json.dumps({"videos": {name: {"objects": {}}}}))
        with pytest.raises(InputError, match=r"meta\.json: "):
            read_meta(meta)


@pytest.mark.parametrize("name", ["a b", "1..2", "blackswan", "ünïcode", "shot-1.take 2", "a'b"])
def test_unusual_names_are_names(tmp_path, name):
    assert check_name(name, tmp_path) == name


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "5", '{"videos": 5}', '{"videos": {"v": []}}', '{"videos": {"v": {"objects": {"1": {}}}}}', "[" * 10**5]
    + ['{"videos": {"v": {"objects": {"1": {"frames": "00000"}}}}}', '{"videos": {"v": {"objects": {"1": 5}}}}'],
)
def test_malformed_meta_is_one_line(tmp_path, text):
    (tmp_path / "meta.json").write_text(text)
    with pytest.raises(InputError, match="meta.json: .*expected YouTube-VOS's JSON of the form") as caught:
        read_meta(tmp_path / "meta.json")
    assert "\n" not in str(caught.value)


def test_lists_of_videos_hold_names_alone(tmp_path):
    listed = make_testdev(tmp_path) / "test-dev/ImageSets/2017/test-dev.txt"
    listed.write_bytes("\ufeffbb\r\n\r\n  aa \r\nbb\r\n".encode())  # as Windows' editor writes it
    assert read_names(listed) == ["bb", "aa"]
    for text, says in (
        ("aa\n../bb\n", "'../bb'"),
        ("aa\n/JPEGImages/480p/aa/00000.jpg\n", "JPEGImages"),
        ("\n", "empty"),
    ):
        listed.write_text(text)
        with pytest.raises(InputError, match=f"test-dev.txt: .*{says}"):
            davis_videos(tmp_path, 2017, "testdev", 480)
    listed.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    with pytest.raises(InputError, match="test-dev.txt: holds the name"):
        read_names(listed)
    with pytest.raises(InputError, match="is a folder"):
        read_names(tmp_path)


def test_a_video_file_of_dots_has_no_name_for_its_results(tmp_path):
    (tmp_path / "...mp4").write_bytes(b"")
    with pytest.raises(InputError, match="expected the name of a video"):
        file_video(tmp_path / "...mp4", {0: tmp_path / "m.png"}, 480)
