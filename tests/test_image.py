"""Images and masks on disk: strict reading, upright and reduced, atomic writing, the palette."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

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


def resized_object_4(path):
    """Ids 0 and 4, resized bilinearly: 1, 2 and 3 are what lies between them."""
    Image.fromarray(two_discs(4, 4)).resize((200, 150), Image.Resampling.BILINEAR).save(path)


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
        (supersampled, "different ids found .*scripts/check_masks.py"),
        (resized_object_4, "4 different ids found .*scripts/check_masks.py"),
        (photo, "RGB image; expected a mask.*scripts/check_masks.py"),
        (deep, "8-bit"),
        (truncated, "truncated, damaged"),
        (text, "not an image .*expected a whole JPEG or PNG"),
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
    with pytest.raises(InputError, match="frame.jpg: truncated"):
        read_image(path)


def test_failed_write_names_the_file_and_keeps_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="m.png: cannot be written"):
        write_mask(tmp_path / "file" / "m.png", two_discs(1, 2))

    write_mask(tmp_path / "m.png", two_discs(1, 2))

    def disk_full(self, data):
        with self.open("wb") as file:
            file.write(data[:9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", disk_full)
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


def photo_with(path: Path, orientation: int, size: tuple[int, int] = (47, 61)) -> None:
    """A smooth picture as a camera stores it, with a note on how it was held."""
    picture = cv2.resize(np.random.default_rng(3).integers(0, 256, (4, 5, 3), np.uint8), size[::-1])
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(path, exif=exif, quality=95)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(47, 61), (48, 64)])
def test_photos_are_read_upright_whole_and_reduced(tmp_path, suffix, orientation, size):
    path = tmp_path / f"a.{suffix}"
    photo_with(path, orientation, size)
    with Image.open(path) as image:
        expected = np.array(ImageOps.exif_transpose(image))
    assert image_size(path) == expected.shape[:2]
    assert np.array_equal(read_image(path), expected)
    for shrink in (2, 4, 8):
        reduced = read_image(path, shrink, expected.shape[:2])
        height, width = (-(-side // shrink) for side in expected.shape[:2])
        assert reduced.shape == (height, width, 3)
        whole = cv2.resize(reduced, None, fx=shrink, fy=shrink)[: expected.shape[0], : expected.shape[1]]
        assert np.abs(whole.astype(int) - expected).mean() < 2 * shrink
    with pytest.raises(InputError, match=f"a.{suffix}: is .* pixels; expected 5×9"):
        read_image(path, 2, (9, 5))


def test_damaged_exif_data_do_not_spoil_a_photo(tmp_path):
    photo_with(tmp_path / "a.jpg", 6)
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data.replace(b"Exif\0\0", b"Exif\0\0garbage", 1)[: len(data)] + b"\xff\xd9")
    assert image_size(tmp_path / "a.jpg") == (47, 61) and read_image(tmp_path / "a.jpg").shape == (47, 61, 3)


def test_sizes_are_read_from_the_header_alone(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_image(path, np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
        assert image_size(path) == (90, 120)
    with pytest.raises(InputError, match="a.png: truncated"):
        read_image(path)
    for size in (0, 5, 20):
        path.write_bytes(whole[:size])
        for read in (image_size, read_image, read_mask):
            with pytest.raises(InputError, match="a.png: truncated"):
                read(path)


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


def test_few_thin_objects_beside_a_large_one_are_not_soft_edges(tmp_path):
    mask = np.zeros((60, 80), np.uint8)
    mask[10:40, 10:40] = 4
    mask[15:25, 40], mask[9, 12:30], mask[30:35, 8:10] = 1, 2, 3
    write_mask(tmp_path / "m.png", mask)
    assert np.array_equal(read_mask(tmp_path / "m.png"), mask)
