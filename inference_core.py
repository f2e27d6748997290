"""The inference engine: frames in, probabilities out, one frame at a time.

K objects so far, H×W image, H'×W' the image padded to multiples of 16, h×w feature map. Objects that enter on the same
frame form a group with its own memory: DAVIS has one group, YouTube-VOS one for each frame that introduces objects.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch

from model.network import FrameFeatures, Memory
from model.tensor import pad_to_multiple, soft_aggregate, unpad

# Images beyond this are no RGB in [0, 1], even if some resampling overshot: 0–255, or normalised already.
IMAGE_RANGE = (-1.0, 2.0)


class FrameNetwork(Protocol):
    """The part of `model.network.Network` that the engine uses; shapes are given there."""

    def normalize(self, image: torch.Tensor) -> torch.Tensor: ...
    def encode_key(self, image: torch.Tensor) -> FrameFeatures: ...
    def encode_value(self, image: torch.Tensor, f16: torch.Tensor, masks: torch.Tensor) -> torch.Tensor: ...
    def decode(self, readout: torch.Tensor, features: FrameFeatures) -> tuple[torch.Tensor, torch.Tensor | None]: ...


class InferenceCore:
    """Segment a video by calling `step` on each frame in order.

    Args:
        network: in eval mode.
        make_memory: makes an empty memory, for each new group of objects.
        mem_every: a frame becomes memory when that many frames have passed since the last memory frame.
        include_last: the previous frame serves as a temporary memory frame, too.
    """

    def __init__(
        self, network: FrameNetwork, make_memory: Callable[[], Memory], mem_every: int = 3, include_last: bool = False
    ):
        self.network, self.make_memory = network, make_memory
        self.mem_every, self.include_last = mem_every, include_last
        self.object_ids: list[int] = []  # raw ids in the order of prob's channels 1 … K
        self._groups: list[tuple[int, Memory]] = []  # (number of objects, memory), in channel order
        self._memorise: Callable[[], None] | None = None  # what `_segment` left to do for its frame
        self._size: torch.Size | None = None
        self._time = -1
        self._last_memory = -1

    @torch.inference_mode()
    def step(self, image: torch.Tensor, mask: torch.Tensor | None = None, needed: bool = True) -> torch.Tensor | None:
        """Segment the next frame.

        Args:
            image: 3×H×W RGB in [0, 1] on the network's device; any size, the same throughout a video.
            mask: H×W integer ids on the same device, 0 for background: objects that appear on this frame, or
                corrections of known ones. Its pixels above 0 override whatever was there; known objects that it does
                not contain keep their remaining pixels.
            needed: False if nobody wants this frame's result; the frame is skipped unless the memory wants it.
        Returns:
            prob (K+1)×H×W float32, background first, then objects in the order of ``object_ids``; None for a frame
            that was skipped. Before the first mask everything is background.
        Raises ValueError for an image or a mask of another shape, type, device or range; such a call changes nothing.
        On a GPU the values of an image are only checked on frames with a mask, whose ids have to come back from the GPU
        anyway; checking every frame would wait for every frame.
        """
        self._check_image(image, values=mask is not None or image.device.type == "cpu")
        ids = [] if mask is None else _object_ids(mask, image)
        time = self._time + 1
        is_memory = bool(ids) or time - self._last_memory >= self.mem_every
        prob = None
        if not (self.object_ids or ids):
            prob = torch.ones_like(image[:1], dtype=torch.float32) if needed else None
        elif needed or is_memory or self.include_last:
            prob = self._segment(image, mask, ids, is_memory)
            self._last_memory = time if is_memory else self._last_memory
        self._time, self._size = time, image.shape
        return prob

    def _check_image(self, image: torch.Tensor, values: bool) -> None:
        if image.ndim != 3 or image.shape[0] != 3 or not image.numel() or not image.is_floating_point():
            raise ValueError(f"image of {tuple(image.shape)} {image.dtype}: expected 3×H×W of floats in [0, 1]")
        if self._size is not None and image.shape != self._size:
            raise ValueError(f"image of {tuple(image.shape)} in a video of {tuple(self._size)}")
        if values:
            low, high = torch.stack(image.aminmax()).tolist()  # NaN if there is one
            if not (IMAGE_RANGE[0] <= low and high <= IMAGE_RANGE[1]):
                raise ValueError(f"image with values from {low:g} to {high:g}: expected RGB in [0, 1]")

    def _segment(self, image: torch.Tensor, mask: torch.Tensor | None, ids: list[int], is_memory: bool) -> torch.Tensor:
        """`step` for a frame that is not skipped."""
        padded, padding = pad_to_multiple(self.network.normalize(image)[None], 16)
        features = self.network.encode_key(padded)
        if self._memorise is not None:
            self._memorise()
            self._memorise = None
        if self.object_ids:
            readout = torch.cat([memory.read(features.key) for _, memory in self._groups], dim=1)
            logits, _ = self.network.decode(readout, features)
            prob = torch.softmax(soft_aggregate(torch.sigmoid(logits)), dim=1)
        else:
            prob = padded.new_ones(1, 1, *padded.shape[-2:], dtype=torch.float32)
        if mask is not None and ids:
            prob = self._apply_mask(prob, pad_to_multiple(mask, 16)[0], ids)
        if is_memory or self.include_last:
            # Memorised when the next frame comes: the last frame of a video never is.
            self._memorise = partial(self._add, padded, features.key, features.f16, prob[:, 1:], not is_memory)
        return unpad(prob[0], padding)

    def _apply_mask(self, prob: torch.Tensor, mask: torch.Tensor, ids: list[int]) -> torch.Tensor:
        """Let a given mask H'×W' with ``ids`` override prob 1×(K+1)×H'×W'; new ids open a group."""
        if new := [i for i in ids if i not in self.object_ids]:
            self._groups.append((len(new), self.make_memory()))
            self.object_ids += new
        probs = prob[:, 1:].masked_fill(mask > 0, 0)
        probs = torch.cat([probs, probs.new_zeros(1, len(new), *mask.shape)], dim=1)
        for i in ids:
            probs[:, self.object_ids.index(i)] = (mask == i).to(probs.dtype)
        return torch.softmax(soft_aggregate(probs), dim=1)

    def _add(
        self, image: torch.Tensor, key: torch.Tensor, f16: torch.Tensor, masks: torch.Tensor, temporary: bool
    ) -> None:
        """Memorise a frame: image 1×3×H'×W' normalised, key and f16 1×C×h×w, masks 1×K×H'×W'."""
        values = self.network.encode_value(image, f16, masks).split([count for count, _ in self._groups], dim=1)
        for (_, memory), value in zip(self._groups, values, strict=True):
            memory.add(key, value, temporary)


def _object_ids(mask: torch.Tensor, image: torch.Tensor) -> list[int]:
    """The ids above 0 in a mask for ``image``, ascending. Raises ValueError for what is no mask of ids."""
    if mask.shape != image.shape[-2:]:
        raise ValueError(f"mask of {tuple(mask.shape)} for an image of {tuple(image.shape[-2:])} (height, width)")
    if mask.is_floating_point():
        raise ValueError(f"mask of {mask.dtype}: expected integer object ids, 0 for background")
    if mask.device != image.device:
        raise ValueError(f"mask on {mask.device}: expected it on the image's {image.device}")
    ids = [int(i) for i in mask.unique().tolist()]
    if ids[0] < 0:
        raise ValueError(f"mask with id {ids[0]}: expected object ids from 1, 0 for background")
    return [i for i in ids if i > 0]
