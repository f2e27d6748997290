"""The files of the workspace: nothing is lost, and nothing of others replaced."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from datasets.images import write_mask
from tests.annotation.conftest import FIRST, FRAMES, SIZE
from tests.annotator import Page, Server, needs_browser

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
        assert server.ask("GET", "mask/0")[1] == bytes([1]) * SIZE[0] * SIZE[1]
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
