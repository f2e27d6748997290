"""Palette, strict mask reading, atomic writing."""

import cv2
import numpy as np
import pytest
from PIL import Image

from datasets.images import PALETTE, draw_masks, image_size, read_image, read_mask, write_image, write_mask
from util.errors import InputError


def two_discs(first: int, second: int, height: int = 60, width: int = 80) -> np.ndarray:
    ids = np.zeros((height, width), np.uint8)
    cv2.circle(ids, (25, 30), 15, first, -1)
    cv2.circle(ids, (58, 30), 12, second, -1)
    return ids


def test_palette_is_the_one_of_the_davis_files():
    first_entries = [
        (0, 0, 0),
        (128, 0, 0),
        (0, 128, 0),
        (128, 128, 0),
        (0, 0, 128),
        (128, 0, 128),
        (0, 128, 128),
    ]
    assert [tuple(c) for c in PALETTE[:7]] == first_entries
    assert tuple(PALETTE[8]) == (64, 0, 0) and tuple(PALETTE[23]) == (128, 192, 128)
    assert len(np.unique(PALETTE, axis=0)) == 256


@pytest.mark.parametrize("ids", [(1, 2), (5, 254), (255, 255)])
@pytest.mark.parametrize("shape", [(60, 80), (61, 1), (1, 7)])
def test_masks_come_back_as_written(tmp_path, ids, shape):
    mask = np.zeros(shape, np.uint8)
    mask[: shape[0] // 2 + 1], mask[-1, -1] = ids
    write_mask(tmp_path / "new folder" / "m.png", mask)
    with Image.open(tmp_path / "new folder" / "m.png") as image:
        assert image.mode == "P"
        assert image.getpalette() == PALETTE.ravel().tolist()
    np.testing.assert_array_equal(read_mask(tmp_path / "new folder" / "m.png"), mask)
    assert [p.name for p in (tmp_path / "new folder").iterdir()] == ["m.png"]

    write_mask(tmp_path / "binary.png", mask, binary=True)
    with Image.open(tmp_path / "binary.png") as image:
        assert image.mode == "L"
    np.testing.assert_array_equal(read_mask(tmp_path / "binary.png"), (mask > 0) * 255)


def test_many_objects_are_not_taken_for_soft_edges(tmp_path):
    mask = np.arange(1, 51, dtype=np.uint8).reshape(5, 10).repeat(8, 0).repeat(8, 1)
    write_mask(tmp_path / "m.png", mask)
    assert len(np.unique(read_mask(tmp_path / "m.png"))) == 50


def soft(path):
    Image.fromarray(cv2.GaussianBlur(two_discs(255, 255), (5, 5), 1.5)).save(path)


def soft_below_255(path):
    Image.fromarray(cv2.GaussianBlur(two_discs(200, 100), (7, 7), 2)).save(path)


def supersampled(path):
    large = two_discs(255, 255, 120, 160)
    Image.fromarray(large).resize((80, 60), Image.Resampling.BOX).save(path)


def photo(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)).save(path)


def deep(path):
    Image.fromarray(two_discs(1, 2).astype(np.uint16) * 200).save(path)


def truncated(path):
    write_mask(path, np.random.default_rng(0).integers(0, 9, (200, 200), np.uint8))
    path.write_bytes(path.read_bytes()[:5000])


def text(path):
    path.write_text("not an image\nat all")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (soft, "different ids found"),
        (soft_below_255, "different ids found"),
        (supersampled, "different ids found"),
        (photo, "RGB image; expected a mask"),
        (deep, "8-bit"),
        (truncated, "truncated or damaged"),
        (text, "expected JPEG or PNG"),
        (lambda path: None, "no such file"),
    ],
)
def test_what_cannot_be_a_mask_is_refused_in_one_line(tmp_path, make, says):
    path = tmp_path / "m.png"
    make(path)
    with pytest.raises(InputError, match=says) as caught:
        read_mask(path)
    assert str(caught.value).count(str(path)) == 1 and "\n" not in str(caught.value)


def test_truncated_jpeg_is_refused_although_its_header_reads(tmp_path):
    path = tmp_path / "frame.jpg"
    write_image(path, np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:2000])
    assert image_size(path) == (60, 80)
    with pytest.raises(InputError, match="frame.jpg: image is truncated"):
        read_image(path)


def test_failed_write_names_the_file_and_keeps_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="m.png: cannot be written"):
        write_mask(tmp_path / "file" / "m.png", two_discs(1, 2))

    write_mask(tmp_path / "m.png", two_discs(1, 2))

    def disk_full(self, path, **options):
        path.write_bytes(b"half a fi")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", disk_full)
    with pytest.raises(InputError, match="No space left on device"):
        write_mask(tmp_path / "m.png", two_discs(3, 4))
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), two_discs(1, 2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "m.png"]


def test_overlay_tints_objects_and_leaves_the_rest(tmp_path):
    image = np.full((60, 80, 3), 100, np.uint8)
    ids = two_discs(1, 254)
    drawn = draw_masks(image, ids, alpha=0.5)
    assert (drawn[ids == 0] == 100).all()
    assert tuple(drawn[30, 25]) == (114, 50, 50)  # inside: halfway to (128, 0, 0)
    assert tuple(drawn[30, 10]) == (128, 0, 0)  # on the outline: the colour itself
    assert (image == 100).all()


def test_photos_are_read_upright(tmp_path):
    """A phone stores a portrait lying on its side, with a note; the mask was drawn on the upright picture."""
    lying = np.zeros((40, 60, 3), np.uint8)
    lying[:, :30] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(lying).save(tmp_path / "a.jpg", exif=exif)
    assert image_size(tmp_path / "a.jpg") == (60, 40)
    upright = read_image(tmp_path / "a.jpg")
    assert upright.shape == (60, 40, 3) and upright[:25].min() > 200 and upright[35:].max() < 50


def test_soft_edges_of_few_ids_are_refused_and_small_objects_are_not(tmp_path):
    y, x = np.mgrid[:240, :320]
    ellipse = (((x - 160) / 90) ** 2 + ((y - 120) / 60) ** 2 < 1).astype(np.float32)
    soft = ellipse.reshape(60, 4, 80, 4).mean((1, 3)) * 200
    Image.fromarray(soft.round().astype(np.uint8)).save(tmp_path / "soft.png")
    with pytest.raises(InputError, match="different ids found"):
        read_mask(tmp_path / "soft.png")
    small = np.zeros((60, 80), np.uint8)
    small[10:40, 10:40] = 30
    for i in range(8):
        small[5 + 6 * i, 60] = 40 + i
    write_mask(tmp_path / "small.png", small)
    assert np.array_equal(read_mask(tmp_path / "small.png"), small)
