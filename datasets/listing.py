"""The videos to segment: DAVIS, YouTube-VOS, and your own folders and video files.

A video of a data set that is faulty is listed as a `FaultyVideo`. All else that is missing or faulty raises
`InputError`: folders, lists, and a video file or its masks.
"""

from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import numpy as np

from datasets.access import video_files
from datasets.frames import (
    FRAME_SUFFIXES,
    check_folder,
    check_name,
    list_frames,
    natural_order,
    read_names,
    visible_paths,
)
from datasets.images import mask_ids, read_mask
from datasets.video import FaultyVideo, Video, frames_video
from util.errors import InputError, describe
from util.files import read_json
from util.parallel import parallel_map

META = "YouTube-VOS's JSON of the form videos → objects → frames"
LISTS = Path(__file__).parent / "lists"
SPLITS = {2016: ("val", "train"), 2017: ("val", "testdev", "train")}


def find_davis(root: Path) -> tuple[Path, int] | None:
    """The folder under or at ``root`` that holds videos with all their masks, and its year, rather 2017 than 2016."""
    for base, year in ((root / "2017/trainval", 2017), (root / "trainval", 2017), (root / "2016", 2016), (root, 2016)):
        if (base / "JPEGImages/480p").is_dir():
            return base, year
    return None


def davis_names(base: Path, year: int, split: str) -> list[str]:
    """Names of a split's videos: from ``base/ImageSets/<year>/`` if a list is there, else the official ones."""
    file = f"{'test-dev' if split == 'testdev' else split}.txt"
    listed = base / "ImageSets" / str(year) / file
    return read_names(listed if listed.is_file() else LISTS / f"davis{year}_{file}")


def davis_videos(
    root: Path, year: int, split: str, short_side: int, wanted: Collection[str] | None = None
) -> list[Video]:
    """The videos of DAVIS ``year`` (2016 or 2017) under ``root``; with ``wanted``, only these.

    Layout: ``root/{JPEGImages,Annotations}/480p/<video>`` for 2016; for 2017 the same under ``root/trainval`` and
    ``root/test-dev``. The mask of the first frame is given; those of 2016 are 0/255, which makes object 1.
    """
    base = root if year == 2016 else root / ("test-dev" if split == "testdev" else "trainval")
    images, annotations = base / "JPEGImages/480p", base / "Annotations/480p"
    names = _select(davis_names(base, year, split), wanted, base)
    for folder in (images, annotations):
        check_folder(folder, f"DAVIS {year} in {root} (see data/README.md)")

    def read(path: Path) -> np.ndarray:
        return read_mask(path) if year == 2017 else (read_mask(path) > 0).astype(np.uint8)

    def make(name: str) -> Video:
        frames = list_frames(images / name)
        first = frames[0].stem
        return frames_video(name, frames, {first: annotations / name / f"{first}.png"}, short_side, read=read)

    return _videos(names, make)


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
    that meta.json lists for any of its objects. The listed frames are needed, or with ``output_all`` all.
    """
    images = root / split / "JPEGImages" if six_fps else root / "all_frames" / f"{split}_all_frames" / "JPEGImages"
    meta, annotations = root / split / "meta.json", root / split / "Annotations"
    asked = read_meta(meta)
    for folder in (images, annotations):
        check_folder(folder, f"YouTube-VOS in {root} (see data/README.md)")

    def make(name: str) -> Video:
        masks = _mask_files(annotations / name)
        first, read = first_masks_of(masks)
        given = first or masks
        order = sorted(natural_order(stem) for stem in [*given, *asked[name]])
        frames = [path for path in list_frames(images / name) if natural_order(path.stem) >= order[0]]
        if not output_all:
            frames = [path for path in frames if natural_order(path.stem) <= order[-1]]
        if missing := set(asked[name]).difference(path.stem for path in frames):
            raise InputError(f"{images / name / min(missing)}.jpg: no such frame, but meta.json asks for its mask")
        return frames_video(name, frames, given, short_side, read=read, needed=None if output_all else asked[name])

    return _videos(_select(asked, wanted, meta), make)


def read_meta(path: Path) -> dict[str, list[str]]:
    """{video: names of the frames wanted of it, in order} from a meta.json. Raises `InputError`."""
    try:
        videos = read_json(path, META)["videos"]
        empty: list[str] = []
        wanted = {n: sum((entry["frames"] for entry in v["objects"].values()), empty) for n, v in videos.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: expected {META} ({error!r})") from error
    return {
        check_name(name, path): sorted({check_name(frame, path) for frame in frames}, key=natural_order)
        for name, frames in sorted(wanted.items())
    }


def folder_videos(
    root: Path, short_side: int, wanted: Collection[str] | None = None, first_masks: bool = False
) -> list[Video]:
    """The videos ``root/JPEGImages/<video>/*.jpg|png`` with masks ``root/Annotations/<video>/<frame>.png``.

    With ``wanted``, only these. An object is segmented from its first mask on; a later mask corrects it, or with
    ``first_masks`` is ignored.
    """
    images, annotations = root / "JPEGImages", root / "Annotations"
    for folder in (images, annotations):
        check_folder(folder, f"{root} to hold JPEGImages/VIDEO and Annotations/VIDEO")
    # Also broken links, to report them.
    names = sorted(path.name for path in images.glob("[!.]*") if path.is_dir() or path.is_symlink())
    if not names:
        raise InputError(f"{images}: holds no folders; expected one folder of frames for each video")

    def make(name: str) -> Video:
        masks = _mask_files(annotations / name)
        read: Callable[[Path], np.ndarray] = read_mask
        if first_masks:
            first, read = first_masks_of(masks)
            masks = first or masks
        return frames_video(name, list_frames(images / name), masks, short_side, read=read)

    return _videos(_select(names, wanted, images), make)


def parse_masks(values: Iterable[str]) -> dict[int, Path]:
    """Frame number → mask file, from ``first.png`` (of frame 0) or ``30:later.png`` (of frame 30, from 0).

    Raises `InputError` for two masks of the same frame.
    """
    by_frame: dict[int, Path] = {}
    for value in values:
        number, _, file = value.partition(":")
        if not (number.isascii() and number.isdecimal()):  # no number: a path, perhaps with a drive letter
            number, file = "0", value
        if len(number) > 9:
            raise InputError(f"--mask {value[:60]}: expected FILE or N:FILE with the number N of a frame")
        frame = int(number)
        if frame in by_frame:
            raise InputError(f"--mask {value}: frame {frame} already has the mask {by_frame[frame]}")
        by_frame[frame] = Path(file)
    return by_frame


def video_with_masks(path: Path, masks: Iterable[str], short_side: int) -> list[Video]:
    """One video file with masks as in `parse_masks`."""
    return [video_files().file_video(path, parse_masks(masks), short_side)]


def _select(names: Collection[str], wanted: Collection[str] | None, where: Path) -> list[str]:
    """Those of ``names`` that are ``wanted`` (None: all). Raises `InputError` for a wanted name that is not there."""
    for name in wanted or ():
        if name not in names:
            raise InputError(f"{where}: has no video {name}; expected one of {', '.join(names) or '(none)'}")
    return [name for name in names if wanted is None or name in wanted]


def _videos(names: list[str], make: Callable[[str], Video]) -> list[Video]:
    """The videos that ``make`` makes; one whose files cannot be read must not keep the others from being segmented."""

    def attempt(name: str) -> Video:
        try:
            return make(name)
        except InputError as error:
            return FaultyVideo(name, str(error))
        except OSError as error:
            return FaultyVideo(name, describe(error))

    return parallel_map(attempt, names, "Looking at the videos")


def _mask_files(folder: Path) -> dict[str, Path]:
    """{name of the frame: mask file}, in order."""
    expected = "a PNG with the name of the frame on which an object first appears"
    images = [path for path in visible_paths(folder) if path.suffix.lower() in FRAME_SUFFIXES]
    images.sort(key=lambda path: natural_order(path.stem))
    masks: dict[str, Path] = {}
    for path in images:
        if path.suffix.lower() == ".png" and masks.setdefault(path.stem, path) != path:
            raise InputError(f"{path}: {masks[path.stem].name} is there, too; expected one mask for a frame")
    for path in images:
        if path.stem not in masks:
            raise InputError(f"{path}: is no mask; expected {expected}")
    if not masks:
        raise InputError(f"{folder}: no mask for video {folder.name}; expected {expected}")
    return masks


def first_masks_of(
    masks: dict[str, Path], read: Callable[[Path], np.ndarray] = read_mask
) -> tuple[dict[str, Path], Callable[[Path], np.ndarray]]:
    """The masks, by frame, that hold ids which no earlier one holds, and a reader of these ids, H×W uint8."""
    new: dict[Path, list[int]] = {}
    for path in masks.values():
        new[path] = sorted(mask_ids(read(path)).difference(*new.values()))

    def read_new(path: Path) -> np.ndarray:
        ids = read(path)
        return np.where(np.isin(ids, new[path]), ids, 0).astype(np.uint8)

    return {stem: path for stem, path in masks.items() if new[path]}, read_new
