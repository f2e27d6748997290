"""YouTube-VOS 2018 and 2019 as lists of videos: objects appear on any frame, meta.json says which frames are wanted."""

import json
from collections.abc import Collection
from pathlib import Path

import numpy as np

from datasets.images import read_mask
from datasets.video import Video, frames_video, list_frames, select
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
    """The videos of ``root/<split>/meta.json``, or those of them that are ``wanted``.

    Frames: ``root/all_frames/<split>_all_frames/JPEGImages/<video>``, or with ``six_fps`` the annotated ones alone,
    ``root/<split>/JPEGImages/<video>``. Masks: ``root/<split>/Annotations/<video>``; an object is given once, by the
    first file that holds it. A video begins with its first mask and, unless ``output_all``, ends with the last frame
    that meta.json lists for any of its objects; those frames are needed, or with ``output_all`` all. Raises
    `InputError` for anything missing or faulty.
    """
    images = root / split / "JPEGImages" if six_fps else root / "all_frames" / f"{split}_all_frames" / "JPEGImages"
    masks = root / split / "Annotations"
    frames = read_meta(root / split / "meta.json")
    for folder in (images, masks):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; expected YouTube-VOS in {root} (see data/README.md)")

    def make(name: str) -> Video:
        return _video(name, images / name, masks / name, frames[name], short_side, output_all)

    return parallel_map(make, select(frames, wanted, root / split / "meta.json"), "Looking at the videos")


def read_meta(path: Path) -> dict[str, list[str]]:
    """{video: names of the frames wanted of it, in order} from a meta.json. Raises `InputError`."""
    try:
        videos = json.loads(path.read_text())["videos"]
        return {
            name: sorted({frame for entry in video["objects"].values() for frame in entry["frames"]})
            for name, video in sorted(videos.items())
        }
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected YouTube-VOS's list of videos, objects and frames") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: expected JSON of the form videos → objects → frames ({error!r})") from error


def _video(name: str, images: Path, annotations: Path, wanted: list[str], short_side: int, output_all: bool) -> Video:
    given = _first_masks(annotations)
    begin, end = min([*given, *wanted]), max([*given, *wanted])
    frames = [path for path in list_frames(images) if begin <= path.stem and (output_all or path.stem <= end)]
    names = {path.stem for path in frames}
    if missing := [frame for frame in wanted if frame not in names]:
        raise InputError(f"{images / missing[0]}.jpg: no such frame, but meta.json asks for its mask")
    paths = {annotations / f"{frame}.png": ids for frame, ids in given.items()}

    def read(path: Path) -> np.ndarray:
        mask = read_mask(path)
        return np.where(np.isin(mask, paths[path]), mask, 0).astype(np.uint8)

    masks = {path.stem: path for path in paths}
    return frames_video(name, frames, masks, short_side, read=read, needed=None if output_all else set(wanted))


def _first_masks(folder: Path) -> dict[str, list[int]]:
    """{frame: ids that no earlier mask holds}, of the frames that have such ids."""
    known, first = set(), {}
    for path in sorted(folder.glob("[!.]*.png")):
        if new := sorted(set(np.unique(read_mask(path)).tolist()) - known - {0}):
            first[path.stem] = new
            known.update(new)
    if not first:
        raise InputError(f"{folder}: no mask with an object; expected the mask of the first frame of each object")
    return first
