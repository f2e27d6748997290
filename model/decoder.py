"""Decoder: memory readout and frame features → mask logits, and with GSFM's boundary branch boundary logits.

B frames, K objects; inside, per-object tensors are flattened to (B·K)×C×h×w.
"""

import torch
import torch.nn.functional as F
from torch import nn

from model.blocks import SharedResBlock, UpsampleBlock
from model.config import Filter, Spectrum
from model.spectral import SpectralFilter


def upsample4(x: torch.Tensor) -> torch.Tensor:
    """N×1×h×w → N×1×4h×4w, bilinear, in float32."""
    return F.interpolate(x.float(), scale_factor=4, mode="bilinear", align_corners=False)


class BoundaryBranch(nn.Module):
    """GSFM's two coupled branches at 1/4 (section 3.4): boundary features sharpen the mask features.

    The mask depends on the boundary *features*; only the training loss needs the boundary *prediction*.
    """

    def __init__(self, dim: int, spectrum: Spectrum, filter_kind: Filter):
        super().__init__()
        self.hfm = SpectralFilter(dim, "high", spectrum, filter_kind)
        self.boundary_1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.boundary_2 = nn.Conv2d(dim, dim, 3, padding=1)
        self.boundary_3 = nn.Conv2d(dim, dim, 3, padding=1)
        self.mask_1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.fusion_1 = nn.Conv2d(dim, dim, 1)
        self.fusion_2 = nn.Conv2d(dim, dim, 1)
        self.predict_mask = nn.Conv2d(dim, dim, 3, padding=1)
        self.predict_boundary_1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.predict_boundary_2 = nn.Conv2d(dim, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """N×C×h×w → mask features, boundary features, each N×C×h×w."""
        boundary = self.hfm(self.boundary_1(x))
        mask = self.mask_1(x)
        boundary = boundary + torch.relu(self.fusion_1(mask))
        boundary = torch.relu(self.boundary_3(self.boundary_2(boundary)))
        mask = mask + torch.relu(self.fusion_2(boundary))
        return self.predict_mask(mask), boundary

    def predict_boundary(self, boundary: torch.Tensor) -> torch.Tensor:
        """Boundary features N×C×h×w → boundary logits N×1×h×w."""
        return self.predict_boundary_2(torch.relu(self.predict_boundary_1(boundary)))


class Decoder(nn.Module):
    """From 1/16 to the image's size (STCN section 3.3), with ``hfm`` through GSFM's boundary branch.

    Args:
        value_dim: channels of the readout and of ``f16_thin``.
        f8_dim, f4_dim: channels of the key encoder's features.
        dim: channels at 1/8 and 1/4; twice that at 1/16.
        hfm: whether there is a boundary branch.
        spectrum, filter_kind: see `SpectralFilter`.
    """

    def __init__(
        self,
        value_dim: int,
        f8_dim: int,
        f4_dim: int,
        dim: int,
        hfm: bool,
        spectrum: Spectrum = "half",
        filter_kind: Filter = "bins",
    ):
        super().__init__()
        self.compress = SharedResBlock(value_dim, value_dim, 2 * dim)
        self.up_16_8 = UpsampleBlock(f8_dim, 2 * dim, dim)
        self.up_8_4 = UpsampleBlock(f4_dim, dim, dim)
        self.branch = BoundaryBranch(dim, spectrum, filter_kind) if hfm else None
        self.pred = nn.Conv2d(dim, 1, 3, padding=1)

    def forward(
        self,
        readout: torch.Tensor,
        f16_thin: torch.Tensor,
        f8: torch.Tensor,
        f4: torch.Tensor,
        with_boundary: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Decode all objects of B frames.

        Args:
            readout: B×K×Cv×h×w.
            f16_thin, f8, f4: features of the frame B×C×…, shared by its objects.
            with_boundary: also predict boundaries (training).
        Returns:
            mask logits B×K×H×W, and boundary logits B×K×H×W or None, float32.
        """
        shape = readout.shape[:2]
        x = self.compress(readout.flatten(0, 1), f16_thin)
        x = self.up_8_4(f4, self.up_16_8(f8, x))
        boundary = None
        if self.branch is not None:
            x, boundary = self.branch(x)
        logits = upsample4(self.pred(torch.relu(x))).squeeze(1).unflatten(0, shape)
        if self.branch is None or boundary is None or not with_boundary:
            return logits, None
        return logits, upsample4(self.branch.predict_boundary(boundary)).squeeze(1).unflatten(0, shape)
