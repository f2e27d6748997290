"""The inference engine: frames in, probabilities out, one at a time.

It knows nothing of files, datasets, palettes or metrics. K objects so far, H×W image. DAVIS and YouTube-VOS are the
same engine: objects that enter on the same frame form a group with a memory of its own; DAVIS has one group,
YouTube-VOS one per introducing frame.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from model.tensor import pad_to_multiple, soft_aggregate, unpad


class _Pending(NamedTuple):
    """A segmented frame that becomes memory once another frame follows: the last frame of a video never does."""

    image: torch.Tensor  # 1×3×H'×W' normalised, padded
    key: torch.Tensor  # 1×Ck×h×w
    f16: torch.Tensor  # 1×C₁₆×h×w
    masks: torch.Tensor  # 1×K×H'×W' soft
    temporary: bool


class InferenceCore:
    """Segment a video by calling `step` on each frame in order.

    Args:
        network: `model.network.Network` in eval mode.
        make_memory: makes an empty memory for a new group of objects, without arguments.
        mem_every: a frame becomes memory when that many frames have passed since the last memory frame.
        include_last: the previous frame is a temporary memory, too.
    """

    def __init__(self, network, make_memory: Callable, mem_every: int = 3, include_last: bool = False):
        if mem_every < 1:
            raise ValueError(f"mem_every {mem_every}: expected at least 1")
        self.network, self.make_memory = network, make_memory
        self.mem_every, self.include_last = mem_every, include_last
        self.object_ids: list[int] = []  # raw ids in the order of prob's channels 1 … K
        self._groups: list[tuple[int, object]] = []  # (number of objects, memory), in channel order
        self._pending: _Pending | None = None
        self._size: torch.Size | None = None
        self._time = -1
        self._last_memory = -1

    @torch.inference_mode()
    def step(self, image: torch.Tensor, mask: torch.Tensor | None = None, needed: bool = True) -> torch.Tensor | None:
        """Segment the next frame.

        Args:
            image: 3×H×W RGB in [0, 1] on the network's device, of any size, the same through a video.
            mask: H×W raw ids, 0 background: objects that appear on this frame, or corrections of known ones. Where it
                covers pixels, it wins over everything older; known objects that it does not hold keep the rest.
            needed: False when nobody wants this frame's result; it is skipped unless the memory wants it.
        Returns:
            prob (K+1)×H×W float32, background first, then objects in the order of ``object_ids``; None for a frame
            that was skipped. Before the first mask everything is background.
        Raises ValueError for an image or a mask of another shape.
        """
        self._time += 1
        if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
            raise ValueError(f"image of {tuple(image.shape)} {image.dtype}: expected 3×H×W of floats in [0, 1]")
        self._size = self._size or image.shape
        if image.shape != self._size:
            raise ValueError(f"image of {tuple(image.shape)} in a video of {tuple(self._size)}")
        if mask is not None and mask.shape != image.shape[-2:]:
            raise ValueError(f"mask of {tuple(mask.shape)} for an image of {tuple(image.shape[-2:])} (height, width)")
        if mask is not None and not mask.any():
            mask = None
        if not self.object_ids and mask is None:
            return torch.ones_like(image[:1], dtype=torch.float32) if needed else None
        is_memory = mask is not None or self._time - self._last_memory >= self.mem_every
        if not (needed or is_memory or self.include_last):
            return None

        padded, padding = pad_to_multiple(self.network.normalize(image)[None], 16)
        features = self.network.encode_key(padded)
        if self.object_ids:
            self._memorise_pending()
            readout = torch.cat([memory.read(features.key) for _, memory in self._groups], dim=1)
            logits, _ = self.network.decode(readout, features)
            prob = torch.softmax(soft_aggregate(torch.sigmoid(logits)), dim=1)
        else:
            prob = padded.new_ones(1, 1, *padded.shape[-2:], dtype=torch.float32)
        if mask is not None:
            prob = self._apply_mask(prob, pad_to_multiple(mask, 16)[0])
        if is_memory:
            self._last_memory = self._time
        if is_memory or self.include_last:
            self._pending = _Pending(padded, features.key, features.f16, prob[:, 1:], temporary=not is_memory)
        return unpad(prob[0], padding)

    def _apply_mask(self, prob: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Let a given mask H'×W' overwrite prob 1×(K+1)×H'×W'; unknown ids open a new group."""
        present = [int(i) for i in mask.unique() if i != 0]
        new = [i for i in present if i not in self.object_ids]
        probs = prob[:, 1:].masked_fill(mask > 0, 0)
        for i in set(present) - set(new):
            probs[:, self.object_ids.index(i)] = (mask == i).to(probs.dtype)
        if new:
            given = [(mask == i).to(probs.dtype) for i in new]
            probs = torch.cat([probs, torch.stack(given)[None]], dim=1)
            self._groups.append((len(new), self.make_memory()))
            self.object_ids += new
        return torch.softmax(soft_aggregate(probs), dim=1)

    def _memorise_pending(self) -> None:
        """Encode the values of the frame that waits, all objects at once, and add each group's share to its memory."""
        if self._pending is None:
            return
        image, key, f16, masks, temporary = self._pending
        values = self.network.encode_value(image, f16, masks).split([count for count, _ in self._groups], dim=1)
        for (_, memory), value in zip(self._groups, values, strict=True):
            memory.add(key, value, temporary)
        self._pending = None
