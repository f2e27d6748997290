"""The page answers at once, and neither it nor the server keeps a long video in memory."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from annotation.project import Project
from datasets.images import write_image
from tests.annotation.conftest import FIRST
from tests.annotator import Page, Server, needs_browser

ROOT = Path(__file__).resolve().parents[2]

# Calls a function after the browser has drawn what is on the canvas now.
AFTER_DRAWING = """(call) => requestAnimationFrame(() => {
  const channel = new MessageChannel();
  channel.port1.onmessage = call;
  channel.port2.postMessage(0);
})"""


@pytest.fixture
def serve(tmp_path, tiny_weights):
    """``serve(frames, size)``: a server of a clip of grey levels."""
    servers = []

    def start(frames: int, size: tuple[int, int]) -> Server:
        for t in range(frames):
            write_image(tmp_path / f"videos/clip/{t:05d}.jpg", np.full((*size, 3), t % 256, np.uint8))
        servers.append(Server(tmp_path / "videos", tmp_path / "work", tiny_weights))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def test_the_page_does_not_wait_for_pytorch():
    code = "import sys, annotate; print([name for name in ('torch', 'predictor', 'session') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@needs_browser
def test_painting_answers_within_50_ms_at_1080p(serve, chromium):
    page = Page(chromium, serve(1, (1080, 1920)).url)
    page.js(f"""(() => {{
      window.delays = [];
      const after = {AFTER_DRAWING}, pointer = editor.view.pointer.bind(editor.view);
      editor.view.pointer = (event) => {{
        pointer(event);
        if (event.type === "pointermove") after(() => delays.push(performance.now() - event.timeStamp));
      }};
    }})()""")
    page.js("editor.tools.diameter = 60")
    for k in range(3):
        page.drag(*((200 + 50 * i, 200 + 150 * k + 31 * i % 100) for i in range(20)))
    delays = page.js("delays")
    page.page.close()
    assert len(delays) > 20 and statistics.median(delays) < 50


@needs_browser
def test_a_frame_is_on_the_screen_within_300_ms_of_being_computed(serve, chromium, monkeypatch):
    server = serve(8, (480, 640))
    page = Page(chromium, server.url)
    page.js(f"""(() => {{
      window.drawn = {{}};
      const after = {AFTER_DRAWING}, draw = editor.view.drawMask.bind(editor.view);
      editor.view.drawMask = (...all) => {{
        draw(...all);
        const frame = editor.frame;
        after(() => drawn[frame] ??= performance.timeOrigin + performance.now());
      }};
    }})()""")
    page.drag(*FIRST)
    computed, on_frame = {}, Project._on_frame

    def note(project, progress, start):
        time.sleep(0.1)  # as long as a network takes at the very least
        computed[progress.frame] = time.time()
        return on_frame(project, progress, start)

    monkeypatch.setattr(Project, "_on_frame", note)
    page.propagate("f")
    page.wait("7 in drawn")
    drawn = {int(frame): at / 1000 for frame, at in page.js("drawn").items()}
    page.page.close()
    delays = [drawn[frame] - computed[frame] for frame in drawn.keys() & computed.keys()]
    assert len(delays) > 3 and statistics.median(delays) < 0.3


@needs_browser
def test_a_thousand_frames_are_read_again_rather_than_kept(serve, chromium):
    server = serve(1000, (96, 128))
    page = Page(chromium, server.url)

    def browse(frames: range) -> None:
        for frame in frames:
            status, picture = server.ask("GET", f"frame/{frame}.jpg")
            assert status == 200 and picture

    def resident() -> int:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * 4096

    for frame in range(0, 1000, 10):
        page.go(frame)
    assert page.js("editor.pictures.loaded.size") <= 64
    page.page.close()
    browse(range(100))
    if sys.platform == "linux":
        before = resident()
        browse(range(100, 1000))
        assert resident() - before < 10 * 2**20  # the frames alone are 33 MB
