"""An annotation server in a thread, and a browser for its page."""

import http.client
import shutil
import socket
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from annotate import list_videos, make_server, session_opener
from annotation.guard import Guard
from annotation.server import Annotator, make_app

TOKEN = "secret"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine; .ci/run installs Debian's")


class Server:
    """`annotate.py` of the first video in ``root``, in this process."""

    def __init__(self, root: Path, workspace: Path, model: Path, host: str = "127.0.0.1"):
        listening = socket.create_server((host, 0))
        self.host, self.port = host, listening.getsockname()[1]
        videos = list_videos(root)
        self.annotator = Annotator(videos, {}, workspace, session_opener(model, "cpu"))
        self.annotator.open(next(iter(videos)))
        guard = Guard(make_app(self.annotator), TOKEN, host, self.port)
        self._server = make_server(guard)
        self.annotator.is_closing = lambda: self._server.should_exit
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listening]})
        self._thread.start()
        self.url = f"http://{host}:{self.port}/?token={TOKEN}"

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """A request with the token → (status, body); ``path`` is that of the page, or begins with a slash."""
        headers = {"Cookie": f"annotate-{self.port}={TOKEN}", **{k.replace("_", "-"): v for k, v in headers.items()}}
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        path = path if path.startswith("/") else f"/api/{self.annotator.page}/{path}"
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self.annotator.close()


class Page:
    """The page in a browser, driven with the mouse; collects what must not happen."""

    def __init__(self, browser, url: str):
        self.page = browser.new_page(viewport={"width": 1280, "height": 720})
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.open(url)

    def _note(self, message) -> None:
        if message.type == "error":
            self.faults.append(message.text)

    def open(self, url: str) -> None:
        self.page.goto(url)
        self.wait("window.editor?.ids && editor.shown === 0")

    def js(self, expression: str):
        return self.page.evaluate(expression)

    def wait(self, condition: str, seconds: float = 240) -> None:
        """Until the JavaScript expression is true (Playwright's own way needs eval, which the page forbids)."""
        end = time.monotonic() + seconds
        while not self.js(condition):
            assert time.monotonic() < end, f"{condition}: {self.js('document.body.innerText')}"
            self.page.wait_for_timeout(10)

    def settle(self) -> None:
        """Until everything is saved and the server has told so."""
        self.wait("editor.saves.waiting.size === 0 && !editor.saves.running && !editor.before")

    def key(self, key: str) -> None:
        self.page.keyboard.press(key)

    def go(self, frame: int) -> None:
        self.js(f"editor.show({frame})")
        self.wait(f"editor.shown === {frame}")

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where on the screen the middle of a pixel of the picture is."""
        scale, left, top = self.js("[editor.view.scale, editor.view.x, editor.view.y]")
        box = self.page.locator("#stage").bounding_box()
        return box["x"] + left + (x + 0.5) * scale, box["y"] + top + (y + 0.5) * scale

    def drag(self, *pixels: tuple[int, int]) -> None:
        mouse = self.page.mouse
        mouse.move(*self.at(*pixels[0]))
        mouse.down()
        for pixel in pixels[1:]:
            mouse.move(*self.at(*pixel))
        mouse.up()
        self.settle()

    def listen(self, handler: str) -> None:
        """Call a JavaScript function with what the server reports of each frame; `seen` is an array for it."""
        self.js("window.seen = []")
        self.js(
            "new Promise((ready) => { const source = new EventSource(`/api/${editor.state.page}/events`);"
            "source.onopen = ready;"
            f"source.addEventListener('frame', (message) => ({handler})(JSON.parse(message.data))); }})"
        )

    def ids(self) -> np.ndarray:
        """H×W uint8: the mask as the page has it."""
        height, width = self.js("editor.state.size")
        return np.array(self.js("Array.from(editor.ids)"), np.uint8).reshape(height, width)

    def propagate(self, key: str = "Space") -> None:
        self.key(key)
        self.wait("editor.state.running")
        self.wait("!editor.state.running")


def stroke(size: tuple[int, int], pixels: list[tuple[int, int]], diameter: int) -> np.ndarray:
    """H×W bool: all pixels whose centre is within diameter / 2 of the line through ``pixels``."""
    y, x = np.mgrid[: size[0], : size[1]]
    points = np.stack([x, y], axis=2).astype(float)
    inside = np.zeros(size, bool)
    for a, b in zip(pixels, pixels[1:] or pixels, strict=False):
        start, along = np.array(a, float), np.subtract(b, a).astype(float)
        t = ((points - start) @ along / max(1e-9, along @ along)).clip(0, 1)
        inside |= np.square(points - start - t[..., None] * along).sum(2) <= diameter**2 / 4
    return inside


@contextmanager
def browser():
    """Chromium, without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()


Start = Callable[..., Server]
