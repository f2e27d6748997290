"""The training sample: a short clip with the masks of one or two objects."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch


class Clip(NamedTuple):
    """T frames of S×S pixels with K object slots; the default collate function puts B in front of every tensor."""

    frames: torch.Tensor  # T×3×S×S float32 RGB in [0, 1], not normalised
    masks: torch.Tensor  # T×K×S×S float32, 0 or 1; objects only, no background
    valid: torch.Tensor  # K float32: 1 where the slot holds an object
    name: str


def make_clip(frames: np.ndarray, ids: np.ndarray, objects: Sequence[int], max_objects: int, name: str) -> Clip:
    """A `Clip` of ``frames`` T×3×S×S float32, showing ``objects`` (at most ``max_objects``) of ``ids`` T×S×S."""
    masks = np.zeros((len(ids), max_objects, *ids.shape[1:]), np.float32)
    for slot, object_id in enumerate(objects):
        np.equal(ids, object_id, out=masks[:, slot])
    valid = (np.arange(max_objects) < len(objects)).astype(np.float32)
    return Clip(torch.from_numpy(frames), torch.from_numpy(masks), torch.from_numpy(valid), name)
