"""The training data of each stage: which data sets, and how often each enters an epoch."""

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
from datasets.davis import davis_names, find_davis
from datasets.frames import FRAME_SUFFIXES, read_names
from datasets.pairs import VideoFolder, static_pairs
from datasets.sources import StaticClips, VideoClips
from datasets.synthetic import SyntheticClips
from util.errors import InputError

STATIC_SETS = {"fss": 1, "DUTS-TR": 1, "DUTS-TE": 1, "ecssd": 1, "BIG_small": 5, "HRSOD_small": 5}  # repeats
MAX_OBJECTS = 2  # in the video stages


class ClipSource(Protocol):
    """A data set that clips are drawn from."""

    def __len__(self) -> int: ...

    def sample(self, index: int, rng: np.random.Generator, progress: float) -> PackedClip:
        """A clip of item ``index``, with all randomness from ``rng``, after ``progress`` (0 to 1) of the training."""


class SampleRequest(NamedTuple):
    """What the sampler asks a mixture for: the arguments of `ClipSource.sample`."""

    item: int  # of the whole mixture
    seed: tuple[int, ...]
    progress: float


class Entry(NamedTuple):
    """A data set in a mixture."""

    name: str
    clips: ClipSource
    repeat: int = 1  # how often it enters an epoch


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
        """For example ``DAVIS 60 × 5 + YouTube-VOS 3471 = 3771 samples``."""
        terms = (f"{name} {len(clips)}" + (f" × {n}" if n > 1 else "") for name, clips, n in self.entries)
        return f"{' + '.join(terms)} = {len(self)} samples"


def build_dataset(stage: int, data: DataConfig) -> Mixture:
    """The published mixture of a stage, as far as it is on disk, and what ``data`` adds to it.

    Stage 0: the sub-folders of ``static_root``, those of `STATIC_SETS` as often as it says and others once (or the
    folder itself, if images lie in it). Stage 1: BL30K. Stages 2 and 3: the training videos of DAVIS five times and
    YouTube-VOS once. Clips have slots for one object in stage 0 and for two in the others.

    Logs the mixture, with a warning if known sets are missing. Raises `InputError` for faulty data and if there is
    none at all.
    """
    if stage not in range(4):
        raise InputError(f"stage {stage}: unknown; expected 0, 1, 2 or 3")
    shape = ClipShape(data.num_frames, data.crop, 1 if stage == 0 else MAX_OBJECTS)
    still = partial(StaticClips, shape=shape, deform=data.deform, reveal=data.reveal)
    video = partial(VideoClips, shape=shape, copy_paste=_copy_paste(data), reveal=data.reveal)
    entries, missing = _static(data.static_root, still) if stage == 0 else _videos(stage, data, video)
    entries += [_extra(text, stage == 0, still, video) for text in data.extra]
    if data.synthetic:
        entries.append(Entry("generated", SyntheticClips(data.synthetic, **shape._asdict())))
    absent = " and no ".join(missing)
    if not entries:
        raise InputError(f"no training data for stage {stage}: there is no {absent} (see data/README.md)")
    mixture = Mixture(entries)
    if missing:
        logging.warning("there is no %s; training on %s", absent, mixture)
    else:
        logging.info("training on %s", mixture)
    return mixture


def _static(root: Path, still: Callable[..., StaticClips]) -> tuple[list[Entry], list[str]]:
    """The sets that are there, and a description of those that are missing."""
    repeats = {name.lower(): repeat for name, repeat in STATIC_SETS.items()}
    folders = _static_folders(root)
    present = {folder.name.lower() for folder in folders}
    missing = ", ".join(name for name in STATIC_SETS if name.lower() not in present)
    entries = [Entry(f.name, still(static_pairs(f)), repeats.get(f.name.lower(), 1)) for f in folders]
    return entries, [f"{missing} in {root}"] if missing else []


def _videos(stage: int, data: DataConfig, video: Callable[..., VideoClips]) -> tuple[list[Entry], list[str]]:
    """Like `_static`, for the stages 1 to 3."""
    entries, missing = [], []
    if stage == 1:
        if data.bl_root.is_dir():
            folder = VideoFolder(data.bl_root / "JPEGImages", data.bl_root / "Annotations")
            entries.append(Entry("BL30K", video(folder, min_area=0.25, last_drop=0.8, large_objects=True)))
        else:
            missing.append(f"BL30K in {data.bl_root}")
        return entries, missing
    if davis := find_davis(data.davis_root):
        base, year = davis
        images = base / "JPEGImages/480p"
        folder = VideoFolder(images, base / "Annotations/480p", _present(davis_names(base, year, "train"), images))
        entries.append(Entry(f"DAVIS {year}", video(folder), repeat=5))
    else:
        missing.append(f"DAVIS in {data.davis_root}")
    images = data.yv_root / "train_480p/JPEGImages"
    if images.is_dir():
        names = _present(read_names(data.yv_list), images) if data.yv_list else None
        folder = VideoFolder(images, images.with_name("Annotations"), names)
        entries.append(Entry("YouTube-VOS", video(folder, divisor=5)))  # every fifth frame is annotated
    else:
        missing.append(f"YouTube-VOS in {data.yv_root}")
    return entries, missing


def _static_folders(root: Path) -> list[Path]:
    """The sets in ``root``, or ``root`` itself if images lie in it."""
    files = sorted(root.iterdir()) if root.is_dir() else []
    if any(path.suffix.lower() in (".jpg", ".jpeg") for path in files):
        return [root]
    return [path for path in files if path.is_dir() and not path.name.startswith(".")]


def _copy_paste(data: DataConfig) -> CopyPaste | None:
    if not data.paste:
        return None
    pairs = [pair for folder in _static_folders(data.static_root) for pair in static_pairs(folder)]
    if not pairs:
        raise InputError(f"{data.static_root}: no images with masks, which --paste cuts objects from")
    return CopyPaste(pairs, data.paste)


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
    if not found:
        raise InputError(f"{folder}: none of the {len(names)} listed videos; expected folders such as {names[0]}")
    if missing := sorted(set(names) - set(found)):
        message = "%s: %d of %d listed videos are missing, such as %s"
        logging.warning(message, folder, len(missing), len(names), missing[0])
    return found
