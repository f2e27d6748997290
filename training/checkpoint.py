"""The state of a training and its file ``<id>_checkpoint.pth``, from which a run resumes bit for bit."""

import copy
import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.network import Network, load_weights
from model.weights import check_format, read_torch_file, write_network_file
from util.distributed import average, gather, rank
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
        """One optimiser step with the gradients of all processes, which are cleared; the averaged weights follow."""
        average([p.grad for p in self.network.parameters() if p.grad is not None])
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
        load_weights(self.network, contents["network"], path)
        self.iteration, self.position, self.best = train["iteration"], train["position"], train["best"]
        try:
            self._load_moments(train["optimizer"], path)
            if train["scaler"] and self.scaler.is_enabled():  # a run without fp16 leaves it empty
                # Only what changes: the other values are this version's.
                scale, tracker = float(train["scaler"]["scale"]), int(train["scaler"]["_growth_tracker"])
                if not 0 < scale < math.inf:
                    raise ValueError(f"loss scale {scale}")
                self.scaler.load_state_dict(self.scaler.state_dict() | {"scale": scale, "_growth_tracker": tracker})
            if self.average:
                average = train.get("average") or {"network": contents["network"], "updates": 0}
                load_weights(self.average, average["network"], path)
                self.updates = max(int(average["updates"]), 0)
            if rank() < len(train["rng"]):  # a process that is new to the run starts from the seed
                rng = train["rng"][rank()]
                torch.set_rng_state(rng["cpu"])
                if "cuda" in rng and torch.cuda.is_available():
                    torch.cuda.set_rng_state(rng["cuda"])
        except InputError:
            raise
        except (LookupError, TypeError, ValueError, OverflowError, AttributeError, RuntimeError) as error:
            raise InputError(f"{path}: is damaged, or of another version ({error!r:.200})") from error

    def _load_moments(self, stored: dict[str, Any], path: Path) -> None:
        """Take up the optimiser's moments; its other settings are those of the recipe.

        Raises `InputError` for other groups of parameters, for moments of another shape, which fused Adam would write
        past, and for impossible values.
        """
        groups, moments = self.optimizer.state_dict()["param_groups"], {}
        if [group["params"] for group in stored["param_groups"]] != [group["params"] for group in groups]:
            raise InputError(f"{path}: the optimiser has other groups of parameters; expected --backbone_lr as before")
        for index, parameter in enumerate(p for group in self.optimizer.param_groups for p in group["params"]):
            if index not in stored["state"]:  # it has had no gradient
                continue
            moments[index] = stored["state"][index]
            for name, shape in (("step", ()), ("exp_avg", parameter.shape), ("exp_avg_sq", parameter.shape)):
                value = moments[index].get(name)
                if not isinstance(value, torch.Tensor) or value.shape != shape or not value.is_floating_point():
                    raise InputError(f"{path}: the optimiser's {name} of parameter {index} does not fit the network")
                if not value.isfinite().all() or name != "exp_avg" and (value < 0).any():
                    raise InputError(f"{path}: the optimiser's {name} of parameter {index} has impossible values")
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Contents of a ``<id>_checkpoint.pth``. Raises `InputError` for another kind of file."""
    contents = read_torch_file(path)
    train = contents.get("train") if isinstance(contents, dict) else None
    if not isinstance(train, dict) or not isinstance(contents.get("config"), dict):
        raise InputError(f"{path}: expected a <id>_checkpoint.pth to resume; for weights alone use --load_network")
    check_format(contents, path)
    for name, entry_type in ENTRIES.items():
        if type(train.get(name)) is not entry_type:
            raise InputError(f"{path}: its entry {name} is missing or no {entry_type.__name__}; it cannot be resumed")
        lowest = -1 if name == "best" else 0
        if entry_type in (int, float) and not lowest <= train[name] < 2**63:  # NaN is on neither side
            raise InputError(f"{path}: its entry {name} is {train[name]:g}; expected at least {lowest}")
    return contents
