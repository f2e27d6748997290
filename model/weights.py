"""Checkpoint files: own ones carry their config; those of the reference programs are recognised by their names.

Own format, readable with ``weights_only=True``::

    {"format": 1, "config": {NetworkConfig fields}, "network": state dict, …}

Everything that rewrites weights is here: renaming, folding convolution biases, adding mask channels, half precision.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from util.errors import InputError
from util.files import atomic_path

FORMAT = 1
State = dict[str, torch.Tensor]

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
OWN_NAMES = {reference: own for own, reference in REFERENCE_NAMES.items()}

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
    """``torch.save`` that leaves either the old file or the complete new one.

    Raises `InputError` if the folder cannot be written or the disk is full.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(contents, file)
        except RuntimeError as error:  # how torch reports a full disk
            raise InputError(f"{path}: cannot be written; is the disk full?") from error


def read_torch_file(path: Path) -> Any:
    """``torch.load`` to the CPU with ``weights_only=True``. Raises `InputError` for any file that it does not read."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a checkpoint (.pth)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual pickles; the error below says more
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for bytes that are no checkpoint
        raise InputError(f"{path}: is no checkpoint, or a damaged one; {EXPECTED}") from error


def read_network_file(path: Path) -> tuple[dict[str, Any], State]:
    """Settings (`NetworkConfig` fields) and float32 state dict of an own or a reference file, in this project's names.

    Raises `InputError` for a file that is neither.
    """
    contents = read_torch_file(path)
    if isinstance(contents, dict) and "config" in contents and "network" in contents:
        if contents.get("format") != FORMAT:
            raise InputError(f"{path}: checkpoint format {contents.get('format')}; this version reads {FORMAT}")
        settings, state = contents["config"], contents["network"]
        if not (isinstance(settings, dict) and _is_state(state)):
            raise InputError(f"{path}: holds no settings, or no weights by name; {EXPECTED}")
    else:
        # The reference programs' training checkpoints hold the weights under "network".
        state = contents.get("network", contents) if isinstance(contents, dict) else contents
        settings, state = import_reference(state, path)
    return dict(settings), _to_float32(state)


def _is_state(state: Any) -> bool:
    """Whether this is a dict of ordinary tensors by name."""
    return isinstance(state, dict) and all(
        isinstance(name, str)
        and isinstance(value, torch.Tensor)
        and (value.layout, value.device.type, value.is_quantized) == (torch.strided, "cpu", False)
        for name, value in state.items()
    )


def _to_float32(state: State) -> State:
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def write_network_file(path: Path, settings: dict[str, Any], state: State, *, half: bool = False, **more: Any) -> None:
    """Write an own file, atomically; ``half`` stores weights as fp16 (batch-norm statistics stay float32).

    ``more`` entries are stored beside the network, such as ``train`` with what resuming needs.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    if half:
        state = {
            name: value.half() if value.is_floating_point() and "running_" not in name else value
            for name, value in state.items()
        }
    write_torch_file(path, {"format": FORMAT, "config": settings, "network": state, **more})


def fit_weights(own: Mapping[str, torch.Tensor], state: State, path: Path, new_channel: str) -> State:
    """The weights read from ``path``, ready for a network with the state dict ``own``: same names, shapes and types.

    Args:
        own: only names, shapes and types matter; it may be on the meta device.
        state: single-object weights (one mask channel) fit a multi-object network with a second mask channel.
        new_channel: start of that channel: ``orthogonal`` to go on training, ``zero`` for evaluation.
    Raises `InputError` that names the first missing, unexpected and different tensors, or a tensor with values that no
    weights can have.
    """
    if not _is_state(state):
        raise InputError(f"{path}: holds no weights by name; {EXPECTED}")
    name = "value_encoder.backbone.conv1.weight"
    if name in state and name in own and state[name].shape == own[name][:, :-1].shape:
        state = state | {name: extend_input_channels(state[name], 1, new_channel)}
    problems = [f"missing {key}" for key in own if key not in state]
    problems += [f"unexpected {key}" for key in state if key not in own]
    for key in [key for key in own if key in state]:
        if state[key].shape != own[key].shape:
            problems.append(f"{key} is {tuple(state[key].shape)} instead of {tuple(own[key].shape)}")
        elif state[key].dtype != own[key].dtype:
            problems.append(f"{key} is {state[key].dtype} instead of {own[key].dtype}")
    if problems:
        more = f" and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise InputError(f"{path}: the weights are of another network: {'; '.join(problems[:6])}{more}")
    check_values(state, path)
    return state


def check_values(state: State, path: Path) -> None:
    """Raise `InputError` for a NaN, an infinity or a negative variance; ``state`` was read from ``path``."""
    for name, value in state.items():
        if not value.isfinite().all():
            raise InputError(f"{path}: {name} has values that are not finite; the file is damaged or training diverged")
        if name.endswith(".running_var") and (value < 0).any():
            raise InputError(f"{path}: {name} has negative values; expected variances")


def extend_input_channels(weight: torch.Tensor, channels: int, start: str) -> torch.Tensor:
    """Append input channels to weights O×I×k×k: ``zero`` leaves results unchanged, ``orthogonal`` is for training."""
    extra = torch.zeros(weight.shape[0], channels, *weight.shape[2:], dtype=weight.dtype)
    if start == "orthogonal":
        torch.nn.init.orthogonal_(extra)
    return torch.cat([weight, extra], dim=1)


def read_backbone(name: str, own: Mapping[str, torch.Tensor], files: list[Path]) -> State:
    """ImageNet weights of ResNet ``name`` in torchvision's names, float32, from the one of the files that has them.

    Args:
        own: state dict of the network; tensors of other layers in the file are left out. Counters of batches, which
            older files lack, are not needed.
    Raises `InputError` if no file has tensors of these names and shapes.
    """
    needed = {key: value.shape for key, value in own.items() if not key.endswith("num_batches_tracked")}
    for path in files:
        state = read_torch_file(path)
        if _is_state(state) and all(key in state and state[key].shape == shape for key, shape in needed.items()):
            state = {key: state[key] for key in needed}
            check_values(state, path)
            return _to_float32(state)
    given = ", ".join(str(path) for path in files)
    raise InputError(f"{given}: no file holds the ImageNet weights of {name} in torchvision's names")


def rename(name: str, table: Mapping[str, str]) -> str:
    """A tensor's name with the longest prefix that ``table`` knows replaced (`REFERENCE_NAMES` or `OWN_NAMES`)."""
    prefixes = [old for old in table if name.startswith(old + ".")]
    if not prefixes:
        return name
    old = max(prefixes, key=len)
    return table[old] + name[len(old) :]


def _convolution_before(batch_norm: str) -> str:
    """Name of the convolution that feeds a batch norm: bn2 → conv2, downsample.1 → downsample.0."""
    head, _, last = batch_norm.rpartition(".")
    return f"{head}.{last.replace('bn', 'conv') if last.startswith('bn') else '0'}"


def import_reference(state: Any, path: Path) -> tuple[dict[str, Any], State]:
    """Settings and renamed state dict of a GSFM or STCN reference file, from its contents.

    Their ResNets have convolution biases before the batch norms, which can be folded exactly: ``BN(conv + bias)`` is BN
    with ``running_mean − bias``. GSFM's weights were trained on a full ``fft2``, with the filter counted in bins.
    Raises `InputError` for any other contents.
    """
    state = {name.removeprefix("module."): value for name, value in state.items()} if _is_state(state) else {}
    if missing := [name for name in ("key_proj.key_proj.weight", "value_encoder.conv1.weight") if name not in state]:
        held = f"it holds {', '.join(list(state)[:3])}, …" if state else "it holds no tensors by name"
        raise InputError(f"{path}: no {' and no '.join(missing)}, {held}; {EXPECTED}")
    for mean in [name for name in state if name.endswith(".running_mean")]:
        bias = f"{_convolution_before(mean.removesuffix('.running_mean'))}.bias"
        if bias in state and state[bias].shape == state[mean].shape:
            state[mean] = state[mean] - state.pop(bias)
    spectral = "lfm.conv1.weight" in state
    settings = REFERENCE_SETTINGS[spectral] | {"single_object": state["value_encoder.conv1.weight"].shape[1:2] == (4,)}
    return settings, {rename(name, OWN_NAMES): value for name, value in state.items()}


def export_reference(settings: dict[str, Any], state: State) -> State:
    """The state dict under the reference programs' names, with the convolution biases they expect (zero).

    Raises `InputError` for networks that those programs cannot express.
    """
    needed = REFERENCE_SETTINGS[settings["lfm"]]
    if wrong := [f"{name} {settings[name]}, not {value}" for name, value in needed.items() if settings[name] != value]:
        raise InputError(f"the reference programs have no such network: {'; '.join(wrong)}")
    exported = {}
    for own_name, value in state.items():
        name = rename(own_name, REFERENCE_NAMES)
        exported[name] = value
        if name.endswith(".running_mean") and (settings["lfm"] or name.startswith("value_encoder.")):
            exported[f"{_convolution_before(name.removesuffix('.running_mean'))}.bias"] = torch.zeros_like(value)
    return exported
