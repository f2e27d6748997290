"""Building blocks of the decoder and the value encoder.

B frames, K objects. Per-object tensors are (B·K)×C×h×w. *Shared* tensors, which are the same for all objects of a
frame, stay B×C×h×w and are never repeated.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


def add_shared(x: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
    """(B·K)×C×h×w plus B×C×h×w, broadcast over the K objects of each frame. Overwrites x."""
    x.unflatten(0, (shared.shape[0], -1)).add_(shared.unsqueeze(1))
    return x


def join(chunks: Sequence[torch.Tensor]) -> torch.Tensor:
    """Concatenate over objects (dimension 1); no copy of a single chunk."""
    return chunks[0] if len(chunks) == 1 else torch.cat(list(chunks), dim=1)


class SplitConv2d(nn.Conv2d):
    """A 3×3 convolution over the channels ``[per-object, shared]`` whose shared part is computed once per frame."""

    def __init__(self, own_channels: int, shared_channels: int, out_channels: int):
        super().__init__(own_channels + shared_channels, out_channels, 3, padding=1)
        self.own_channels = own_channels

    def forward(self, x: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:  # type: ignore[override]  # two inputs
        """x (B·K)×C₁×h×w, shared B×C₂×h×w → (B·K)×C×h×w."""
        own_weight, shared_weight = self.weight.split([self.own_channels, shared.shape[1]], dim=1)
        own = F.conv2d(x, own_weight, padding=1)
        return add_shared(own, F.conv2d(shared, shared_weight, self.bias, padding=1))


class ResBlock(nn.Module):
    """Pre-activation residual block without norms: ``x' + conv2(relu(conv1(relu(x))))``.

    ``x'`` is x itself, or a 3×3 convolution of (unactivated) x when the number of channels changes. With ``shared_dim``
    the channels are ``[per-object, shared]``, given as two tensors.
    """

    def __init__(self, in_dim: int, out_dim: int, shared_dim: int = 0):
        super().__init__()
        if shared_dim:
            self.downsample: nn.Module = SplitConv2d(in_dim, shared_dim, out_dim)
            self.conv1: nn.Module = SplitConv2d(in_dim, shared_dim, out_dim)
        else:
            self.downsample = nn.Conv2d(in_dim, out_dim, 3, padding=1) if in_dim != out_dim else nn.Identity()
            self.conv1 = nn.Conv2d(in_dim, out_dim, 3, padding=1)
        self.conv2 = nn.Conv2d(out_dim, out_dim, 3, padding=1)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """x (B·K)×C×h×w, and shared B×C₂×h×w if there are such channels → (B·K)×C'×h×w."""
        out = self.conv1(*[torch.relu(x) for x in inputs])
        out = self.conv2(F.relu(out, inplace=True))
        shortcut = self.downsample(*inputs)
        # In place, except where autocast has left them in different types.
        return out.add_(shortcut) if out.dtype is shortcut.dtype else shortcut + out


class UpsampleBlock(nn.Module):
    """Convolved skip features plus the coarser map at twice its resolution, then a `ResBlock`.

    The caller applies ``skip_conv``, once for all objects.
    """

    def __init__(self, skip_dim: int, up_dim: int, out_dim: int):
        super().__init__()
        self.skip_conv = nn.Conv2d(skip_dim, up_dim, 3, padding=1)
        self.out_conv = ResBlock(up_dim, out_dim)

    def forward(self, skip: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """skip (shared, convolved) B×C×2h×2w, up (B·K)×C×h×w → (B·K)×C'×2h×2w."""
        up = F.interpolate(up, scale_factor=2, mode="bilinear", align_corners=False)
        return self.out_conv(add_shared(up, skip))


class ChannelGate(nn.Module):
    """Channel attention of CBAM (ECCV 2018): ``sigmoid(MLP(avgpool) + MLP(maxpool))`` with one MLP for both."""

    def __init__(self, channels: int):
        super().__init__()
        hidden = channels // 16
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N×C×h×w → N×C×h×w."""
        gate = torch.sigmoid(self.mlp(x.mean(dim=(2, 3))) + self.mlp(x.amax(dim=(2, 3))))
        return x * gate[:, :, None, None]


class SpatialGate(nn.Module):
    """Spatial attention of CBAM: sigmoid of a 7×7 convolution of ``[max, mean]`` over channels."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N×C×h×w → N×C×h×w."""
        pooled = torch.cat([x.amax(dim=1, keepdim=True), x.mean(dim=1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.conv(pooled))


class FeatureFusion(nn.Module):
    """Fuse per-object mask features with the frame's key features into the memory value (STCN section 3.2)."""

    def __init__(self, own_dim: int, shared_dim: int, out_dim: int):
        super().__init__()
        self.block1 = ResBlock(own_dim, out_dim, shared_dim)
        gates = OrderedDict(channel_gate=ChannelGate(out_dim), spatial_gate=SpatialGate())
        self.attention = nn.Sequential(gates)
        self.block2 = ResBlock(out_dim, out_dim)

    def forward(self, x: torch.Tensor, f16: torch.Tensor) -> torch.Tensor:
        """x (B·K)×C₁×h×w, f16 B×C₂×h×w → (B·K)×C×h×w."""
        x = self.block1(x, f16)
        return self.block2(x + self.attention(x))
