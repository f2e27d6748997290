"""A network for evaluation only, which can be neither trained nor saved: the same numbers with fewer operations."""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model.blocks import SplitConv2d, add_shared
from model.network import Network
from model.spectral import SpectralFilter
from model.tensor import keep_uncompiled


def optimized_copy(
    network: Network, compiled: bool = False, precision: torch.dtype = torch.float32, in_place: bool = False
) -> Network:
    """A copy of a network in eval mode, on the same device, that computes the same (relative 1e-5 in float32).

    Batch norms are folded into the convolutions before them, weights over per-object and shared channels are split in
    advance, weights and therefore all features are channels-last, and on CPUs large 3×3 convolutions become
    `RowWinogradConv2d`. With ``compiled``, the methods that the engine calls go through `torch.compile`, which compiles
    at the first call for each new shape.

    Args:
        precision: the autocast type under which the network will run, or float32.
        in_place: change the network itself instead of a copy, which takes half of the memory.
    """
    if not in_place:
        network = copy.deepcopy(network)
    network.requires_grad_(False).optimized = precision
    for module in _parents(network):
        _fold_batch_norms(module)
        for name, child in list(module.named_children()):
            if isinstance(child, SplitConv2d):
                setattr(module, name, PresplitConv2d(child))
    if network.mean.device.type == "cpu":
        network.decoder.one_by_one = True
        _use_row_winograd(network, precision)
    network.to(memory_format=torch.channels_last)
    if compiled:
        keep_uncompiled(SpectralFilter, RowWinogradConv2d)
        for method in ("encode_key", "encode_value", "decode"):
            setattr(network, method, torch.compile(getattr(network, method)))
    return network


def _parents(network: Network) -> list[nn.Module]:
    """All modules but the convolutions, which a list would keep alive after they have been replaced."""
    return [module for module in network.modules() if not isinstance(module, nn.Conv2d)]


def _fold_batch_norms(module: nn.Module) -> None:
    """Fold each pair of a convolution and the batch norm after it: attributes ``conv1, bn1``, or in a sequence."""
    children = list(module.named_children())
    for (conv_name, conv), (norm_name, norm) in zip(children, children[1:], strict=False):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
            setattr(module, norm_name, nn.Identity())


class PresplitConv2d(nn.Module):
    """`SplitConv2d` as two convolutions; slices of one weight would be copied at every call."""

    def __init__(self, conv: SplitConv2d):
        super().__init__()
        self.own = _convolution(conv.weight[:, : conv.own_channels], None)
        self.shared = _convolution(conv.weight[:, conv.own_channels :], conv.bias)

    def forward(self, x: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
        """x (B·K)×C₁×h×w, shared B×C₂×h×w → (B·K)×C×h×w."""
        return add_shared(self.own(x), self.shared(shared))


def _convolution(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Conv2d:
    """A 3×3 convolution with these parameters."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, device="meta")
    conv.weight, conv.bias = nn.Parameter(weight.clone(), requires_grad=False), bias
    return conv


# With fewer channels, the transforms cost as much as the saved multiplications.
WINOGRAD_MIN_CHANNELS = 64
# Most elements of a combined row (4 MiB in float32). The combinations of a whole map would take five times its memory.
STRIPE_ELEMENTS = 2**20


def _use_row_winograd(network: Network, precision: torch.dtype) -> None:
    """Replace large 3×3 convolutions. The rounding of f16, from which the keys come, grows by a quarter."""
    for module in _parents(network):
        for name, conv in list(module.named_children()):
            if (
                isinstance(conv, nn.Conv2d)
                and (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
                and min(conv.in_channels, conv.out_channels) >= WINOGRAD_MIN_CHANNELS
            ):
                setattr(module, name, RowWinogradConv2d(conv, precision))


class RowWinogradConv2d(nn.Module):
    """A 3×3 convolution by Winograd's F(m, 3) along the rows (Lavin & Gray, CVPR 2016); float32 or bf16, on CPUs.

    Bands of m + 2 input rows become m + 2 combined rows, then a 1×3 convolution of each, then m output rows. In float32
    m is 4: half of the multiplications, and two or three times the rounding of the plain convolution. In bf16, which is
    too coarse for the factors of m = 4, m is 2: two thirds of the multiplications and 1.8 times the rounding.

    In float32 the m + 2 kernels are computed at every call from the three rows of the weight, which takes 1 to 5 % of
    the time; stored, they would take twice the memory of the weight.
    """

    def __init__(self, conv: nn.Conv2d, precision: torch.dtype = torch.float32):
        super().__init__()
        self.dtype = torch.bfloat16 if precision is torch.bfloat16 else torch.float32
        weight = conv.weight.detach().contiguous(memory_format=torch.channels_last)
        rows = [row.clone() for row in weight.split(1, dim=2)]  # each C'×C×1×3
        if self.dtype is torch.bfloat16:
            even = (rows[0] + rows[2]) / 2
            rows = [rows[0], even + rows[1] / 2, even - rows[1] / 2, rows[2]]
        self.rows = [row.to(self.dtype) for row in rows]  # in bf16 the kernels
        self.bias = None if conv.bias is None else conv.bias.detach().to(self.dtype)

    def _kernels(self) -> list[torch.Tensor]:
        """The m + 2 kernels C'×C×1×3."""
        if self.dtype is torch.bfloat16:
            return self.rows
        g0, g1, g2 = self.rows
        even, odd = torch.add(g0, g2).mul_(-1 / 6), g1 / -6
        even2, odd2 = torch.add(g0, g2, alpha=4).mul_(1 / 24), g1 / 12
        return [g0, even + odd, even.sub_(odd), even2 + odd2, even2.sub_(odd2), g2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N×C×h×w → N×C'×h×w in the precision of the kernels."""
        x = x.to(self.dtype).permute(0, 2, 3, 1)  # channels last throughout: N×rows×columns×C
        number, height, width, channels = x.shape
        kernels = self._kernels()
        rows = len(kernels) - 2
        bands = -(-height // rows)
        stripes = -(-number * bands * width * channels // STRIPE_ELEMENTS)
        step = -(-bands // stripes)
        out = x.new_empty(number, bands, rows, width, len(kernels[0]))
        combine = self._four_rows if rows == 4 else self._two_rows
        with torch.autocast("cpu", enabled=False):
            for start in range(0, bands, step):
                stop = min(start + step, bands)
                first, end = rows * start - 1, rows * stop + 1
                stripe = x[:, max(first, 0) : end]
                if first < 0 or end > height:
                    stripe = F.pad(stripe, (0, 0, 0, 0, max(-first, 0), max(end - height, 0)))
                inputs = [stripe[:, i : i + rows * (stop - start - 1) + 1 : rows] for i in range(rows + 2)]
                combine(kernels, inputs, out[:, start:stop].unbind(2))
        return out.flatten(1, 2)[:, :height].permute(0, 3, 1, 2)

    def _two_rows(self, k: Sequence[torch.Tensor], d: Sequence[torch.Tensor], out: Sequence[torch.Tensor]) -> None:
        """4 kernels and 4 rows of each band, each N×bands×w×C → 2 rows N×bands×w×C'."""
        # The second product enters every output row exactly once, so it carries the bias.
        m1, m2 = _convolve(d[1] + d[2], k[1], self.bias), _convolve(d[2] - d[1], k[2])
        torch.add(m1, m2, out=out[0]).add_(_convolve(d[0] - d[2], k[0]))
        torch.sub(m1, m2, out=out[1]).sub_(_convolve(d[1] - d[3], k[3]))

    def _four_rows(self, k: Sequence[torch.Tensor], d: Sequence[torch.Tensor], out: Sequence[torch.Tensor]) -> None:
        """6 kernels and 6 rows of each band, each N×bands×w×C → 4 rows N×bands×w×C'."""
        even, odd = torch.sub(d[4], d[2], alpha=4), torch.sub(d[3], d[1], alpha=4)
        first, second = _convolve(even + odd, k[1], self.bias), _convolve(even.sub_(odd), k[2])
        even, odd = d[4] - d[2], (d[3] - d[1]).mul_(2)
        third, fourth = _convolve(even + odd, k[3]), _convolve(even.sub_(odd), k[4])
        even, odd = first + second, first.sub_(second)
        even2, odd2 = third + fourth, third.sub_(fourth)
        del first, second, third, fourth
        torch.add(odd, odd2, alpha=2, out=out[1])
        torch.add(even, even2, alpha=4, out=out[2])
        torch.add(odd, odd2, alpha=8, out=out[3])
        out[3].add_(_convolve(torch.sub(d[5], d[3], alpha=5).add_(d[1], alpha=4), k[5]))
        even.add_(_convolve(torch.sub(d[0], d[2], alpha=5 / 4).add_(d[4], alpha=1 / 4), k[0]))
        torch.add(even, even2, out=out[0])


def _convolve(rows: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """N×rows×w×C → N×rows×w×C' by a kernel C'×C×1×3."""
    return F.conv2d(rows.permute(0, 3, 1, 2), kernel, bias, padding=(0, 1)).permute(0, 2, 3, 1)
