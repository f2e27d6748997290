"""annotate.py: the page in a real browser, the files it writes, and what the server refuses."""

import json
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

import annotate
import eval_generic
from annotation.polygons import polygons
from datasets.images import PALETTE, draw_masks, read_mask, write_image, write_mask
from datasets.scene import Scene
from inference_core import InferenceCore
from tests.annotator import TOKEN, Page, Server, browser, needs_browser, stroke

SIZE, FRAMES = (96, 128), 8
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def chromium():
    with browser() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A folder for ``--root`` with one generated clip, and its true masks in GroundTruth."""
    root = tmp_path_factory.mktemp("videos")
    scene = Scene(7, FRAMES, SIZE, num_objects=2)
    for t in range(FRAMES):
        image, ids = scene.render(t)
        write_image(root / f"JPEGImages/clip/{t:05d}.png", image)
        write_mask(root / f"GroundTruth/clip/{t:05d}.png", ids)
    return root


@pytest.fixture
def server(clip, tmp_path, tiny_weights):
    server = Server(clip, tmp_path / "work", tiny_weights)
    yield server
    server.stop()


@pytest.fixture
def page(server, chromium):
    page = Page(chromium, server.url)
    yield page
    page.page.close()
    assert page.faults == []
    assert all(url.startswith((f"http://127.0.0.1:{server.port}/", "blob:", "data:")) for url in page.requests)


@needs_browser
def test_strokes_give_exactly_their_pixels_and_undo_every_byte(page, tmp_path):
    file = tmp_path / "work/Annotations/clip/00000.png"
    first, second = [(10, 10), (60, 30), (62, 80)], [(40, 5), (40, 90)]
    page.js("editor.tools.diameter = 9")
    page.drag(*first)
    expected = np.where(stroke(SIZE, first, 9), 1, 0)
    np.testing.assert_array_equal(read_mask(file), expected)
    np.testing.assert_array_equal(page.ids(), expected)
    one = file.read_bytes()

    page.key("n")  # object 2
    page.wait("editor.object === 2")
    page.drag(*second)
    expected[stroke(SIZE, second, 9)] = 2
    np.testing.assert_array_equal(read_mask(file), expected)
    two = file.read_bytes()
    page.key("e")
    page.drag((50, 20))
    expected[stroke(SIZE, [(50, 20)], 9)] = 0
    np.testing.assert_array_equal(read_mask(file), expected)
    three = file.read_bytes()

    def steps(key: str, *contents: bytes | None) -> None:
        for content in contents:
            page.key(key)
            page.js("editor.history.busy")
            page.settle()
            assert (file.read_bytes() if file.exists() else None) == content

    steps("Control+z", two, one, one, None)  # the third undoes the new object
    assert page.js("Object.keys(editor.state.users)") == []
    assert not page.ids().any()
    steps("Control+Shift+Z", one, one, two, three)
    np.testing.assert_array_equal(page.ids(), expected)


@needs_browser
def test_polygon_and_keys_alone(page, tmp_path):
    corners = [(20, 20), (100, 30), (60, 80)]
    page.key("l")
    for corner in corners:
        page.page.mouse.click(*page.at(*corner))
    page.key("Enter")
    page.settle()
    ids = read_mask(tmp_path / "work/Annotations/clip/00000.png")
    filled = cv2.fillPoly(np.zeros(SIZE, np.uint8), [np.array(corners)], 1)
    assert ids.max() == 1 and (ids != filled).sum() < 40  # fillPoly's own edge is a pixel wide
    assert (ids[cv2.erode(filled, np.ones((3, 3))) > 0] == 1).all() and (
        ids[cv2.dilate(filled, np.ones((3, 3))) == 0] == 0
    ).all()

    page.key("Control+z")
    page.key("a")
    page.js("[editor.tools.diameter = 5, editor.view.pixel = {x: 30, y: 40}]")
    for key in ("Alt+Enter", *["Alt+ArrowRight"] * 3, *["Alt+Shift+ArrowDown"] * 2, "Alt+Enter"):
        page.key(key)
    page.settle()
    expected = stroke(SIZE, [(30, 40), (34, 40), (38, 40), (42, 40), (42, 41), (42, 42)], 5)
    np.testing.assert_array_equal(read_mask(tmp_path / "work/Annotations/clip/00000.png"), expected)


@needs_browser
def test_zoomed_view_paints_the_same_pixels(page, tmp_path):
    page.page.mouse.move(*page.at(60, 40))
    page.page.mouse.wheel(0, -500)
    page.js("editor.tools.diameter = 4")
    page.drag((55, 38), (70, 45))
    expected = stroke(SIZE, [(55, 38), (70, 45)], 4)
    np.testing.assert_array_equal(read_mask(tmp_path / "work/Annotations/clip/00000.png"), expected)


@needs_browser
def test_a_box_cuts_an_object_out_and_strokes_correct_the_cut(page, clip, tmp_path):
    truth = read_mask(clip / "GroundTruth/clip/00000.png") == 1
    ys, xs = np.nonzero(truth)
    file = tmp_path / "work/Annotations/clip/00000.png"
    page.key("k")
    page.page.mouse.move(*page.at(int(xs.min()) - 4, int(ys.min()) - 4))
    page.page.mouse.down()
    page.page.mouse.move(*page.at(int(xs.max()) + 4, int(ys.max()) + 4))
    page.page.mouse.up()
    page.wait("0 in editor.state.users")
    page.settle()
    cut = read_mask(file)
    assert (cut[truth] == 1).sum() > 0.8 * (truth | (cut == 1)).sum()

    page.key("e")
    page.js("editor.tools.diameter = 5")
    middle = int(xs[len(xs) // 2]), int(ys[len(ys) // 2])
    page.drag(middle)
    page.key("r")
    page.wait("editor.history.next === 3")
    page.settle()
    again = read_mask(file)
    assert not again[stroke(SIZE, [middle], 5)].any()  # a hint holds
    for _ in range(2):
        page.key("Control+z")
    page.js("editor.history.busy")
    page.settle()
    np.testing.assert_array_equal(read_mask(file), cut)
    assert page.js("editor.tools.cutting.hints.every((hint) => hint === 0)")


FIRST = [(30, 30), (70, 50)]  # a stroke


@needs_browser
def test_propagation_is_that_of_eval_generic_and_is_kept(page, server, clip, tmp_path, evaluate):
    work = tmp_path / "work"
    page.drag(*FIRST)
    page.js("window.seen = []")
    page.js(
        "new EventSource('/api/events').addEventListener('frame', (event) => seen.push(JSON.parse(event.data).frame))"
    )
    page.propagate("f")
    page.wait("seen.length === 7")
    assert page.js("seen") == list(range(1, FRAMES))

    data = tmp_path / "data"
    (data / "JPEGImages").mkdir(parents=True)
    (data / "JPEGImages/clip").symlink_to(clip / "JPEGImages/clip")
    (data / "Annotations").symlink_to(work / "Annotations")
    assert evaluate(eval_generic, "--data_path", data)[0] == 0
    expected = [read_mask(tmp_path / f"out/clip/{t:05d}.png") for t in range(FRAMES)]
    for t in range(1, FRAMES):
        np.testing.assert_array_equal(read_mask(work / f"results/clip/{t:05d}.png"), expected[t])
        page.go(t)
        np.testing.assert_array_equal(page.ids(), expected[t])
    assert page.js("Object.values(editor.state.confidence).every((c) => c >= 0 && c <= 1)")

    page.open(server.url)  # a reload
    assert page.js("[Object.keys(editor.state.users), Object.keys(editor.state.confidence).length]") == [["0"], 7]
    np.testing.assert_array_equal(page.ids(), stroke(SIZE, FIRST, 15))


@needs_browser
def test_pause_stops_within_a_frame(page, monkeypatch):
    step = InferenceCore.step

    def slow_step(*args, **kwargs):
        time.sleep(0.3)
        return step(*args, **kwargs)

    monkeypatch.setattr(InferenceCore, "step", slow_step)
    page.drag(*FIRST)
    page.listen("(event) => seen.push(event.frame)")
    page.key("Space")
    page.wait("seen.length === 2")
    page.key("Space")
    page.wait("!editor.state.running")
    assert page.js("seen") in ([1, 2], [1, 2, 3])
    page.propagate()
    page.wait("Object.keys(editor.state.confidence).length === 7 && editor.state.stale.size === 0")


@needs_browser
def test_a_correction_changes_earlier_and_later_frames_and_absence_holds(page, tmp_path):
    results = tmp_path / "work/results/clip"
    page.drag(*FIRST)
    page.propagate()
    before = [read_mask(results / f"{t:05d}.png") for t in range(1, FRAMES)]
    page.go(4)
    page.js("editor.tools.diameter = 40")
    page.drag((90, 60))
    corrected = page.ids()
    page.wait("editor.state.stale.size === 6")  # all but the user's two
    page.propagate()
    after = [read_mask(results / f"{t:05d}.png") for t in range(1, FRAMES)]
    assert any((after[t - 1] != before[t - 1]).any() for t in (1, 2, 3))
    assert any((after[t - 1] != before[t - 1]).any() for t in (5, 6, 7))
    page.go(4)
    np.testing.assert_array_equal(page.ids(), corrected)
    page.go(6)
    page.page.keyboard.down("v")  # the mask before the correction
    page.wait("editor.old")
    np.testing.assert_array_equal(np.array(page.js("Array.from(editor.old)")).reshape(SIZE), before[5])
    page.page.keyboard.up("v")

    page.go(5)
    page.key("x")
    page.settle()
    page.propagate()
    for t in (5, 6, 7):
        page.go(t)
        assert not page.ids().any()
    page.go(3)
    assert page.ids().any()

    page.js("editor.removeUser(5)")
    page.wait("!(5 in editor.state.users)")
    page.propagate()
    np.testing.assert_array_equal(read_mask(results / "00006.png"), after[5])  # as if it had never been given


@needs_browser
def test_objects_can_be_removed_and_come_back(page, tmp_path):
    page.drag(*FIRST)
    page.key("n")
    page.wait("editor.object === 2")
    page.drag((100, 20), (100, 60))
    both = page.ids()
    page.propagate()
    page.page.get_by_label("Remove object 1").click()
    page.wait("editor.history.next === 4")
    assert not (page.ids() == 1).any() and (page.ids() == 2).any()
    assert not any(
        (read_mask(path) == 1).any() for path in (tmp_path / "work").rglob("clip/*.png") if "before" not in str(path)
    )
    page.key("Control+z")
    page.wait("1 in editor.state.objects")
    page.js("editor.history.busy")
    page.settle()
    np.testing.assert_array_equal(read_mask(tmp_path / "work/Annotations/clip/00000.png"), both)


@needs_browser
def test_every_export_holds_the_masks(page, server, clip):
    page.page.set_input_files("#import", clip / "GroundTruth/clip/00000.png")  # an existing mask is taken in
    page.wait("0 in editor.state.users")
    page.settle()
    page.propagate()
    shown = []
    for t in range(FRAMES):
        page.go(t)
        shown.append(page.ids())
    np.testing.assert_array_equal(shown[0], read_mask(clip / "GroundTruth/clip/00000.png"))
    with page.page.expect_download() as download:
        page.page.get_by_text("all.zip").click()
    archive = zipfile.ZipFile(download.value.path())

    masks = zipfile.ZipFile(archive.open("masks.zip"))
    coco = COCO()
    coco.dataset = json.loads(archive.read("coco.json"))
    coco.createIndex()
    yolo = zipfile.ZipFile(archive.open("yolo.zip"))
    mattes = zipfile.ZipFile(archive.open("matte.zip"))
    with av.open(archive.open("overlay.mp4")) as video:
        drawn = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(drawn) == FRAMES
    for t, ids in enumerate(shown):
        with Image.open(masks.open(f"clip/{t:05d}.png")) as image:
            np.testing.assert_array_equal(np.asarray(image), ids)
            assert image.getpalette() == PALETTE.ravel().tolist()
        from_coco, from_yolo = np.zeros_like(ids), np.zeros_like(ids)
        for annotation in coco.imgToAnns[t]:
            mask = coco.annToMask(annotation)
            from_coco[mask > 0] = annotation["category_id"]
            assert annotation["area"] == mask.sum()
        np.testing.assert_array_equal(from_coco, ids)
        for line in yolo.read(f"labels/{t:05d}.txt").decode().splitlines():
            object_class, *numbers = map(float, line.split())
            polygon = np.array(numbers).reshape(-1, 2) * SIZE[::-1]
            cv2.fillPoly(from_yolo, [polygon.round().astype(np.int32)], int(object_class) + 1)
        np.testing.assert_array_equal(from_yolo, ids)
        for object_id in (1, 2):
            matte = cv2.imdecode(
                np.frombuffer(mattes.read(f"{object_id:03d}/{t:05d}.png"), np.uint8), cv2.IMREAD_UNCHANGED
            )
            assert matte.shape == SIZE and (matte[ids == object_id].astype(int).sum() > 0) == (ids == object_id).any()
            assert (matte[ids == object_id] > 84).all()  # it was the largest of three
        expected = draw_masks(server.annotator.project.workspace.image(t), ids)
        assert abs(drawn[t].astype(int) - expected).mean() < 12


@pytest.mark.parametrize("mask", ["noise", "holes", "full", "empty"])
def test_polygons_are_exact(mask):
    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.random((41, 57)), (0, 0), 3)
    ids = {
        "noise": rng.random((41, 57)) < 0.5,
        "holes": smooth > np.median(smooth),
        "full": np.ones((41, 57), bool),
        "empty": np.zeros((41, 57), bool),
    }[mask]
    drawn = np.zeros(ids.shape, np.uint8)
    for polygon in polygons(ids):
        cv2.fillPoly(drawn, [polygon], 1)
    np.testing.assert_array_equal(drawn, ids)


def test_what_the_server_refuses(server, tmp_path):
    ask, own = server.ask, f"127.0.0.1:{server.port}"
    mask = bytes(SIZE[0] * SIZE[1])
    files = sorted(path for path in tmp_path.rglob("*"))
    cases = {
        "foreign host": ask("PUT", "/api/mask/0", mask, Host="evil.example:80"),
        "host with another port": ask("GET", "/api/state", Host="127.0.0.1:1"),
        "rebound name": ask("GET", f"/?token={TOKEN}", Host=f"evil.example:{server.port}"),
        "foreign origin": ask("PUT", "/api/mask/0?complete=1", mask, Origin="http://evil.example"),
        "no origin": ask("PUT", "/api/mask/0?complete=1", mask, Origin="null"),
        "no token": ask("PUT", "/api/mask/0?complete=1", mask, Cookie=""),
        "wrong token": ask("GET", "/?token=guess", Cookie=""),
        "no token for files of the page": ask("GET", "/static/main.js", Cookie=""),
        "no length": ask("PUT", "/api/mask/0", iter([mask]), Transfer_Encoding="chunked"),
        "other size": ask("PUT", "/api/mask/0", mask[1:]),
        "no such frame": ask("PUT", f"/api/mask/{FRAMES}", mask),
        "out of the static files": ask("GET", "/static/../server.py"),
        "out of them, encoded": ask("GET", "/static/%2e%2e/server.py"),
        "out of the exports": ask("GET", "/api/export/..%2fclip.json"),
        "out of the root": ask("POST", "/api/open", b"../secret"),
        "absolute": ask("POST", "/api/open", str(tmp_path).encode()),
        "no mask": ask("POST", "/api/import", b"no PNG"),
        "no box": ask("POST", "/api/cut/0?box=1,2,3", mask),
        "no direction": ask("POST", "/api/propagate?frame=0&direction=up", b""),
        "nothing to propagate": ask("POST", "/api/propagate?frame=0&direction=both", b""),
    }
    assert {name: status for name, (status, _) in cases.items() if not 400 <= status < 500} == {}
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:  # 100 MB, which it does not wait for
        cookie = f"Cookie: annotate-{server.port}={TOKEN}"
        connection.sendall(
            f"PUT /api/mask/0 HTTP/1.1\r\nHost: {own}\r\n{cookie}\r\nContent-Length: 104857600\r\n\r\n".encode()
        )
        assert b" 413 " in connection.recv(100)
    assert sorted(path for path in tmp_path.rglob("*")) == files
    status, body = ask("GET", "/api/state", Origin=f"http://{own}")
    assert status == 200 and json.loads(body)["users"] == {}
    assert b"main.js" in ask("GET", f"/?token={TOKEN}", Cookie="")[1]


def test_existing_masks_are_taken_in_and_faulty_ones_named(clip, tmp_path, tiny_weights):
    root = tmp_path / "root"
    shutil.copytree(clip / "JPEGImages", root / "JPEGImages")
    write_mask(root / "Annotations/clip/00000.png", np.full(SIZE, 255, np.uint8))
    write_mask(root / "Annotations/clip/00002.png", np.ones((SIZE[0], SIZE[1] - 1), np.uint8))
    server = Server(root, tmp_path / "work", tiny_weights)
    try:
        state = json.loads(server.ask("GET", "/api/state")[1])
        assert state["users"] == {"0": False} and state["objects"] == {"1": "object 1"}
        assert "00002.png: the mask is 127×96 pixels" in state["message"]
        assert server.ask("GET", "/api/mask/0")[1] == bytes([1]) * SIZE[0] * SIZE[1]
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
        saved = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
        masks = [(page.go(t), page.ids())[1] for t in range(FRAMES)]
    finally:
        process.kill()  # SIGKILL
        process.wait()
        page.page.close()
    process, url = start(clip, tmp_path, tiny_weights)
    try:
        page = Page(chromium, url)
        for t in range(FRAMES):
            page.go(t)
            np.testing.assert_array_equal(page.ids(), masks[t])
        assert page.js("[Object.keys(editor.state.users), editor.state.stale.size]") == [["0", "3"], 6]
        assert {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()} == saved
    finally:
        process.terminate()
        process.wait()
        page.page.close()


def test_bad_arguments(tmp_path, capsys):
    (tmp_path / "outside").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root/link").symlink_to(tmp_path / "outside")
    write_image(tmp_path / "outside/0.png", np.zeros((8, 8, 3), np.uint8))
    for words, expected in (
        (["--root", str(tmp_path / "root")], "holds no videos"),  # the link leads out of it
        (["--root", str(tmp_path / "none")], "no such folder"),
        (["--video", str(tmp_path / "none.mp4")], "no such file"),
        (["--video", str(tmp_path / "outside"), "--model", "none.pth"], "expected weights"),
        (["--video", str(tmp_path / "outside"), "--host", "203.0.113.1"], "cannot listen there"),
    ):
        with pytest.raises(SystemExit) as end:
            annotate.main([*words, "--workspace", str(tmp_path / "work"), "--no_browser", "--port", "0"])
        assert end.value.code == 2 and expected in capsys.readouterr().err
