"""DAVIS 2016 and 2017 as lists of videos: the mask of the first frame is given, every frame is to be segmented."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from datasets.frames import check_folder, list_frames, read_names
from datasets.images import read_mask
from datasets.video import Video, frames_video, select
from util.errors import InputError

LISTS = Path(__file__).parent / "lists"
SPLITS = {2016: ("val", "train"), 2017: ("val", "testdev", "train")}


def find_davis(root: Path) -> tuple[Path, int] | None:
    """The folder under ``root``, or ``root`` itself, that holds videos with all their masks, and its year.

    2017 is preferred to 2016; None if there is neither.
    """
    for base, year in ((root / "2017/trainval", 2017), (root / "trainval", 2017), (root / "2016", 2016), (root, 2016)):
        if (base / "JPEGImages/480p").is_dir():
            return base, year
    return None


def davis_names(base: Path, year: int, split: str) -> list[str]:
    """Names of a split's videos: from the list in ``base/ImageSets/<year>/`` if there is one, else the official ones.

    Raises `InputError` for a file that is not a list of names.
    """
    file = f"{'test-dev' if split == 'testdev' else split}.txt"
    listed = base / "ImageSets" / str(year) / file
    return read_names(listed if listed.is_file() else LISTS / f"davis{year}_{file}")


def davis_videos(
    root: Path, year: int, split: str, short_side: int, wanted: Collection[str] | None = None
) -> list[Video]:
    """The videos of DAVIS ``year`` (2016 or 2017) under ``root``; with ``wanted``, only these.

    Layout: ``root/{JPEGImages,Annotations}/480p/<video>`` for 2016; for 2017 the same under ``root/trainval`` and
    ``root/test-dev``. The masks of 2016 are 0/255, which makes object 1. Raises `InputError` for anything missing or
    faulty.
    """
    base = root if year == 2016 else root / ("test-dev" if split == "testdev" else "trainval")
    images, annotations = (base / folder / "480p" for folder in ("JPEGImages", "Annotations"))
    for folder in (images, annotations):
        check_folder(folder, f"DAVIS {year} in {root} (see data/README.md)")
    videos = []
    for name in select(davis_names(base, year, split), wanted, base):
        frames = list_frames(images / name)
        mask = annotations / name / f"{frames[0].stem}.png"
        if not mask.is_file():
            raise InputError(f"{mask}: no mask for video {name}; expected the mask of its first frame")
        read = _read_binary_mask if year == 2016 else read_mask
        videos.append(frames_video(name, frames, {frames[0].stem: mask}, short_side, read=read))
    return videos


def _read_binary_mask(path: Path) -> np.ndarray:
    return (read_mask(path) > 0).astype(np.uint8)
