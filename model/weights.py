"""Checkpoint files: own ones carry their config; the reference programs' are recognised by their names.

Own format, readable with ``weights_only=True``::

    {"format": 1, "config": {NetworkConfig fields}, "network": state dict, …}

Everything that rewrites weights is here: renaming, folding convolution biases, adding mask channels, half precision.
"""

import os
import warnings
from pathlib import Path
from typing import Any

import torch

from util.errors import InputError
from util.files import atomic_path

FORMAT = 1

# Own name of a module → its name in the files of the GSFM and STCN reference programs. The longest prefix decides.
_BRANCH = "hfm boundary_1 boundary_2 boundary_3 mask_1 fusion_1 fusion_2 predict_mask"
_BRANCH += " predict_boundary_1 predict_boundary_2"
REFERENCE_NAMES = {
    "key_encoder.layer1": "key_encoder.res2",
    "key_proj": "key_proj.key_proj",
    "value_encoder.backbone": "value_encoder",
    "value_encoder.fuser": "value_encoder.fuser",
    "value_encoder.fuser.attention.channel_gate.mlp.0": "value_encoder.fuser.attention.ChannelGate.mlp.1",
    "value_encoder.fuser.attention.channel_gate.mlp.2": "value_encoder.fuser.attention.ChannelGate.mlp.3",
    "value_encoder.fuser.attention.spatial_gate.conv": "value_encoder.fuser.attention.SpatialGate.spatial.conv",
    **{f"decoder.branch.{module}": f"decoder.{module}" for module in _BRANCH.split()},
}

EXPECTED = "expected a .pth of this project or of the GSFM or STCN reference programs"

# Settings of the reference programs' networks, without (STCN) and with (GSFM) the spectral modules.
REFERENCE_SETTINGS = {
    spectral: {
        "backbone": "resnet50",
        "lfm": spectral,
        "hfm": spectral,
        "spectrum": "hermitian" if spectral else "half",
        "filter": "bins",
        "memory": "space_time",
        "key_dim": 64,
        "value_dim": 512,
        "decoder_dim": 256,
    }
    for spectral in (False, True)
}


def write_torch_file(path: Path, contents: Any) -> None:
    """``torch.save`` that leaves either the old file or the whole new one.

    Raises `InputError` when the folder cannot be written or the disk is full.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(contents, file)
        except RuntimeError as error:  # how torch reports a full disk
            raise InputError(f"{path}: cannot be written; is the disk full?") from error
        file.flush()
        os.fsync(file.fileno())


def read_torch_file(path: Path) -> Any:
    """``torch.load`` to the CPU with ``weights_only=True``. Raises `InputError` for what is not such a file."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a checkpoint (.pth)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd pickles: the error below says more
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no checkpoint make torch raise many types
        raise InputError(f"{path}: is not a checkpoint, or a damaged one; {EXPECTED}") from error


def read_network_file(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Settings (`NetworkConfig` fields) and float32 state dict, in this project's names, of an own or reference file.

    Raises `InputError` for a file that is neither.
    """
    contents = read_torch_file(path)
    if isinstance(contents, dict) and "config" in contents and "network" in contents:
        if contents.get("format") != FORMAT:
            raise InputError(f"{path}: checkpoint format {contents.get('format')}, this version reads {FORMAT}")
        settings, state = dict(contents["config"]), contents["network"]
    else:
        # The reference's training checkpoints hold the weights under "network".
        state = contents.get("network", contents) if isinstance(contents, dict) else contents
        settings, state = import_reference(state, path)
    return settings, {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def write_network_file(
    path: Path, settings: dict[str, Any], state: dict[str, torch.Tensor], *, half: bool = False, **more: Any
) -> None:
    """Write an own file, atomically; ``half`` stores weights as fp16 (batch-norm statistics stay float32).

    ``more`` entries go beside the network, such as ``train`` with what resuming needs.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    if half:
        state = {
            name: value.half() if value.is_floating_point() and "running_" not in name else value
            for name, value in state.items()
        }
    write_torch_file(path, {"format": FORMAT, "config": settings, "network": state, **more})


def extend_input_channels(weight: torch.Tensor, channels: int, start: str) -> torch.Tensor:
    """Append input channels to weights O×I×k×k: ``start="zero"`` changes no result, ``"orthogonal"`` trains on."""
    extra = torch.zeros(weight.shape[0], channels, *weight.shape[2:], dtype=weight.dtype)
    if start == "orthogonal":
        torch.nn.init.orthogonal_(extra)
    return torch.cat([weight, extra], dim=1)


def read_backbone(name: str, files: list[Path]) -> dict[str, torch.Tensor]:
    """The ImageNet state dict (torchvision names, float32) of ResNet ``name`` among local files.

    A file may hold more layers than are used. Raises `InputError` when none of the files is that network.
    """
    wanted = {
        "resnet50": ("layer1.0.conv3.weight", "layer3.5.conv1.weight"),
        "resnet18": ("layer3.1.conv2.weight",),
    }
    for path in files:
        state = read_torch_file(path)
        if not isinstance(state, dict):
            continue
        basic = "layer1.0.conv3.weight" not in state
        if all(key in state for key in wanted[name]) and basic == (name == "resnet18"):
            return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    given = ", ".join(str(path) for path in files)
    raise InputError(f"{given}: no file holds the ImageNet weights of {name} in torchvision's names")


def _rename(name: str, table: dict[str, str]) -> str:
    prefixes = [old for old in table if name.startswith(old + ".")]
    if not prefixes:
        return name
    old = max(prefixes, key=len)
    return table[old] + name[len(old) :]


def _convolution_before(batch_norm: str) -> str:
    """Name of the convolution that feeds a batch norm: bn2 → conv2, downsample.1 → downsample.0."""
    head, _, last = batch_norm.rpartition(".")
    return f"{head}.{last.replace('bn', 'conv') if last.startswith('bn') else '0'}"


def import_reference(state: Any, path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Settings and renamed state dict of a GSFM or STCN reference file (its contents, already read).

    Their ResNets have convolution biases in front of the batch norms; folding is exact: ``BN(conv + bias)`` is BN with
    ``running_mean − bias``. GSFM's files come from a full ``fft2`` with the filter counted in bins.
    Raises `InputError` for a state dict that is neither.
    """
    if isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values()):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    else:
        state = {}
    if missing := [name for name in ("key_proj.key_proj.weight", "value_encoder.conv1.weight") if name not in state]:
        held = f"it holds {', '.join(list(state)[:3])}, …" if state else "it holds no tensors by name"
        raise InputError(f"{path}: no {' and no '.join(missing)}, {held}; {EXPECTED}")
    for mean in [name for name in state if name.endswith(".running_mean")]:
        bias = f"{_convolution_before(mean.removesuffix('.running_mean'))}.bias"
        if bias in state:
            state[mean] = state[mean] - state.pop(bias)
    spectral = "lfm.conv1.weight" in state
    settings = REFERENCE_SETTINGS[spectral] | {"single_object": state["value_encoder.conv1.weight"].shape[1] == 4}
    own_names = {reference: own for own, reference in REFERENCE_NAMES.items()}
    return settings, {_rename(name, own_names): value for name, value in state.items()}


def export_reference(settings: dict[str, Any], state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict under the reference programs' names, with the convolution biases they expect (zero).

    Raises `InputError` for networks that those programs cannot express.
    """
    needed = REFERENCE_SETTINGS[settings["lfm"]]
    if wrong := [f"{name} {settings[name]}, not {value}" for name, value in needed.items() if settings[name] != value]:
        raise InputError(f"the reference programs have no such network: {'; '.join(wrong)}")
    exported = {}
    for name, value in state.items():
        name = _rename(name, REFERENCE_NAMES)
        exported[name] = value
        if name.endswith(".running_mean") and (settings["lfm"] or name.startswith("value_encoder.")):
            exported[f"{_convolution_before(name.removesuffix('.running_mean'))}.bias"] = torch.zeros_like(value)
    return exported
