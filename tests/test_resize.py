"""resize_youtube.py and resize_length.py: sizes, palettes, unchanged files, and continuing after an interruption."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from datasets.images import PALETTE, read_image, read_mask, write_image, write_mask
from scripts import resize_length, resize_youtube
from tests.folders import frame, ids_at


def test_resize_youtube(tmp_path, capsys):
    source, target = tmp_path / "train", tmp_path / "train_480p"
    ids = ids_at(3, 1, 7, size=(60, 100)).repeat(10, 0).repeat(10, 1)  # 1000×600
    write_image(source / "JPEGImages/a/00000.jpg", frame(0, (600, 1000)))
    write_mask(source / "Annotations/a/00000.png", ids)
    write_image(source / "JPEGImages/tall/00005.jpg", frame(1, (1000, 600)))
    write_image(source / "JPEGImages/small/00000.jpg", frame(2, (90, 160)))
    (source / "meta.json").write_text(json.dumps({"videos": {}}))
    (source / "JPEGImages/a/00005.jpg").write_bytes((source / "JPEGImages/a/00000.jpg").read_bytes()[:999])

    with pytest.raises(SystemExit) as end:  # the damaged file is reported, the others are converted
        resize_youtube.main([str(source), str(target)])
    printed = capsys.readouterr().out
    assert end.value.code == 1 and f"error: {source}/JPEGImages/a/00005.jpg: cannot be read" in printed
    assert "5 files written, 0 existed, 1 failed" in printed
    with Image.open(target / "Annotations/a/00000.png") as mask:
        assert (mask.mode, mask.size, mask.getpalette()) == ("P", (800, 480), PALETTE.ravel().tolist())
        small = np.array(mask)
    assert set(np.unique(small)) == {0, 1, 7}
    centres = [int((i + 0.5) * 10 / 8) for i in range(480)], [int((i + 0.5) * 10 / 8) for i in range(800)]
    assert (small == ids[np.ix_(*centres)]).all()  # nearest neighbour
    photo = read_image(target / "JPEGImages/a/00000.jpg")
    assert photo.shape == (480, 800, 3)
    assert np.abs(photo.mean((0, 1)) - frame(0, (600, 1000)).mean((0, 1))).max() < 2
    assert read_image(target / "JPEGImages/tall/00005.jpg").shape == (800, 480, 3)
    for same in ("JPEGImages/small/00000.jpg", "meta.json"):
        assert (target / same).read_bytes() == (source / same).read_bytes()

    write_image(source / "JPEGImages/a/00005.jpg", frame(5, (600, 1000)))
    (target / "JPEGImages/a/00000.jpg").write_bytes(b"mine")  # existing files are kept
    resize_youtube.main([str(source), str(target)])
    assert "1 files written, 5 existed, 0 failed" in capsys.readouterr().out
    assert (target / "JPEGImages/a/00000.jpg").read_bytes() == b"mine"
    assert not list(target.rglob("*.tmp"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs links")
def test_links_are_followed_and_dangling_ones_named(tmp_path, capsys):
    """Such as JPEGImages in the copies of check_masks.py, and files that git-annex has not fetched."""
    write_image(tmp_path / "images/a/0.jpg", frame(0, (60, 90)))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/JPEGImages").symlink_to("../images")
    resize_length.main([str(tmp_path / "in"), str(tmp_path / "out"), "--size", "30"])
    assert read_image(tmp_path / "out/JPEGImages/a/0.jpg").shape == (30, 45, 3)
    (tmp_path / "images/a/1.jpg").symlink_to("nowhere")
    with pytest.raises(SystemExit) as end:
        resize_length.main([str(tmp_path / "in"), str(tmp_path / "out"), "--size", "30"])
    printed = capsys.readouterr().out
    assert end.value.code == 1 and "JPEGImages/a/1.jpg: cannot be read (no such file; expected a file)" in printed


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_photos_and_masks_are_turned_upright(tmp_path, suffix):
    upright, exif = np.repeat(ids_at(3, 1, 7, size=(60, 100)), 2, 0), Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.rot90(upright))
    stored.putpalette(PALETTE.tobytes())
    (tmp_path / "in").mkdir()
    stored.save(tmp_path / "in/mask.png", exif=exif)
    stored.convert("RGB").save(tmp_path / f"in/photo.{suffix}", exif=exif)
    resize_length.main([str(tmp_path / "in"), str(tmp_path / "out"), "--size", "50"])
    small = read_mask(tmp_path / "out/mask.png")
    assert small.shape == (60, 50) and (small == upright[1::2, 1::2]).all()
    assert np.abs(read_image(tmp_path / f"out/photo.{suffix}").astype(int) - PALETTE[small]).mean() < 9


def test_resize_length(tmp_path, capsys):
    for name, binary in (("a", True), ("b", False)):
        write_image(tmp_path / f"in/{name}.jpg", frame(0, (500, 800)))
        write_mask(tmp_path / f"in/{name}.png", np.eye(500, 800, dtype=np.uint8) > 0, binary=binary)
    resize_length.main([str(tmp_path / "in"), str(tmp_path / "out"), "--workers", "1"])
    assert read_image(tmp_path / "out/a.jpg").shape == (384, 614, 3) and read_mask(tmp_path / "out/a.png").max() == 255


@pytest.mark.parametrize(
    ("source", "target", "flags", "message"),
    [
        ("in", "in/small", [], "in/small: lies in"),
        ("none", "out", [], "none: no such folder"),
        ("empty", "out", [], "empty: holds no .jpg or .png files"),
        ("in", "out", ["--size", "0"], "--size 0: expected at least one pixel"),
        ("in", "out", ["--size", "-5"], "--size -5: expected at least one pixel"),
        ("in", "out", ["--workers", "0"], "--workers 0: expected 1 to 1024 threads"),
        ("in", "out", ["--workers", "-1"], "--workers -1: expected 1 to 1024 threads"),
        ("in", "in/a.jpg", [], "in/a.jpg: lies in"),
        ("in", "file", [], "file/a.jpg: cannot be written"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, source, target, flags, message):
    write_image(tmp_path / "in/a.jpg", frame(0, (40, 60)))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SystemExit) as end:
        resize_length.main([str(tmp_path / source), str(tmp_path / target), *flags])
    error = capsys.readouterr().err
    assert end.value.code == 2 and message in error and error.count("\n") == 1
