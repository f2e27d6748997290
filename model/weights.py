"""Checkpoint files: own ones carry their config; those of the reference programs are recognised by their names.

Own format: ``{"format": 1, "config": {NetworkConfig fields}, "network": state dict, …}``, and perhaps
``"recommended": {InferenceSettings fields}``.
"""

import errno
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from model.config import PRESETS, InferenceSettings
from util.errors import InputError, is_out_of_memory
from util.files import atomic_path, check_is_file
from util.settings import from_plain

FORMAT = 1
SAVES = Path(__file__).resolve().parents[1] / "saves"
PUBLISHED = ("stcn", "stcn-s03", "stcn-s0", "stcn-s01")  # names that stand for what scripts/download_weights.py fetches
State = dict[str, torch.Tensor]

# Own name of a module → its name in the files of the GSFM and STCN reference programs. The first prefix decides.
_BRANCH = "hfm boundary_1 boundary_2 boundary_3 mask_1 fusion_1 fusion_2 predict_mask"
_BRANCH += " predict_boundary_1 predict_boundary_2"
REFERENCE_NAMES = {
    "key_encoder.layer1": "key_encoder.res2",
    "key_proj": "key_proj.key_proj",
    "value_encoder.fuser.attention.channel_gate.mlp.0": "value_encoder.fuser.attention.ChannelGate.mlp.1",
    "value_encoder.fuser.attention.channel_gate.mlp.2": "value_encoder.fuser.attention.ChannelGate.mlp.3",
    "value_encoder.fuser.attention.spatial_gate.conv": "value_encoder.fuser.attention.SpatialGate.spatial.conv",
    "value_encoder.fuser": "value_encoder.fuser",
    "value_encoder.backbone": "value_encoder",
    **{f"decoder.branch.{module}": f"decoder.{module}" for module in _BRANCH.split()},
}
OWN_NAMES = {reference: own for own, reference in REFERENCE_NAMES.items()}

EXPECTED = "expected a .pth of this project or of the GSFM or STCN reference programs"


def reference_settings(spectral: bool) -> dict[str, Any]:
    """Settings of the reference programs' networks: GSFM's, with the spectral modules, or STCN's."""
    sizes = {"backbone": "resnet50", "value_dim": 512, "decoder_dim": 256}
    spectrum = {"spectrum": "hermitian" if spectral else "half", "filter": "bins"}
    return PRESETS["gsfm" if spectral else "stcn"] | sizes | spectrum


def weights_file(model: Path) -> Path:
    """``model``, or the file of the published weights of that name. Raises `InputError` if they are not there yet."""
    if str(model) not in PUBLISHED or model.exists():
        return model
    path = SAVES / f"{model}.pth"
    if not path.exists():
        raise InputError(f"{path}: no such file; python scripts/download_weights.py {model} downloads it")
    return path


def write_torch_file(path: Path, contents: Any) -> None:
    """``torch.save``, atomically. Raises `InputError` if the folder cannot be written or the disk is full."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(contents, file)
        except RuntimeError as error:  # how torch reports a full disk
            raise InputError(f"{path}: cannot be written; is the disk full?") from error


def read_torch_file(path: Path) -> Any:
    """``torch.load`` to the CPU with ``weights_only=True``. Raises `InputError` for any file that it does not read.

    Tensors are dense and of real numbers, each with an element of its own in the file.
    """
    check_is_file(path, "a checkpoint (.pth)")
    try:
        if zipfile.is_zipfile(path):  # as torch has written them since 1.6, with checksums that it does not check
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():
                    raise ValueError(f"{damaged} does not have its checksum")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual pickles; the error below says more
            contents = torch.load(path, map_location="cpu", weights_only=True)
            _check_tensors(contents)
            return contents
    except Exception as error:  # torch raises many types for bytes that are no checkpoint
        if is_out_of_memory(error):
            raise
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which is for places that are not in the file
            raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
        raise InputError(f"{path}: is not a checkpoint, or is damaged; {EXPECTED}") from error


def _check_tensors(contents: Any) -> None:
    """Raise ValueError for tensors, at any depth, that are not dense or claim more elements than the file holds."""
    if isinstance(contents, dict):
        contents = list(contents.values())
    if isinstance(contents, list | tuple):
        for item in contents:
            _check_tensors(item)
    elif isinstance(contents, torch.Tensor):
        # Before anything else: most functions fail for other layouts, and sizes on the meta device cost nothing.
        is_dense = contents.layout is torch.strided and contents.device.type == "cpu" and not contents.is_nested
        if not is_dense or contents.is_quantized or contents.is_complex():
            raise ValueError(f"{contents.layout} tensor of {contents.dtype} on {contents.device}")
        if contents.nbytes > contents.untyped_storage().nbytes():
            raise ValueError(f"tensor of {tuple(contents.shape)} in {contents.untyped_storage().nbytes()} bytes")


def check_format(contents: dict, path: Path) -> None:
    """Raise `InputError` unless ``contents`` have the `FORMAT` that this version reads."""
    found = contents.get("format")
    if type(found) is not int or found != FORMAT:
        raise InputError(f"{path}: checkpoint format {str(found)[:20]!r}; this version reads {FORMAT}")


class NetworkFile(NamedTuple):
    """What a weights file holds, in this project's names."""

    settings: dict[str, Any]  # `NetworkConfig` fields
    state: State  # float32
    recommended: InferenceSettings


def read_network_file(path: Path) -> NetworkFile:
    """Read an own or a reference file; of a training checkpoint the averaged weights, if there are any.

    Raises `InputError` for a file that is neither.
    """
    contents = read_torch_file(path)
    recommended = InferenceSettings()
    if isinstance(contents, dict) and "config" in contents and "network" in contents:
        check_format(contents, path)
        settings, state = contents["config"], contents["network"]
        match contents:
            case {"train": {"average": {"network": averaged}}}:  # what is evaluated and published
                state = averaged
        if not (isinstance(settings, dict) and _is_state(state)):
            raise InputError(f"{path}: holds no settings, or no weights by name; {EXPECTED}")
        recommended = from_plain(InferenceSettings, contents.get("recommended", {}), f"{path}: recommended")
    else:
        settings, state = import_reference(contents, path)
    return NetworkFile(settings, _to_float32(state), recommended)


def _is_state(state: Any) -> bool:
    """Whether this is a dict of tensors by name."""
    if not isinstance(state, dict):
        return False
    return all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items())


def _to_float32(state: State) -> State:
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def write_network_file(path: Path, settings: dict[str, Any], state: State, *, half: bool = False, **more: Any) -> None:
    """Write an own file, atomically, with ``more`` entries beside the network.

    With ``half``, weights are stored as fp16; batch-norm statistics stay float32.
    Raises `InputError` for values that are impossible, or too large for fp16.
    """
    state = {name: value.cpu().contiguous() for name, value in state.items()}
    check_values(state, path)
    if half:
        weights = {name: value for name, value in state.items() if value.is_floating_point() and "running_" not in name}
        halved = {name: value.half() for name, value in weights.items()}
        if large := [name for name, value in halved.items() if not value.isfinite().all()]:
            raise InputError(f"{path}: {large[0]} has values beyond {torch.finfo(torch.half).max:g}, the limit of fp16")
        state |= halved
    write_torch_file(path, {"format": FORMAT, "config": settings, "network": state, **more})


def fit_weights(own: Mapping[str, torch.Tensor], state: State, path: Path, new_channel: str) -> State:
    """The weights read from ``path``, ready for a network with the state dict ``own``, which may be on the meta device.

    Single-object weights (one mask channel) fit a multi-object network; the second mask channel starts as
    ``new_channel``: ``orthogonal`` to go on training, ``zero`` for evaluation. Counters of batches, which older files
    lack, start at zero.
    Raises `InputError` that names tensors that are missing, unexpected, of another shape or type, or with impossible
    values.
    """
    if not _is_state(state):
        raise InputError(f"{path}: holds no weights by name; {EXPECTED}")
    state = _to_float32(state)
    name = "value_encoder.backbone.conv1.weight"
    if name in state and name in own and state[name].shape == own[name][:, :-1].shape:
        state = state | {name: extend_input_channels(state[name], 1, new_channel)}
    missing = [key for key in own if key not in state]
    counters = [key for key in missing if key.endswith("num_batches_tracked")]
    state = state | {key: torch.zeros(own[key].shape, dtype=own[key].dtype) for key in counters}
    problems = [f"missing {key}" for key in missing if key not in state]
    problems += [f"unexpected {key}" for key in state if key not in own]
    for key, value in own.items():
        if key in state and state[key].shape != value.shape:
            problems.append(f"{key} is {tuple(state[key].shape)} instead of {tuple(value.shape)}")
        elif key in state and state[key].dtype is not value.dtype:
            problems.append(f"{key} is {state[key].dtype} instead of {value.dtype}")
    if problems:
        more = f" and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise InputError(f"{path}: the weights are of another network: {'; '.join(problems[:6])}{more}")
    check_values(state, path)
    return state


def check_values(state: State, path: Path) -> None:
    """Raise `InputError` for a NaN, an infinity or a negative variance."""
    for name, value in state.items():
        if not torch.stack(value.aminmax()).isfinite().all():  # needs no memory, unlike value.isfinite()
            raise InputError(f"{path}: {name} has values that are not finite; the file is damaged or training diverged")
        if name.endswith(".running_var") and (value < 0).any():
            raise InputError(f"{path}: {name} has negative values; expected variances")


def extend_input_channels(weight: torch.Tensor, channels: int, start: str) -> torch.Tensor:
    """Append input channels to weights O×I×k×k, ``zero`` or ``orthogonal``."""
    extra = torch.zeros(weight.shape[0], channels, *weight.shape[2:], dtype=weight.dtype)
    if start == "orthogonal":
        torch.nn.init.orthogonal_(extra)
    return torch.cat([weight, extra], dim=1)


def read_backbone(name: str, own: Mapping[str, torch.Tensor], files: list[Path]) -> State:
    """ImageNet weights of ResNet ``name`` in torchvision's names, float32, from the first file that fits ``own``.

    Counters of batches, which older files lack, are not needed. Raises `InputError` if no file fits.
    """
    needed = {key: value.shape for key, value in own.items() if not key.endswith("num_batches_tracked")}
    for path in files:
        state = read_torch_file(path)
        if _is_state(state) and all(key in state and state[key].shape == shape for key, shape in needed.items()):
            state = _to_float32(state)
            check_values({key: state[key] for key in needed}, path)
            return state
    given = ", ".join(str(path) for path in files)
    raise InputError(f"{given}: no file holds the ImageNet weights of {name} in torchvision's names")


def rename(name: str, table: Mapping[str, str]) -> str:
    """A tensor's name with its prefix replaced by `REFERENCE_NAMES` or `OWN_NAMES`."""
    for old, new in table.items():
        if name.startswith(f"{old}."):
            return new + name[len(old) :]
    return name


def _convolution_before(batch_norm: str) -> str:
    """Name of the convolution that feeds a batch norm: bn2 → conv2, downsample.1 → downsample.0."""
    head, _, last = batch_norm.rpartition(".")
    return f"{head}.{last.replace('bn', 'conv') if last.startswith('bn') else '0'}"


def import_reference(contents: Any, path: Path) -> tuple[dict[str, Any], State]:
    """Settings and renamed state dict of a GSFM or STCN reference file. Raises `InputError` for any other contents.

    Their ResNets have convolution biases before the batch norms, which can be folded exactly: ``BN(conv + bias)`` is BN
    with ``running_mean − bias``. GSFM's weights were trained on a full ``fft2``.
    """
    if isinstance(contents, dict):
        contents = contents.get("network", contents)  # in their training checkpoints
    state = {name.removeprefix("module."): value for name, value in contents.items()} if _is_state(contents) else {}
    if not {"key_proj.key_proj.weight", "value_encoder.conv1.weight"} <= state.keys():
        raise InputError(f"{path}: holds no network that this project knows; {EXPECTED}")
    for mean in [name for name in state if name.endswith(".running_mean")]:
        bias = f"{_convolution_before(mean.removesuffix('.running_mean'))}.bias"
        if bias in state:
            state[mean] = state[mean] - state.pop(bias)
    spectral = "lfm.conv1.weight" in state
    settings = reference_settings(spectral) | {"single_object": state["value_encoder.conv1.weight"].shape[1] == 4}
    return settings, {rename(name, OWN_NAMES): value for name, value in state.items()}


def export_reference(settings: dict[str, Any], state: State) -> State:
    """The state dict under the reference programs' names, with the convolution biases they expect (zero).

    Raises `InputError` for networks that those programs do not have.
    """
    needed = reference_settings(settings["lfm"])
    if wrong := [f"{name} {settings[name]}, not {value}" for name, value in needed.items() if settings[name] != value]:
        raise InputError(f"the reference programs have no such network: {'; '.join(wrong)}")
    exported = {}
    for own_name, value in state.items():
        name = rename(own_name, REFERENCE_NAMES)
        exported[name] = value
        if name.endswith(".running_mean") and (settings["lfm"] or name.startswith("value_encoder.")):
            exported[f"{_convolution_before(name.removesuffix('.running_mean'))}.bias"] = torch.zeros_like(value)
    return exported
