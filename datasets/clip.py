"""Training samples: short clips, packed as bytes by the data workers and unpacked on the device."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch


class Clip(NamedTuple):
    """T frames of S×S pixels with K object slots; batches have B in front of every tensor."""

    frames: torch.Tensor  # T×3×S×S float32 RGB in [0, 1], not normalised
    masks: torch.Tensor  # T×K×S×S float32, 0 or 1; objects only, no background
    valid: torch.Tensor  # K float32: 1 where the slot holds an object
    name: str


class PackedClip(NamedTuple):
    """A `Clip` in about a fifth of its memory. The default collate function puts B in front of every tensor."""

    frames: torch.Tensor  # T×3×S×S uint8 RGB
    slots: torch.Tensor  # T×S×S uint8: 0 is background, k the object in the k-th slot, counted from 1
    valid: torch.Tensor  # K float32: 1 where the slot holds an object
    name: str

    def unpack(self, device: torch.device | str) -> Clip:
        """The clip, or the batch of clips, on ``device``. Copies from pinned memory do not block."""
        frames, slots, valid = (tensor.to(device, non_blocking=True) for tensor in self[:3])
        numbers = torch.arange(1, valid.shape[-1] + 1, dtype=torch.uint8, device=device)
        masks = slots.unsqueeze(-3) == numbers.view(-1, 1, 1)
        return Clip(frames.float().div_(255), masks.float(), valid, self.name)


def pack_clip(
    images: Sequence[np.ndarray], ids: np.ndarray, objects: Sequence[int] | np.ndarray, max_objects: int, name: str
) -> PackedClip:
    """Pack T ``images`` S×S×3 uint8 RGB and their ``ids`` T×S×S uint8.

    ``objects``: the ids to show, at most ``max_objects``, in the order of their slots; all others become background.
    """
    frames = np.empty((len(images), 3, *ids.shape[1:]), np.uint8)
    for frame, image in zip(frames, images, strict=True):
        cv2.split(image, list(frame))
    slot_of = np.zeros(256, np.uint8)
    slot_of[objects] = np.arange(1, len(objects) + 1)
    slots = cv2.LUT(ids.reshape(-1, ids.shape[-1]), slot_of).reshape(ids.shape)
    valid = (np.arange(max_objects) < len(objects)).astype(np.float32)
    return PackedClip(torch.from_numpy(frames), torch.from_numpy(slots), torch.from_numpy(valid), name)
