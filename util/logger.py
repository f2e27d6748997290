"""Records of a training run: console, ``<id>_log.jsonl`` and TensorBoard.

Only rank 0 writes; the others get a `NullLogger`.
"""

import json
import logging
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import progressbar

log = logging.getLogger("train")


def setup_console(verbose: bool) -> None:
    """Log to stderr, beside the progress bar; with ``verbose`` false (other ranks) warnings and errors only."""
    if sys.stderr.isatty():
        progressbar.streams.wrap_stderr()
    level = logging.INFO if verbose else logging.ERROR
    logging.basicConfig(
        level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr, force=True
    )


class TrainLogger:
    """Writes to ``folder``; ``total`` iterations make the progress bar, ``start`` are done already."""

    def __init__(self, folder: Path, name: str, start: int, total: int):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch.utils.tensorboard import SummaryWriter  # takes seconds to import
        self.file = (folder / f"{name}_log.jsonl").open("a", buffering=1)
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
        self.file.write(json.dumps({"config": values}) + "\n")
        self.tensorboard.add_text("config", "\n".join(f"    {name}: {value}" for name, value in values.items()))

    def scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """One entry: named numbers at an iteration."""
        self.file.write(json.dumps({"iteration": iteration, **values}) + "\n")
        for name, value in values.items():
            self.tensorboard.add_scalar(f"train/{name}", value, iteration)
        log.info(
            "it %d/%d  %s", iteration, self.total, "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        )

    def image(self, iteration: int, name: str, picture: np.ndarray) -> None:
        """A picture H×W×3 uint8."""
        self.tensorboard.add_image(name, picture, iteration, dataformats="HWC")

    def progress(self, iteration: int) -> None:
        if self.interactive:
            self.bar.update(iteration)

    def close(self) -> None:
        if self.interactive:
            self.bar.finish(dirty=True)
        self.tensorboard.close()
        self.file.close()


class NullLogger:
    """What the other ranks get: takes everything, writes nothing."""

    def config(self, values: Mapping[str, Any]) -> None: ...
    def scalars(self, iteration: int, values: Mapping[str, float]) -> None: ...
    def image(self, iteration: int, name: str, picture: np.ndarray) -> None: ...
    def progress(self, iteration: int) -> None: ...
    def close(self) -> None: ...


def commit_hash() -> str:
    """Commit of the code, with ``+`` when it has uncommitted changes; empty outside a repository."""
    import git

    try:
        repository = git.Repo(Path(__file__).parent, search_parent_directories=True)
        return repository.head.commit.hexsha + ("+" if repository.is_dirty() else "")
    except (git.InvalidGitRepositoryError, git.NoSuchPathError, git.GitCommandError, ValueError):
        return ""
