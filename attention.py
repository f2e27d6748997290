"""Attention over memorised positions (STCN section 3.3), top-k and in chunks. PyTorch only.

B clips, N memory positions, Q query positions, Ck and C channels of keys and values.
"""

import math

import torch
import torch.nn.functional as F

# Largest affinity that a read holds at once, in elements (64 MiB in float32): larger reads go query chunk by chunk.
AFFINITY_BUDGET = 2**24
# Devices without `F.embedding_bag` (MPS before PyTorch 2.9).
GATHER_DEVICES = ("mps",)


def attend(queries: torch.Tensor, folded_keys: torch.Tensor, values: torch.Tensor, top_k: int | None) -> torch.Tensor:
    """Queries B×Q×Ck, rows B×N×(Ck+1) of `fold_keys`, values B×N×C → readout B×Q×C in the values' dtype."""
    at_once = max(1, AFFINITY_BUDGET // (folded_keys.shape[0] * folded_keys.shape[1]))
    readouts = []
    for chunk in queries.split(at_once, dim=1):
        weights, positions = top_k_softmax(l2_similarity(chunk, folded_keys), top_k)
        readouts.append(weighted_values(weights, positions, values))
    return torch.cat(readouts, dim=1)


def fold_keys(key: torch.Tensor) -> torch.Tensor:
    """Keys B×Ck×h×w → rows ``[2 k, −‖k‖²] / √Ck``, B×(h·w)×(Ck+1) float32.

    One matrix product with ``[q, 1]`` is then the whole similarity. Half precision cannot hold the squared norms.
    """
    k = key.flatten(2).transpose(1, 2).float()
    return torch.cat([2 * k, -k.square().sum(dim=2, keepdim=True)], dim=2) / math.sqrt(key.shape[1])


def l2_similarity(queries: torch.Tensor, folded_keys: torch.Tensor) -> torch.Tensor:
    """``S(j, i) = (2 kᵢ·qⱼ − ‖kᵢ‖²) / √Ck`` (STCN section 3.3), float32 even under autocast.

    It is ``−‖kᵢ − qⱼ‖² / √Ck`` without the query's own norm, which the softmax over i cancels.
    B×Q×Ck and rows B×N×(Ck+1) of `fold_keys` → B×Q×N.
    """
    with torch.autocast(queries.device.type, enabled=False):
        q1 = F.pad(queries.float(), (0, 1), value=1.0)  # [q, 1]
        return q1 @ folded_keys.transpose(1, 2)


def top_k_softmax(similarity: torch.Tensor, top_k: int | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """``W(j, i) = exp S(j, i) / Σᵢ exp S(j, i)`` over the ``top_k`` most similar positions i of each query j.

    B×Q×N → weights and positions, each B×Q×k with k = min(top_k, N); with ``top_k=None`` weights B×Q×N and None.
    """
    if top_k is None:
        return similarity.softmax(dim=2), None
    similarity, positions = top_positions(similarity, min(top_k, similarity.shape[2]))
    return similarity.softmax(dim=2), positions


def weighted_values(weights: torch.Tensor, positions: torch.Tensor | None, values: torch.Tensor) -> torch.Tensor:
    """``Σᵢ W(j, i) vᵢ``: weights and positions of `top_k_softmax`, values B×N×C → readout B×Q×C in the values' dtype.

    With positions, only those values are gathered; a dense product would multiply mostly with zeros.
    """
    weights = weights.to(values.dtype)
    if positions is None:
        return weights @ values
    first = values.shape[1] * torch.arange(len(values), device=values.device)  # of each clip among the rows of all
    positions = (positions + first[:, None, None]).flatten(0, 1)
    weights, rows = weights.flatten(0, 1), values.flatten(0, 1)
    if values.device.type in GATHER_DEVICES:
        at_once = max(1, AFFINITY_BUDGET // (positions.shape[1] * rows.shape[1]))
        chunks = zip(weights.split(at_once), positions.split(at_once), strict=True)
        readout = torch.cat([(weight.unsqueeze(1) @ rows[position]).squeeze(1) for weight, position in chunks])
    else:
        readout = F.embedding_bag(positions, rows, mode="sum", per_sample_weights=weights)
    return readout.unflatten(0, (len(values), -1))


def top_positions(similarity: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of each row of B×Q×N, in any order: values and positions, each B×Q×k.

    The k largest elements lie in the k groups with the largest maxima, however positions are grouped. One pass finds
    the maxima, and then only about 2 √(N k) elements per row are ranked instead of N.
    """
    number = similarity.shape[2]
    size = math.isqrt(number // k)
    if size < 4:
        return similarity.topk(k, dim=2, sorted=False)
    groups = number // size
    maxima = similarity[..., : groups * size].unflatten(2, (size, groups)).amax(2)
    best = maxima.topk(k, dim=2, sorted=False).indices
    members = torch.arange(0, groups * size, groups, device=similarity.device)
    ungrouped = torch.arange(groups * size, number, device=similarity.device)
    candidates = (best.unsqueeze(3) + members).flatten(2)
    candidates = torch.cat([candidates, ungrouped.expand(*candidates.shape[:2], -1)], dim=2)
    top = similarity.gather(2, candidates).topk(k, dim=2, sorted=False)
    return top.values, candidates.gather(2, top.indices)
