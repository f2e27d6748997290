"""Settings of the networks: the one place that knows their names, choices and presets. Needs no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args

from util.errors import InputError
from util.settings import from_plain

Spectrum = Literal["half", "hermitian"]
Filter = Literal["bins", "relative"]
MemoryName = Literal["space_time", "global_context"]
Preset = Literal["gsfm", "stcn", "gsfm-small", "gc"]

MEMORIES: tuple[str, ...] = get_args(MemoryName)
MAX_CHANNELS = 4096
MAX_BIAS = 100


@dataclass(frozen=True)
class NetworkConfig:
    """Everything needed to rebuild a network; stored in every checkpoint."""

    # Key encoder; the widths of its features follow.
    backbone: Literal["resnet50", "resnet18", "resnet34", "resnet101"] = "resnet50"
    lfm: bool = True  # Low-Frequency Module on the features at 1/16 (GSFM section 3.3).
    hfm: bool = True  # Boundary branch with the High-Frequency Module in the decoder (GSFM section 3.4).
    # How spectral modules see the spectrum; hermitian is for weights that were trained on a full fft2.
    spectrum: Spectrum = "half"
    # Width of the spectral filters: in frequency bins, as in the paper, or relative to the size of the features.
    filter: Filter = "bins"
    memory: MemoryName = "space_time"  # Kind of memory: space_time (STCN) or global_context (ECCV 2020).
    key_dim: int = 64  # Channels of the memory's keys.
    value_dim: int = 512  # Channels of the memory's values.
    decoder_dim: int = 256  # Channels of the decoder at 1/4 and 1/8.
    single_object: bool = False  # The value encoder sees one object's mask without the sum of the others (stage 0).
    gc_norm: Literal["softmax", "mean"] = "softmax"  # Normalisation of the global context memory.
    gc_update: Literal["mean", "anchored"] = "mean"  # Update rule of the global context memory.

    def __post_init__(self) -> None:
        """Raises `InputError` for channels outside 1 to `MAX_CHANNELS`."""
        for name in ("key_dim", "value_dim", "decoder_dim"):
            if not 1 <= getattr(self, name) <= MAX_CHANNELS:
                raise InputError(f"setting {name}={getattr(self, name)}: expected 1 to {MAX_CHANNELS} channels")

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> NetworkConfig:
        """One of `PRESETS`, with any field overridden. Raises KeyError for another name."""
        return cls(**(PRESETS[name] | overrides))

    @classmethod
    def from_file(cls, settings: object, path: Path) -> NetworkConfig:
        """The settings stored in ``path``. Raises `InputError` that names the file for anything but valid settings."""
        return from_plain(cls, settings, path)


@dataclass(frozen=True)
class InferenceSettings:
    """Evaluation settings that weights recommend; None where they recommend nothing. May be stored with the weights."""

    top_k: int | None = None  # Number of memory positions that each pixel reads.
    mem_every: int | None = None  # Memorise every N-th frame.
    include_last: bool | None = None  # Also read the previous frame as temporary memory.
    local: bool | None = None  # Drop parts of an object away from its place in the previous frame.
    given_bias: float | None = None  # What a given mask counts more than a result in the memory, see `SpaceTimeMemory`.

    def __post_init__(self) -> None:
        """Raises `InputError` for numbers out of range."""
        for name in ("top_k", "mem_every"):
            check_whole(name, getattr(self, name), 1)
        bias = self.given_bias
        if bias is not None and not (isinstance(bias, Real) and 0 <= bias <= MAX_BIAS):
            raise InputError(f"given_bias={bias!r}: expected a number from 0 to {MAX_BIAS}")

    @classmethod
    def of(cls, source: object) -> InferenceSettings:
        """From attributes of the same names, such as those of parsed flags."""
        return cls(**{field.name: getattr(source, field.name) for field in fields(cls)})

    def given(self) -> dict[str, Any]:
        """The settings that are not None, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def check_whole(name: str, value: object, least: int) -> None:
    """Raises `InputError` for a setting that is neither None nor a whole number from ``least``."""
    if value is not None and not (isinstance(value, Integral) and int(value) >= least):
        raise InputError(f"{name}={value!r}: expected a whole number from {least}")


# The settings with which the published results were measured, but for ``top_k``, which differs between benchmarks.
PROTOCOL: dict[str, Any] = {"mem_every": 3, "include_last": False, "local": False, "given_bias": 0.0}

_STCN = {"lfm": False, "hfm": False, "memory": "space_time", "key_dim": 64}
_GSFM = _STCN | {"lfm": True, "hfm": True}

# The fields that a preset sets; the others keep their values or defaults.
PRESETS: dict[str, dict[str, Any]] = {
    "gsfm": _GSFM,
    "stcn": _STCN,
    "gsfm-small": _GSFM | {"backbone": "resnet18", "value_dim": 96, "decoder_dim": 80},
    "gc": _STCN | {"memory": "global_context", "key_dim": 128},
}
