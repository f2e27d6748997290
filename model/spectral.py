"""The spectral modules of GSFM (ECCV 2022): global filters between two Fourier transforms.

The Low-Frequency Module (LFM) sits on the encoder's features at 1/16, the High-Frequency Module (HFM) in the decoder's
boundary branch at 1/4; they differ only in the filter.
"""

import functools
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from model.config import Filter, Spectrum

# Width of the Gaussian in frequency bins, as in the paper's program, and the side of the feature map at the 384-pixel
# training crop, which turns that width into a fraction of the sampling rate.
SIGMA_BINS = 7.0
TRAINING_SIDE = {"low": 384 // 16, "high": 384 // 4}

Band = Literal["low", "high"]

# Smaller values of the filter count as zero: half of float32's spacing at 1, so rounding hides what they let through.
NEGLIGIBLE = 2.0**-24


def spectral_filter(height: int, width: int, band: Band, filter_kind: Filter, device: torch.device) -> torch.Tensor:
    """The real filter of a band on the half spectrum and its mirror image: ``G(k), G(−k)``, 2×h×(w//2+1) float32.

    They differ only for ``bins`` with an odd side. ``G`` is a Gaussian around the highest frequency in both axes, or
    with ``band="low"`` 1 minus that. With ``filter_kind="bins"``, σ is 7 bins around bin (h//2, w//2), whatever the
    size. With ``"relative"``, σ is a fraction of the sampling rate (7/24 for the LFM, 7/96 for the HFM) and the
    distance to the Nyquist corner is measured on the frequency grid: every size sees the filter of the training crop.
    """
    sigma = SIGMA_BINS if filter_kind == "bins" else SIGMA_BINS / TRAINING_SIDE[band]

    def distance(size: int, sign: int) -> torch.Tensor:
        if filter_kind == "bins":
            return ((sign * torch.arange(size, device=device)) % size - size // 2).float()
        return 0.5 - torch.fft.fftfreq(size, device=device).abs()

    def gaussian(sign: int) -> torch.Tensor:
        rows, columns = distance(height, sign), distance(width, sign)[: width // 2 + 1]
        high = torch.exp(-(rows[:, None] ** 2 + columns**2) / (2 * sigma**2))
        return high if band == "high" else 1 - high

    return torch.stack([gaussian(1), gaussian(-1)])


class FilterOnGrid(NamedTuple):
    """A real filter on its support: the part of the half spectrum where it is not negligible."""

    rows: slice  # of the h frequencies along the height
    columns: slice  # of the w//2+1 frequencies along the width
    direct: torch.Tensor  # G(k) on the support, float32
    mirrored: torch.Tensor  # G(−k) on the support


@functools.lru_cache(maxsize=64)
def filter_support(height: int, width: int, band: Band, filter_kind: Filter, device: torch.device) -> FilterOnGrid:
    """`spectral_filter` for maps of height×width, cropped to its support."""
    with torch.inference_mode(False):  # a cached inference tensor could not be used in training
        filters = spectral_filter(height, width, band, filter_kind, device)
        passed = (filters > NEGLIGIBLE).any(0)
        rows, columns = _extent(passed.any(1)), _extent(passed.any(0))
        return FilterOnGrid(rows, columns, *filters[:, rows, columns].contiguous())


def _extent(flags: torch.Tensor) -> slice:
    """The shortest slice that contains every True."""
    where = flags.nonzero().flatten().tolist()
    return slice(where[0], where[-1] + 1) if where else slice(0, 1)


class SpectralFilter(nn.Module):
    """``x + Re F⁻¹( W₂ relu( W₁ [Re Y ; Im Y] ) )`` with ``Y = filter ⊙ F(x)`` (GSFM section 3.2).

    ``W₁`` and ``W₂`` are 1×1 convolutions on the concatenated real and imaginary channels. All is computed in float32:
    half precision cannot hold the unnormalised spectrum of a large map.

    Where the filter is negligible, the convolutions would return the same constant at every frequency, whose inverse
    transform only changes row 0. They therefore run only on the filter's support: a quarter of the spectrum in the HFM
    at 480p, a twentieth at 1080p.

    Spectrum ``half`` applies the convolutions to the half spectrum of the real transform. ``hermitian`` equals the full
    complex transform exactly, which weights trained on a full ``fft2`` need: for real x, ``Re ifft2(M)`` is the inverse
    of the Hermitian part of M, ``(M(k) + conj M(−k)) / 2``.
    """

    def __init__(self, channels: int, band: Band, spectrum: Spectrum = "half", filter_kind: Filter = "bins"):
        super().__init__()
        self.band: Band = band
        self.spectrum, self.filter_kind = spectrum, filter_kind
        self.conv1 = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.conv2 = nn.Conv2d(2 * channels, 2 * channels, 1)

    def mix(self, y: torch.Tensor, grid: FilterOnGrid) -> torch.Tensor:
        """``W₂ relu(W₁ G·y)`` minus its value at y = 0, for the spectrum y on the support, B×C×h'×f' complex.

        With ``hermitian`` its Hermitian part, which needs no further convolutions: ``W₁`` of the conjugate is the same
        two products with the other sign, and the real (imaginary) rows of ``W₂`` see half of the sum (difference).
        """
        assert self.conv1.bias is not None
        bias = self.conv1.bias[:, None, None]
        weight_real, weight_imag = self.conv1.weight.chunk(2, dim=1)
        real, imag = F.conv2d(y.real, weight_real), F.conv2d(y.imag, weight_imag)
        for_real = for_imag = torch.relu((real + imag) * grid.direct + bias) - torch.relu(bias)
        if self.spectrum == "hermitian":
            mirrored = torch.relu((real - imag) * grid.mirrored + bias) - torch.relu(bias)
            for_real, for_imag = (for_real + mirrored) / 2, (for_real - mirrored) / 2
        weight_real, weight_imag = self.conv2.weight.chunk(2)
        return torch.complex(F.conv2d(for_real, weight_real).contiguous(), F.conv2d(for_imag, weight_imag).contiguous())

    def constant(self, width: int) -> torch.Tensor:
        """Row 0 of the inverse transform of ``W₂ relu(W₁ 0)``, which is the same at all frequencies: C×w."""
        assert self.conv1.bias is not None
        real, imag = self.conv2(torch.relu(self.conv1.bias)[:, None, None]).flatten().chunk(2)
        value = torch.complex(real, torch.zeros_like(imag) if self.spectrum == "hermitian" else imag)
        return torch.fft.irfft(value[:, None].expand(-1, width // 2 + 1), n=width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """B×C×h×w → same shape and dtype."""
        height, width = x.shape[-2:]
        with torch.autocast(x.device.type, enabled=False):
            x32 = x.float()
            grid = filter_support(height, width, self.band, self.filter_kind, x.device)
            # Only the columns of the support are transformed along the height.
            y = torch.fft.fft(torch.fft.rfft(x32)[..., grid.columns], dim=-2)[..., grid.rows, :]
            mixed = F.pad(self.mix(y, grid), (0, 0, grid.rows.start, height - grid.rows.stop))
            mixed = torch.fft.ifft(mixed, dim=-2)
            # The padded spectrum, as large as x, is not kept in a variable.
            filtered = torch.fft.irfft(F.pad(mixed, (grid.columns.start, width // 2 + 1 - grid.columns.stop)), n=width)
            filtered[..., 0, :] += self.constant(width)
            return (x32 + filtered).to(x.dtype)
