"""Fixtures of the tests of annotate.py."""

from pathlib import Path

import pytest

from datasets.images import write_image, write_mask
from datasets.scene import Scene
from tests.annotator import Page, Server, browser

SIZE, FRAMES = (96, 128), 8
FIRST = [(30, 30), (70, 50)]  # a stroke


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
