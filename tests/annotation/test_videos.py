"""Videos with unusual names, sizes and colours, in places where they must not be, and that change."""

import json
import shutil
import sys
import zipfile
from io import BytesIO

import cv2
import numpy as np
import pytest

from annotate import list_videos
from annotation.runs import pack
from datasets.images import write_image, write_mask
from tests.annotation.conftest import MASK, propagated, wait


def test_frames_that_change_under_the_server_are_named(begin, clip, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(clip / "JPEGImages", root / "JPEGImages")
    server = begin(root)
    wait(server)
    write_image(root / "JPEGImages/clip/00002.png", np.zeros((50, 60, 3), np.uint8))
    (root / "JPEGImages/clip/00005.png").unlink()
    for frame in (2, 5):
        status, message = server.ask("GET", f"frame/{frame}.jpg")
        assert status == 400 and f"0000{frame}.png".encode() in message
    state = propagated(server)
    assert "00002.png" in state["message"] and state["running"] is None
    assert server.ask("GET", "frame/1.jpg")[0] == 200


def test_unusual_videos(begin, tmp_path):
    """Names, sizes and colours; each goes all the way to the exports."""
    root, rng = tmp_path / "root", np.random.default_rng(0)
    images = {
        "ünï cødé #1 100%": rng.integers(0, 256, (33, 47, 3), np.uint8),
        "grey": rng.integers(0, 256, (40, 56), np.uint8),
        "see-through": rng.integers(0, 256, (41, 56, 4), np.uint8),
    }
    for name, image in images.items():
        (root / name).mkdir(parents=True)
        for t in range(1 if name == "grey" else 2):
            cv2.imencode(".png", image)[1].tofile(root / name / f"frame {t}.é.png")
    server = begin(root)
    for name, image in images.items():
        assert server.ask("POST", "open", name.encode())[0] == 204
        jpeg = cv2.imdecode(np.frombuffer(server.ask("GET", "frame/0.jpg")[1], np.uint8), cv2.IMREAD_COLOR)
        assert jpeg.shape[:2] == image.shape[:2]
        mask = np.zeros(image.shape[:2], np.uint8)
        mask[10:20, 10:30] = 3
        assert server.ask("PUT", "mask/0?complete=1", pack(mask))[0] == 204
        assert server.ask("POST", "propagate?frame=0&direction=both", b"")[0] == 204
        assert wait(server)["message"] is None
        assert server.ask("GET", "export/all.zip")[0] == 404
        assert server.ask("POST", "export/all.zip", b"")[0] == 204
        status, body = server.ask("GET", "export/all.zip")
        assert status == 200 and len(zipfile.ZipFile(BytesIO(body)).namelist()) == 5


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are Unicode")
def test_names_that_are_not_utf_8_are_named_and_do_not_stop_the_rest(begin, clip, tmp_path):
    root = tmp_path / "root"
    for video, name in (("a", "00000.png"), ("b", "\udcff.png"), ("c\udcff", "00000.png")):
        shutil.copytree(clip / "JPEGImages/clip", root / video)
        (root / video / "00000.png").rename(root / video / name)
    server = begin(root)
    assert json.loads(server.ask("POST", "/api/begin")[1])["videos"] == ["a", "b", r"c\udcff"]
    for video, name in (("b", r"\udcff.png"), (r"c\udcff", r"c\udcff")):
        status, message = server.ask("POST", "open", video.encode())
        assert status == 400 and f"/{video}: holds the name {name}; expected UTF-8" in message.decode()


def test_links_do_not_lead_out_of_the_root(begin, clip, tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    shutil.copytree(clip / "JPEGImages/clip", root / "JPEGImages/inside")
    shutil.copytree(clip / "JPEGImages/clip", outside)
    (root / "folder").symlink_to(outside)
    (root / "film.mp4").symlink_to(outside / "00000.png")
    (root / "loop").symlink_to(root / "loop")
    (root / "frames").mkdir()
    (root / "frames/0.png").symlink_to(outside / "00000.png")
    write_mask(outside / "mask.png", MASK)
    (root / "Annotations/inside").mkdir(parents=True)
    (root / "Annotations/inside/00000.png").symlink_to(outside / "mask.png")
    assert list(list_videos(root)) == ["JPEGImages/inside"]
    assert json.loads(begin(root).ask("GET", "state")[1])["users"] == {}
