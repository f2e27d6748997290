"""A network for evaluation only, which can be neither trained nor saved: the same numbers with fewer operations."""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model.blocks import SplitConv2d, add_shared
from model.network import Network


def optimized_copy(network: Network, compiled: bool = False) -> Network:
    """A copy of a network in eval mode, on the same device, that computes the same (relative 1e-5 in float32).

    Batch norms are folded into the convolutions before them, weights over per-object and shared channels are split in
    advance, weights and therefore all features are channels-last, and on CPUs large 3×3 convolutions become
    `RowWinogradConv2d`. With ``compiled``, the methods that the engine calls go through `torch.compile`, which compiles
    at the first call for each new shape.
    """
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        _fold_batch_norms(module)
        for name, child in list(module.named_children()):
            if isinstance(child, SplitConv2d):
                setattr(module, name, PresplitConv2d(child))
    network.to(memory_format=torch.channels_last)
    if network.mean.device.type == "cpu":
        _use_row_winograd(network)
    if compiled:
        for method in ("encode_key", "encode_value", "decode"):
            setattr(network, method, torch.compile(getattr(network, method)))
    return network


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
    conv.weight, conv.bias = nn.Parameter(weight.detach().contiguous(), requires_grad=False), bias
    return conv


# With fewer channels, the transforms cost as much as the saved multiplications.
WINOGRAD_MIN_CHANNELS = 128


def _use_row_winograd(network: Network) -> None:
    """Replace large 3×3 convolutions, but none that the keys depend on: their rounding decides near-ties of a read."""
    keys = {*network.key_encoder.modules(), network.key_proj}
    for module in list(network.modules()):
        for name, conv in list(module.named_children()):
            if (
                conv not in keys
                and isinstance(conv, nn.Conv2d)
                and (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
                and min(conv.in_channels, conv.out_channels) >= WINOGRAD_MIN_CHANNELS
            ):
                setattr(module, name, RowWinogradConv2d(conv))


class RowWinogradConv2d(nn.Module):
    """A 3×3 convolution by Winograd's F(m, 3) along the rows (Lavin & Gray, CVPR 2016); float32 or bf16, on CPUs.

    Bands of m + 2 input rows become m + 2 combined rows, then a 1×3 convolution of each, then m output rows. In float32
    m is 4: half of the multiplications, and two or three times the rounding of the plain convolution. Under autocast m
    is 2: two thirds of the multiplications and 1.8 times the rounding; bf16 is too coarse for the factors of m = 4.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.bias = conv.bias
        g0, g1, g2 = conv.weight.detach().double().unbind(2)
        outer, middle = (g0 + g2) / 6, g1 / 6
        far, near = g0 / 24 + g2 / 6, g1 / 12
        four = [g0 / 4, -outer - middle, middle - outer, far + near, far - near, g2]
        two = [g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2]
        self.four = [row.float().unsqueeze(2).contiguous(memory_format=torch.channels_last) for row in four]
        self.two = [row.bfloat16().unsqueeze(2).contiguous(memory_format=torch.channels_last) for row in two]

    @torch.compiler.disable  # the compiler cannot write into views (out=), and would find little to fuse
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N×C×h×w → N×C'×h×w."""
        half = torch.is_autocast_enabled("cpu")
        rows, height = 2 if half else 4, x.shape[2]
        bands = -(-height // rows)
        # Channels last throughout: N×rows×columns×C.
        x = (x.bfloat16() if half else x).permute(0, 2, 3, 1)
        x = F.pad(x, (0, 0, 1, 1, 1, rows * bands - height + 1))
        d = [x[:, i : i + rows * (bands - 1) + 1 : rows] for i in range(rows + 2)]
        out = self._two_rows(*d) if half else self._four_rows(*d)
        return out.flatten(1, 2)[:, :height].permute(0, 3, 1, 2)

    def _convolve(self, combined: list[torch.Tensor], kernels: list[torch.Tensor]) -> list[torch.Tensor]:
        bias = None if self.bias is None else self.bias.to(kernels[0].dtype)
        return [
            # The second product enters every output row exactly once, so it carries the bias.
            F.conv2d(rows.permute(0, 3, 1, 2), kernel, bias if i == 1 else None).permute(0, 2, 3, 1)
            for i, (rows, kernel) in enumerate(zip(combined, kernels, strict=True))
        ]

    def _two_rows(self, d0: torch.Tensor, d1: torch.Tensor, d2: torch.Tensor, d3: torch.Tensor) -> torch.Tensor:
        """Rows of each band, N×bands×(w+2)×C → N×bands×2×w×C'."""
        m0, m1, m2, m3 = self._convolve([d0 - d2, d1 + d2, d2 - d1, d1 - d3], self.two)
        return torch.stack([(m0 + m1).add_(m2), (m1 - m2).sub_(m3)], dim=2)

    def _four_rows(
        self, d0: torch.Tensor, d1: torch.Tensor, d2: torch.Tensor, d3: torch.Tensor, d4: torch.Tensor, d5: torch.Tensor
    ) -> torch.Tensor:
        """Rows of each band, N×bands×(w+2)×C → N×bands×4×w×C'."""
        even, odd = torch.sub(d4, d2, alpha=4), torch.sub(d3, d1, alpha=4)
        even2, odd2 = d4 - d2, (d3 - d1).mul_(2)
        combined = [
            torch.sub(d4, d2, alpha=5).add_(d0, alpha=4),
            even + odd,
            even - odd,
            even2 + odd2,
            even2 - odd2,
            torch.sub(d5, d3, alpha=5).add_(d1, alpha=4),
        ]
        m0, m1, m2, m3, m4, m5 = self._convolve(combined, self.four)
        even, odd, even2, odd2 = m1 + m2, m1 - m2, m3 + m4, m3 - m4
        out = m0.new_empty(*m0.shape[:2], 4, *m0.shape[2:])
        torch.add(m0, even, out=out[:, :, 0]).add_(even2)
        torch.add(odd, odd2, alpha=2, out=out[:, :, 1])
        torch.add(even, even2, alpha=4, out=out[:, :, 2])
        torch.add(odd, odd2, alpha=8, out=out[:, :, 3]).add_(m5)
        return out
