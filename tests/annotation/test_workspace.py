"""The files of the workspace: nothing is lost, and nothing of others replaced."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from annotate import list_videos, session_opener
from annotation.export import export
from annotation.runs import pack, unpack
from annotation.workspace import Workspace
from datasets.images import write_image, write_mask
from model.network import save_network
from tests.annotation.conftest import FIRST, FRAMES, SIZE
from tests.annotator import Page, Server, needs_browser
from util.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


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


def start(clip: Path, work: Path, model: Path) -> tuple[subprocess.Popen, str]:
    words = ["--root", str(clip), "--workspace", str(work), "--model", str(model), "--port", "0", "--no_browser"]
    command = [sys.executable, "annotate.py", *words, "--device", "cpu"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process, process.stdout.readline().strip()


@needs_browser
def test_nothing_is_lost_by_kill(chromium, clip, tmp_path, tiny_weights):
    process, url = start(clip, tmp_path, tiny_weights)
    try:
        page = Page(chromium, url)
        page.drag(*FIRST)
        page.propagate()
        page.go(3)
        page.drag((50, 50), (60, 60))
        page.listen("(event) => seen.push(event.frame)")
        page.key("Space")
        page.wait("seen.length > 0")
    finally:
        process.kill()  # SIGKILL, while frames are computed and written
        process.wait()
        page.page.close()
    saved = {path: path.read_bytes() for path in tmp_path.rglob("*.png") if path.is_file()}
    workspace = Workspace(clip / "JPEGImages/clip", tmp_path)
    masks = [workspace.mask(t) for t in range(FRAMES)]
    assert all(mask.any() for mask in masks)
    process, url = start(clip, tmp_path, tiny_weights)
    try:
        page = Page(chromium, url)
        for t in range(FRAMES):
            page.go(t)
            np.testing.assert_array_equal(page.ids(), masks[t])
        page.wait("editor.state.running === null")
        users, stale, results = page.js(
            "(({users, stale, confidence}) => [users, stale.size, confidence])(editor.state)"
        )
        assert list(users) == ["0", "3"] and stale > 0 and len(results) >= FRAMES - 1
        assert {path: path.read_bytes() for path in saved} == saved
    finally:
        process.terminate()
        process.wait()
        page.page.close()


MASK = np.zeros(SIZE, np.uint8)
MASK[20:60, 30:80] = 1


def killed(change: Callable[[], object], files: int) -> None:
    """What a kill leaves of a change: it ends before another than the first so many files is written."""
    left, replace = iter(range(files)), Path.replace

    def end(path: Path, target: Path) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        replace(path, target)

    with pytest.MonkeyPatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(Path, "replace", end)
        change()


@pytest.mark.parametrize("files", range(5))
def test_half_a_propagation_is_not_taken_for_a_whole_one_after_a_kill(clip, tmp_path, files):
    workspace = Workspace(clip / "JPEGImages/clip", tmp_path)
    matte = {1: np.zeros((6, 8), np.uint8)}
    workspace.put_user_mask(0, MASK, False)
    workspace.put_result(2, MASK, 1.0, matte, stale=False, keep=False)
    workspace.stale_is_known = True
    workspace.save()
    killed(lambda: workspace.put_result(2, np.roll(MASK, 9), 0.5, matte, stale=True, keep=True), files)
    workspace = Workspace(clip / "JPEGImages/clip", tmp_path)
    assert workspace.stale == {2} or np.array_equal(workspace.mask(2), MASK)


@pytest.mark.parametrize("files", range(5))
@pytest.mark.parametrize("change", ["give", "remove"])
def test_every_object_of_a_mask_has_a_name_after_a_kill(clip, tmp_path, change, files):
    """Exports need them."""
    workspace = Workspace(clip / "JPEGImages/clip", tmp_path)
    both = np.where(np.roll(MASK, 9, axis=1) > MASK, np.uint8(2), MASK)
    for index in (0, 1):
        workspace.put_user_mask(index, both if change == "remove" else MASK, False)
    change_it = {"give": lambda: workspace.put_user_mask(1, both, False), "remove": lambda: workspace.remove_object(2)}
    killed(change_it[change], files)
    workspace = Workspace(clip / "JPEGImages/clip", tmp_path)
    for index in (0, 1):
        assert set(np.unique(workspace.mask(index))) <= {0, *workspace.objects}
    export(workspace, "yolo.zip", workspace.exports)


@pytest.fixture
def begin(clip, tmp_path, tiny_weights):
    """``begin(root, model)``: a server of the test's workspace."""
    servers = []

    def start(root: Path = clip, model: Path = tiny_weights) -> Server:
        servers.append(Server(root, tmp_path / "work", model))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def wait(server: Server) -> dict:
    """The state after all that the worker has to do."""
    server.annotator.worker.submit(lambda: None).result()
    return json.loads(server.ask("GET", "state")[1])


def propagated(server: Server, mask: np.ndarray = MASK) -> dict:
    """The state after mask H×W of frame 0 was given and propagated."""
    assert server.ask("PUT", "mask/0", pack(mask))[0] == 204
    assert server.ask("POST", "propagate?frame=0&direction=both", b"")[0] == 204
    return wait(server)


def shown(server: Server, frame: int) -> np.ndarray:
    """H×W"""
    return unpack(server.ask("GET", f"mask/{frame}")[1], SIZE, 255)


def test_what_the_user_erases_stays_erased(begin):
    server, both = begin(), MASK.copy()
    both[70:90, 90:120] = 2
    propagated(server, both)
    erased = np.where(np.arange(SIZE[1]) < 64, shown(server, 4), 0) % 2  # of object 1, the left half
    assert 0 < erased.sum() < (shown(server, 4) == 1).sum()
    server.ask("PUT", "mask/4", pack(erased))
    np.testing.assert_array_equal(shown(server, 4) == 1, erased)
    propagated(server, both)
    np.testing.assert_array_equal(shown(server, 4) == 1, erased)
    propagated(server)  # object 2 is in no mask any more: the user's frames need no network, but new results
    np.testing.assert_array_equal(shown(server, 4), erased)


def test_mattes_hold_what_is_there(begin):
    server = begin()
    workspace = server.annotator.opened.workspace
    server.ask("PUT", "mask/7", pack(MASK))
    propagated(server)
    server.ask("PUT", "mask/4?complete=1", pack(MASK * 0))
    server.ask("DELETE", "mask/7")
    propagated(server)
    assert [workspace.mattes(t)[1].any() for t in range(FRAMES)] == [t < 4 for t in range(FRAMES)]
    server.ask("DELETE", "object/1")
    server.ask("PUT", "object/1", b"another of the same number")
    assert not any(workspace.mattes(t)[1].any() for t in range(FRAMES))


def test_what_is_lost_is_uncertain_and_what_is_absent_is_not(begin, monkeypatch):
    monkeypatch.setattr("session.object_map", lambda prob, size, *_: np.zeros(size, np.uint8))
    server = begin()
    server.ask("PUT", "mask/4?complete=1", pack(MASK * 0))
    assert propagated(server)["confidence"] == {"1": 0, "2": 0, "3": 0, "5": 1, "6": 1, "7": 1}


def test_after_a_restart_results_are_as_current_as_before(begin, monkeypatch):
    first = begin()
    before = propagated(first)
    assert before["stale"] == [] and len(before["confidence"]) == FRAMES - 1
    first.stop()
    second = begin()
    after = wait(second)
    assert after["stale"] == [] and after["confidence"] == before["confidence"]
    assert str(after["next"]) in after["confidence"]
    release = threading.Event()  # the worker is busy, and the program dies before it knows what a correction concerns
    second.annotator.worker.submit(release.wait)
    place, survivors = (second.annotator.opened.workspace.source, second.annotator.folder), []

    def write_and_die(*mask) -> None:
        write_mask(*mask)
        survivors.append(Workspace(*place))

    monkeypatch.setattr("annotation.workspace.write_mask", write_and_die)  # or between the mask and the record
    second.ask("PUT", "mask/4", pack(MASK[::-1]))
    survivors.append(Workspace(*place))
    release.set()
    assert [survivor.users.keys() for survivor in survivors] == [{0}, {0, 4}]
    assert all(survivor.stale == survivor.confidence.keys() for survivor in survivors)


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


def test_results_depend_on_precision_and_size(clip, tiny_weights, monkeypatch):
    """Earlier versions recorded neither, because all was in float32 and nothing was enlarged."""
    monkeypatch.setattr("predictor.fast_precision", lambda device: torch.bfloat16)
    (source,) = list_videos(clip).values()
    made_with = [
        session_opener(tiny_weights, "cpu", amp, size=size)(source)[1]
        for amp, size in ((False, min(SIZE)), (False, 480), (True, min(SIZE)))
    ]
    assert [made.keys() - {"model", "size"} for made in made_with] == [set(), {"enlarged"}, {"precision"}]


def test_results_of_other_weights_are_out_of_date(begin, tmp_path, tiny_network):
    server = begin()
    propagated(server)
    server.stop()
    save_network(tmp_path / "other.pth", tiny_network("stcn"))
    state = wait(begin(model=tmp_path / "other.pth"))
    assert sorted(map(int, state["confidence"])) == state["stale"] == list(range(1, FRAMES))


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


def test_frames_that_change_under_the_server_are_named(begin, clip, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(clip / "JPEGImages", root / "JPEGImages")
    server = begin(root)
    wait(server)
    write_image(root / "JPEGImages/clip/00002.png", np.zeros((50, 60, 3), np.uint8))
    (root / "JPEGImages/clip/00005.png").unlink()
    for frame in (2, 5):
        status, message = server.ask("GET", f"frame/{frame}.jpg")
        assert status == 400 and f"0000{frame}.png".encode() in message
    state = propagated(server)
    assert "00002.png" in state["message"] and state["running"] is None
    assert server.ask("GET", "frame/1.jpg")[0] == 200


@needs_browser
def test_a_full_disk_loses_no_stroke(page, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        page.page.mouse.click(*page.at(40, 40))
        page.wait("document.getElementById('saved').textContent.includes('No space left on device')")
    page.settle()
    assert (tmp_path / "work/Annotations/clip/00000.png").is_file()
    page.faults.clear()  # the browser reports the refused request


@needs_browser
def test_a_tab_that_is_left_open_cannot_write_into_another_video(chromium, clip, tmp_path, begin):
    root = tmp_path / "root"
    for name in ("clip", "other"):
        shutil.copytree(clip / "JPEGImages/clip", root / name)
    server = begin(root)
    old = Page(chromium, server.url)
    new = Page(chromium, server.url)
    with new.page.expect_navigation():
        new.page.select_option("#videos", "other")
    new.wait("window.editor?.ids && editor.shown === 0")
    old.page.mouse.click(*old.at(40, 40))
    old.wait("document.getElementById('saved').textContent.includes('another tab')")
    assert list((tmp_path / "work").rglob("*.png")) == []
    new.drag(*FIRST)
    assert [path.parent.name for path in (tmp_path / "work").rglob("*.png")] == ["other"]
    for page in (old, new):
        page.page.close()


@needs_browser
def test_another_video_is_opened_once_all_is_saved(chromium, clip, tmp_path, begin, monkeypatch):
    root, full = tmp_path / "root", threading.Event()
    for name in ("clip", "other"):
        shutil.copytree(clip / "JPEGImages/clip", root / name)
    server = begin(root)
    page, put = Page(chromium, server.url), Workspace.put_user_mask

    def refuse(*args, **options) -> None:
        if full.is_set():
            raise InputError("no space left")
        put(*args, **options)

    monkeypatch.setattr(Workspace, "put_user_mask", refuse)
    full.set()
    page.page.mouse.click(*page.at(40, 40))
    page.wait("document.getElementById('saved').textContent.includes('no space left')")
    page.page.select_option("#videos", "other")
    with page.page.expect_navigation():
        full.clear()
    page.wait("window.editor?.ids && editor.shown === 0")
    late = f"/api/{server.annotator.page}/mask/0"
    assert [path.parent.name for path in (tmp_path / "work").rglob("*.png")] == ["clip"]
    assert server.ask("POST", "open", b"clip")[0] == 204
    assert server.ask("PUT", late, pack(MASK))[0] == 409
    page.page.close()


def test_unusual_videos(begin, tmp_path):
    """Names, sizes and colours; each goes all the way to the exports."""
    root, rng = tmp_path / "root", np.random.default_rng(0)
    images = {
        "ünï cødé #1 100%": rng.integers(0, 256, (33, 47, 3), np.uint8),
        "grey": rng.integers(0, 256, (40, 56), np.uint8),
        "see-through": rng.integers(0, 256, (41, 56, 4), np.uint8),
    }
    for name, image in images.items():
        (root / name).mkdir(parents=True)
        for t in range(1 if name == "grey" else 2):
            cv2.imencode(".png", image)[1].tofile(root / name / f"frame {t}.é.png")
    server = begin(root)
    for name, image in images.items():
        assert server.ask("POST", "open", name.encode())[0] == 204
        jpeg = cv2.imdecode(np.frombuffer(server.ask("GET", "frame/0.jpg")[1], np.uint8), cv2.IMREAD_COLOR)
        assert jpeg.shape[:2] == image.shape[:2]
        mask = np.zeros(image.shape[:2], np.uint8)
        mask[10:20, 10:30] = 3
        assert server.ask("PUT", "mask/0?complete=1", pack(mask))[0] == 204
        assert server.ask("POST", "propagate?frame=0&direction=both", b"")[0] == 204
        assert wait(server)["message"] is None
        assert server.ask("GET", "export/all.zip")[0] == 404
        assert server.ask("POST", "export/all.zip", b"")[0] == 204
        status, body = server.ask("GET", "export/all.zip")
        assert status == 200 and len(zipfile.ZipFile(BytesIO(body)).namelist()) == 5


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are Unicode")
def test_names_that_are_not_utf_8_are_named_and_do_not_stop_the_rest(begin, clip, tmp_path):
    root = tmp_path / "root"
    for video, name in (("a", "00000.png"), ("b", "\udcff.png"), ("c\udcff", "00000.png")):
        shutil.copytree(clip / "JPEGImages/clip", root / video)
        (root / video / "00000.png").rename(root / video / name)
    server = begin(root)
    assert json.loads(server.ask("POST", "/api/begin")[1])["videos"] == ["a", "b", r"c\udcff"]
    for video, name in (("b", r"\udcff.png"), (r"c\udcff", r"c\udcff")):
        status, message = server.ask("POST", "open", video.encode())
        assert status == 400 and f"/{video}: holds the name {name}; expected UTF-8" in message.decode()


def test_links_do_not_lead_out_of_the_root(begin, clip, tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    shutil.copytree(clip / "JPEGImages/clip", root / "JPEGImages/inside")
    shutil.copytree(clip / "JPEGImages/clip", outside)
    (root / "folder").symlink_to(outside)
    (root / "film.mp4").symlink_to(outside / "00000.png")
    (root / "loop").symlink_to(root / "loop")
    (root / "frames").mkdir()
    (root / "frames/0.png").symlink_to(outside / "00000.png")
    write_mask(outside / "mask.png", MASK)
    (root / "Annotations/inside").mkdir(parents=True)
    (root / "Annotations/inside/00000.png").symlink_to(outside / "mask.png")
    assert list(list_videos(root)) == ["JPEGImages/inside"]
    assert json.loads(begin(root).ask("GET", "state")[1])["users"] == {}
