"""Strokes, polygons and cuts: the page in a real browser gives exactly their pixels, and undo every byte."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from datasets.images import read_mask
from tests.annotation.conftest import FIRST, SIZE
from tests.annotator import needs_browser, stroke


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
    assert page.js("Array.from(editor.tools.cutting.hints)") == [0, SIZE[0] * SIZE[1]]  # packed: none


def hold_back(page, path: str, fail: bool = False) -> Callable[[], None]:
    """The page's next request of ``path`` waits, or fails at once; returns what sends it on and waits for the answer.

    In the page itself, because a route of Playwright's does not catch every request.
    """
    page.page.evaluate(
        """([path, fail]) => {
            const real = window.fetch, holding = (window.holding = {});
            const sent = new Promise((send) => (holding.send = send));
            window.fetch = async (address, options) => {
                if (!address.includes(path)) return real(address, options);
                window.fetch = real;
                if (fail) throw new TypeError("Failed to fetch");
                holding.held = true;
                await sent;
                return real(address, options).finally(() => (holding.answered = true));
            };
        }""",
        [path, fail],
    )

    def release() -> None:
        page.wait("holding.held", 60)
        page.js("holding.send()")
        page.wait("holding.answered", 60)
        page.page.wait_for_timeout(50)

    return release


@needs_browser
@pytest.mark.parametrize("interruption", ["r", "x", "c", "Control+z"])
def test_what_happens_amid_a_stroke_loses_nothing(page, tmp_path, interruption):
    page.key("k")
    page.drag((20, 20), (80, 70))
    page.wait("editor.tools.cutting")
    page.settle()
    page.key("a")
    release, mouse = hold_back(page, "cut/"), page.page.mouse
    if interruption == "r":
        page.key("r")
    mouse.move(*page.at(90, 80))
    mouse.down()
    mouse.move(*page.at(100, 80))
    if interruption == "r":
        release()
    else:
        page.key(interruption)
    mouse.move(*page.at(120, 80))
    mouse.up()
    page.settle()
    ids, file = page.ids(), tmp_path / "work/Annotations/clip/00000.png"
    np.testing.assert_array_equal(read_mask(file) if file.exists() else np.zeros(SIZE, np.uint8), ids)
    assert (ids[80, 95], ids[80, 118]) == {"r": (1, 1), "c": (1, 0)}.get(interruption, (0, 0))
    page.go(1)


@needs_browser
def test_an_import_does_not_land_on_another_frame(page, clip):
    release = hold_back(page, "import")
    page.page.set_input_files("#import", clip / "GroundTruth/clip/00000.png")
    page.go(1)
    release()
    page.wait("document.getElementById('status').textContent.includes('not imported')")
    assert page.js("Object.keys(editor.state.users)") == []


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
def test_steps_wait_for_each_other_and_go_on_after_a_failure(page):
    objects = "Object.keys(editor.state.objects).join()"
    page.drag(*FIRST)
    release = hold_back(page, "object/2")
    page.key("n")
    page.key("n")
    release()
    page.wait(f"{objects} === '1,2,3'")
    release = hold_back(page, "object/3")
    page.page.get_by_label("Remove object 3").dblclick()
    page.key("Control+z")  # of the removal, which is on its way
    release()
    page.js("editor.history.busy")
    assert page.js(f"[{objects}, editor.history.next, editor.history.items.length]") == ["1,2,3", 3, 4]
    hold_back(page, "object/3", fail=True)
    for left in (3, 2, 1, 0):  # the first fails
        page.key("Control+z")
        page.js("editor.history.busy")
        assert page.js("editor.history.next") == left
        assert left < 3 or "Failed to fetch" in page.js("document.getElementById('status').textContent")
