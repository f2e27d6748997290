"""The blocks of ResNets (CVPR 2016), whose modules and weights have torchvision's names."""

import torch
import torch.nn.functional as F
from torch import nn


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    expansion = 1  # output channels / dim

    def __init__(self, in_dim: int, dim: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_dim, dim, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(dim)
        self.downsample = _shortcut(in_dim, dim, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N×C×h×w → N×dim×h/stride×w/stride."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(out.add_(self.downsample(x)), inplace=True)


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions and a shortcut."""

    expansion = 4

    def __init__(self, in_dim: int, dim: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_dim, dim, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(dim)
        self.conv3 = nn.Conv2d(dim, 4 * dim, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * dim)
        self.downsample = _shortcut(in_dim, 4 * dim, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N×C×h×w → N×(4 dim)×h/stride×w/stride."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        return F.relu(out.add_(self.downsample(x)), inplace=True)


def _shortcut(in_dim: int, out_dim: int, stride: int) -> nn.Module:
    if (in_dim, stride) == (out_dim, 1):
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_dim, out_dim, 1, stride, bias=False), nn.BatchNorm2d(out_dim))


def stage(block: type[BasicBlock] | type[Bottleneck], in_dim: int, dim: int, number: int, stride: int) -> nn.Sequential:
    """``number`` blocks, the first of which changes channels and size."""
    first, out_dim = block(in_dim, dim, stride), dim * block.expansion
    return nn.Sequential(first, *(block(out_dim, dim, 1) for _ in range(number - 1)))
