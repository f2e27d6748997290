"""Training data of a stage: which folders, how often, in which order, loaded by how many workers.

Training is one endless stream of samples, cut from one permutation of the data after the other. Position p of the
stream decides everything about its sample: which it is, its randomness and the frame distance. So the samples do not
depend on the number of workers, W processes with batch b see in each step what one process with batch W·b sees, and
training resumes exactly from any position.

    dataset = build_dataset(0, static_root=Path("data/static"))
    loader = build_loader(dataset, batch_size=16, stop=40_000 * 16)
    for clip in loader:  # a `Clip` of batches

The datasets that are mixed have two methods: ``len(dataset)`` and ``dataset.sample(index, rng, progress) -> Clip``.
"""

import logging
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from datasets.clip import Clip
from datasets.davis import davis_names
from datasets.paste import Paste
from datasets.static import StaticImages
from datasets.synthetic import SyntheticClips
from datasets.vos import MAX_OBJECTS, VideoClips
from util.errors import InputError

STATIC_SETS = {"fss": 1, "DUTS-TR": 1, "DUTS-TE": 1, "ecssd": 1, "BIG_small": 5, "HRSOD_small": 5}
DAVIS_REPEAT = 5


class Draw(NamedTuple):
    """What the sampler asks a dataset for."""

    index: int  # into one epoch of the mixture
    key: tuple[int, ...]  # seeds the sample's generator
    progress: float  # of the training, 0 to 1


class Mixture(Dataset):
    """Datasets one after the other, each ``repeat`` times."""

    def __init__(self, parts: Sequence[tuple[str, object, int]]) -> None:
        """``parts``: name, dataset, repeat count."""
        self.parts = list(parts)
        self._ends = np.cumsum([len(dataset) * repeat for _, dataset, repeat in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, draw: Draw) -> Clip:
        part = int(np.searchsorted(self._ends, draw.index, side="right"))
        dataset = self.parts[part][1]
        return dataset.sample(draw.index % len(dataset), np.random.default_rng(draw.key), draw.progress)

    def __str__(self) -> str:
        """For people: ``DAVIS 60 × 5 + YouTube-VOS 3471 = 3771 samples``."""
        terms = (f"{name} {len(data)}" + (f" × {n}" if n > 1 else "") for name, data, n in self.parts)
        return f"{' + '.join(terms)} = {len(self)} samples"


class StreamSampler(Sampler[Draw]):
    """Positions ``start`` to ``stop`` of the stream; of ``world_size`` processes, ``rank`` takes every so many-th."""

    def __init__(self, size: int, start: int, stop: int, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        self.size, self.stop, self.seed = size, stop, seed
        self.positions = range(start + rank, stop, world_size)

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[Draw]:
        current = None
        for position in self.positions:
            epoch, place = divmod(position, self.size)
            if epoch != current:
                current, order = epoch, np.random.default_rng((self.seed, 1, epoch)).permutation(self.size)
            yield Draw(int(order[place]), (self.seed, 2, position), position / self.stop)


@contextmanager
def worker_errors() -> Iterator[None]:
    """What goes wrong in a data worker becomes an `InputError` of one line.

    A worker that is killed raises wherever the main process happens to be: wrap whole training loops in this.
    """
    try:
        yield
    except InputError as error:  # from a worker it comes with a traceback, its own line last
        raise InputError(str(error).strip().splitlines()[-1].split("InputError: ")[-1]) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise _worker_died(error) from error


def _worker_died(error: Exception) -> InputError:
    return InputError(
        f"a data worker died ({str(error).splitlines()[0].rstrip('.')}), most often for lack of memory or of"
        " /dev/shm; try fewer --num_workers or a smaller --batch_size"
    )


class ClipLoader:
    """Iterates over batched `Clip`s, inside `worker_errors`."""

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Clip]:
        batches = iter(self.loader)
        while True:
            with worker_errors():
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                except (ConnectionError, EOFError) as error:  # it died while it handed over a batch
                    raise _worker_died(error) from error
            yield batch


def build_loader(
    dataset: Mixture,
    *,
    batch_size: int,
    stop: int,
    start: int = 0,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> ClipLoader:
    """Batches for one process, from sample ``start`` of the training to sample ``stop``, counted over all processes.

    ``batch_size`` is per process, so a step consumes ``batch_size * world_size`` samples: ``stop`` is that times the
    number of steps, and ``start`` that times the steps done (the number to save for an exact resume; the frame
    distance goes by ``position / stop``). ``len()`` is the number of batches.
    """
    sampler = StreamSampler(len(dataset), start, stop, seed, rank, world_size)
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        pin_memory=pin_memory,
        drop_last=True,
        worker_init_fn=_init_worker,
    )
    return ClipLoader(loader)


def _init_worker(worker: int) -> None:
    """One thread per worker, in a process group of its own: Ctrl-C and a launcher's SIGTERM go to the group of the
    main process, which needs the batch it waits for to finish its iteration, save and stop. What it sends to the worker
    itself still ends it.
    """
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    os.setpgrp()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


def build_dataset(
    stage: int,
    *,
    static_root: Path | None = None,
    davis_root: Path | None = None,
    yv_root: Path | None = None,
    bl_root: Path | None = None,
    yv_list: Path | None = None,
    extra: Sequence[tuple[Path, Path, int]] = (),
    num_frames: int = 3,
    size: int = 384,
    synthetic: int = 0,
    paste: float = 0.0,
) -> Mixture:
    """The published mixture of a stage, as far as it is on disk: 0 static, 1 BL30K, 2 and 3 DAVIS + YouTube-VOS.

    Stage 0: the sub-folders of ``static_root``, those of `STATIC_SETS` as often as it says and others once (or the
    folder itself, if images lie in it). Stage 1:
    ``bl_root``. Stages 2 and 3: the training videos of DAVIS (2017 or 2016) in ``davis_root`` five times and
    YouTube-VOS in ``yv_root/train_480p`` once, or those of its videos that the file ``yv_list`` names, one per line.
    ``extra``: more pairs of folders (see `parse_extra`), still images in stage 0, in the others still images or videos.
    ``synthetic``: that many generated clips in each epoch, never the same. ``paste``: the probability that a video clip
    of one object gets a second, cut from the images of ``static_root``. Clips have ``num_frames`` frames of
    ``size``×``size`` pixels, and slots for one object in stage 0 and for two in the others.

    Logs the mixture, in one warning with the names of known sets that are missing. Raises `InputError` for faulty
    data and if there is none at all.
    """
    shape = {"num_frames": num_frames, "size": size}
    still = {**shape, "max_objects": 1 if stage == 0 else MAX_OBJECTS}
    video = {**shape, "paste": _paste(static_root, paste, shape) if paste else None}
    if stage == 0:
        parts, missing = _static_parts(static_root, shape)
    elif stage == 1:
        parts, missing = _bl_parts(bl_root, video)
    elif stage in (2, 3):
        davis, no_davis = _davis_parts(davis_root, video)
        youtube, no_youtube = _youtube_parts(yv_root, yv_list, video)
        parts, missing = davis + youtube, no_davis + no_youtube
    else:
        raise InputError(f"stage {stage}: unknown; expected 0, 1, 2 or 3")
    for images, masks, repeat in extra:
        stills = stage == 0 or any(path.suffix.lower() in (".jpg", ".jpeg", ".png") for path in _listed(images))
        dataset = StaticImages(images, masks, **still) if stills else VideoClips(images, masks, **video)
        parts.append((str(images), dataset, repeat))
    if synthetic:
        parts.append(("generated", SyntheticClips(synthetic, **still), 1))
    if not parts:
        raise InputError(
            f"no training data for stage {stage}: there is no {' and no '.join(missing)} (see data/README.md)"
        )
    mixture = Mixture(parts)
    if missing:
        logging.warning("there is no %s; training on %s", " and no ".join(missing), mixture)
    else:
        logging.info("training on %s", mixture)
    return mixture


def parse_extra(text: str) -> tuple[Path, Path, int]:
    """``images:masks`` or ``images:masks:repeat``, two folders and how often they enter an epoch (default 1).

    Raises `InputError`.
    """
    images, _, rest = text.partition(":")
    masks, _, repeat = rest.partition(":")
    if not images or not masks or not (repeat or "1").isdecimal() or int(repeat or 1) < 1:
        raise InputError(f"{text}: expected IMAGES:MASKS or IMAGES:MASKS:REPEAT, two folders and a number")
    return Path(images), Path(masks), int(repeat or 1)


def _paste(root: Path | None, probability: float, shape: dict) -> Paste:
    sources = [dataset for _, dataset, _ in _static_parts(root, shape)[0]]
    if not sources:
        raise InputError(f"{root or '(no folder given)'}: no images with masks, which pasted objects are cut from")
    return Paste(sources, probability)


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _static_parts(root: Path | None, shape: dict) -> tuple[list, list[str]]:
    folders = _listed(root) if root else []
    if any(path.suffix.lower() in (".jpg", ".jpeg") for path in folders):
        folders = [root]  # one set of one's own
    folders = [folder for folder in folders if folder.is_dir() and not folder.name.startswith(".")]
    repeats = {name.lower(): repeat for name, repeat in STATIC_SETS.items()}
    parts = [(f.name, StaticImages(f, **shape), repeats.get(f.name.lower(), 1)) for f in folders]
    present = {folder.name.lower() for folder in folders}
    lacking = ", ".join(name for name in STATIC_SETS if name.lower() not in present)
    return parts, [f"{lacking} in {root or '(no folder given)'}"] if lacking else []


def _bl_parts(root: Path | None, shape: dict) -> tuple[list, list[str]]:
    if not root or not root.is_dir():
        return [], [f"BL30K in {root or '(no folder given)'}"]
    options = {"min_area": 0.25, "last_drop": 0.8, "large_objects": True}
    return [("BL30K", VideoClips(root / "JPEGImages", root / "Annotations", **options, **shape), 1)], []


def _davis_parts(root: Path | None, shape: dict) -> tuple[list, list[str]]:
    layouts = (("2017/trainval", 2017), ("trainval", 2017), ("2016", 2016), ("", 2016))
    for base, year in [(root / folder, year) for folder, year in layouts] if root else ():
        images = base / "JPEGImages" / "480p"
        if images.is_dir():
            names = davis_names(base, year, "train")
            dataset = VideoClips(images, base / "Annotations" / "480p", _present(names, images), **shape)
            return [(f"DAVIS {year}", dataset, DAVIS_REPEAT)], []
    return [], [f"DAVIS in {root or '(no folder given)'}"]


def _youtube_parts(root: Path | None, names: Path | None, shape: dict) -> tuple[list, list[str]]:
    images = root / "train_480p" / "JPEGImages" if root else None
    if not images or not images.is_dir():
        return [], [f"YouTube-VOS in {root or '(no folder given)'}"]
    if names and not names.is_file():
        raise InputError(f"{names}: no such file; expected the names of videos, one per line")
    videos = _present(names.read_text().split(), images) if names else None
    masks = root / "train_480p" / "Annotations"
    return [("YouTube-VOS", VideoClips(images, masks, videos, divisor=5, **shape), 1)], []


def _present(names: Sequence[str], folder: Path) -> list[str]:
    """Those of the named videos that are there; warns of the others. Raises `InputError` if none is."""
    if not names:
        raise InputError(f"{folder}: the list of its videos is empty; expected names, one per line")
    found = [name for name in names if (folder / name).is_dir()]
    lacking = sorted(set(names) - set(found))
    if not found:
        raise InputError(f"{folder}: none of the {len(names)} listed videos; expected folders such as {names[0]}")
    if lacking:
        logging.warning(
            "%s: %d of %d listed videos are missing, such as %s", folder, len(lacking), len(names), lacking[0]
        )
    return found
