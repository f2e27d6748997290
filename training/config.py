"""Settings of a training: each field is a flag of ``train.py``, and its comment the help text.

Defaults come from the stage, the preset of the network, or the file that is resumed or started from.
"""

import argparse
import contextlib
import io
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, arg

from datasets.config import DataConfig
from model.config import PRESETS, NetworkConfig, Preset
from util.errors import InputError, Parser, refuse_empty
from util.settings import DeviceName, from_plain, to_plain


@dataclass(frozen=True)
class Recipe:
    """How the weights are learned; defaults are the stage's."""

    batch_size: Annotated[int, arg(aliases=["-b"])] = 16  # Clips per process and backward pass.
    global_batch_size: int | None = None  # Clips per optimiser step over all processes, instead of -b.
    accumulate: int = 1  # Backward passes per optimiser step.
    iterations: Annotated[int, arg(aliases=["-i"])] = 40_000  # Optimiser steps.
    lr: float = 4e-5  # Learning rate of Adam, before the schedule.
    schedule: Literal["steps", "cosine"] = "steps"  # steps: drops by gamma at each of --steps; cosine: falls to 0.
    steps: tuple[int, ...] = ()  # Iterations at which the rate drops.
    gamma: float = 0.1  # Factor of a drop.
    warm_up: int = 0  # Iterations over which the rate rises linearly from 0 to its value.
    weight_decay: float = 1e-7  # Weight decay.
    ema: float = 0.0  # Decay of averaged weights, such as 0.999, which are then evaluated and saved; 0: none.
    start_warm: int = 3000  # Iteration from which on easy pixels leave the cross-entropy.
    end_warm: int = 10_000  # Iteration from which on only the hardest pixels are left.
    hard_fraction: float = 0.15  # Fraction of the pixels that is left from end_warm on.
    boundary_weight: float = 0.05  # Weight of the boundary loss.
    dice_weight: float = 0.0  # Weight of the Dice loss of the masks.
    freeze_backbone: bool = False  # Freeze the stem and the first stage of the key encoder: cheaper steps.
    backbone_lr: float = 1.0  # Factor of the learning rate for the key encoder's ResNet; 0 freezes all of it.
    # Mixed precision; auto: fp16 on CUDA, none elsewhere; --no_amp is short for --amp none.
    amp: Literal["auto", "fp16", "bf16", "none"] = "auto"
    seed: int = 14159265  # Seed of weights and data.

    def learning_rate(self, iteration: int) -> float:
        """Learning rate of an optimiser step; ``iteration`` counts from 0."""
        if self.schedule == "cosine":
            factor = (1 + math.cos(math.pi * iteration / self.iterations)) / 2
        else:
            factor = self.gamma ** sum(step <= iteration for step in self.steps)
        return self.lr * factor * min(1.0, (iteration + 1) / max(self.warm_up, 1))


@dataclass(frozen=True)
class Validation:
    """Segmentation of held-out videos with the evaluation engine; off by default."""

    # Held-out videos: DAVIS, or a folder with JPEGImages/VIDEO and masks of all frames in Annotations/VIDEO.
    val_root: Annotated[Path | None, arg(aliases=["--val_davis"])] = None
    val_videos: str = ""  # Only these videos, separated by commas; empty: all, for DAVIS its validation split.
    val_every: int = 0  # Iterations between validations; <id>_best.pth holds the weights with the best J&F so far.
    val_size: int = 480  # Shorter side at which the videos are segmented, in pixels.


@dataclass(frozen=True)
class Records:
    """What is written, and how often; weights and logs go to <saves>/<id>/."""

    log_every: int = 50  # Iterations between log entries.
    image_every: int = 500  # Iterations between pictures in TensorBoard.
    checkpoint_every: int = 500  # Iterations between updates of <id>_checkpoint.pth.
    save_every: int = 10_000  # Iterations between <id>_<iteration>.pth.


@dataclass(frozen=True)
class Machine:
    """Where and how this call runs; a resumed run does not take these from its checkpoint."""

    device: DeviceName = "auto"  # auto: CUDA, else Apple's MPS, else the CPU.
    local_rank: int = 0  # Given by older launchers and ignored: the environment holds the rank.
    num_workers: int = 8  # Data loading workers of each process.
    compile: bool = False  # torch.compile the network.
    checkpoint_activations: bool = False  # Less memory, more time: recompute features in the backward pass.
    benchmark: bool = False  # Let cuDNN search for the fastest convolutions.
    debug: bool = False  # Log every 5 and draw every 20 iterations.


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run. Each field is a flag of ``train.py``; groups are for ``--help`` and for resuming."""

    id: str  # Name of the run: results go to <saves>/<id>/.
    stage: Literal[0, 1, 2, 3]  # 0: static images; 1: BL30K; 2, 3: DAVIS + YouTube-VOS, 2 after BL30K, 3 after 0.
    load_network: Path | None = None  # Start from these weights, of this project or of the GSFM or STCN programs.
    # With --load_network: how far the key encoder's ResNet first moves back to the ImageNet weights of --pretrained,
    # from 0 to 1. Training on little video spoils these features for other videos; the mean keeps the best of both.
    imagenet_blend: float = 0.0
    load_model: Path | None = None  # Resume exactly from this <id>_checkpoint.pth.
    # Resume from the run's own <id>_checkpoint.pth if there is one, else start: for launchers that restart the command.
    resume: bool = False
    model: Preset = "gsfm"  # Preset of the network; sets the defaults of the network options.
    # Where the encoders of a new network start: imagenet (download), none, or .pth files with the ImageNet weights.
    pretrained: tuple[str, ...] = ("imagenet",)
    saves: Path = Path("saves")  # Folder of all runs.
    overwrite: bool = False  # Replace an existing run of the same id.
    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: DataConfig = field(default_factory=DataConfig)
    recipe: Recipe = field(default_factory=Recipe)
    validation: Validation = field(default_factory=Validation)
    records: Records = field(default_factory=Records)
    machine: Machine = field(default_factory=Machine)

    def clips_per_pass(self, processes: int) -> int:
        """Clips of one process in one backward pass. Raises `InputError` where they do not come out even."""
        total, passes = self.recipe.global_batch_size, processes * self.recipe.accumulate
        if total is None:
            return self.recipe.batch_size
        if total % passes:
            factors = f"{processes} processes × {self.recipe.accumulate} backward passes per step"
            raise InputError(f"--global_batch_size {total}: expected a multiple of {passes} ({factors})")
        return total // passes

    def saved_settings(self) -> dict[str, Any]:
        """What a checkpoint keeps for a resumed run, as plain values; the network's settings are kept beside them."""
        return {"stage": self.stage} | {name: to_plain(getattr(self, name)) for name in SAVED}


# Groups that a resumed run takes from its checkpoint.
SAVED = {"data": DataConfig, "recipe": Recipe, "validation": Validation, "records": Records}

STAGES = {
    0: Recipe(lr=4e-5, batch_size=16, iterations=40_000, steps=(20_000,), start_warm=3000, end_warm=10_000),
    1: Recipe(lr=6e-5, batch_size=8, iterations=65_000, steps=(50_000,), start_warm=5000, end_warm=20_000),
    2: Recipe(lr=6e-5, batch_size=8, iterations=40_000, steps=(30_000,), start_warm=3000, end_warm=10_000),
    3: Recipe(lr=4e-5, batch_size=8, iterations=30_000, steps=(25_000,), start_warm=3000, end_warm=15_000),
}

# Smallest and largest accepted value; the largest only keeps slips of the keyboard from allocating without end.
LIMITS = {
    **dict.fromkeys(("batch_size", "global_batch_size", "accumulate"), (1, 10**6)),
    **dict.fromkeys(("iterations", "log_every", "image_every", "checkpoint_every", "save_every"), (1, 10**9)),
    **dict.fromkeys(("val_every", "steps", "warm_up", "start_warm", "end_warm"), (0, 10**9)),
    **dict.fromkeys(
        ("lr", "gamma", "weight_decay", "boundary_weight", "dice_weight", "backbone_lr"), (0, sys.float_info.max)
    ),
    "hard_fraction": (0.01, 1),
    "imagenet_blend": (0, 1),
    "ema": (0, 0.999999),
    "seed": (0, 2**63 - 1),
    "num_workers": (0, 1024),
    "val_size": (16, 10**5),
}

DESCRIPTION = """Train GSFM, STCN or Global Context. README, section Training, has more examples.

  torchrun --nproc_per_node=8 train.py --id s0-GSFM --stage 0
  python train.py --id try --stage 0 --model gsfm-small --static_root my_images --crop 192 -b 2 -i 500
"""


def parse_config(arguments: Sequence[str] | None = None, processes: int = 1) -> TrainConfig:
    """The settings of a run of that many processes, parsed in two passes: some flags set the defaults of others.

    Raises `InputError` for unknown flags, faulty values, and settings that contradict each other or the checkpoint.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    refuse_empty(arguments)
    first, arguments = _first_pass(arguments)
    options: dict[str, Any] = {"prog": "train.py", "description": DESCRIPTION, "use_underscores": True}
    default, box = _default(first), io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            config = tyro.cli(OmitArgPrefixes[TrainConfig], args=arguments, default=default, **options)
    except SystemExit as end:
        if not end.code:
            raise
        _, _, text = box.getvalue().partition("\n")  # the first line is a title
        message, _, _ = re.sub(r"(\s|[\u2500-\u257f]|-{9,})+", " ", text).partition(" For full helptext")
        raise InputError(f"{message.strip()}; train.py --help lists all flags") from None
    if config.resume and first.load_model:
        config = replace(config, load_model=first.load_model, load_network=None, imagenet_blend=0.0)
    words = [word.partition("=")[0] for word in arguments]
    for group in (config, config.data, config.recipe, config.validation, config.records, config.machine):
        check_limits(group)
        for name, value in vars(group).items():
            if isinstance(value, tuple) and words.count(f"--{name}") > 1:  # the last would replace the others
                raise InputError(f"--{name}: given more than once; expected all its values behind one --{name}")
    if not config.load_model and (begin := config.recipe.start_warm) > (stop := config.recipe.end_warm):
        raise InputError(f"--start_warm {begin}: expected at most --end_warm, {stop}")
    if config.imagenet_blend and not config.load_network:
        raise InputError("--imagenet_blend: expected together with --load_network")
    config.data.check(config.stage)
    config.clips_per_pass(processes)
    if bool(config.validation.val_root) != bool(config.validation.val_every):
        raise InputError("--val_root and --val_every: expected both, the videos and how often they are segmented")
    if not re.fullmatch(r"[\w+=@-][\w.+=@-]*", config.id):
        raise InputError(f"--id {config.id!r}: expected a name for a folder: letters, digits and _ . + = @ -")
    return config


def restored_settings(settings: dict[str, Any], path: Path) -> dict[str, Any]:
    """The groups that `TrainConfig.saved_settings` made the plain values of. Raises `InputError` for faulty ones."""
    groups: dict[str, Any] = {name: from_plain(group, settings.get(name), path) for name, group in SAVED.items()}
    try:
        for group in groups.values():
            check_limits(group)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return groups


def check_limits(settings: object) -> None:
    """Raise `InputError` for a field, or an item of one, outside its `LIMITS`."""
    for name, values in vars(settings).items():
        low, high = LIMITS.get(name, (0, 0))
        for value in values if isinstance(values, tuple) else (values,):
            if name in LIMITS and value is not None and not low <= value <= high:  # NaN is on neither side
                raise InputError(f"--{name} {value}: expected a number from {low:g} to {high:g}")


def _first_pass(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags that set the defaults of others, and the arguments for the second pass. Refuses contradictions."""
    arguments = [re.sub(r"^--[\w-]+", lambda name: "--" + name[0][2:].replace("-", "_"), text) for text in arguments]
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--stage", type=int, choices=sorted(STAGES))
    parser.add_argument("--model", choices=list(PRESETS))
    parser.add_argument("--debug", action="store_true")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--id", default="")
    parser.add_argument("--saves", type=Path, default=TrainConfig.saves)
    source, batch, precision = (parser.add_mutually_exclusive_group() for _ in range(3))
    source.add_argument("--load_model", type=Path)
    source.add_argument("--load_network", type=Path)
    batch.add_argument("-b", "--batch_size")
    batch.add_argument("--global_batch_size")
    precision.add_argument("--amp")
    precision.add_argument("--no_amp", action="store_true")
    first, _ = parser.parse_known_args(arguments)
    if first.resume:
        if first.load_model:
            raise InputError("--resume: not allowed with --load_model, which names the checkpoint itself")
        checkpoint = first.saves / first.id / f"{first.id}_checkpoint.pth"
        if checkpoint.is_file():
            first.load_model, first.load_network = checkpoint, None
    return first, ["--amp=none" if text == "--no_amp" else text for text in arguments]


def _default(first: argparse.Namespace) -> TrainConfig:
    """The settings that apply where the command line gives no others. Raises `InputError` for files that do not fit."""
    groups: dict[str, Any] = {"recipe": STAGES[first.stage or 0], "records": Records()}
    network = NetworkConfig(single_object=first.stage == 0)
    if path := first.load_network:
        from model.weights import read_network_file  # late: PyTorch takes seconds to import

        settings = read_network_file(path).settings
        network = NetworkConfig.from_file({**settings, "single_object": first.stage == 0}, path)
    elif path := first.load_model:
        from training.checkpoint import read_checkpoint

        contents = read_checkpoint(path)
        network, settings = NetworkConfig.from_file(contents["config"], path), contents["train"]["settings"]
        if first.stage not in (None, settings.get("stage")):
            raise InputError(
                f"{path}: a checkpoint of stage {settings.get('stage')}, not {first.stage}; to start the next stage"
                " from its weights use --load_network"
            )
        if not SAVED.keys() <= settings.keys():
            raise InputError(f"{path}: is of an earlier version; --load_network starts from its weights")
        groups = restored_settings(settings, path)
    if first.model:
        network = replace(network, **PRESETS[first.model])
    if first.debug:
        groups["records"] = replace(groups["records"], log_every=5, image_every=20)
    if first.batch_size is not None:
        groups["recipe"] = replace(groups["recipe"], global_batch_size=None)
    stage = tyro.MISSING if first.stage is None else first.stage
    return TrainConfig(id=tyro.MISSING, stage=stage, network=network, **groups)
