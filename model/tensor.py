"""Tensor helpers that are independent of the network: soft aggregation and padding.

B batch, K objects, H×W image. ``masks`` and ``probs`` of objects have no background channel; ``logits`` from
`soft_aggregate`, and ``prob`` made from them, have it first.
"""

import torch
import torch.nn.functional as F

Padding = tuple[int, int, int, int]  # left, right, top, bottom, in pixels


def soft_aggregate(probs: torch.Tensor) -> torch.Tensor:
    """Merge independent object probabilities into logits over background and objects (STM section 3.3, STCN).

    The probability of the background is ``Π(1 − p_k)``. All probabilities are clamped to ``[1e-7, 1 − 1e-7]`` and
    mapped to ``log(p / (1 − p))``. A softmax over dimension 1 of the result gives ``prob``.

    Args:
        probs: B×K×H×W in [0, 1], any K ≥ 0.
    Returns:
        logits B×(K+1)×H×W, float32 (half precision cannot hold 1 − 1e-7).
    """
    probs = probs.float()
    background = torch.prod(1 - probs, dim=1, keepdim=True)
    merged = torch.cat([background, probs], dim=1).clamp(1e-7, 1 - 1e-7)
    return torch.log(merged / (1 - merged))


def pad_to_multiple(x: torch.Tensor, multiple: int) -> tuple[torch.Tensor, Padding]:
    """Zero-pad the last two dimensions to a multiple, symmetrically; an odd pixel goes to the right or bottom.

    Args:
        x: …×H×W.
    Returns:
        the padded tensor …×H'×W', and the padding for `unpad`.
    """
    height, width = x.shape[-2:]
    extra_h, extra_w = -height % multiple, -width % multiple
    padding = (extra_w // 2, extra_w - extra_w // 2, extra_h // 2, extra_h - extra_h // 2)
    return F.pad(x, padding), padding


def unpad(x: torch.Tensor, padding: Padding) -> torch.Tensor:
    """Remove the padding of `pad_to_multiple`: …×H'×W' → …×H×W (a view)."""
    left, right, top, bottom = padding
    height, width = x.shape[-2:]
    return x[..., top : height - bottom, left : width - right]
