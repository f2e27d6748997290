"""After a kill and a restart nothing is lost, and results count as no more current than they are."""

import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from annotation.export import export
from annotation.runs import pack
from annotation.workspace import Workspace
from datasets.images import write_mask
from tests.annotation.conftest import FIRST, FRAMES, MASK, propagated, wait
from tests.annotator import Page, needs_browser

ROOT = Path(__file__).resolve().parents[2]


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
