"""The naive computation: formulas written out as in the papers' programs, to test and to measure against."""

import copy
import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F

from model.blocks import SplitConv2d
from model.network import FrameFeatures, Network
from model.spectral import SIGMA_BINS, SpectralFilter


def naive_copy(network: Network) -> "NaiveNetwork":
    """A copy for evaluation that computes the same up to rounding.

    What objects share is repeated and concatenated for each, spectral modules see the whole complex spectrum, and
    boundaries are predicted although nothing reads them. Spectral filters must be ``hermitian`` and ``bins``.
    """
    network = copy.deepcopy(network)
    classes = {SplitConv2d: _Concatenated, SpectralFilter: _FullSpectrum, Network: NaiveNetwork}
    for module in network.modules():
        module.__class__ = classes.get(type(module), type(module))
    return cast(NaiveNetwork, network)


class _Concatenated(SplitConv2d):
    def forward(self, x: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:  # type: ignore[override]  # as its parent
        shared = shared.repeat_interleave(len(x) // len(shared), dim=0)
        return F.conv2d(torch.cat([x, shared], dim=1), self.weight, self.bias, padding=1)


class _FullSpectrum(SpectralFilter):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            height, width = x.shape[-2:]
            row, column = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
            squared = (row - height // 2)[:, None] ** 2 + (column - width // 2) ** 2
            high = torch.exp(-squared / (2 * SIGMA_BINS**2))
            y = torch.fft.fft2(x.float()) * (high if self.band == "high" else 1 - high)
            real, imag = self.conv2(torch.relu(self.conv1(torch.cat([y.real, y.imag], dim=1)))).chunk(2, dim=1)
            return (x + torch.fft.ifft2(torch.complex(real, imag)).real).to(x.dtype)


class NaiveNetwork(Network):
    """Made by `naive_copy`."""

    def decode(
        self, readout: torch.Tensor, features: FrameFeatures, with_boundary: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `Network.decode`; the boundary is always predicted."""
        return super().decode(readout, features, with_boundary=True)


class DenseMemory:
    """A space-time memory whose read is one dense product per object, nearly all of it with zeros; keeps all frames."""

    def __init__(self, top_k: int):
        self.top_k = top_k
        self.keys: torch.Tensor | None = None  # Ck×N
        self.values: torch.Tensor | None = None  # K×Cv×N

    def add(self, key: torch.Tensor, value: torch.Tensor, temporary: bool = False, **_: object) -> None:
        """key 1×Ck×h×w, value 1×K×Cv×h×w."""
        key, value = key.flatten(2)[0], value.flatten(3)[0]
        self.keys = key if self.keys is None else torch.cat([self.keys, key], dim=1)
        self.values = value if self.values is None else torch.cat([self.values, value], dim=2)

    def forget(self, frame: int | None = None) -> None:
        raise NotImplementedError

    def keep(self, objects: Sequence[int]) -> None:
        raise NotImplementedError

    def read(self, query: torch.Tensor) -> torch.Tensor:
        """query 1×Ck×h×w → readout 1×K×Cv×h×w."""
        assert self.keys is not None and self.values is not None
        return dense_read(self.keys, self.values, query.flatten(2)[0], self.top_k).unflatten(2, query.shape[-2:])[None]


def dense_read(keys: torch.Tensor, values: torch.Tensor, query: torch.Tensor, top_k: int) -> torch.Tensor:
    """keys Ck×N, values K×Cv×N, query Ck×Q → K×Cv×Q: one dense affinity, nearly all zeros."""
    with torch.autocast(query.device.type, enabled=False):
        affinity = (2 * keys.T.float() @ query.float() - keys.float().square().sum(0)[:, None]) / math.sqrt(len(keys))
    top = affinity.topk(min(top_k, len(affinity)), dim=0)
    affinity.zero_().scatter_(0, top.indices, torch.softmax(top.values, dim=0))
    return torch.stack([value @ affinity.to(value.dtype) for value in values])
