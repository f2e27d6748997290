"""The spectral modules of GSFM (ECCV 2022): global filters between two Fourier transforms.

B batch, C channels, h×w feature map. The Low-Frequency Module (LFM) sits on the encoder's 1/16 features, the
High-Frequency Module (HFM) in the decoder's boundary branch at 1/4; they differ in the filter alone.
"""

import functools

import torch
from torch import nn

# Width of the Gaussian in frequency bins, as in the paper's program, and the map side at the 384-pixel training
# crop that turns it into a fraction of the sampling rate.
SIGMA_BINS = 7.0
TRAINING_SIDE = {"low": 384 // 16, "high": 384 // 4}

BANDS = ("low", "high")
SPECTRA = ("half", "hermitian")
FILTERS = ("bins", "relative")


@functools.lru_cache(maxsize=64)
def spectral_filter(
    height: int, width: int, band: str, kind: str, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """The real filter of a band on the half spectrum, and its mirror image.

    ``G`` is a Gaussian around the highest frequency in both axes; ``band="high"`` passes ``G``, ``"low"``
    passes ``1 − G``. ``kind="bins"``: σ is 7 bins around bin (h//2, w//2), whatever the size. ``"relative"``: σ is a
    fraction of the sampling rate (7/24 for the LFM, 7/96 for the HFM), with the distance to the Nyquist corner
    taken on the frequency grid, so every size sees the filter of the training crop.

    Returns:
        ``G(k)`` and ``G(−k)``, each h×(w//2+1) float32; they differ only for ``bins`` with an odd side.
    """
    with torch.inference_mode(False):  # a cached inference tensor could not be used in training
        row, column = torch.arange(height, device=device), torch.arange(width // 2 + 1, device=device)
        if kind == "bins":
            sigma = SIGMA_BINS
            rows = {sign: ((sign * row) % height - height // 2).float() for sign in (1, -1)}
            columns = {sign: ((sign * column) % width - width // 2).float() for sign in (1, -1)}
        else:
            sigma = SIGMA_BINS / TRAINING_SIDE[band]
            distance = 0.5 - torch.fft.fftfreq(height, device=device).abs()
            rows = {1: distance, -1: distance}
            distance = 0.5 - torch.fft.rfftfreq(width, device=device)
            columns = {1: distance, -1: distance}

        def gaussian(sign: int) -> torch.Tensor:
            squared = rows[sign][:, None] ** 2 + columns[sign][None] ** 2
            high = torch.exp(-squared / (2 * sigma**2))
            return high if band == "high" else 1 - high

        return gaussian(1), gaussian(-1)


class SpectralFilter(nn.Module):
    """``x + Re F⁻¹( W₂ relu( W₁ [Re Y ; Im Y] ) )`` with ``Y = filter ⊙ F(x)`` (GSFM section 3.2).

    ``W₁`` and ``W₂`` are 1×1 convolutions on the concatenated real and imaginary channels; they see the whole map
    at once, frequency by frequency. Transforms and convolutions run in float32 under autocast, too: half precision
    cannot hold the un-normalised spectrum of a large map.

    Args:
        channels: C of the feature map.
        band: ``"low"`` (LFM) or ``"high"`` (HFM).
        spectrum: ``"half"`` applies the convolutions to the half spectrum of the real transform;
            ``"hermitian"`` costs twice that and equals the full complex transform exactly, which weights
            trained with a full ``fft2`` need: for real x, ``Re ifft2(M)`` is the inverse of M's Hermitian part.
        kind: ``"bins"`` or ``"relative"``, see `spectral_filter`.
    """

    def __init__(self, channels: int, band: str, spectrum: str = "half", kind: str = "bins"):
        super().__init__()
        if band not in BANDS or spectrum not in SPECTRA or kind not in FILTERS:
            raise ValueError(
                f"band {band!r} of {BANDS}, spectrum {spectrum!r} of {SPECTRA}, filter {kind!r} of {FILTERS}"
            )
        self.band, self.spectrum, self.kind = band, spectrum, kind
        self.conv1 = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.conv2 = nn.Conv2d(2 * channels, 2 * channels, 1)

    def mix(self, y: torch.Tensor) -> torch.Tensor:
        """``W₂ relu(W₁ ·)`` of a complex B×C×h×f spectrum, complex out."""
        y = torch.cat([y.real, y.imag], dim=1)
        real, imag = self.conv2(torch.relu(self.conv1(y))).chunk(2, dim=1)
        return torch.complex(real.contiguous(), imag.contiguous())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """B×C×h×w in, same shape and dtype out."""
        height, width = x.shape[-2:]
        with torch.autocast(x.device.type, enabled=False):
            x32 = x.float()
            filter_k, filter_minus_k = spectral_filter(height, width, self.band, self.kind, x.device)
            y = torch.fft.rfft2(x32)
            if self.spectrum == "half":
                mixed = self.mix(filter_k * y)
            else:
                direct, mirrored = self.mix(torch.cat([filter_k * y, filter_minus_k * y.conj()])).chunk(2)
                mixed = (direct + mirrored.conj()) / 2
            return (x32 + torch.fft.irfft2(mixed, s=(height, width))).to(x.dtype)
