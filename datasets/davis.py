"""DAVIS 2016 and 2017 as lists of videos: the mask of the first frame is given, every frame is wanted."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from datasets.images import read_mask
from datasets.video import Video, frames_video, list_frames, select
from util.errors import InputError

LISTS = Path(__file__).parent / "lists"
SPLITS = {2016: ("val", "train"), 2017: ("val", "testdev", "train")}


def davis_names(base: Path, year: int, split: str) -> list[str]:
    """Names of a split's videos: from ``base/ImageSets/<year>/`` if it is there, else the official list.

    Raises `InputError` for a list that is none.
    """
    split = "test-dev" if split == "testdev" else split
    listed = base / "ImageSets" / str(year) / f"{split}.txt"
    if not listed.is_file():
        listed = LISTS / f"davis{year}_{split}.txt"
    names = listed.read_text(errors="replace").split()
    if not names or any("/" in name or "\ufffd" in name for name in names):
        raise InputError(f"{listed}: is no list of videos; expected the name of a video on each line")
    return names


def davis_videos(
    root: Path, year: int, split: str, short_side: int, wanted: Collection[str] | None = None
) -> list[Video]:
    """The videos of DAVIS ``year`` (2016 or 2017) under ``root``, or those of them that are ``wanted``.

    ``root/{JPEGImages,Annotations}/480p/<video>`` for 2016; for 2017 the same under ``root/trainval`` and
    ``root/test-dev``. In 2016 the masks are 0/255: object 1. Raises `InputError` for anything missing
    or faulty.
    """
    base = root if year == 2016 else root / ("test-dev" if split == "testdev" else "trainval")
    images, annotations = (base / kind / "480p" for kind in ("JPEGImages", "Annotations"))
    for folder in (images, annotations):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; expected DAVIS {year} in {root} (see data/README.md)")
    videos = []
    for name in select(davis_names(base, year, split), wanted, base):
        frames = list_frames(images / name)
        mask = annotations / name / f"{frames[0].stem}.png"
        if not mask.is_file():
            raise InputError(f"{mask}: no mask for video {name}; expected the mask of its first frame")
        read = read_binary_mask if year == 2016 else read_mask
        videos.append(frames_video(name, frames, {frames[0].stem: mask}, short_side, read=read))
    return videos


def read_binary_mask(path: Path) -> np.ndarray:
    """H×W uint8 in {0, 1}: whatever is not background is object 1. Raises `InputError` like `read_mask`."""
    return (read_mask(path) > 0).astype(np.uint8)
