"""The training data of each stage: which sets, and how often each enters an epoch."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from torch.utils.data import Dataset

from datasets.clip import ClipShape, PackedClip
from datasets.config import DataConfig, parse_extra
from datasets.copy_paste import CopyPaste
from datasets.davis import davis_names
from datasets.frames import FRAME_SUFFIXES, read_names
from datasets.occlusion import Occlusion
from datasets.pairs import Pair, VideoFolder, static_pairs
from datasets.static import StaticClips
from datasets.synthetic import SyntheticClips
from datasets.vos import VideoClips
from util.errors import InputError

STATIC_SETS = {"fss": 1, "DUTS-TR": 1, "DUTS-TE": 1, "ecssd": 1, "BIG_small": 5, "HRSOD_small": 5}  # repeats
DAVIS_REPEAT = 5
YOUTUBE_DIVISOR = 5  # every fifth frame is annotated
MAX_OBJECTS = 2  # in the video stages


class ClipSource(Protocol):
    """What a mixture consists of."""

    def __len__(self) -> int: ...

    def sample(self, index: int, rng: np.random.Generator, progress: float) -> PackedClip:
        """A clip of item ``index``, with all randomness from ``rng``, after ``progress`` (0 to 1) of the training."""


class SampleRequest(NamedTuple):
    """What the sampler asks a mixture for."""

    item: int  # of one epoch
    seed: tuple[int, ...]  # of the sample's generator
    progress: float  # of the training, 0 to 1


class Entry(NamedTuple):
    """A data set in a mixture."""

    name: str
    clips: ClipSource
    repeat: int  # how often it enters an epoch


class Mixture(Dataset):
    """Data sets one after the other, each ``repeat`` times."""

    def __init__(self, entries: Sequence[tuple[str, ClipSource, int]]) -> None:
        self.entries = [Entry(*entry) for entry in entries]
        self._ends = np.cumsum([len(clips) * repeat for _, clips, repeat in self.entries])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, request: SampleRequest) -> PackedClip:
        clips = self.entries[int(np.searchsorted(self._ends, request.item, side="right"))].clips
        return clips.sample(request.item % len(clips), np.random.default_rng(request.seed), request.progress)

    def __str__(self) -> str:
        """For people: ``DAVIS 60 × 5 + YouTube-VOS 3471 = 3771 samples``."""
        terms = (f"{name} {len(clips)}" + (f" × {n}" if n > 1 else "") for name, clips, n in self.entries)
        return f"{' + '.join(terms)} = {len(self)} samples"


def build_dataset(stage: int, data: DataConfig) -> Mixture:
    """The published mixture of a stage, as far as it is on disk, and what ``data`` adds to it.

    Stage 0: the sub-folders of ``static_root``, those of `STATIC_SETS` as often as it says and others once (or the
    folder itself, if images lie in it). Stage 1: BL30K. Stages 2 and 3: the training videos of DAVIS five times and
    YouTube-VOS once. Clips have slots for one object in stage 0 and for two in the others.

    Logs the mixture; in a warning with the names of known sets if some are missing. Raises `InputError` for faulty
    data and if there is none at all.
    """
    shape = ClipShape(data.num_frames, data.crop, 1 if stage == 0 else MAX_OBJECTS)
    occlusion = Occlusion(data.reveal) if data.reveal else None
    copy_paste = CopyPaste(_all_pairs(data.static_root), data.paste) if data.paste else None
    still = partial(StaticClips, shape=shape, deform=data.deform, occlusion=occlusion)
    video = partial(VideoClips, shape=shape, copy_paste=copy_paste, occlusion=occlusion)
    if stage == 0:
        entries, missing = _static(data.static_root, still)
    elif stage == 1:
        entries, missing = _bl30k(data.bl_root, video)
    elif stage in (2, 3):
        davis, no_davis = _davis(data.davis_root, video)
        youtube, no_youtube = _youtube(data.yv_root, data.yv_list, video)
        entries, missing = davis + youtube, no_davis + no_youtube
    else:
        raise InputError(f"stage {stage}: unknown; expected 0, 1, 2 or 3")
    entries += [_extra(text, stage == 0, still, video) for text in data.extra]
    if data.synthetic:
        entries.append(Entry("generated", SyntheticClips(data.synthetic, **shape._asdict()), 1))
    if not entries:
        raise InputError(
            f"no training data for stage {stage}: there is no {' and no '.join(missing)} (see data/README.md)"
        )
    mixture = Mixture(entries)
    if missing:
        logging.warning("there is no %s; training on %s", " and no ".join(missing), mixture)
    else:
        logging.info("training on %s", mixture)
    return mixture


# Each of these returns the entries that are on disk, and names what is missing.
Found = tuple[list[Entry], list[str]]


def _static(root: Path, still: Callable[..., StaticClips]) -> Found:
    folders = _static_folders(root)
    repeats = {name.lower(): repeat for name, repeat in STATIC_SETS.items()}
    present = {folder.name.lower() for folder in folders}
    missing = ", ".join(name for name in STATIC_SETS if name.lower() not in present)
    entries = [Entry(f.name, still(static_pairs(f)), repeats.get(f.name.lower(), 1)) for f in folders]
    return entries, [f"{missing} in {root}"] if missing else []


def _static_folders(root: Path) -> list[Path]:
    """The sets in ``root``, or ``root`` itself if images lie in it."""
    files = sorted(root.iterdir()) if root.is_dir() else []
    if any(path.suffix.lower() in (".jpg", ".jpeg") for path in files):
        return [root]
    return [path for path in files if path.is_dir() and not path.name.startswith(".")]


def _all_pairs(root: Path) -> list[Pair]:
    pairs = [pair for folder in _static_folders(root) for pair in static_pairs(folder)]
    if not pairs:
        raise InputError(f"{root}: no images with masks, which --paste cuts objects from")
    return pairs


def _bl30k(root: Path, video: Callable[..., VideoClips]) -> Found:
    if not root.is_dir():
        return [], [f"BL30K in {root}"]
    folder = VideoFolder(root / "JPEGImages", root / "Annotations")
    return [Entry("BL30K", video(folder, min_area=0.25, last_drop=0.8, large_objects=True), 1)], []


def _davis(root: Path, video: Callable[..., VideoClips]) -> Found:
    for base, year in ((root / "2017/trainval", 2017), (root / "trainval", 2017), (root / "2016", 2016), (root, 2016)):
        images, masks = base / "JPEGImages/480p", base / "Annotations/480p"
        if images.is_dir():
            names = _present(davis_names(base, year, "train"), images)
            return [Entry(f"DAVIS {year}", video(VideoFolder(images, masks, names)), DAVIS_REPEAT)], []
    return [], [f"DAVIS in {root}"]


def _youtube(root: Path, listed: Path | None, video: Callable[..., VideoClips]) -> Found:
    images, masks = root / "train_480p/JPEGImages", root / "train_480p/Annotations"
    if not images.is_dir():
        return [], [f"YouTube-VOS in {root}"]
    names = _present(read_names(listed), images) if listed else None
    return [Entry("YouTube-VOS", video(VideoFolder(images, masks, names), divisor=YOUTUBE_DIVISOR), 1)], []


def _extra(text: str, only_stills: bool, still: Callable[..., StaticClips], video: Callable[..., VideoClips]) -> Entry:
    """Still images if these are expected or lie in the folder itself, else videos."""
    images, masks, repeat, divisor = parse_extra(text)
    files = images.iterdir() if images.is_dir() else ()
    if only_stills or any(path.suffix.lower() in FRAME_SUFFIXES for path in files):
        return Entry(str(images), still(static_pairs(images, masks)), repeat)
    return Entry(str(images), video(VideoFolder(images, masks), divisor=divisor), repeat)


def _present(names: Sequence[str], folder: Path) -> list[str]:
    """Those of the named videos that are there; warns of the others. Raises `InputError` if none is."""
    found = [name for name in names if (folder / name).is_dir()]
    missing = sorted(set(names) - set(found))
    if not found:
        raise InputError(f"{folder}: none of the {len(names)} listed videos; expected folders such as {names[0]}")
    if missing:
        logging.warning(
            "%s: %d of %d listed videos are missing, such as %s", folder, len(missing), len(names), missing[0]
        )
    return found
