"""Clips from still images: image and mask together, colours, objects, and faulty files."""

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.clip import Clip
from datasets.config import DataConfig
from datasets.images import write_mask
from datasets.pairs import static_pairs
from datasets.sources import StaticClips
from tests.folders import assert_mask_sticks, bars, blob, is_coloured, save_photo, write_static
from util.errors import InputError


def sample(clips: StaticClips, seed: int = 0) -> Clip:
    return clips.sample(0, np.random.default_rng(seed)).unpack("cpu")


@pytest.mark.parametrize("size", [(80, 100), (700, 500), (1500, 1900)])
@pytest.mark.parametrize("binary", [True, False])
def test_static_mask_sticks_to_the_object(tmp_path, size, binary):
    images = StaticClips(static_pairs(write_static(tmp_path, 1, size, binary)), DataConfig(crop=160), spline=0.5)
    coloured = 0
    for seed in range(6):
        clip = sample(images, seed)
        assert clip.frames.shape == (3, 3, 160, 160) and clip.masks.shape == (3, 1, 160, 160)
        assert clip.frames.dtype == clip.masks.dtype == clip.valid.dtype == torch.float32
        assert clip.frames.min() >= 0 and clip.frames.max() <= 1
        assert set(clip.masks.unique().tolist()) == {0, 1} and clip.masks[0].any()
        assert not torch.equal(clip.masks[0], clip.masks[1])
        if is_coloured(clip):
            assert_mask_sticks(clip)
            coloured += 1
    assert coloured >= 4


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_masks_belong_to_the_upright_photo(tmp_path, suffix, orientation):
    """A camera stores a portrait as a landscape with a note; reduced decoding must not forget it."""
    upright = blob(700, 500, seed=1)
    stored = np.rot90(upright, {3: 2, 6: 1, 8: 3}[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    save_photo(tmp_path / "images" / f"a.{suffix}", stored, exif=exif)
    write_mask(tmp_path / "masks/a.png", upright)
    clips = StaticClips(static_pairs(tmp_path / "images", tmp_path / "masks"), DataConfig(crop=96), spline=0)
    checked = 0
    for seed in range(6):
        clip = sample(clips, seed)
        if is_coloured(clip):
            assert_mask_sticks(clip)
            checked += 1
    assert checked >= 4
    write_mask(tmp_path / "masks/a.png", np.ascontiguousarray(np.rot90(upright)))
    with pytest.raises(InputError, match="700×500 pixels, but its frame a.* 500×700"):
        static_pairs(tmp_path / "images", tmp_path / "masks")


def test_colours_change_with_the_clip_and_with_the_frame(tmp_path):
    """One flat colour: shared brightness and hue differ between clips, the frames' own brightness within a clip."""
    path = tmp_path / "a.jpg"
    Image.new("RGB", (200, 200), (150, 100, 75)).save(path, quality=100, subsampling=0)
    write_mask(tmp_path / "a.png", np.ones((200, 200), np.uint8))
    clips = StaticClips(static_pairs(tmp_path), DataConfig(crop=64), spline=0)
    colours = []  # of the middle of each frame, where there is no fill
    for seed in range(80):
        clip = sample(clips, seed)
        colours.append(clip.frames[:, :, 28:36, 28:36].mean((2, 3)).numpy() * 255)
    colours = np.array(colours)
    grey = np.ptp(colours, axis=2).max(1) < 3
    assert 0 < grey.sum() < 12
    brightness = colours[~grey].max(2)
    assert 110 < brightness.min() < 135 and 165 < brightness.max() < 190  # 150 · (1 ± 0.1)² or so
    within = brightness / brightness.mean(1, keepdims=True)
    assert 0.02 < within.std() < 0.08 and brightness.mean(1).std() > 5
    redness = (colours[~grey][:, :, 1] - colours[~grey][:, :, 2]) / np.ptp(colours[~grey], axis=2)  # turns with the hue
    assert redness.mean(1).std() > 0.08 and redness.std(1).mean() < 0.03


def test_two_objects_of_an_index_mask_each_have_a_slot(tmp_path):
    ids = bars(90, 120, (2, 5, 9))
    save_photo(tmp_path / "a.jpg", ids)
    write_mask(tmp_path / "a.png", ids)
    clip = sample(StaticClips(static_pairs(tmp_path), DataConfig(crop=64), 2), seed=1)
    assert clip.valid.tolist() == [1, 1] and clip.masks[0].flatten(1).any(1).all() and clip.masks.sum(1).max() == 1


def test_faulty_images_and_masks_are_named(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path}: no images"):
        static_pairs(tmp_path)
    write_static(tmp_path, 1)
    mask, whole = tmp_path / "0.png", (tmp_path / "0.png").read_bytes()

    def fails(says: str) -> None:
        with pytest.raises(InputError, match=says) as caught:
            sample(StaticClips(static_pairs(tmp_path), DataConfig(crop=32)))
        assert "\n" not in str(caught.value)

    for cut in (len(whole) // 2, 20, 0):
        mask.write_bytes(whole[:cut])
        fails("0.png: truncated, damaged or not an image")
    mask.unlink()
    fails("0.jpg: has no mask; expected .*0.png")
    save_photo(mask, blob(64, 99))  # a photo among the masks, of another size
    fails("0.png: the mask is 99×64 pixels, but its frame 0.jpg is 100×80")
    save_photo(mask, blob(80, 100))  # and of the same
    fails("0.png: is a colour picture")
    write_mask(mask, np.zeros((80, 100), np.uint8))
    fails("0.png: no object in this")
    save_photo(tmp_path / "0.jpg", np.zeros((1, 32767)))
    fails("0.jpg: is 32767×1 pixels; expected at most 32766")
    write_static(tmp_path, 1)
    write_mask(mask, blob(80, 100))
    photo = tmp_path / "0.jpg"
    photo.write_bytes(photo.read_bytes()[:-400])
    fails("0.jpg: truncated")
