"""Fixtures of the tests of annotate.py."""

import json
from pathlib import Path

import numpy as np
import pytest

from annotation.runs import pack, unpack
from datasets.images import write_image, write_mask
from datasets.scene import Scene
from tests.annotator import Page, Server, browser

SIZE, FRAMES = (96, 128), 8
FIRST = [(30, 30), (70, 50)]  # a stroke
MASK = np.zeros(SIZE, np.uint8)
MASK[20:60, 30:80] = 1


@pytest.fixture(scope="session")
def chromium():
    with browser() as chromium:
        yield chromium


@pytest.fixture(scope="session")
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
