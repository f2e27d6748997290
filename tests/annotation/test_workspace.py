"""The files of the workspace: existing ones are taken in, none of others is replaced, and damaged ones are named."""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from annotation.runs import pack
from annotation.workspace import Workspace
from datasets.images import write_image, write_mask
from tests.annotation.conftest import FRAMES, MASK, SIZE, propagated, wait
from tests.annotator import Server
from util.errors import InputError
from util.lock import hold


def test_existing_masks_are_taken_in_and_faulty_ones_named(clip, tmp_path, tiny_weights):
    root = tmp_path / "root"
    shutil.copytree(clip / "JPEGImages", root / "JPEGImages")
    write_mask(root / "Annotations/clip/00000.png", np.full(SIZE, 255, np.uint8))
    write_mask(root / "Annotations/clip/00002.png", np.ones((SIZE[0], SIZE[1] - 1), np.uint8))
    server = Server(root, tmp_path / "work", tiny_weights)
    try:
        state = json.loads(server.ask("GET", "state")[1])
        assert state["users"] == {"0": False} and state["objects"] == {"1": "object 1"}
        assert "00002.png: the mask is 127×96 pixels" in state["message"]
        assert server.ask("GET", "mask/0")[1] == pack(np.ones(SIZE, np.uint8))
    finally:
        server.stop()


@pytest.mark.parametrize(
    "place", ["Annotations/clip/0.png", "results/clip/a.txt", "before/clip/0.png", "mattes/1/clip/0.png", "clip.json"]
)
def test_files_of_others_are_never_replaced(begin, tmp_path, place):
    path = tmp_path / "work" / place
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"name": "of somebody else"}')
    with pytest.raises(InputError, match="other programs|not written by this program"):
        begin()
    assert [file.read_bytes() for file in (tmp_path / "work").rglob("*.*")] == [b'{"name": "of somebody else"}']


@pytest.mark.parametrize("content", [b"", b'{"source": ', b'["source"]', b'{"source": 1}', b'"source"\xff'])
def test_a_damaged_record_is_named_and_kept(begin, tmp_path, content):
    begin().stop()
    record = tmp_path / "work/clip.json"
    record.write_bytes(content)
    with pytest.raises(InputError, match="clip.json: .*another"):
        begin()
    assert record.read_bytes() == content


def test_masks_of_the_command_line(clip, tmp_path):
    video, work = clip / "JPEGImages/clip", tmp_path / "work"
    write_mask(tmp_path / "bad.png", MASK[1:])
    for masks, message in (({0: tmp_path / "bad.png"}, "equal sizes"), ({FRAMES: tmp_path / "bad.png"}, "ends with")):
        with pytest.raises(InputError, match=message):
            Workspace(video, work, masks)
    assert not work.exists()  # nothing to be tidied up before the next try
    masks = {3: clip / "GroundTruth/clip/00003.png"}
    assert Workspace(video, work, masks).users == {3: False}
    again = Workspace(video, work, masks)
    assert again.users == {3: False} and "--mask is ignored" in again.notes[0]


def test_a_workspace_of_another_or_a_changed_video_is_refused(begin, clip, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(clip / "JPEGImages", root / "JPEGImages")
    begin(root).stop()
    with pytest.raises(InputError, match="belongs to"):
        begin(clip)
    write_image(root / "JPEGImages/clip/00007.png", np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(InputError, match="other frames"):
        begin(root)
    write_image(root / "JPEGImages/clip/00008.png", np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(InputError, match="another size or length"):
        begin(root)


def test_damaged_masks_do_not_stop_the_rest(begin, tmp_path):
    server = begin()
    propagated(server)
    server.ask("PUT", "mask/5", pack(MASK))
    assert propagated(server)["stale"] == []
    server.stop()
    for name in ("results/clip/00002.png", "Annotations/clip/00005.png"):
        path = tmp_path / "work" / name
        path.write_bytes(path.read_bytes()[:60])
    server = begin()
    state = wait(server)
    assert state["users"] == {"0": False} and "00005.png: truncated" in state["message"]
    assert "2" not in state["confidence"] and len(state["confidence"]) == FRAMES - 2 == len(state["stale"])
    assert server.ask("GET", "mask/2")[1] == pack(np.zeros(SIZE, np.uint8))


def test_one_server_at_a_time_has_a_video_open(clip, tmp_path, begin):
    """Each of two would write the names of its own masks only, and lose the other's."""
    root = tmp_path / "root"
    for name in ("a", "b", "c"):
        shutil.copytree(clip / "JPEGImages/clip", root / name)
    server = begin(root)
    with pytest.raises(InputError, match="a: another annotate.py has it open in .*work; expected another"):
        begin(root)
    server.annotator.open("a")  # again
    with pytest.raises(InputError, match="a: another annotate.py"):
        begin(root)
    server.annotator.open("b")
    other = begin(root)
    with pytest.raises(InputError, match="b: another annotate.py"):
        other.annotator.open("b")
    assert other.annotator.name == "a" and other.ask("PUT", "mask/0", pack(MASK))[0] == 204
    assert other.ask("POST", "open", b"b")[0] == 400 and server.ask("POST", "open", b"a")[0] == 400
    assert server.ask("POST", "open", b"c")[0] == 204  # in another thread than that of the calls above
    assert other.ask("POST", "open", b"b")[0] == 204 and server.ask("POST", "open", b"a")[0] == 204
    server.stop()
    assert other.ask("POST", "open", b"a")[0] == 204


def test_one_video_opened_twice_at_once(begin, clip, tmp_path, monkeypatch):
    """The second request does not take the first for another server."""
    shutil.copytree(clip / "JPEGImages/clip", tmp_path / "root/a")
    shutil.copytree(clip / "JPEGImages/clip", tmp_path / "root/b")
    annotator = begin(tmp_path / "root").annotator

    def slow_hold(*args):
        lock = hold(*args)
        time.sleep(0.2)
        return lock

    monkeypatch.setattr("annotation.server.hold", slow_hold)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(annotator.open, "bb"))
