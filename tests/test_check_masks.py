"""check_masks.py: each fault is one line, and the corrected copy holds the ids that were meant, or no mask at all."""

import io
import os
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from datasets.images import PALETTE, read_mask, write_image, write_mask
from scripts import check_masks
from tests.folders import frame

SIZE = (90, 120)
IDS = np.zeros(SIZE, np.uint8)  # three objects, two of which touch
cv2.circle(IDS, (35, 40), 24, 1, -1)
cv2.circle(IDS, (70, 45), 22, 2, -1)
cv2.rectangle(IDS, (85, 70), (112, 84), 5, -1)
ONE = (IDS == 1).astype(np.uint8)
RANKS = np.array([0, 3, 2, 0, 0, 1], np.uint8)[IDS]  # the order of the objects' COLOURS
COLOURS = np.zeros((6, 3), np.uint8)
COLOURS[[1, 2, 5]] = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
ORDER = np.array([0, 1, 2, 0, 0, 3], np.uint8)[IDS]
LINE = np.zeros((*SIZE, 3), np.uint8)  # a thin object of another colour
LINE[5:7, 90:118] = [0, 255, 255]
THIN = np.where(LINE[..., 1] > 0, 3, np.array([0, 4, 2, 0, 0, 1])[IDS]).astype(np.uint8)
WHITE_BACKGROUND = np.where((IDS > 0)[..., None], COLOURS[IDS], 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Videos 'a' and 'b' of six frames; 'b' has a valid mask."""
    for video in "ab":
        for t in range(6):
            write_image(tmp_path / f"mine/JPEGImages/{video}/{t:05d}.jpg", frame(t, SIZE))
    write_mask(tmp_path / "mine/Annotations/b/00000.png", IDS)
    (tmp_path / "mine/Annotations/a").mkdir()
    return tmp_path / "mine"


@pytest.fixture
def check(capsys):
    """``check(folder, *flags)`` → (exit code, lines)."""

    def run(*arguments):
        code = 0
        try:
            check_masks.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
        return code, capsys.readouterr().out.splitlines()

    return run


def palette_image(ids):
    image = Image.fromarray(ids)
    image.putpalette(PALETTE.tobytes())
    return image


def smooth(array):
    """Drawn four times as large, half a pixel off, and reduced with smoothed edges."""
    big = cv2.resize(array, None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
    return cv2.resize(np.roll(big, (2, 2), axis=(0, 1)), SIZE[::-1], interpolation=cv2.INTER_AREA)


def compressed(colours):
    """As a JPEG leaves it."""
    buffer = io.BytesIO()
    Image.fromarray(colours).save(buffer, "JPEG", quality=90)
    return Image.open(buffer)


def rgba(colours, alpha):
    return Image.fromarray(np.dstack([colours, alpha * np.uint8(255)]))


CERTAIN = {  # the mask of frame 0, the fault, what was meant
    "palette colours": (Image.fromarray(PALETTE[IDS]), "is a RGB image; {}: ids by colour", IDS),
    "other colours": (Image.fromarray(COLOURS[IDS]), "is a RGB image; {}: ids by colour", RANKS),
    "opaque alpha": (Image.fromarray(PALETTE[IDS]).convert("RGBA"), "is a RGBA image; {}: ids by colour", IDS),
    "ids in RGB": (Image.fromarray(IDS).convert("RGB"), "is a RGB image; {}: saved with 8 bits", IDS),
    "shape in alpha, black": (rgba(IDS[..., None].repeat(3, 2) * 0, ONE), "is a RGBA image; {}", ONE * 255),
    "shape in alpha, white": (rgba(np.full((*SIZE, 3), 255, np.uint8), ONE), "is a RGBA image; {}", ONE * 255),
    "shape in alpha, red": (rgba(np.full((*SIZE, 3), [128, 0, 0], np.uint8), ONE), "is a RGBA image; {}", ONE),
    "colours on transparent white": (rgba(WHITE_BACKGROUND, (IDS > 0).view(np.uint8)), "is a RGBA image; {}", RANKS),
    "smoothed white": (Image.fromarray(smooth(ONE * 255)), "{}: one object with sharp edges", ONE * 255),
    "smoothed id": (palette_image(smooth(ONE * 90)), "{}: one object with sharp edges", ONE * 90),
    "smoothed colours": (Image.fromarray(smooth(COLOURS[IDS])), "is a RGB image; {}: ids by colour", RANKS),
    "smoothed, thin colours": (Image.fromarray(smooth(COLOURS[IDS]) | LINE), "is a RGB image; {}: ids by colour", THIN),
    "wide edges": (
        Image.fromarray(cv2.GaussianBlur(ONE * 255, (0, 0), 3)),
        "{}: one object with sharp edges",
        ONE * 255,
    ),
    "thin colours": (Image.fromarray(COLOURS[IDS] | LINE), "is a RGB image; {}: ids by colour", THIN),
    # Pillow reads them as I or, in later versions, I;16.
    "16 bits": (Image.fromarray(IDS.astype(np.uint16)), " image; {}: saved with 8 bits", IDS),
    "ids above 255": (Image.fromarray(IDS.astype(np.uint16) * 300), " image; {}", ORDER),
    "narrower": (palette_image(IDS[:, 1:]), "is 119×90, but its frame is 120×90; {}: resized", IDS),
    "lower": (palette_image(IDS[1:]), "is 120×89, but its frame is 120×90; {}: resized", IDS),
}


@pytest.mark.parametrize("fault", CERTAIN)
def test_what_is_certain_is_corrected_in_a_copy(tmp_path, folder, check, fault):
    image, message, meant = CERTAIN[fault]
    path = folder / "Annotations/a/00000.png"
    image.save(path)
    before = path.read_bytes()
    for flags, word in (((), "--fix"), (("--fix", tmp_path / "fixed"), "fixed")):
        code, lines = check(folder, *flags)
        line = next(line for line in lines if line.startswith(f"{path}: "))
        assert message.format(word) in line and code == (not flags)
    assert path.read_bytes() == before
    fixed = read_mask(tmp_path / "fixed/Annotations/a/00000.png")
    window = np.ones((3, 3), np.uint8)  # a smoothed or resized edge may come out a pixel off
    same_around = cv2.erode(meant, window) == cv2.dilate(meant, window)
    inside = same_around if fault.startswith(("smoothed", "wide", "narrower", "lower")) else np.ones(SIZE, bool)
    assert (fixed == meant)[inside].all() and set(np.unique(fixed)) == set(np.unique(meant))
    assert (read_mask(tmp_path / "fixed/Annotations/b/00000.png") == IDS).all()
    assert (tmp_path / "fixed/JPEGImages/a/00000.jpg").is_file()
    assert check(tmp_path / "fixed")[0] == 0


VOID = np.where(cv2.dilate(ONE, np.ones((3, 3), np.uint8)) != ONE, 255, IDS).astype(np.uint8)
PHOTO = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
BLACK_AND_RED = np.where((IDS == 1)[..., None], [128, 0, 0], 0).astype(np.uint8)
UNCERTAIN = {  # what is saved as which frame's mask beside the ids of frame 3, and the fault
    "white beside ids": (Image.fromarray(ONE * 255), "00000.png", "holds white or colours, other masks ids"),
    "colours beside ids": (Image.fromarray(COLOURS[IDS]), "00000.png", "holds white or colours, other masks ids"),
    "white background": (Image.fromarray(WHITE_BACKGROUND), "00000.png", "its border is not black"),
    "white and black": (Image.fromarray((1 - ONE) * 255).convert("RGB"), "00000.png", "its border is not black"),
    "black on transparent": (rgba(BLACK_AND_RED, (IDS > 0).view(np.uint8)), "00000.png", "whether black is an object"),
    "void": (palette_image(VOID), "00000.png", "only you know which values are objects"),
    "smoothed ids": (palette_image(smooth(IDS * 20)), "00000.png", "only you know which values are objects"),
    "photo": (Image.fromarray(PHOTO), "00000.png", "looks like a photo"),
    "compressed colours": (
        compressed(COLOURS[IDS]),
        "00000.png",
        "uncertain which colours are objects|looks like a photo",
    ),
    "half as wide": (palette_image(IDS[:, ::2]), "00000.png", "is 60×90, but its frame is 120×90"),
    "missing frame": (palette_image(IDS), "00006.png", "has no frame of the same name"),
    "wrong name": (palette_image(IDS), "mask.png", "has no frame of the same name"),
    "JPEG": (palette_image(IDS).convert("RGB"), "00000.jpg", "is not a PNG file"),
    "damaged": (b"x", "00000.png", "damaged|readable"),
}


@pytest.mark.parametrize("fault", UNCERTAIN)
def test_what_is_uncertain_is_left_to_the_user(tmp_path, folder, check, fault):
    content, name, message = UNCERTAIN[fault]
    path = folder / "Annotations/a" / name
    write_mask(path.with_name("00003.png"), IDS)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content.save(path)
    code, lines = check(folder, "--fix", tmp_path / "fixed")
    found = [line for line in lines if line.startswith(f"{path}: ") and line.endswith("; fix by hand")]
    assert code == 1 and len(found) == 1 and any(part in found[0] for part in message.split("|")), lines
    assert [mask.name for mask in sorted((tmp_path / "fixed/Annotations/a").iterdir())] == ["00003.png"]


def test_valid_masks_have_no_faults(tmp_path, folder, check):
    """Many, small and thin objects, and a mask of 0 and 255 alone, beside a folder that is none of the two."""
    (folder / "Annotations_old/removed").mkdir(parents=True)
    many = np.zeros(SIZE, np.uint8)
    for i in range(30):
        many[12 * (i // 6) + 3 : 12 * (i // 6) + 9, 16 * (i % 6) + 2 : 16 * (i % 6) + 9] = i + 1
    many[85, 2:9] = 40
    write_mask(folder / "Annotations/a/00002.png", many)
    write_mask(folder / "Annotations/b/00000.png", ONE, binary=True)
    assert check(folder, "--fix", tmp_path / "fixed") == (0, ["0 faults, 0 of which --fix corrects"])
    assert (read_mask(tmp_path / "fixed/Annotations/a/00002.png") == many).all()


@pytest.mark.parametrize(
    ("labels", "names", "meant"),
    [
        (COLOURS, "#00ff00 is 1, #0000ff is 2, #ff0000 is 3", [0, 3, 1, 0, 0, 2]),
        (np.arange(6, dtype=np.uint16) * 300, "600 is 1, 300 is 2, 1500 is 3", [0, 2, 1, 0, 0, 3]),
    ],
)
def test_a_colour_is_the_same_object_in_all_masks_of_a_video(tmp_path, folder, check, labels, names, meant):
    for t, ids in ((0, np.where(IDS == 2, 2, 0)), (2, IDS)):
        Image.fromarray(labels[ids]).save(folder / f"Annotations/a/{t:05d}.png")
    _, lines = check(folder, "--fix", tmp_path / "fixed")
    assert any(f"instead of ids; fixed: {names}" in line for line in lines)
    first, later = (read_mask(tmp_path / f"fixed/Annotations/a/{t:05d}.png") for t in (0, 2))
    assert (first == (IDS == 2)).all() and (later == np.array(meant)[IDS]).all()


def test_masks_of_a_video_file(tmp_path, check):
    video, masks = tmp_path / "clip.mp4", [tmp_path / "first.png", tmp_path / "later.png"]
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame(0, SIZE), format="rgb24")))
        container.mux(stream.encode(None))
    for mask, ids in zip(masks, (IDS, ONE), strict=True):
        Image.fromarray(PALETTE[ids[:, 1:]]).save(mask)
    code, lines = check("--video", video, "--mask", masks[0], f"30:{masks[1]}", "--fix", tmp_path / "fixed")
    assert code == 0 and f"{masks[1]}: is 119×90, but its frame is 120×90; fixed: resized (nearest neighbour)" in lines
    assert [set(np.unique(read_mask(tmp_path / "fixed" / mask.name))) for mask in masks] == [{0, 1, 2, 5}, {0, 1}]
    same = tmp_path / "m2/first.png"
    write_mask(same, ONE)
    code, lines = check("--video", video, "--mask", masks[0], f"5:{same}", "--fix", tmp_path / "two")
    assert code == 1 and any(line.startswith(f"{same}: is left out") for line in lines)
    for wrong in (["--video", video], ["--mask", masks[0]], [], [tmp_path, "--video", video, "--mask", masks[0]]):
        assert check(*wrong)[0] == 2
    assert check("--video", tmp_path / "none.mp4", "--mask", masks[0])[0] == 2
    assert check(tmp_path / "none")[0] == 2


@pytest.mark.skipif(sys.platform == "win32", reason="needs named pipes")
def test_a_named_pipe_is_not_read(folder):
    os.mkfifo(folder / "Annotations/a/00000.png")
    command = [sys.executable, "scripts/check_masks.py", str(folder)]
    result = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1 and "00000.png: is not a PNG file; fix by hand" in result.stdout
