"""Soft aggregation and padding."""

import functools

import torch
import torch.nn.functional as F
from torch import nn

Padding = tuple[int, int, int, int]  # left, right, top, bottom, in pixels


def soft_aggregate(probs: torch.Tensor) -> torch.Tensor:
    """Merge independent object probabilities into logits over background and objects (STM section 3.3, STCN).

    B×K×H×W in [0, 1], any K ≥ 0 → B×(K+1)×H×W float32 (half precision cannot hold 1 − 1e-7), background first. The
    probability of the background is ``Π(1 − p_k)``; a softmax over dimension 1 of the result gives ``prob``.
    """
    probs = probs.float()
    background = torch.prod(1 - probs, dim=1, keepdim=True)
    merged = torch.cat([background, probs], dim=1).clamp(1e-7, 1 - 1e-7)
    return torch.log(merged / (1 - merged))


def pad_to_multiple(x: torch.Tensor, multiple: int) -> tuple[torch.Tensor, Padding]:
    """…×H×W, zero-padded symmetrically to multiples → …×H'×W', and the padding for `unpad`.

    An odd pixel goes to the right or bottom.
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


@functools.cache
def keep_uncompiled(*module_types: type[nn.Module]) -> None:
    """From now on, `torch.compile` leaves these modules as they are.

    To be called before compiling: a decorator would import the compiler, 2 s and 160 MB, into every program.
    """
    for module_type in module_types:
        module_type.forward = torch.compiler.disable(module_type.forward)  # type: ignore[method-assign]  # on purpose
