"""Decoder: memory readout and frame features → mask logits, and with GSFM's boundary branch boundary logits."""

import torch
import torch.nn.functional as F
from torch import nn

from model.blocks import ResBlock, UpsampleBlock, join
from model.config import NetworkConfig
from model.spectral import SpectralFilter


class BoundaryBranch(nn.Module):
    """GSFM's two coupled branches at 1/4 (section 3.4): boundary features sharpen the mask features.

    The mask depends on the boundary *features*; only the training loss needs the boundary *prediction*.
    """

    def __init__(self, config: NetworkConfig):
        super().__init__()
        dim = config.decoder_dim
        self.hfm = SpectralFilter(dim, "high", config.spectrum, config.filter)
        self.boundary_1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.boundary_2 = nn.Conv2d(dim, dim, 3, padding=1)
        self.boundary_3 = nn.Conv2d(dim, dim, 3, padding=1)
        self.mask_1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.fusion_1 = nn.Conv2d(dim, dim, 1)
        self.fusion_2 = nn.Conv2d(dim, dim, 1)
        self.predict_mask = nn.Conv2d(dim, dim, 3, padding=1)
        self.predict_boundary_1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.predict_boundary_2 = nn.Conv2d(dim, 1, 3, padding=1)

    def sharpen(self, x: torch.Tensor, with_boundary: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """N×C×h×w → mask features N×C×h×w, boundary logits N×1×h×w or None."""
        # These maps are the largest of all, and none should live longer than it must: hence one step per line, in
        # place, and a plain method, because ``__call__`` would keep x alive to the end.
        boundary, mask = self.boundary_1(x), self.mask_1(x)
        del x
        boundary = self.hfm(boundary)
        boundary = boundary.add_(F.relu(self.fusion_1(mask), inplace=True))
        boundary = self.boundary_2(boundary)
        boundary = F.relu(self.boundary_3(boundary), inplace=True)
        mask = mask + F.relu(self.fusion_2(boundary), inplace=True)
        if not with_boundary:
            del boundary
            return self.predict_mask(mask), None
        return self.predict_mask(mask), self.predict_boundary_2(torch.relu(self.predict_boundary_1(boundary)))


class Decoder(nn.Module):
    """From 1/16 to the image's size (STCN section 3.3), with ``config.hfm`` through GSFM's boundary branch.

    ``f8_dim`` and ``f4_dim`` are the channels of the key encoder's features.
    """

    one_by_one = False  # at 1/4, where feature maps are large, decode one object after the other (evaluation on CPUs)

    def __init__(self, config: NetworkConfig, f8_dim: int, f4_dim: int):
        super().__init__()
        dim = config.decoder_dim
        self.compress = ResBlock(config.value_dim, 2 * dim, shared_dim=config.value_dim)
        self.up_16_8 = UpsampleBlock(f8_dim, 2 * dim, dim)
        self.up_8_4 = UpsampleBlock(f4_dim, dim, dim)
        self.branch = BoundaryBranch(config) if config.hfm else None
        self.pred = nn.Conv2d(dim, 1, 3, padding=1)

    def forward(
        self, readout: torch.Tensor, f16_thin: torch.Tensor, f8: torch.Tensor, f4: torch.Tensor, with_boundary: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Decode all objects of B frames.

        Args:
            readout: B×K×Cv×h×w.
            f16_thin, f8, f4: features of the frame B×C×…, shared by its objects.
            with_boundary: also predict boundaries (training).
        Returns:
            mask logits B×K×H×W, and boundary logits B×K×H×W or None, float32.
        """
        x = self.compress(readout.flatten(0, 1), f16_thin)
        x = self.up_16_8(self.up_16_8.skip_conv(f8), x).unflatten(0, readout.shape[:2])
        skip = self.up_8_4.skip_conv(f4)
        chunks = x.split(1 if self.one_by_one else x.shape[1], dim=1)
        masks, boundaries = zip(*[self._at_quarter(chunk, skip, with_boundary) for chunk in chunks], strict=True)
        return join(masks), None if boundaries[0] is None else join(boundaries)

    def _at_quarter(
        self, x: torch.Tensor, skip: torch.Tensor, with_boundary: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """x B×K×C×h/8×w/8, skip B×C×h/4×w/4 → mask and boundary logits B×K×H×W."""
        size, boundary = x.shape[:2], None
        if self.branch is None:
            x = self.up_8_4(skip, x.flatten(0, 1))
        else:
            x, boundary = self.branch.sharpen(self.up_8_4(skip, x.flatten(0, 1)), with_boundary)
        masks = _enlarge(self.pred(F.relu(x, inplace=True)), size)
        return masks, None if boundary is None else _enlarge(boundary, size)


def _enlarge(logits: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """(B·K)×1×h×w → B×K×4h×4w for a ``size`` of (B, K), bilinear, in float32."""
    logits = F.interpolate(logits.float(), scale_factor=4, mode="bilinear", align_corners=False)
    return logits.squeeze(1).unflatten(0, size)
