"""Training loss: bootstrapped cross-entropy of the aggregated masks, and GSFM's boundary loss."""

import torch
import torch.nn.functional as F

from model.network import Prediction


def hard_fraction(iteration: int, start_warm: int, end_warm: int, final: float = 0.15) -> float:
    """Fraction of the hardest pixels that enter the cross-entropy: 1, then linear from 1 to ``final``, then that."""
    if iteration < start_warm:
        return 1.0
    if iteration > end_warm:
        return final
    return final + (1 - final) * (end_warm - iteration) / max(end_warm - start_warm, 1)


def compute_losses(
    prediction: Prediction,
    masks: torch.Tensor,
    valid: torch.Tensor,
    fraction: float,
    boundary_weight: float,
    dice_weight: float = 0.0,
) -> dict[str, torch.Tensor]:
    """Named terms, weighted: their sum is the loss. Mean over the batch, sum over the predicted frames.

    Args:
        masks: B×(T−1)×K×H×W, 0/1, the true masks of the predicted frames.
        valid: B×K, 0 for objects that a clip does not have: they enter no term.
        fraction: of the hardest pixels, see `hard_fraction`.
        dice_weight: of the Dice loss of the masks; 0 leaves it out, as published.
    """
    losses = {"ce": bootstrapped_cross_entropy(prediction.logits, masks, valid, fraction).mean(0).sum()}
    if prediction.boundary is not None:
        boundary = boundary_loss(prediction.boundary, masks, valid)
        losses["boundary"] = boundary_weight * boundary.mean(0).sum()
    if dice_weight:
        dice = _dice(torch.softmax(prediction.logits, dim=2)[:, :, 1:], masks)
        losses["dice"] = dice_weight * _object_mean(dice, valid).mean(0).sum()
    return losses


def bootstrapped_cross_entropy(
    logits: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor, fraction: float
) -> torch.Tensor:
    """Cross-entropy of B×(T−1)×(K+1)×H×W logits over the hardest pixels of each frame → B×(T−1).

    Absent objects are left out of the softmax.
    """
    absent = F.pad(valid == 0, (1, 0))  # the background is always there
    logits = logits.masked_fill(absent[:, None, :, None, None], -torch.inf)
    number = torch.arange(1, masks.shape[2] + 1, device=masks.device).view(-1, 1, 1)
    target = (masks * number).sum(2).long()
    losses = F.cross_entropy(logits.flatten(0, 1), target.flatten(0, 1), reduction="none").flatten(1)
    if fraction < 1:
        losses = losses.topk(int(losses.shape[1] * fraction), dim=1, sorted=False).values
    return losses.mean(1).unflatten(0, target.shape[:2])


def boundary_loss(logits: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy plus Dice of B×(T−1)×K×H×W boundary logits → B×(T−1), mean over a clip's objects."""
    target = mask_boundary(masks)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((3, 4))
    return _object_mean(cross_entropy + _dice(torch.sigmoid(logits), target), valid)


def _dice(probability: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Dice losses B×(T−1)×K, smoothed by one pixel."""
    overlap = (probability * target).sum((3, 4))
    return 1 - (2 * overlap + 1) / (probability.sum((3, 4)) + target.sum((3, 4)) + 1)


def _object_mean(losses: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Losses B×(T−1)×K → B×(T−1)."""
    weights = (valid / valid.sum(1, keepdim=True).clamp(min=1))[:, None]
    return (losses * weights).sum(2)


def mask_boundary(masks: torch.Tensor) -> torch.Tensor:
    """Pixels of 0/1 masks …×H×W where the 3×3 Laplacian (zero padding) exceeds 0.1: the inner contour, 0/1."""
    kernel = masks.new_full((1, 1, 3, 3), -1)
    kernel[..., 1, 1] = 8
    response = F.conv2d(masks.flatten(0, -3).unsqueeze(1), kernel, padding=1)
    return (response > 0.1).to(masks.dtype).view_as(masks)
