"""YouTube-VOS 2018 and 2019 as lists of videos: objects enter on any frame, meta.json lists the frames to save."""

import json
from collections.abc import Collection
from pathlib import Path

import numpy as np

from datasets.frames import check_folder, check_name, list_frames, natural_order
from datasets.images import read_mask
from datasets.video import Video, frames_video, select
from util.errors import InputError
from util.parallel import parallel_map


def youtube_videos(
    root: Path,
    split: str,
    short_side: int,
    *,
    six_fps: bool = False,
    output_all: bool = False,
    wanted: Collection[str] | None = None,
) -> list[Video]:
    """The videos of ``root/<split>/meta.json``; with ``wanted``, only these.

    Frames: ``root/all_frames/<split>_all_frames/JPEGImages/<video>``, or with ``six_fps`` only every fifth,
    ``root/<split>/JPEGImages/<video>``. Masks: ``root/<split>/Annotations/<video>``; an object is given once, by the
    first file that holds it. A video begins with its first mask and, unless ``output_all``, ends with the last frame
    that meta.json lists for any of its objects. The listed frames are needed, or with ``output_all`` all. Raises
    `InputError` for anything missing or faulty.
    """
    images = root / split / "JPEGImages" if six_fps else root / "all_frames" / f"{split}_all_frames" / "JPEGImages"
    masks = root / split / "Annotations"
    frames = read_meta(root / split / "meta.json")
    for folder in (images, masks):
        check_folder(folder, f"YouTube-VOS in {root} (see data/README.md)")

    def make(name: str) -> Video:
        return _video(name, images / name, masks / name, frames[name], short_side, output_all)

    return parallel_map(make, select(frames, wanted, root / split / "meta.json"), "Looking at the videos")


def read_meta(path: Path) -> dict[str, list[str]]:
    """{video: names of the frames wanted of it, in order} from a meta.json. Raises `InputError`."""
    try:
        videos = json.loads(path.read_text(encoding="utf-8"))["videos"]
        wanted = {name: [entry["frames"] for entry in video["objects"].values()] for name, video in videos.items()}
        if not all(isinstance(frames, list) for lists in wanted.values() for frames in lists):
            raise TypeError("frames are not a list")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected YouTube-VOS's list of videos, objects and frames") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: expected JSON of the form videos → objects → frames ({error!r})") from error
    return {
        check_name(name, path): sorted({check_name(frame, path) for frame in sum(lists, [])}, key=natural_order)
        for name, lists in sorted(wanted.items())
    }


def _video(name: str, images: Path, annotations: Path, wanted: list[str], short_side: int, output_all: bool) -> Video:
    given = _first_masks(annotations)
    order = sorted(natural_order(frame) for frame in [*(path.stem for path in given), *wanted])
    frames = [path for path in list_frames(images) if natural_order(path.stem) >= order[0]]
    if not output_all:
        frames = [path for path in frames if natural_order(path.stem) <= order[-1]]
    names = {path.stem for path in frames}
    if missing := [frame for frame in wanted if frame not in names]:
        raise InputError(f"{images / missing[0]}.jpg: no such frame, but meta.json asks for its mask")

    def read(path: Path) -> np.ndarray:
        mask = read_mask(path)
        return np.where(np.isin(mask, given[path]), mask, 0).astype(np.uint8)

    masks = {path.stem: path for path in given}
    return frames_video(name, frames, masks, short_side, read=read, needed=None if output_all else wanted)


def _first_masks(folder: Path) -> dict[Path, list[int]]:
    """{mask file: ids that no earlier mask holds}, for the files that have such ids, in order."""
    first: dict[Path, list[int]] = {}
    known = {0}
    for path in sorted(folder.glob("[!.]*.png"), key=lambda path: natural_order(path.stem)):
        if new := sorted(set(np.unique(read_mask(path)).tolist()) - known):
            first[path] = new
            known.update(new)
    if not first:
        raise InputError(f"{folder}: no mask with an object; expected the mask of the first frame of each object")
    return first
