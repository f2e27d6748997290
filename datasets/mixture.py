"""The training data of each stage: which data sets, and how often each enters an epoch."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from datasets.clip import PackedClip
from datasets.config import DataConfig, parse_extra
from datasets.frames import FRAME_SUFFIXES, read_names, visible_paths
from datasets.listing import davis_names, find_davis
from datasets.pairs import Pair, VideoFolder, static_pairs
from datasets.sources import MAX_OBJECTS, StaticClips, VideoClips
from datasets.synthetic import SyntheticClips
from util.errors import InputError

STATIC_SETS = {"fss": 1, "DUTS-TR": 1, "DUTS-TE": 1, "ecssd": 1, "BIG_small": 5, "HRSOD_small": 5}  # repeats
ClipSource = StaticClips | VideoClips | SyntheticClips


class SampleRequest(NamedTuple):
    """What the sampler asks a mixture for."""

    item: int  # of the whole mixture
    seed: tuple[int, ...]  # of all randomness
    progress: float  # of the training, 0 to 1


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
    YouTube-VOS once. Clips have slots for one object in stage 0 and for two in the others. Warns of missing sets.
    Raises `InputError` for faulty data and if there is none at all.
    """
    if stage not in range(4):
        raise InputError(f"stage {stage}: unknown; expected 0, 1, 2 or 3")
    max_objects = MAX_OBJECTS if stage else 1
    stills = _static_folders(data.static_root) if data.paste else []
    cutouts = [pair for folder in stills for pair in static_pairs(folder)]
    if data.paste and not cutouts:
        raise InputError(f"{data.static_root}: no images with masks, which --paste cuts objects from")
    entries, missing = _videos(stage, data, cutouts) if stage else _stills(data)
    for text in data.extra:
        images, masks, repeat, divisor = parse_extra(text)
        clips: ClipSource
        if stage == 0 or any(path.suffix.lower() in FRAME_SUFFIXES for path in visible_paths(images)):
            clips = StaticClips(static_pairs(images, masks), data, max_objects)
        else:
            clips = VideoClips(VideoFolder(images, masks), data, cutouts, divisor=divisor)
        entries.append(Entry(str(images), clips, repeat))
    if data.synthetic:
        generated = SyntheticClips(data.synthetic, num_frames=data.num_frames, size=data.crop, max_objects=max_objects)
        entries.append(Entry("generated", generated))
    absent = " and no ".join(missing)
    if not entries:
        raise InputError(f"no training data for stage {stage}: there is no {absent} (see data/README.md)")
    mixture = Mixture(entries)
    if missing:
        logging.warning("there is no %s; training on %s", absent, mixture)
    else:
        logging.info("training on %s", mixture)
    return mixture


def _stills(data: DataConfig) -> tuple[list[Entry], list[str]]:
    """The sets that are there, and a description of those that are missing."""
    repeats = {name.lower(): repeat for name, repeat in STATIC_SETS.items()}
    folders = _static_folders(data.static_root)
    present = {folder.name.lower() for folder in folders}
    missing = ", ".join(name for name in STATIC_SETS if name.lower() not in present)
    entries = [Entry(f.name, StaticClips(static_pairs(f), data), repeats.get(f.name.lower(), 1)) for f in folders]
    return entries, [f"{missing} in {data.static_root}"] if missing else []


def _videos(stage: int, data: DataConfig, cutouts: list[Pair]) -> tuple[list[Entry], list[str]]:
    """Like `_stills`, for the stages 1 to 3."""
    if stage == 1:
        if not data.bl_root.is_dir():
            return [], [f"BL30K in {data.bl_root}"]
        folder = VideoFolder(data.bl_root / "JPEGImages", data.bl_root / "Annotations")
        clips = VideoClips(folder, data, cutouts, min_area=0.25, last_drop=0.8, large_objects=True)
        return [Entry("BL30K", clips)], []
    entries, missing = [], []
    if davis := find_davis(data.davis_root):
        base, year = davis
        folder = VideoFolder(base / "JPEGImages/480p", base / "Annotations/480p", davis_names(base, year, "train"))
        entries.append(Entry(f"DAVIS {year}", VideoClips(folder, data, cutouts), repeat=5))
    else:
        missing.append(f"DAVIS in {data.davis_root}")
    images = data.yv_root / "train_480p/JPEGImages"
    if images.is_dir():
        names = read_names(data.yv_list) if data.yv_list else None
        folder = VideoFolder(images, images.with_name("Annotations"), names)
        entries.append(Entry("YouTube-VOS", VideoClips(folder, data, cutouts, divisor=5)))  # annotated at 6 of 30 fps
    else:
        missing.append(f"YouTube-VOS in {data.yv_root}")
    return entries, missing


def _static_folders(root: Path) -> list[Path]:
    """The sets in ``root``, or ``root`` itself if images lie in it."""
    files = visible_paths(root)
    if any(path.suffix.lower() in (".jpg", ".jpeg") for path in files):
        return [root]
    return [path for path in files if path.is_dir()]
