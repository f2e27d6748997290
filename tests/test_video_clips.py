"""Clips from annotated videos: image and mask together, colours, objects, copy-paste, and faulty files."""

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.clip import Clip
from datasets.config import DataConfig
from datasets.images import write_mask
from datasets.pairs import VideoFolder, static_pairs
from datasets.sources import VideoClips
from tests.folders import assert_mask_sticks, bars, blob, is_coloured, write_static, write_video, write_videos
from util.errors import InputError


def clips_of(root, size: int = 64, paste: float = 0.0, **options) -> VideoClips:
    folder = VideoFolder(root / "JPEGImages", root / "Annotations")
    return VideoClips(folder, DataConfig(crop=size, paste=paste), **options)


def sample(clips: VideoClips, seed: int = 0, progress: float = 0.0) -> Clip:
    return clips.sample(0, np.random.default_rng(seed), progress).unpack("cpu")


@pytest.mark.parametrize("size", [(72, 96), (900, 1400)])
def test_video_mask_sticks_to_the_object(tmp_path, size):
    clips = clips_of(write_videos(tmp_path, ["a"], frames=4, size=size, object_id=7), 128)
    coloured = 0
    for seed in range(6):
        clip = sample(clips, seed)
        assert clip.frames.shape == (3, 3, 128, 128) and clip.masks.shape == (3, 2, 128, 128)
        assert clip.valid.tolist() == [1, 0] and clip.masks[0, 0].any() and not clip.masks[:, 1].any()
        if is_coloured(clip):
            assert_mask_sticks(clip)
            coloured += 1
    assert coloured >= 4


def test_colours_change_with_the_clip_and_little_within(tmp_path):
    write_video(tmp_path, "v", [np.ones((100, 100), np.uint8)] * 3)
    for t in range(3):
        path = tmp_path / f"JPEGImages/v/{t:05d}.jpg"
        Image.new("RGB", (100, 100), (150, 100, 75)).save(path, quality=100, subsampling=0)
    clips = clips_of(tmp_path)
    colours = [sample(clips, seed).frames[:, :, 28:36, 28:36].mean((2, 3)).numpy() * 255 for seed in range(80)]
    colours = np.array([colour for colour in colours if np.ptp(colour, axis=1).max() > 3])
    assert 68 <= len(colours) < 80  # the others became greyscale
    brightness = colours.max(2)
    assert 128 < brightness.min() < 140 and 160 < brightness.max() < 172
    assert 0.002 < (brightness / brightness.mean(1, keepdims=True)).std() < 0.012


def test_two_of_several_objects_each_have_a_slot(tmp_path):
    clip = sample(clips_of(write_video(tmp_path, "v", [bars(60, 90, (2, 5, 9))] * 3)), seed=1)
    assert clip.valid.tolist() == [1, 1] and clip.masks[0].flatten(1).any(1).all()
    assert clip.masks.sum(1).max() == 1


def test_the_first_frame_holds_the_objects(tmp_path):
    """The object is there in two of twelve frames; a clip begins with one of them."""
    object_at = [blob(60, 80, object_id=4) * np.uint8(t in (5, 6)) for t in range(12)]
    clips = clips_of(write_video(tmp_path, "v", object_at))
    names = set()
    for seed in range(15):
        clip = sample(clips, seed, progress=0.5)
        assert clip.valid.tolist() == [1, 0] and clip.masks[0, 0].any()
        names.add(clip.name)
    assert names == {"v/00005", "v/00006"}


def test_jump_and_divisor_reach_the_choice_of_frames(tmp_path):
    """Object and frame number are the same, so that a clip shows how far it jumps."""
    root = write_video(tmp_path, "v", [blob(30, 40, object_id=t + 1) for t in range(40)])
    for progress, divisor, furthest in ((0.0, 1, 6), (0.5, 1, 26), (0.5, 5, 6), (0.0, 5, 2)):
        clips = clips_of(root, 16, divisor=divisor)
        gaps: set[int] = set()
        for seed in range(150):
            pairs = clips._choose(0, np.random.default_rng(seed), progress)
            gaps |= set(np.abs(np.diff([int(pair.image.stem) for pair in pairs])).tolist())
        assert 0.7 * furthest < max(gaps) <= furthest and min(gaps) == 1


def test_pasted_objects_pass_in_front_and_behind(tmp_path):
    root = write_videos(tmp_path, ["a"], frames=9, size=(120, 160))
    pairs = static_pairs(write_static(tmp_path / "static", 2))
    plain, pasting = clips_of(root, 96), clips_of(root, 96, 1.0, cutouts=pairs)
    in_front = behind = 0
    for seed in range(30):
        before, after = sample(plain, seed), sample(pasting, seed)
        if not after.valid.all():
            continue  # the new one is hidden in the first frame, or outside of it
        if is_coloured(after):
            assert_mask_sticks(after, tolerance=1)  # what is cut out has a blue seam
        video = before.masks[:, 0]
        old, new = sorted(after.masks.unbind(1), key=lambda mask: -(mask * video).sum())
        assert (old <= video).all() and (old * new).sum() == 0 and old[0].sum() >= 0.4 * video[0].sum()
        in_front += bool((new * video).any())
        behind += torch.equal(old, video)
        assert not torch.equal(new[0], new[1])
    assert in_front >= 5 and behind >= 5
    assert not any(sample(clips_of(root, 96, 0.0, cutouts=pairs), seed).valid[1] for seed in range(5))


def test_faulty_videos_are_named(tmp_path):
    images, masks = tmp_path / "JPEGImages", tmp_path / "Annotations"

    def fails(says: str) -> None:
        with pytest.raises(InputError, match=says) as caught:
            sample(clips_of(tmp_path, 32))
        assert "\n" not in str(caught.value)

    fails("JPEGImages: no videos")
    write_videos(tmp_path, ["a", "b"], frames=3)
    whole = (masks / "a/00000.png").read_bytes()
    for mask in (masks / "b").iterdir():
        mask.unlink()
    fails("Annotations/b: no annotations")
    write_mask(masks / "b/00000.png", np.zeros((9, 9), np.uint8))
    fails("b/00000.png: the mask is 9×9 pixels, but its frame 00000.jpg is 96×72")
    for video in "ab":
        for t in range(3):
            write_mask(masks / video / f"{t:05d}.png", np.zeros((72, 96), np.uint8))
    fails("Annotations: no object in 50 clips")
    (masks / "a/00000.png").write_bytes(whole[:30])
    fails("a/00000.png: truncated, damaged or not an image")
    for t in range(3):
        (masks / f"a/{t:05d}.png").write_bytes(whole)
    write_mask(masks / "a/00001.png", blob(71, 96))
    fails("a/0000[012].png: expected the same size as")
    write_mask(masks / "a/00001.png", blob(72, 96))
    write_video(tmp_path, "c", [blob(71, 96)])
    (images / "a/00002.jpg").write_bytes((images / "c/00000.jpg").read_bytes())
    fails("a/00002.jpg: is 96×71 pixels; expected 96×72")
