"""Small data set folders for tests: the benchmarks' layouts, and training data that shows its own masks."""

import json
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from datasets.clip import Clip
from datasets.images import write_image, write_mask

SIZE = (36, 52)  # H, W
WANTED_OF = {2: ["00002", "00005", "00007", "00012"], 3: ["00002", "00005"], 9: ["00007", "00008", "00012"]}
WANTED = ["00002", "00005", "00007", "00008", "00012"]  # of all objects together


def frame(t: int, size=SIZE) -> np.ndarray:
    """H×W×3 uint8: a picture that moves with ``t``."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([(x * 5 + t * 9) % 256, (y * 7) % 256, (x * y + t) % 256], axis=2).astype(np.uint8)


def ids_at(t: int, *object_ids: int, size=SIZE) -> np.ndarray:
    """H×W uint8: a moving block for each id, side by side."""
    mask = np.zeros(size, np.uint8)
    for place, object_id in enumerate(object_ids):
        mask[5 + t : 15 + t, 4 + 15 * place : 15 + 15 * place] = object_id
    return mask


def make_youtube(root: Path, videos=("aa", "bb"), repeat: bool = False) -> Path:
    """YouTube-VOS valid with 16 frames per video: objects 2 and 3 are given at frame 2, object 9 at frame 7.

    ``repeat``: the later mask also holds the earlier objects.
    """
    for video in videos:
        for t in range(16):
            write_image(root / f"all_frames/valid_all_frames/JPEGImages/{video}/{t:05d}.jpg", frame(t))
        for name in WANTED:
            write_image(root / f"valid/JPEGImages/{video}/{name}.jpg", frame(int(name)))
        late = ids_at(7, 2, 3, 9)
        write_mask(root / f"valid/Annotations/{video}/00002.png", ids_at(2, 2, 3))
        write_mask(root / f"valid/Annotations/{video}/00007.png", late if repeat else np.where(late == 9, late, 0))
    objects = {str(i): {"category": "dog", "frames": frames} for i, frames in WANTED_OF.items()}
    meta = {"videos": {video: {"objects": objects} for video in videos}}
    (root / "valid/meta.json").write_text(json.dumps(meta))
    return root


def make_testdev(root: Path, videos=("aa", "bb")) -> Path:
    """DAVIS 2017 test-dev with its own list, 4 frames per video, objects 1 and 2 in the first mask."""
    base = root / "test-dev"
    for video in videos:
        for t in range(4):
            write_image(base / f"JPEGImages/480p/{video}/{t:05d}.jpg", frame(t))
        write_mask(base / f"Annotations/480p/{video}/00000.png", ids_at(0, 1, 2))
    listed = base / "ImageSets/2017/test-dev.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("\n".join(videos) + "\n")
    return root


RED, BLUE = (230, 30, 30), (30, 30, 230)


def blob(height: int, width: int, seed: int = 0, object_id: int = 1) -> np.ndarray:
    """H×W uint8 ids: a star-shaped object near the centre."""
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    radius = rng.uniform(0.15, 0.35, 16) * min(height, width)
    directions = np.column_stack((np.cos(angle), np.sin(angle)))
    corners = rng.uniform(0.4, 0.6, 2) * (width, height) + directions * radius[:, None]
    return cv2.fillPoly(np.zeros((height, width), np.uint8), [corners.astype(np.int32)], object_id)


def bars(height: int, width: int, ids: Iterable[int]) -> np.ndarray:
    """H×W uint8: an upright bar for each id, with background between them."""
    ids = list(ids)
    mask = np.zeros((height, width), np.uint8)
    for k, object_id in enumerate(ids):
        left, right = width * (3 * k + 1) // (3 * len(ids)), width * (k + 1) // len(ids)
        mask[height // 6 : -height // 6, left:right] = object_id
    return mask


def save_photo(path: Path, ids: np.ndarray, **options) -> None:
    """An image that shows its own mask: objects red, the rest blue."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.where(ids[..., None] > 0, RED, BLUE).astype(np.uint8)
    Image.fromarray(picture).save(path, quality=95, subsampling=0, **options)


def write_static(folder: Path, count: int = 3, size: tuple[int, int] = (80, 100), binary: bool = True) -> Path:
    """Still images ``<i>.jpg`` with masks ``<i>.png``, binary or of object 1."""
    for i in range(count):
        ids = blob(*size, i)
        save_photo(folder / f"{i}.jpg", ids)
        write_mask(folder / f"{i}.png", ids, binary=binary)
    return folder


def write_video(root: Path, name: str, masks: Iterable[np.ndarray]) -> Path:
    """``root/JPEGImages/<name>/00000.jpg``, … that show ``masks``, and these in ``root/Annotations``."""
    for t, ids in enumerate(masks):
        save_photo(root / "JPEGImages" / name / f"{t:05d}.jpg", ids)
        write_mask(root / "Annotations" / name / f"{t:05d}.png", ids)
    return root


def write_videos(
    root: Path, names: Iterable[str], frames: int = 8, size: tuple[int, int] = (72, 96), object_id: int = 1
) -> Path:
    """A moving blob in each video, see `write_video`."""
    for seed, name in enumerate(names):
        ids = blob(*size, seed, object_id)
        write_video(root, name, (np.roll(ids, 2 * t, axis=1) for t in range(frames)))
    return root


def is_coloured(clip: Clip) -> bool:
    """Whether the clip was not made greyscale."""
    return bool((clip.frames[:, 0] != clip.frames[:, 2]).any())


def assert_mask_sticks(clip: Clip, tolerance: float = 0.5) -> None:
    """The red parts of the frames are the masks, to the pixel, without a drift of ``tolerance`` pixels on average."""
    drifts = []
    for frame, masks in zip(clip.frames.numpy(), clip.masks.numpy(), strict=True):
        red, mask = frame[0] - frame[2] > 0.3, masks.any(0)
        assert cv2.erode((red != mask).astype(np.uint8), np.ones((3, 3))).sum() == 0
        if mask.sum() > 100:
            drifts.append(np.argwhere(red).mean(0) - np.argwhere(mask).mean(0))
    assert drifts and np.abs(np.mean(drifts, 0)).max() < tolerance
