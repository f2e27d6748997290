"""Every export opens again with the same pixels."""

import io
import json
import shutil
import time
import zipfile

import av
import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from annotation.polygons import polygons
from annotation.runs import pack
from datasets.images import PALETTE, draw_masks, read_mask
from tests.annotation.conftest import FRAMES, MASK, SIZE
from tests.annotator import needs_browser


def test_exports_do_not_depend_on_the_time(server, monkeypatch):
    """Boards without a battery begin in 1970 and zip files in 1980."""
    assert server.ask("PUT", "mask/0", pack(MASK))[0] == 204
    made = []
    for seconds in (0, 2e9):
        monkeypatch.setattr("zipfile.time.localtime", lambda *_, seconds=seconds: time.gmtime(seconds))
        assert server.ask("POST", "export/all.zip", b"") == (204, b"")
        made.append(server.ask("GET", "export/all.zip")[1])
    assert made[0] == made[1]
    archive = zipfile.ZipFile(io.BytesIO(made[0]))
    assert {entry.external_attr >> 16 for entry in archive.infolist()} == {0o644}
    with Image.open(zipfile.ZipFile(archive.open("masks.zip")).open("clip/00000.png")) as image:
        np.testing.assert_array_equal(np.asarray(image), MASK)


@needs_browser
def test_every_export_holds_the_masks(page, server, clip, tmp_path):
    page.page.set_input_files("#import", clip / "GroundTruth/clip/00000.png")  # an existing mask is taken in
    page.wait("0 in editor.state.users")
    page.settle()
    page.propagate()
    shown = []
    for t in range(FRAMES):
        page.go(t)
        shown.append(page.ids())
    np.testing.assert_array_equal(shown[0], read_mask(clip / "GroundTruth/clip/00000.png"))
    with page.page.expect_download() as download:
        page.page.get_by_text("all.zip").click()
    archive = zipfile.ZipFile(download.value.path())

    masks = zipfile.ZipFile(archive.open("masks.zip"))
    coco = COCO()
    coco.dataset = json.loads(archive.read("coco.json"))
    coco.createIndex()
    yolo = zipfile.ZipFile(archive.open("yolo.zip"))
    mattes = zipfile.ZipFile(archive.open("matte.zip"))
    with av.open(archive.open("overlay.mp4")) as video:
        drawn = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(drawn) == FRAMES
    for t, ids in enumerate(shown):
        with Image.open(masks.open(f"clip/{t:05d}.png")) as image:
            np.testing.assert_array_equal(np.asarray(image), ids)
            assert image.getpalette() == PALETTE.ravel().tolist()
        from_coco, from_yolo = np.zeros_like(ids), np.zeros_like(ids)
        for annotation in coco.imgToAnns[t]:
            mask = coco.annToMask(annotation)
            from_coco[mask > 0] = annotation["category_id"]
            assert annotation["area"] == mask.sum()
        np.testing.assert_array_equal(from_coco, ids)
        for line in yolo.read(f"labels/{t:05d}.txt").decode().splitlines():
            object_class, *numbers = map(float, line.split())
            polygon = np.array(numbers).reshape(-1, 2) * SIZE[::-1]
            cv2.fillPoly(from_yolo, [polygon.round().astype(np.int32)], int(object_class) + 1)
        np.testing.assert_array_equal(from_yolo, ids)
        for object_id in (1, 2):
            matte = cv2.imdecode(
                np.frombuffer(mattes.read(f"{object_id:03d}/{t:05d}.png"), np.uint8), cv2.IMREAD_UNCHANGED
            )
            assert matte.shape == SIZE and (matte[ids == object_id].astype(int).sum() > 0) == (ids == object_id).any()
            assert (matte[ids == object_id] > 84).all()  # it was the largest of three
        exact = av.VideoFrame.from_ndarray(draw_masks(server.annotator.opened.workspace.image(t), ids), format="rgb24")
        expected = exact.reformat(format="yuv420p").to_ndarray(format="rgb24")  # with colours of half the resolution
        assert abs(drawn[t].astype(int) - expected).mean() < 12

    shutil.rmtree(tmp_path / "work/exports")
    (tmp_path / "work/exports").write_text("a file where the folder should be")
    page.page.get_by_text("masks.zip").click()
    page.wait("document.getElementById('status').textContent.includes('exports')")
    assert "400" in page.faults.pop()


@pytest.mark.parametrize("mask", ["noise", "holes", "full", "empty"])
def test_polygons_are_exact(mask):
    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.random((41, 57)), (0, 0), 3)
    ids = {
        "noise": rng.random((41, 57)) < 0.5,
        "holes": smooth > np.median(smooth),
        "full": np.ones((41, 57), bool),
        "empty": np.zeros((41, 57), bool),
    }[mask]
    drawn = np.zeros(ids.shape, np.uint8)
    for polygon in polygons(ids):
        cv2.fillPoly(drawn, [polygon], 1)
    np.testing.assert_array_equal(drawn, ids)
