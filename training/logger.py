"""Records of a training run: the numbers of each interval, console, ``<id>_log.jsonl`` and TensorBoard."""

import json
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import progressbar
import torch

from datasets.clip import Clip
from datasets.images import draw_masks
from model.network import Prediction
from util.device import peak_memory
from util.distributed import gather, world_size
from util.errors import InputError
from util.files import read_bytes, write_bytes
from util.progress import progress_bar
from util.repository import commit_hash

log = logging.getLogger("train")


def setup_console(verbose: bool) -> None:
    """Log to stderr, beside the progress bar; with ``verbose`` false (other ranks) errors only."""
    if sys.stderr.isatty():
        progressbar.streams.wrap_stderr()
    level = logging.INFO if verbose else logging.ERROR
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=level, force=True)


class Meter:
    """The numbers of an interval, collected on the device and reduced over all processes when they are flushed.

    Time counts from the first batch after a flush: saving and validation are not in the seconds of an iteration.
    """

    def __init__(self, device: torch.device, accumulate: int):
        self.device, self.accumulate = device, accumulate
        self._clear()

    def _clear(self) -> None:
        self.rows: list[torch.Tensor] = []
        self.data_seconds = 0.0
        self.began: float | None = None

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Around the wait for a batch."""
        start = time.perf_counter()
        self.began = self.began or start
        yield
        self.data_seconds += time.perf_counter() - start

    def add(self, losses: dict[str, torch.Tensor], prediction: Prediction, clip: Clip) -> None:
        """Count one backward pass: its losses, and the IoU of its predictions."""
        self.names = list(losses)
        self.rows.append(torch.stack([*(loss.detach() for loss in losses.values()), *overlap(prediction, clip)]))

    def flush(self, iteration: int) -> dict[str, float]:
        """Means since the last flush. Raises `InputError` with the terms of the first loss that was not finite."""
        rows = torch.stack(gather(torch.stack(self.rows).cpu())).sum(0)
        losses, (intersection, union) = rows[:, :-2] / world_size(), rows[:, -2:].sum(0).tolist()
        for row, terms in enumerate(losses):
            if not terms.isfinite().all():
                at = iteration - (len(rows) - 1 - row) // self.accumulate
                values = ", ".join(f"{name} {value:.4g}" for name, value in zip(self.names, terms, strict=True))
                raise InputError(
                    f"the loss is not finite ({values}) at iteration {at}; nothing was saved since; lower --lr, or"
                    " train with --amp bf16 or --no_amp"
                )
        means = dict(zip(self.names, losses.mean(0).tolist(), strict=True))
        iterations = len(rows) / self.accumulate
        result = {
            "loss": sum(means.values()),
            **means,
            "iou": intersection / max(union, 1),
            "seconds": (time.perf_counter() - (self.began or 0)) / iterations,
            "data_seconds": self.data_seconds / iterations,
            "peak_gib": peak_memory(self.device),
        }
        self._clear()
        return result


@torch.no_grad()
def overlap(prediction: Prediction, clip: Clip) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels in the intersection and in the union of predicted and true masks, over all objects and frames."""
    predicted = torch.softmax(prediction.logits, dim=2)[:, :, 1:] > 0.5
    true = clip.masks[:, 1:] > 0.5
    return (predicted & true).sum().float(), (predicted | true).sum().float()


def picture(clip: Clip, prediction: Prediction) -> np.ndarray:
    """The first clip of the batch, H×W×3 uint8: a row per predicted frame, with frame, truth and prediction."""
    number = torch.arange(1, clip.masks.shape[2] + 1, device=clip.masks.device).view(-1, 1, 1)
    true = (clip.masks[0, 1:] * number).sum(1)
    predicted = prediction.logits[0].argmax(1)
    frames = (clip.frames[0, 1:] * 255).permute(0, 2, 3, 1)
    arrays = (tensor.byte().cpu().numpy() for tensor in (frames, true, predicted))
    rows = [np.hstack([frame, draw_masks(frame, t), draw_masks(frame, p)]) for frame, t, p in zip(*arrays, strict=True)]
    return np.concatenate(rows)


class TrainLogger:
    """Writes the records to ``folder``; a context manager that closes them.

    The progress bar goes from ``start`` to ``total`` iterations; entries of an existing log after ``start`` are
    dropped. Raises `InputError` for files that cannot be opened, and later if an entry cannot be written.
    """

    def __init__(self, folder: Path, name: str, start: int, total: int):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch.utils.tensorboard import SummaryWriter  # takes seconds to import
        self.folder, path = folder, folder / f"{name}_log.jsonl"
        with self._named():
            if path.exists():
                kept = [json.dumps(entry) + "\n" for entry in read_log(path) if entry.get("iteration", 0) <= start]
                write_bytes(path, "".join(kept).encode())
            self.file = path.open("a", buffering=1, encoding="utf-8")
            self.tensorboard = SummaryWriter(folder / "tensorboard", purge_step=start + 1)
        self.total = total
        self.bar = progress_bar(total, start=start).start()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name the folder if records cannot be written there: errors of open files do not."""
        try:
            yield
        except OSError as error:
            raise InputError(f"{self.folder}: records cannot be written ({error.strerror or error})") from error

    def config(self, values: dict[str, Any]) -> None:
        """The settings of the run; the commit of its code goes with them."""
        values = values | {"commit": commit_hash()}
        with self._named():
            self.file.write(json.dumps({"config": values}) + "\n")
            self.tensorboard.add_text("config", "\n".join(f"    {name}: {value}" for name, value in values.items()))

    def scalars(self, iteration: int, values: dict[str, float]) -> None:
        """One entry; TensorBoard shows ``val_*`` in a group of their own."""
        with self._named():
            self.file.write(json.dumps({"iteration": iteration, **values}) + "\n")
            for name, value in values.items():
                tag = f"val/{name[4:]}" if name.startswith("val_") else f"train/{name}"
                self.tensorboard.add_scalar(tag, value, iteration)
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        log.info("it %d/%d  %s", iteration, self.total, text)

    def image(self, iteration: int, name: str, picture: np.ndarray) -> None:
        """``picture``: H×W×3 uint8."""
        with self._named():
            self.tensorboard.add_image(name, picture, iteration, dataformats="HWC")

    def __enter__(self) -> "TrainLogger":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.finish(dirty=True)
        with suppress(OSError):  # of a full disk, which has been reported
            self.tensorboard.close()
            self.file.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a ``*_log.jsonl``; a line that was cut off by a kill or a power cut is left out.

    Raises `InputError` unless each entry is a dict and its iteration, if it has one, a whole number.
    """
    entries, lines = [], read_bytes(path, "a training log").splitlines()
    try:
        for line in lines:
            with suppress(json.JSONDecodeError):
                entries.append(json.loads(line.decode()))  # which takes the zeros of a power cut for no encoding
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not a training log ({error}); expected lines of names and numbers") from error
    for entry in entries:
        iteration = entry.get("iteration", 0) if isinstance(entry, dict) else None
        if type(iteration) is not int or not 0 <= iteration < 2**53:
            raise InputError(f"{path}: is not a training log; expected names and numbers, not {str(entry)[:60]}")
    return entries
