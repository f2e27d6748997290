"""The page saves every stroke, into the video that it was painted on."""

import errno
import os
import shutil
import threading
from pathlib import Path

from annotation.runs import pack
from annotation.workspace import Workspace
from tests.annotation.conftest import FIRST, MASK
from tests.annotator import Page, needs_browser
from util.errors import InputError


@needs_browser
def test_a_full_disk_loses_no_stroke(page, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        page.page.mouse.click(*page.at(40, 40))
        page.wait("document.getElementById('saved').textContent.includes('No space left on device')")
    page.settle()
    assert (tmp_path / "work/Annotations/clip/00000.png").is_file()
    page.faults.clear()  # the browser reports the refused request


@needs_browser
def test_a_tab_that_is_left_open_cannot_write_into_another_video(chromium, clip, tmp_path, begin):
    root = tmp_path / "root"
    for name in ("clip", "other"):
        shutil.copytree(clip / "JPEGImages/clip", root / name)
    server = begin(root)
    old = Page(chromium, server.url)
    new = Page(chromium, server.url)
    with new.page.expect_navigation():
        new.page.select_option("#videos", "other")
    new.wait("window.editor?.ids && editor.shown === 0")
    old.page.mouse.click(*old.at(40, 40))
    old.wait("document.getElementById('saved').textContent.includes('another tab')")
    assert list((tmp_path / "work").rglob("*.png")) == []
    new.drag(*FIRST)
    assert [path.parent.name for path in (tmp_path / "work").rglob("*.png")] == ["other"]
    for page in (old, new):
        page.page.close()


@needs_browser
def test_another_video_is_opened_once_all_is_saved(chromium, clip, tmp_path, begin, monkeypatch):
    root, full = tmp_path / "root", threading.Event()
    for name in ("clip", "other"):
        shutil.copytree(clip / "JPEGImages/clip", root / name)
    server = begin(root)
    page, put = Page(chromium, server.url), Workspace.put_user_mask

    def refuse(*args, **options) -> None:
        if full.is_set():
            raise InputError("no space left")
        put(*args, **options)

    monkeypatch.setattr(Workspace, "put_user_mask", refuse)
    full.set()
    page.page.mouse.click(*page.at(40, 40))
    page.wait("document.getElementById('saved').textContent.includes('no space left')")
    page.page.select_option("#videos", "other")
    with page.page.expect_navigation():
        full.clear()
    page.wait("window.editor?.ids && editor.shown === 0")
    late = f"/api/{server.annotator.page}/mask/0"
    assert [path.parent.name for path in (tmp_path / "work").rglob("*.png")] == ["clip"]
    assert server.ask("POST", "open", b"clip")[0] == 204
    assert server.ask("PUT", late, pack(MASK))[0] == 409
    page.page.close()
