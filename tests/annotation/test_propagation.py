"""Propagation, pause, corrections and absence, in a real browser."""

import time

import numpy as np

import eval_generic
from datasets.images import read_mask
from inference_core import InferenceCore
from tests.annotation.conftest import FIRST, FRAMES, SIZE
from tests.annotator import needs_browser, stroke


@needs_browser
def test_propagation_is_that_of_eval_generic_and_is_kept(page, server, clip, tmp_path, evaluate):
    work = tmp_path / "work"
    page.drag(*FIRST)
    page.listen("(event) => seen.push(event.frame)")
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
def test_a_polygon_is_not_lost_because_the_next_frame_is_shown(page):
    page.drag(*FIRST)
    page.key("l")
    page.js("editor.following = true")
    page.page.mouse.click(*page.at(20, 20))
    page.js("fetch(`/api/${editor.state.page}/propagate?frame=0&direction=both`, {method: 'POST'})")
    page.wait("Object.keys(editor.state.confidence).length === 7 && !editor.state.running")
    assert page.js("[editor.shown, editor.tools.points.length]") == [0, 1]


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
    page.js("document.getElementById('follow').checked = false")
    page.go(6)
    page.propagate()
    page.wait("!editor.ids.some(Boolean)")  # the frame that is shown needed no network, and is shown again
    for t in (5, 6, 7):
        page.go(t)
        assert not page.ids().any()
    page.go(3)
    assert page.ids().any()

    page.js("editor.removeUser(5)")
    page.wait("!(5 in editor.state.users)")
    page.propagate()
    np.testing.assert_array_equal(read_mask(results / "00006.png"), after[5])  # as if it had never been given
