"""Records of a training run: console, ``<id>_log.jsonl`` and TensorBoard.

Only rank 0 writes; the others get a `NullLogger`.
"""

import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import progressbar

from util.errors import InputError
from util.files import atomic_path

log = logging.getLogger("train")


def setup_console(verbose: bool) -> None:
    """Log to stderr, beside the progress bar; with ``verbose`` false (other ranks) errors only."""
    if sys.stderr.isatty():
        progressbar.streams.wrap_stderr()
    level = logging.INFO if verbose else logging.ERROR
    logging.basicConfig(
        level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr, force=True
    )


class TrainLogger:
    """Writes to ``folder``; ``total`` iterations make the progress bar, ``start`` are done already.

    A context manager: closes its files at the end. Methods raise `InputError` when the disk is full.
    """

    def __init__(self, folder: Path, name: str, start: int, total: int):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch.utils.tensorboard import SummaryWriter  # takes seconds to import
        path = folder / f"{name}_log.jsonl"
        _drop_undone(path, start)
        self.file = path.open("a", buffering=1)
        self.tensorboard = SummaryWriter(folder / "tensorboard", purge_step=start + 1)
        self.total = total
        widgets = [progressbar.Counter(), f"/{total} ", progressbar.Bar(), " ", progressbar.ETA()]
        self.bar = progressbar.ProgressBar(min_value=start, max_value=total, widgets=widgets, fd=sys.stderr)
        self.interactive = sys.stderr.isatty()
        if self.interactive:
            self.bar.start()

    def config(self, values: Mapping[str, Any]) -> None:
        """The resolved settings of the run, and where its code stands."""
        values = dict(values) | {"commit": commit_hash()}
        with self._writing():
            self.file.write(json.dumps({"config": values}) + "\n")
            self.tensorboard.add_text("config", "\n".join(f"    {name}: {value}" for name, value in values.items()))

    def scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """One entry: named numbers at an iteration."""
        with self._writing():
            self.file.write(json.dumps({"iteration": iteration, **values}) + "\n")
            for name, value in values.items():
                self.tensorboard.add_scalar(f"train/{name}", value, iteration)
        log.info(
            "it %d/%d  %s", iteration, self.total, "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        )

    def image(self, iteration: int, name: str, picture: np.ndarray) -> None:
        """A picture H×W×3 uint8."""
        with self._writing():
            self.tensorboard.add_image(name, picture, iteration, dataformats="HWC")

    def progress(self, iteration: int) -> None:
        if self.interactive:
            self.bar.update(iteration)

    def __enter__(self) -> "TrainLogger":
        return self

    def __exit__(self, *_) -> None:
        if self.interactive:
            self.bar.finish(dirty=True)
        with suppress(OSError):
            self.tensorboard.close()
        with suppress(OSError):
            self.file.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"{self.file.name}: records cannot be written ({error.strerror or error})") from error


class NullLogger:
    """What the other ranks get: takes everything, writes nothing."""

    def config(self, values: Mapping[str, Any]) -> None: ...
    def scalars(self, iteration: int, values: Mapping[str, float]) -> None: ...
    def image(self, iteration: int, name: str, picture: np.ndarray) -> None: ...
    def progress(self, iteration: int) -> None: ...
    def __enter__(self) -> "NullLogger":
        return self

    def __exit__(self, *_) -> None: ...


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a ``*_log.jsonl``; a line that a kill left half written is left out."""
    entries = []
    for line in path.read_text().splitlines():
        with suppress(json.JSONDecodeError):
            entries.append(json.loads(line))
    return entries


def _drop_undone(path: Path, start: int) -> None:
    """Take out of an existing log what a resumed run does again: entries after iteration ``start``."""
    if path.exists():
        kept = [entry for entry in read_log(path) if entry.get("iteration", 0) <= start]
        with atomic_path(path) as temporary:
            temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept))


def commit_hash() -> str:
    """Commit of the code, with ``+`` when it has uncommitted changes; empty outside a repository or without git."""
    try:
        import git  # fails to import where the program is missing

        repository = git.Repo(Path(__file__).parent, search_parent_directories=True)
        return repository.head.commit.hexsha + ("+" if repository.is_dirty() else "")
    except (ImportError, OSError, ValueError):
        return ""
    except git.GitError:
        return ""
