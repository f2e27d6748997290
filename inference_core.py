"""The inference engine: frames in, probabilities out, one frame at a time.

K objects so far, H×W image, H'×W' the image padded to multiples of 16, h×w feature map. Objects that enter on the same
frame form a group with its own memory: DAVIS has one group, YouTube-VOS one for each frame that introduces objects.
"""

import copy
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Protocol

import torch

from labels import check_image, given_ids, label_map, strays
from model.network import FrameFeatures, Memory
from model.tensor import Padding, pad_to_multiple, soft_aggregate, unpad


class FrameNetwork(Protocol):
    """The part of `model.network.Network` that the engine uses; shapes are given there."""

    def normalize(self, image: torch.Tensor) -> torch.Tensor: ...
    def encode_key(self, image: torch.Tensor) -> FrameFeatures: ...
    def encode_value(self, image: torch.Tensor, f16: torch.Tensor, masks: torch.Tensor) -> torch.Tensor: ...
    def decode(self, readout: torch.Tensor, features: FrameFeatures) -> tuple[torch.Tensor, torch.Tensor | None]: ...


class FrameMemory(Memory, Protocol):
    """What the engine uses of a memory beyond what training does; see ``inference_memory_bank.py``."""

    def add(
        self,
        key: torch.Tensor,
        value: torch.Tensor,
        temporary: bool = False,
        *,
        frame: int | None = None,
        permanent: bool = False,
    ) -> None: ...
    def forget(self, frame: int | None = None) -> None: ...
    def keep(self, objects: Sequence[int]) -> None: ...


class InferenceCore:
    """Segment a video by calling `step` on each frame in order.

    Args:
        network: in eval mode.
        make_memory: makes an empty memory, for each new group of objects.
        mem_every: a frame becomes memory when that many frames have passed since the last memory frame.
        include_last: the previous frame serves as a temporary memory frame, too.
        local: drop what an object has elsewhere than around its place in the previous frame, see `labels.strays`.
    """

    def __init__(
        self,
        network: FrameNetwork,
        make_memory: Callable[[], FrameMemory],
        mem_every: int = 3,
        include_last: bool = False,
        local: bool = False,
    ):
        self.network, self.make_memory = network, make_memory
        self.mem_every, self.include_last, self.local = mem_every, include_last, local
        self.absent: set[int] = set()  # ids of objects that have no pixel until a mask holds them again
        self.key: torch.Tensor | None = None  # 1×Ck×h×w, of the last frame that was not skipped
        self._groups: list[tuple[list[int], FrameMemory]] = []  # raw ids and their memory
        self._memorise: Callable[[], None] | None = None  # what `step` left to do for its frame
        self._places: torch.Tensor | None = None  # H'×W' ids of the last frame, where known
        self._size: torch.Size | None = None
        self._time = -1  # number of the last frame
        self._last_memory = -1

    @property
    def object_ids(self) -> list[int]:
        """Raw ids in the order of prob's channels 1 … K."""
        return [i for ids, _ in self._groups for i in ids]

    @torch.inference_mode()
    def step(
        self,
        image: torch.Tensor,
        mask: torch.Tensor | None = None,
        needed: bool = True,
        complete: bool = False,
        frame: int | None = None,
    ) -> torch.Tensor | None:
        """Segment the next frame.

        Args:
            image: 3×H×W RGB in [0, 1] on the network's device; any size, the same throughout a video.
            mask: H×W integer ids on the same device, 0 for background: objects that appear on this frame, or
                corrections of known ones. Its pixels above 0 override whatever was there; known objects that it does
                not contain keep their remaining pixels. The frame becomes permanent memory of the objects in it.
            needed: False if nobody wants this frame's result; the frame is skipped unless the next ones depend on it.
            complete: known objects that ``mask`` does not contain are absent: they have no pixel on this frame and
                the following ones, until a mask contains them again. Such a mask may be empty.
            frame: its number, under which it is memorised; by default the one after the last frame's, from 0.
        Returns:
            prob (K+1)×H×W float32, background first, then objects in the order of ``object_ids``; None for a frame
            that was skipped. Before the first mask everything is background.
        Raises ValueError for an image or a mask of another shape, type, device or range; such a call changes nothing.
        On a GPU the values of an image are only checked on frames with a mask, which wait for the GPU anyway.
        """
        check_image(image, self._size, values=mask is not None or image.device.type == "cpu")
        ids = [] if mask is None else given_ids(mask, image)
        known = self.object_ids
        decided = ids + [i for i in known if complete and mask is not None and i not in ids]
        frame = self._time + 1 if frame is None else frame
        is_memory = bool(decided) or abs(frame - self._last_memory) >= self.mem_every
        self._time, self._size = frame, image.shape
        if not decided and self.absent.issuperset(known):
            background = torch.eye(len(known) + 1, 1, device=image.device)
            return background[..., None].repeat(1, *image.shape[-2:]) if needed else None
        if not (needed or is_memory or self.include_last or self.local):
            return None
        padded, padding, features = self._encode(image)
        self.key = features.key
        self._flush()
        prob = self._predict(padded, features)
        if mask is not None and decided:
            self.absent = (self.absent | set(decided)) - set(ids)
            prob = self._apply_mask(prob, pad_to_multiple(mask, 16)[0], ids)
        if is_memory or self.include_last:
            # Memorised when the next frame comes: the last frame of a video never is.
            add = partial(self._add, padded, features.key, features.f16, prob[:, 1:], frame)
            present = [i for i in self.object_ids if i not in self.absent]
            self._memorise = partial(add, {*present, *decided}, decided, not is_memory)
        self._last_memory = frame if is_memory else self._last_memory
        if self.local:
            self._places = self._labels(prob)
        return unpad(prob[0], padding)

    @torch.inference_mode()
    def read(self, image: torch.Tensor) -> torch.Tensor:
        """Segment an image, see `step`, as if it were the next frame, without any effect on the frames to come."""
        check_image(image, self._size)
        self._flush()
        padded, padding, features = self._encode(image)
        return unpad(self._predict(padded, features)[0], padding)

    @torch.inference_mode()
    def memorise(self, image: torch.Tensor, mask: torch.Tensor, frame: int, ids: Collection[int] = ()) -> None:
        """Memorise a mask as permanent truth of frame number ``frame``, in place of what is memorised of that frame.

        For ``image``, ``mask`` and errors see `step`, whose next frame is by default the one after this. ``ids``:
        known or new objects that are absent unless the mask holds them. Of others that it lacks, nothing is memorised.
        """
        check_image(image, self._size)
        self._flush()
        held = given_ids(mask, image)
        decided = sorted({*held, *ids})
        if new := [i for i in decided if i not in self.object_ids]:
            self._groups.append((new, self.make_memory()))
        for n, (group, memory) in reversed(list(enumerate(self._groups))):
            parts = [i for i in group if i in decided], [i for i in group if i not in decided]
            if all(parts):
                self._groups[n : n + 1] = [(part, _kept(group, memory, part)) for part in parts]
        padded, _, features = self._encode(image)
        self.key = features.key
        self._places = pad_to_multiple(mask, 16)[0]
        masks = torch.stack([self._places == i for i in self.object_ids]).float()[None]
        prob = torch.softmax(soft_aggregate(masks), dim=1)
        self._add(padded, features.key, features.f16, prob[:, 1:], frame, decided, decided)
        self._time, self._last_memory, self._size = frame, frame, image.shape

    @torch.inference_mode()
    def forget(self, frame: int) -> None:
        """Forget what is memorised of a frame, if anything. Raises ValueError, see `GlobalContextMemory.forget`."""
        self._flush()
        for _, memory in self._groups:
            memory.forget(frame)

    @torch.inference_mode()
    def remove(self, object_id: int) -> None:
        """Remove an object and its memory. Raises KeyError for an unknown id."""
        self._flush()
        if object_id not in self.object_ids:
            raise KeyError(object_id)
        groups = [(ids, [i for i in ids if i != object_id], memory) for ids, memory in self._groups]
        self._groups = [(left, _kept(ids, memory, left)) for ids, left, memory in groups if left]
        self.absent.discard(object_id)

    @torch.inference_mode()
    def restart(self, frame: int, absent: Collection[int] = (), mask: torch.Tensor | None = None) -> None:
        """Forget all frames that are not permanent, and go on from one that is, without the ``absent`` objects.

        mask: H×W ids on that frame, if known.
        """
        self._memorise = None
        self._places = None if mask is None else pad_to_multiple(mask, 16)[0]
        for _, memory in self._groups:
            memory.forget()
        self._time = self._last_memory = frame
        self.absent = set(absent)

    def _encode(self, image: torch.Tensor) -> tuple[torch.Tensor, Padding, FrameFeatures]:
        """The image normalised and padded, 1×3×H'×W', its padding, and its features."""
        padded, padding = pad_to_multiple(self.network.normalize(image)[None], 16)
        return padded, padding, self.network.encode_key(padded)

    def _predict(self, padded: torch.Tensor, features: FrameFeatures) -> torch.Tensor:
        """prob 1×(K+1)×H'×W' from the memory; only background while there are no objects."""
        if not self._groups:
            return padded.new_ones(1, 1, *padded.shape[-2:], dtype=torch.float32)
        readout = torch.cat([memory.read(features.key) for _, memory in self._groups], dim=1)
        logits, _ = self.network.decode(readout, features)
        probs = torch.sigmoid(logits)
        if self.absent:
            probs[:, [self.object_ids.index(i) for i in self.absent]] = 0
        prob = torch.softmax(soft_aggregate(probs), dim=1)
        if self.local and self._places is not None:
            # What one object loses another may win, which has it no more in its place.
            while (stray := strays(self._labels(prob), self._places, self.object_ids)).any():
                probs = probs.masked_fill(stray, 0)
                prob = torch.softmax(soft_aggregate(probs), dim=1)
        return prob

    def _labels(self, prob: torch.Tensor) -> torch.Tensor:
        """1×(K+1)×H'×W' → H'×W' ids."""
        return label_map(prob[0], prob.shape[-2:], self.object_ids)

    def _flush(self) -> None:
        if self._memorise is not None:
            self._memorise()
            self._memorise = None

    def _apply_mask(self, prob: torch.Tensor, mask: torch.Tensor, ids: list[int]) -> torch.Tensor:
        """Let a given mask H'×W' with ``ids`` override prob 1×(K+1)×H'×W'; new ids open a group."""
        if new := [i for i in ids if i not in self.object_ids]:
            self._groups.append((new, self.make_memory()))
        probs = prob[:, 1:].masked_fill(mask > 0, 0)
        probs = torch.cat([probs, probs.new_zeros(1, len(new), *mask.shape)], dim=1)
        for n, i in enumerate(self.object_ids):
            if i in ids:
                probs[:, n] = (mask == i).to(probs.dtype)
            elif i in self.absent:
                probs[:, n] = 0
        return torch.softmax(soft_aggregate(probs), dim=1)

    def _add(
        self,
        image: torch.Tensor,
        key: torch.Tensor,
        f16: torch.Tensor,
        masks: torch.Tensor,
        frame: int,
        ids: Collection[int],
        given: Collection[int],
        temporary: bool = False,
    ) -> None:
        """Memorise a frame in the groups that hold any of ``ids``, permanently if they hold any of ``given``.

        image 1×3×H'×W' normalised, key and f16 1×C×h×w, masks 1×K×H'×W'.
        """
        values = self.network.encode_value(image, f16, masks).split([len(group) for group, _ in self._groups], dim=1)
        for (group, memory), value in zip(self._groups, values, strict=True):
            if not set(ids).isdisjoint(group):
                permanent = not set(given).isdisjoint(group)
                memory.add(key, value, temporary, frame=frame, permanent=permanent)


def _kept(group: list[int], memory: FrameMemory, ids: list[int]) -> FrameMemory:
    """A group's memory for ``ids``, some or all of the group's; a copy unless all."""
    if ids == group:
        return memory
    memory = copy.deepcopy(memory)
    memory.keep([group.index(i) for i in ids])
    return memory
