"""Training settings: one frozen dataclass, the four published stages as presets, one parser made from the fields."""

import argparse
import dataclasses
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from util.errors import InputError

STAGES = {
    0: {"lr": 4e-5, "batch_size": 16, "iterations": 40_000, "steps": (20_000,), "start_warm": 3000, "end_warm": 10_000},
    1: {"lr": 6e-5, "batch_size": 8, "iterations": 65_000, "steps": (50_000,), "start_warm": 5000, "end_warm": 20_000},
    2: {"lr": 6e-5, "batch_size": 8, "iterations": 40_000, "steps": (30_000,), "start_warm": 3000, "end_warm": 10_000},
    3: {"lr": 4e-5, "batch_size": 8, "iterations": 30_000, "steps": (25_000,), "start_warm": 3000, "end_warm": 15_000},
}
STAGE_NAMES = {
    0: "static images",
    1: "BL30K",
    2: "DAVIS + YouTube-VOS, after BL30K",
    3: "DAVIS + YouTube-VOS, after stage 0",
}


def _flag(default: Any, help: str, *names: str, **options) -> Any:
    return field(default=default, metadata={"help": help, "names": names, **options})


@dataclass(frozen=True)
class TrainConfig:
    """Every value is a flag of ``train.py``. Fields with default None take their stage's or preset's value."""

    id: str = _flag("", "name of the run: results go to <saves>/<id>/")
    stage: int = _flag(0, "; ".join(f"{k}: {v}" for k, v in STAGE_NAMES.items()), type=int, choices=sorted(STAGES))
    load_network: Path | None = _flag(None, "start from these weights (own or reference file)", type=Path)
    load_model: Path | None = _flag(None, "resume exactly from this <id>_checkpoint.pth", type=Path)
    saves: Path = _flag(Path("saves"), "folder of all runs", type=Path)
    overwrite: bool = _flag(False, "replace an existing run of the same id")

    # Network; a resumed or given checkpoint brings its own.
    model: str = _flag("gsfm", "preset of the network: gsfm, stcn, gc or gsfm-small")
    backbone: str | None = _flag(None, "key encoder", choices=("resnet50", "resnet18"))
    lfm: bool | None = _flag(None, "Low-Frequency Module", action=argparse.BooleanOptionalAction)
    hfm: bool | None = _flag(None, "High-Frequency Module and boundary branch", action=argparse.BooleanOptionalAction)
    spectrum: str | None = _flag(None, "how spectral modules see the spectrum", choices=("half", "hermitian"))
    filter: str | None = _flag(None, "spectral filters in bins or relative to the size", choices=("bins", "relative"))
    memory: str | None = _flag(None, "kind of memory", choices=("space_time", "global_context"))
    key_dim: int | None = _flag(None, "channels of the keys", type=int)
    value_dim: int | None = _flag(None, "channels of the values", type=int)
    decoder_dim: int | None = _flag(None, "channels of the decoder at 1/4 and 1/8", type=int)
    gc_norm: str | None = _flag(None, "normalisation of the global context", choices=("softmax", "mean"))
    gc_update: str | None = _flag(None, "update of the global context", choices=("mean", "anchored"))
    pretrained: tuple[str, ...] = _flag(
        ("imagenet",), "ImageNet start of the encoders: imagenet (download), none, or local .pth files", nargs="+"
    )

    # Data.
    static_root: Path = _flag(Path("data/static"), "static image sets, one folder each", type=Path)
    bl_root: Path = _flag(Path("data/BL30K"), "BL30K", type=Path)
    yv_root: Path = _flag(Path("data/YouTube"), "YouTube-VOS, with train_480p/", type=Path)
    davis_root: Path = _flag(Path("data/DAVIS"), "DAVIS, 2017 or 2016 layout", type=Path)
    yv_list: Path | None = _flag(None, "text file: train on these YouTube-VOS videos only", type=Path)
    extra: tuple[str, ...] = _flag(
        (), "further data: IMAGES:MASKS[:REPEAT], two folders: still images or, from stage 1 on, videos", nargs="+"
    )
    synthetic: int = _flag(0, "generated clips in each epoch beside the other data", type=int)
    paste: float = _flag(
        0.0, "probability that a video clip of one object gets a second, cut from --static_root", type=float
    )
    num_frames: int = _flag(3, "frames of a clip", type=int)
    crop: int = _flag(384, "side of the training crop in pixels, a multiple of 16", type=int)
    num_workers: int = _flag(8, "data workers of each process", type=int)

    # Recipe.
    batch_size: int | None = _flag(None, "clips per process and step", "-b", type=int)
    global_batch_size: int | None = _flag(None, "clips per step over all processes, instead of -b", type=int)
    accumulate: int = _flag(1, "backward passes per optimiser step, of -b clips each", type=int)
    iterations: int | None = _flag(None, "optimiser steps", "-i", type=int)
    steps: tuple[int, ...] | None = _flag(None, "iterations at which the rate drops", nargs="*", type=int)
    lr: float | None = _flag(None, "learning rate", type=float)
    gamma: float = _flag(0.1, "factor of a drop", type=float)
    weight_decay: float = _flag(1e-7, "weight decay", type=float)
    start_warm: int | None = _flag(None, "iteration from which only the hardest pixels count", type=int)
    end_warm: int | None = _flag(None, "iteration at which 15 %% of the pixels are left", type=int)
    boundary_weight: float = _flag(0.05, "weight of the boundary loss", type=float)
    seed: int = _flag(14159265, "seed of weights and data", type=int)

    # Machine.
    device: str = _flag("auto", "where to train", choices=("auto", "cuda", "mps", "cpu"))
    amp: str | None = _flag(None, "mixed precision (default: fp16 on CUDA, none elsewhere)", choices=("fp16", "bf16"))
    no_amp: bool = _flag(False, "float32 throughout")
    compile: bool = _flag(False, "torch.compile the network")
    checkpoint_activations: bool = _flag(False, "less memory, more time: recompute features in the backward pass")
    benchmark: bool = _flag(False, "let cuDNN search for the fastest convolutions")

    # Records.
    log_every: int = _flag(50, "iterations between log entries", type=int)
    image_every: int = _flag(500, "iterations between pictures", type=int)
    checkpoint_every: int = _flag(500, "iterations between <id>_checkpoint.pth", type=int)
    save_every: int = _flag(10_000, "iterations between <id>_<iteration>.pth", type=int)
    debug: bool = _flag(False, "log and draw every few iterations")

    def network_settings(self) -> dict[str, Any]:
        """`NetworkConfig` fields that were given, for `NetworkConfig.preset`."""
        given = {name: getattr(self, name) for name in NETWORK_FIELDS if getattr(self, name) is not None}
        return given | {"single_object": self.stage == 0}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints and logs."""
        return {name: _plain(value) for name, value in dataclasses.asdict(self).items()}


# Two ways to say one thing.
ALTERNATIVES = (("batch_size", "global_batch_size"), ("amp", "no_amp"))
NETWORK_FIELDS = ("backbone", "lfm", "hfm", "spectrum", "filter", "memory")
NETWORK_FIELDS += ("key_dim", "value_dim", "decoder_dim", "gc_norm", "gc_update")
# What a resumed run takes from its command line alone, never from the checkpoint.
OF_THE_CALL = {"id", "load_model", "load_network", "saves", "overwrite"}
OF_THE_CALL |= {"device", "num_workers", "compile", "checkpoint_activations", "benchmark", "debug"}

EXAMPLE = """examples:
  stage 0, published recipe, 8 GPUs:
    torchrun --nproc_per_node=8 train.py --id s0-GSFM --stage 0
  main training on top of it:
    torchrun --nproc_per_node=8 train.py --id s03-GSFM --stage 3 --load_network saves/s0-GSFM/s0-GSFM_40000.pth
  resume:
    torchrun --nproc_per_node=8 train.py --id s0-GSFM --stage 0 --load_model saves/s0-GSFM/s0-GSFM_checkpoint.pth
  on a laptop, own stills:
    python train.py --id try --stage 0 --model stcn --backbone resnet18 --crop 192 -b 2 -i 500 --pretrained none
"""


def parse_config(arguments: list[str] | None = None) -> tuple[TrainConfig, set[str]]:
    """The settings of the command line, and the names of those that were given there.

    ``--local-rank`` / ``--local_rank`` of older launchers are accepted and ignored (the environment holds the rank).
    """
    parser = argparse.ArgumentParser(
        description="Train GSFM, STCN or Global Context.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    for setting in dataclasses.fields(TrainConfig):
        options = dict(setting.metadata)
        names, text = options.pop("names"), options.pop("help")
        if setting.type is bool:
            options["action"] = "store_true"
        if setting.default not in (None, "", (), False):
            shown = setting.default if not isinstance(setting.default, tuple) else " ".join(setting.default)
            text += f" (default: {shown})"
        elif setting.name in STAGES[0]:
            text += " (default: the stage's)"
        required = {"required": True} if setting.name in ("id", "stage") else {}
        parser.add_argument(f"--{setting.name}", *names, help=text, **options, **required)
    parser.add_argument("--local-rank", "--local_rank", type=int, help=argparse.SUPPRESS)
    given = vars(parser.parse_args(arguments))
    given.pop("local_rank", None)
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return TrainConfig(**values), set(values)


def complete(config: TrainConfig, given: set[str], saved: dict[str, Any] | None, world_size: int) -> TrainConfig:
    """Fill in what the command line left open: from the resumed checkpoint's settings, then from the stage.

    Raises `InputError` for settings that contradict each other or the checkpoint.
    """
    values = {name: getattr(config, name) for name in given}
    if saved is not None:
        if saved["stage"] != config.stage:
            raise InputError(
                f"{config.load_model}: a checkpoint of stage {saved['stage']}, not {config.stage}; "
                f"to start the next stage from its weights use --load_network"
            )
        known = {setting.name: setting for setting in dataclasses.fields(TrainConfig)}
        for name, value in saved.items():
            if name in known and name not in given and name not in OF_THE_CALL:
                values[name] = _restore(known[name], value)
        for one, other in ALTERNATIVES:  # what is given replaces both that were saved
            if one in given or other in given:
                values |= {name: getattr(config, name) for name in (one, other)}
    for name, value in STAGES[config.stage].items():
        if values.get(name) is None:
            values[name] = value
    if {"batch_size", "global_batch_size"} <= given:
        raise InputError("-b counts clips per process, --global_batch_size over all: give one of them")
    if values.get("global_batch_size") is not None:
        shares = world_size * values.get("accumulate", 1)
        if values["global_batch_size"] % shares or values["global_batch_size"] < 1:
            raise InputError(
                f"--global_batch_size {values['global_batch_size']}: expected a multiple of {shares} "
                f"({world_size} processes × {values.get('accumulate', 1)} backward passes per step)"
            )
        values["batch_size"] = values["global_batch_size"] // shares
    config = TrainConfig(**values)
    if config.debug:
        often = {"log_every": 5, "image_every": 20}
        config = dataclasses.replace(config, **{name: n for name, n in often.items() if name not in given})
    _check(config)
    return config


def _check(config: TrainConfig) -> None:
    positive = ("batch_size", "accumulate", "iterations", "log_every", "image_every", "checkpoint_every", "save_every")
    for name in positive:
        if getattr(config, name) < 1:
            raise InputError(f"--{name} {getattr(config, name)}: expected at least 1")
    for name in ("lr", "gamma", "weight_decay", "boundary_weight", "num_workers"):
        value = getattr(config, name)
        if not 0 <= value < math.inf:
            raise InputError(f"--{name} {value}: expected a number from 0 on")
    if config.crop < 16 or config.crop % 16:
        raise InputError(f"--crop {config.crop}: expected a multiple of 16")
    if config.synthetic < 0:
        raise InputError(f"--synthetic {config.synthetic}: expected a number of clips, 0 for none")
    if not 0 <= config.paste <= 1 or config.paste and config.stage == 0:
        raise InputError(f"--paste {config.paste}: expected a probability, 0 to 1, in the video stages")
    if config.num_frames < 2:
        raise InputError(f"--num_frames {config.num_frames}: expected at least 2 (one is given, the rest are learned)")
    if config.no_amp and config.amp:
        raise InputError(f"--no_amp and --amp {config.amp} contradict each other")
    if config.load_model and config.load_network:
        raise InputError("--load_model resumes a run, --load_network starts one: give one of them")
    if not re.fullmatch(r"[\w.+=@-]+", config.id) or config.id.startswith("."):
        raise InputError(f"--id {config.id!r}: expected a name for a folder: letters, digits and _ . + = @ -")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _restore(setting: dataclasses.Field, value: Any) -> Any:
    if value is not None and setting.metadata.get("type") is Path:
        return Path(value)
    return tuple(value) if isinstance(value, list) else value
