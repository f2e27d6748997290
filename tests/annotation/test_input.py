"""Touch, pen and playback in a real browser; no control is out of view, unnamed, pale or for the mouse alone."""

import numpy as np
import pytest

from datasets.images import read_mask
from tests.annotation.conftest import FIRST, FRAMES, SIZE
from tests.annotator import needs_browser, stroke

pytestmark = needs_browser


@pytest.fixture
def devtools(page):
    """``send(method, **parameters)`` of Chromium's own protocol, which has fingers and pens."""
    session = page.page.context.new_cdp_session(page.page)
    return lambda method, **parameters: session.send(method, parameters)


@pytest.fixture
def touch(page, devtools):
    """``touch(type, pixel, …)``: what a finger on each pixel of the picture, by number, does or still does."""

    def send(event: str, **fingers: tuple[float, float]) -> None:
        points = [dict(zip("xy", page.at(*pixel), strict=True)) | {"id": ord(f)} for f, pixel in fingers.items()]
        devtools("Input.dispatchTouchEvent", type=event, touchPoints=[point | {"force": 0.3} for point in points])

    return send


@pytest.fixture
def pen(page, devtools):
    def send(event: str, pixel: tuple[float, float], force: float = 0.5) -> None:
        x, y = page.at(*pixel)
        button = {"button": "left", "buttons": int(event != "mouseReleased"), "clickCount": 1}
        devtools("Input.dispatchMouseEvent", type=event, x=x, y=y, pointerType="pen", force=force, **button)

    return send


def test_a_finger_gives_the_pixels_of_the_mouse(page, touch, tmp_path):
    page.js("editor.tools.diameter = 7")
    path = [(12, 20), (50, 24), (53, 70)]
    touch("touchStart", a=path[0])
    for pixel in path[1:]:
        touch("touchMove", a=pixel)
    touch("touchEnd")
    page.wait("0 in editor.state.users")
    page.settle()
    np.testing.assert_array_equal(read_mask(tmp_path / "work/Annotations/clip/00000.png"), stroke(SIZE, path, 7))


def test_a_pen_gives_the_pixels_of_the_mouse_whatever_its_pressure_and_beside_a_palm(page, pen, touch, tmp_path):
    page.js("editor.tools.diameter = 7")
    path = [(12, 20), (50, 24), (53, 70)]
    touch("touchStart", p=(90, 80))  # the palm is there before the pen
    pen("mousePressed", path[0], 0.1)
    touch("touchMove", p=(92, 82))
    pen("mouseMoved", path[1], 0.9)
    touch("touchEnd")
    touch("touchStart", q=(100, 85))
    pen("mouseMoved", path[2], 0.4)
    pen("mouseReleased", path[2], 0)
    touch("touchMove", q=(104, 89))
    touch("touchEnd")
    page.wait("0 in editor.state.users")
    page.settle()
    np.testing.assert_array_equal(read_mask(tmp_path / "work/Annotations/clip/00000.png"), stroke(SIZE, path, 7))
    before = page.js("editor.view.x")
    touch("touchStart", p=(90, 80))  # beside a pen, a finger moves the picture
    touch("touchMove", p=(95, 80))
    touch("touchEnd")
    assert page.js("editor.history.next") == 1 and page.js("editor.view.x") > before


def test_two_fingers_zoom_and_paint_nothing(page, touch):
    scale = page.js("editor.view.scale")
    touch("touchStart", a=(50, 40))
    touch("touchMove", a=(52, 40))  # has begun to paint
    touch("touchStart", a=(52, 40), b=(72, 40))
    assert not page.ids().any()
    middle = page.at(62, 40)
    left, right = page.at(42, 40), page.at(82, 40)  # on the screen, before the picture moves under the fingers
    places = {"a": left, "b": right}
    page.at = lambda *pixel: pixel
    touch("touchMove", **places)
    touch("touchEnd")
    del page.at
    assert page.js("editor.view.scale") == pytest.approx(2 * scale, rel=0.02)
    assert page.at(62, 40) == pytest.approx(middle, abs=2)
    assert not page.ids().any() and page.js("editor.history.next") == 0

    page.key("l")
    for corner in ((55, 35), (65, 35)):
        page.page.mouse.click(*page.at(*corner))
    touch("touchStart", a=(60, 50))
    touch("touchStart", a=(60, 50), b=(62, 50))
    touch("touchEnd")
    assert page.js("editor.tools.points.length") == 2  # zooming in between costs no corner


def test_playback_shows_every_frame_with_its_mask_in_order(page):
    page.drag(*FIRST)
    page.propagate()
    page.go(0)
    page.js("editor.state.fps = 50")
    page.js(
        "const draw = editor.view.drawMask.bind(editor.view); window.seen = [];"
        "editor.view.drawMask = (ids, ...rest) => { draw(ids, ...rest);"
        "if (editor.frame !== seen.at(-1)?.[0]) seen.push([editor.frame, ids.reduce((sum, id) => sum + id, 0)]); }; 0"
    )
    page.key("p")
    page.wait(f"editor.shown === {FRAMES - 1}")
    page.wait("document.getElementById('play').textContent.includes('Play')")
    seen = page.js("seen")
    assert [frame for frame, _ in seen] == list(range(1, FRAMES))
    for frame, area in seen:
        page.go(frame)
        assert page.ids().sum() == area
    page.js("[seen.length = 0, editor.state.fps = 4]")
    page.key("p")  # from the end: again from the beginning
    page.wait("seen.length === 2")
    page.key("p")
    page.page.wait_for_timeout(400)
    assert [frame for frame, _ in page.js("seen")] in ([0, 1], [0, 1, 2])


CONTROLS = "button, select, input, a.button, [tabindex]"


@pytest.mark.parametrize("width, height", [(1280, 720), (2560, 1440)])
def test_every_control_is_in_view(page, width, height):
    page.page.set_viewport_size({"width": width, "height": height})
    page.js(
        "for (let i = 1; i < 13; i++) { editor.state.objects[i] = `object ${i}`; editor.state.users[i] = false; }"
        "editor.page.refresh(); editor.say('109 of 1000 frames, 1234 s left')"
    )
    page.page.wait_for_timeout(100)
    hidden = page.js(f"""[...document.querySelectorAll("{CONTROLS}")]
      .filter((node) => !node.closest("dialog, ul")).filter((node) => {{
        const box = node.getBoundingClientRect();
        const isInside = box.left >= 0 && box.top >= 0 && box.right <= innerWidth && box.bottom <= innerHeight;
        const seen = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
        return !box.width || !isInside || !(node.contains(seen) || node.disabled && seen.contains(node));
      }}).map((node) => node.id || node.textContent)""")
    assert hidden == []
    assert page.js("document.getElementById('stage').clientHeight") > 0.7 * height
    lists = page.js("[...document.querySelectorAll('ul')].map((list) => list.clientHeight)")
    assert min(lists) >= 60  # two rows at least; the rest is scrolled to


def test_every_control_has_a_name_and_is_reached_by_tab(page, devtools):
    page.drag(*FIRST)  # lists and downloads have entries
    named = {"button", "slider", "checkbox", "textbox", "combobox", "link", "progressbar"}
    nodes = devtools("Accessibility.getFullAXTree")["nodes"]
    found = [node for node in nodes if not node["ignored"] and node["role"]["value"] in named]
    assert len(found) > 30
    assert [node for node in found if not node.get("name", {}).get("value", "").strip()] == []

    wanted = page.js(
        f"[...document.querySelectorAll('{CONTROLS}')].filter((node) => !node.disabled && !node.closest('dialog'))"
        ".map((node, i) => node.dataset.number = String(i))"
    )
    reached = set()
    for _ in range(len(wanted) + 8):
        page.key("Tab")
        reached.add(page.js("document.activeElement.dataset.number"))
    assert set(wanted) - reached == set()


def test_keys_move_the_picture_and_keep_the_cross_hair_in_view(page):
    for _ in range(8):
        page.key("]")
    before = page.js("[editor.view.x, editor.view.y]")
    page.key("h")
    page.key("Alt+ArrowRight")
    page.key("Alt+ArrowDown")
    assert page.js("[editor.view.x, editor.view.y]") == [before[0] - 40, before[1] - 40]
    page.key("a")
    page.js("editor.view.pixel = {x: 60, y: 40}")
    for _ in range(30):
        page.key("Alt+ArrowLeft")
    x, y = page.js("editor.view.toScreen(editor.view.pixel)")
    assert 0 <= x <= page.js("editor.view.stage.clientWidth") and 0 <= y <= page.js("editor.view.stage.clientHeight")


def test_the_mask_of_before_is_shown_only_while_v_is_held(page):
    wanted = []
    for release in ("keyup", "blur"):
        for event in ("keydown", release):  # with Caps Lock
            page.js(f"document.body.dispatchEvent(new KeyboardEvent('{event}', {{ key: 'V', bubbles: true }}))")
            wanted.append(page.js("editor.wantsOld"))
    assert wanted == [True, False, True, False]


def test_all_text_is_readable(page):
    """Contrast as WCAG defines it, of every text with what is behind it, also of disabled and pressed controls."""
    page.drag(*FIRST)
    page.js("document.getElementById('help').showModal()")
    ratios = page.js("""(() => {
      const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
      const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
        .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
      const behind = (node) => {
        const colour = parse(getComputedStyle(node).backgroundColor);
        return colour[3] === 0 ? behind(node.parentElement) : colour;
      };
      const own = (node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
      return [...document.body.querySelectorAll("*")].filter((node) => own(node) || node.matches("input[type=text]"))
        .map((node) => {
          const pair = [light(parse(getComputedStyle(node).color)), light(behind(node))].sort((a, b) => b - a);
          return [(pair[0] + 0.05) / (pair[1] + 0.05), node.id || node.textContent];
        });
    })()""")
    assert len(ratios) > 60
    assert [text for ratio, text in ratios if ratio < 4.5] == []
