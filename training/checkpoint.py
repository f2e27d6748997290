"""The state of a training and its file ``<id>_checkpoint.pth``, from which a run resumes bit for bit."""

import copy
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.network import Network, load_weights
from model.weights import FORMAT, read_torch_file, write_network_file
from util.distributed import gather, rank
from util.errors import InputError
from util.repository import commit_hash

# Entries under "train" without which a run cannot be resumed.
ENTRIES = {"iteration": int, "position": int, "best": float, "optimizer": dict, "rng": list, "settings": dict}


@dataclass
class TrainingState:
    """Everything that a training changes, and so everything that a checkpoint holds."""

    network: Network
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: float = 0.0  # decay of the averaged weights; 0: there are none
    iteration: int = 0  # optimiser steps taken
    position: int = 0  # clips taken from the data stream by all processes
    best: float = -1.0  # best J&F of the validations so far, in [0, 1]; -1 before the first
    updates: int = 0  # of the averaged weights

    def __post_init__(self) -> None:
        self.average = copy.deepcopy(self.network).requires_grad_(False) if self.ema else None

    @property
    def evaluated(self) -> Network:
        """The network to validate and to publish: the averaged one where there is an average."""
        return self.average or self.network

    def step(self, learning_rate: float) -> None:
        """One optimiser step with the accumulated gradients, which are cleared; the average follows."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group.get("lr_factor", 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self._update(self.average)

    @torch.no_grad()
    def _update(self, average: Network) -> None:
        """average ← d · average + (1 − d) · weights; ``d`` starts small, so that the start is soon forgotten."""
        decay = min(self.ema, (1 + self.updates) / (10 + self.updates))
        for averaged, current in zip(average.parameters(), self.network.parameters(), strict=True):
            averaged.lerp_(current, 1 - decay)
        for copied, buffer in zip(average.buffers(), self.network.buffers(), strict=True):
            copied.copy_(buffer)
        self.updates += 1

    def save(self, path: Path, settings: dict[str, Any]) -> None:
        """Write the file. Every process has to call this: the random generators of all are saved, by rank 0.

        Data need no generator: the position in the stream decides each sample (`datasets.loader`).
        """
        rng = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            rng["cuda"] = torch.cuda.get_rng_state()
        train = {
            "iteration": self.iteration,
            "position": self.position,
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average and {"network": self.average.state_dict(), "updates": self.updates},
            "rng": gather(rng),
            "settings": settings,
            "commit": commit_hash(),
        }
        if rank() == 0:
            write_network_file(path, dataclasses.asdict(self.network.config), self.network.state_dict(), train=train)

    def load(self, contents: dict[str, Any], path: Path) -> None:
        """Take up what `read_checkpoint` read from ``path``. Raises `InputError` for another network's."""
        train = contents["train"]
        for name, value in dataclasses.asdict(self.network.config).items():
            if contents["config"].get(name, value) != value:
                raise InputError(f"{path}: the run to resume has {name} {contents['config'][name]}, not {value}")
        load_weights(self.network, contents["network"], path)
        try:
            self.optimizer.load_state_dict(train["optimizer"])
            if train["scaler"] and self.scaler.is_enabled():  # a run without fp16 leaves it empty
                self.scaler.load_state_dict(train["scaler"])
            if self.average:
                average = train.get("average") or {"network": contents["network"], "updates": 0}
                self.average.load_state_dict(average["network"])
                self.updates = average["updates"]
            if rank() < len(train["rng"]):  # a process that is new to the run starts from the seed
                rng = train["rng"][rank()]
                torch.set_rng_state(rng["cpu"])
                if "cuda" in rng and torch.cuda.is_available():
                    torch.cuda.set_rng_state(rng["cuda"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{path}: is damaged, or of another version ({error!r})") from error
        for index, parameter in enumerate(p for group in self.optimizer.param_groups for p in group["params"]):
            moments = self.optimizer.state.get(parameter, {})
            for name in ("exp_avg", "exp_avg_sq") if moments else ():
                if getattr(moments.get(name), "shape", None) != parameter.shape:  # fused Adam would write past it
                    raise InputError(f"{path}: the optimiser's {name} of parameter {index} does not fit the network")
        self.iteration, self.position, self.best = train["iteration"], train["position"], train["best"]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Contents of a ``<id>_checkpoint.pth``. Raises `InputError` for another kind of file."""
    contents = read_torch_file(path)
    if not isinstance(contents, dict) or "train" not in contents or contents.get("format") != FORMAT:
        raise InputError(f"{path}: expected a <id>_checkpoint.pth to resume; for weights alone use --load_network")
    for name, entry_type in ENTRIES.items():
        if type(contents["train"].get(name)) is not entry_type:
            raise InputError(f"{path}: its entry {name} is missing or no {entry_type.__name__}; it cannot be resumed")
    return contents
