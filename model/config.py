"""Settings of the networks: the one place that knows their names, choices and presets. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from util.errors import InputError
from util.settings import check_types, from_plain

BackboneName = Literal["resnet50", "resnet18"]
Spectrum = Literal["half", "hermitian"]
Filter = Literal["bins", "relative"]
MemoryName = Literal["space_time", "global_context"]
Preset = Literal["gsfm", "stcn", "gsfm-small", "gc"]

MEMORIES: tuple[str, ...] = get_args(MemoryName)
MAX_CHANNELS = 4096


@dataclass(frozen=True)
class NetworkConfig:
    """Everything needed to rebuild a network; stored in every checkpoint."""

    backbone: BackboneName = "resnet50"
    """Key encoder; the widths of its features follow."""
    lfm: bool = True
    """Low-Frequency Module on the features at 1/16 (GSFM section 3.3)."""
    hfm: bool = True
    """Boundary branch with the High-Frequency Module in the decoder (GSFM section 3.4)."""
    spectrum: Spectrum = "half"
    """How spectral modules see the spectrum; hermitian is for weights that were trained on a full fft2."""
    filter: Filter = "bins"
    """Width of the spectral filters: in frequency bins, as in the paper, or relative to the size of the features."""
    memory: MemoryName = "space_time"
    """Kind of memory: space_time (STCN) or global_context (ECCV 2020)."""
    key_dim: int = 64
    """Channels of the memory's keys."""
    value_dim: int = 512
    """Channels of the memory's values."""
    decoder_dim: int = 256
    """Channels of the decoder at 1/4 and 1/8."""
    single_object: bool = False
    """The value encoder sees one object's mask, and not the sum of the others' masks as well (stage 0)."""
    gc_norm: Literal["softmax", "mean"] = "softmax"
    """Normalisation of the global context memory."""
    gc_update: Literal["mean", "anchored"] = "mean"
    """Update rule of the global context memory."""

    def __post_init__(self) -> None:
        """Raises `InputError` for values of another type and for channels outside 1 to `MAX_CHANNELS`."""
        check_types(self)
        for name in ("key_dim", "value_dim", "decoder_dim"):
            if not 1 <= getattr(self, name) <= MAX_CHANNELS:
                raise InputError(f"setting {name}={getattr(self, name)}: expected 1 to {MAX_CHANNELS} channels")

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> NetworkConfig:
        """One of `PRESETS`, with any field overridden. Raises `InputError` for another name."""
        return cls(**(preset_settings(name) | overrides))

    @classmethod
    def from_file(cls, settings: object, path: Path) -> NetworkConfig:
        """The settings stored in ``path``. Raises `InputError` that names the file for anything but valid settings."""
        return from_plain(cls, settings, path)


PRESETS: dict[Preset, dict[str, Any]] = {
    "gsfm": {"lfm": True, "hfm": True, "memory": "space_time", "key_dim": 64},
    "stcn": {"lfm": False, "hfm": False, "memory": "space_time", "key_dim": 64},
    "gsfm-small": {
        "lfm": True,
        "hfm": True,
        "memory": "space_time",
        "key_dim": 64,
        "backbone": "resnet18",
        "value_dim": 96,
        "decoder_dim": 80,
    },
    "gc": {"lfm": False, "hfm": False, "memory": "global_context", "key_dim": 128},
}


def preset_settings(name: str) -> dict[str, Any]:
    """The `NetworkConfig` fields that make a preset. Raises `InputError` for an unknown name."""
    for preset, settings in PRESETS.items():
        if preset == name:
            return dict(settings)
    raise InputError(f"model {name!r}: expected one of {', '.join(PRESETS)}")
