"""check_masks.py: each fault of own masks is told in a line, and the mended copy holds the ids that were meant."""

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


@pytest.fixture
def folder(tmp_path):
    """Video 'a' of six frames with a right mask of frame 0; video 'b' with nothing wrong."""
    for video in "ab":
        for t in range(6):
            write_image(tmp_path / f"mine/JPEGImages/{video}/{t:05d}.jpg", frame(t, SIZE))
        write_mask(tmp_path / f"mine/Annotations/{video}/00000.png", IDS)
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


def palette_image(ids, palette=PALETTE):
    image = Image.fromarray(ids)
    image.putpalette(palette.tobytes())
    return image


def big(ids):
    return cv2.resize(ids, None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)


def shrunk(array):
    """Drawn four times as large, half a pixel off, and resized smoothly: soft edges."""
    return cv2.resize(np.roll(big(array), (2, 2), axis=(0, 1)), SIZE[::-1], interpolation=cv2.INTER_AREA)


one = (IDS == 1).astype(np.uint8)
reordered = PALETTE.copy()
reordered[[0, 1, 2, 3]] = PALETTE[[0, 5, 1, 2]]
compact = np.array([0, 2, 3, 0, 0, 1], np.uint8)[IDS]
foreign = PALETTE.copy()
foreign[1:6] = [[10, 20, 30 + i] for i in range(5)]
wide = IDS.astype(np.uint16) * 300  # ids 300, 600, 1500
void = IDS.copy()
void[cv2.dilate(one, np.ones((3, 3))) != one] = 255

FAULTS = {  # what is saved for frame 4 beside the right frame 0, what is said, what was meant
    "colour": (Image.fromarray(PALETTE[IDS]), "is a colour image (RGB); expected ids", IDS),
    "alpha": (Image.fromarray(PALETTE[IDS]).convert("RGBA"), "is a colour image (RGBA)", IDS),
    "ids in RGB": (Image.fromarray(IDS).convert("RGB"), "is a colour image (RGB)", IDS),
    "other colours": (
        Image.fromarray(np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0] * 3, [0] * 3, [0, 0, 255]], np.uint8)[IDS]),
        "is a colour image",
        np.array([0, 6, 4, 0, 0, 3])[IDS],  # 1, 2 and 5 are taken by frame 0: the lowest free ids, by colour value
    ),
    "soft colours": (Image.fromarray(shrunk(PALETTE[IDS])), "has soft (anti-aliased) edges", IDS),
    "soft ids": (palette_image(shrunk(IDS * 20)), "has soft (anti-aliased) edges", IDS * 20),
    "soft white": (Image.fromarray(shrunk(one * 255)), "has soft (anti-aliased) edges", one * 3),
    "0/255": (
        Image.fromarray(one * 255),
        "holds 0 and 255, other masks of the video ids 1, 2, 5; {}: 255 made object 3",
        one * 3,
    ),
    "void": (palette_image(void), "holds 255 beside other ids (void?)", np.where(void == 255, 0, void)),
    "grey levels of colours": (palette_image(IDS).convert("L"), "lost its palette: its grey levels are those of", IDS),
    "order of palette": (palette_image(compact, reordered[[0, 2, 3, 1]]), "has the palette's colours in another", None),
    "other palette": (palette_image(IDS, foreign), "has another palette than DAVIS", IDS),
    "narrower": (palette_image(IDS[:, 1:]), "is 119×90, but its frame is 120×90; {}: resized", IDS),
    "above 255": (Image.fromarray(wide), "has ids above 255 (up to 1500)", np.array([0, 3, 4, 0, 0, 6])[IDS]),
    "16 bits": (Image.fromarray(IDS.astype(np.uint16)), "has 16 bits", IDS),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_told_and_mended(tmp_path, folder, check, fault):
    image, message, meant = FAULTS[fault]
    path = folder / "Annotations/a/00004.png"
    image.save(path)
    before = path.read_bytes()
    code, lines = check(folder)
    assert code == 1 and any(line.startswith(f"{path}: {message.format('--fix')}") for line in lines), lines
    assert all(line.startswith(f"{path}: ") for line in lines[:-1])

    code, lines = check(folder, "--fix", tmp_path / "mended")
    assert code == 0 and any(line.startswith(f"{path}: {message.format('fixed')}") for line in lines), lines
    assert check(tmp_path / "mended") == (0, ["2 videos, 0 faults"])
    assert path.read_bytes() == before
    mended = read_mask(tmp_path / "mended/Annotations/a/00004.png")
    if meant is not None:
        # a soft or a resized edge may come out a pixel off; everything else exactly
        inside = np.ones(SIZE, bool)
        if "soft" in fault or fault == "narrower":
            window = np.ones((3, 3), np.uint8)
            inside = cv2.erode(meant.astype(np.uint8), window) == cv2.dilate(meant.astype(np.uint8), window)
        assert (mended == meant)[inside].all()
    right = folder / "Annotations/b/00000.png"
    assert (tmp_path / "mended/Annotations/b/00000.png").read_bytes() == right.read_bytes()
    assert (tmp_path / "mended/JPEGImages/a/00000.jpg").is_file()


def test_jpeg_masks_are_mended(tmp_path, folder, check):
    image = Image.fromarray(big(one) * 255)
    write_image(folder / "JPEGImages/c/00000.jpg", frame(0, (360, 480)))
    (folder / "Annotations/c").mkdir()
    image.save(folder / "Annotations/c/00000.jpg", quality=80)
    code, lines = check(folder, "--fix", tmp_path / "mended")
    assert code == 0 and "00000.jpg: is a JPEG file; expected a PNG; fixed: saved as PNG" in lines[0]
    assert (read_mask(tmp_path / "mended/Annotations/c/00000.png") > 0).tolist() == (big(one) > 0).tolist()


def test_colours_mean_the_same_object_in_all_masks_of_a_video(tmp_path, folder, check):
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0] * 3, [0] * 3, [0, 0, 255]], np.uint8)
    for t, ids in ((0, np.where(IDS == 5, 5, 0)), (2, IDS)):
        Image.fromarray(colours[ids]).save(folder / f"Annotations/a/{t:05d}.png")
    assert check(folder, "--fix", tmp_path / "mended")[0] == 0
    first, later = (read_mask(tmp_path / f"mended/Annotations/a/{t:05d}.png") for t in (0, 2))
    assert set(np.unique(first)) == {0, 1} and (later[IDS == 5] == 1).all()
    assert set(np.unique(later)) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "Annotations/a/00000.png").rename(f / "Annotations/a/00003.png"), "3 frames come before it"),
        (lambda f: (f / "Annotations/a/00000.png").unlink(), "Annotations/a: has no mask with an object"),
        (lambda f: write_mask(f / "Annotations/a/00000.png", IDS * 0), "Annotations/a: has no mask with an object"),
        (lambda f: write_mask(f / "Annotations/a/00077.png", IDS), "00077.png: has no frame of its name"),
        (lambda f: write_mask(f / "Annotations/c/00000.png", IDS), "Annotations/c: has no frames"),
        (lambda f: (f / "Annotations/a/00004.png").write_bytes(b"x"), "00004.png: cannot be read"),
        (
            lambda f: Image.fromarray(np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)).save(
                f / "Annotations/a/00004.png"
            ),
            "00004.png: looks like a photo",
        ),
    ],
)
def test_what_only_the_owner_can_mend(tmp_path, folder, check, spoil, message):
    spoil(folder)
    code, lines = check(folder, "--fix", tmp_path / "mended")
    assert code == 1 and any(message in line and line.endswith("; to be mended by hand") for line in lines), lines


def test_right_masks_have_no_faults(folder, check):
    """Thin and small objects, many ids, a mask of 0/255 on its own: nothing to complain of."""
    many = np.zeros(SIZE, np.uint8)
    for i in range(30):
        many[12 * (i // 6) + 3 : 12 * (i // 6) + 9, 16 * (i % 6) + 2 : 16 * (i % 6) + 9] = i + 1
    write_mask(folder / "Annotations/a/00002.png", many)
    thin = IDS.copy()
    thin[60, 2:9] = 7
    write_mask(folder / "Annotations/a/00003.png", thin)
    write_mask(folder / "Annotations/b/00000.png", one, binary=True)
    assert check(folder) == (0, ["2 videos, 0 faults"])
    assert check(folder, "--fix", folder)[0] == 2 and check(folder / "none")[0] == 2
