"""Memories: what segmented frames leave behind for the frames that follow. PyTorch only.

B clips, K objects, h×w feature map, Ck and Cv channels of keys and values, N = frames·h·w memory positions, Q = h·w
query positions. All objects of a memory enter on the same frame and share its keys. ``add`` and ``read`` are
differentiable, the other methods are for inference::

    memory.add(key B×Ck×h×w, value B×K×Cv×h×w, temporary=False, frame=None, permanent=False)
    memory.read(query B×Ck×h×w) → readout B×K×Cv×h×w
    memory.forget(frame)    without the entry of that frame; memory.forget(): without all that are not permanent
    memory.keep(objects)    without the other objects, which are counted from 0
    memory.nbytes           bytes held

An entry that is added with the number of an earlier one replaces it, and is permanent if that was. A *permanent* entry,
such as the very first one, is never evicted. A *temporary* entry lasts until the next ``add``. To read an empty memory
raises ``RuntimeError("the memory is empty…")``.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from attention import attend, fold_keys

# Most frames that a memory allocates in advance; its buffers grow when a video turns out to be longer.
RESERVE_LIMIT = 500


class MemoryConfig(Protocol):
    """The settings that choose a memory; `NetworkConfig` has them."""

    @property
    def memory(self) -> str: ...
    @property
    def gc_norm(self) -> str: ...
    @property
    def gc_update(self) -> str: ...


def make_memory(
    config: MemoryConfig,
    top_k: int | None = None,
    max_frames: int | None = None,
    given_bias: float = 0.0,
    reserve: int = 0,
) -> "SpaceTimeMemory | GlobalContextMemory":
    """An empty memory of the type that a network's config names; for the other arguments see `SpaceTimeMemory`."""
    if config.memory == "global_context":
        return GlobalContextMemory(config.gc_norm, config.gc_update)
    return SpaceTimeMemory(top_k, max_frames, given_bias, reserve)


class _Entry(NamedTuple):
    frame: int | None
    permanent: bool
    age: int  # number of entries added before


class SpaceTimeMemory:
    """Keys and values of every memorised position, read by attention with the L2 similarity (STCN section 3.3).

    A read is `attention.attend`. One affinity serves all objects.

    Args:
        top_k: positions per query that enter the softmax, all N if there are fewer; None: always all.
        max_frames: number of frames to keep, at least 2: the permanent ones and the most recent others, of which one is
            kept even if there are ``max_frames`` permanent ones. None keeps all.
        given_bias: is added to the similarity of all positions of permanent frames, whose masks are given, so that they
            count e to the power of it times as much as those of predicted ones, whose errors add up.
        reserve: number of frames to allocate for at the first ``add``.
    """

    def __init__(
        self, top_k: int | None = None, max_frames: int | None = None, given_bias: float = 0.0, reserve: int = 0
    ):
        self.top_k, self.max_frames, self.given_bias = top_k, max_frames, given_bias
        self.reserve = min(reserve, RESERVE_LIMIT if max_frames is None else max_frames + 1)
        self._keys = self._values = torch.empty(0)  # buffers B×(positions, not all in use)×channels
        self._objects = 0
        self._entries: list[_Entry] = []  # in the order of the buffers; a temporary frame lies behind them
        self._added = 0
        self._length = 0  # positions in use
        self._per_frame = 0  # positions of a frame

    def add(
        self,
        key: torch.Tensor,
        value: torch.Tensor,
        temporary: bool = False,
        *,
        frame: int | None = None,
        permanent: bool = False,
    ) -> None:
        """Memorise a frame: key B×Ck×h×w, value B×K×Cv×h×w (any float dtype)."""
        keys = fold_keys(key)
        values = value.flatten(3).permute(0, 3, 1, 2).flatten(2)  # the values of all objects at a position lie together
        if not self._length:
            self._keys, self._values, self._objects = keys[:, :0], values[:, :0], value.shape[1]
        slot = len(self._entries) if temporary else self._new_entry(frame, permanent)
        if self.given_bias and not temporary and self._entries[slot].permanent:
            keys[..., -1] += self.given_bias
        self._per_frame = keys.shape[1]
        self._length = (len(self._entries) + temporary) * self._per_frame
        self._keys = self._written(self._keys, keys, slot * self._per_frame)
        self._values = self._written(self._values, values, slot * self._per_frame)

    def _new_entry(self, frame: int | None, permanent: bool) -> int:
        """Enter a frame into the list; returns its place in the buffers. Attention ignores the order of the frames."""
        slot = next((i for i, e in enumerate(self._entries) if frame is not None and e.frame == frame), None)
        if slot is not None:
            permanent = permanent or self._entries[slot].permanent
        else:
            slot = len(self._entries)
            if self.max_frames is not None and slot >= self.max_frames:
                evictable = [i for i, entry in enumerate(self._entries) if not entry.permanent]
                if len(evictable) > permanent:
                    slot = min(evictable, key=lambda i: self._entries[i].age)
        self._entries[slot : slot + 1] = [_Entry(frame, permanent or not self._entries, self._added)]
        self._added += 1
        return slot

    def forget(self, frame: int | None = None) -> None:
        """Drop the entry of ``frame``, if there is one, or, without a number, every entry that is not permanent."""
        kept = [i for i, e in enumerate(self._entries) if (e.permanent if frame is None else e.frame != frame)]
        slots = kept
        if frame is not None and self._length > len(self._entries) * self._per_frame:
            slots = [*kept, len(self._entries)]  # the temporary entry stays
        for buffer in (self._keys, self._values) if self._entries else ():
            rows = buffer[:, : self._length].unflatten(1, (-1, self._per_frame))[:, slots].flatten(1, 2)
            buffer[:, : rows.shape[1]] = rows
        self._entries = [self._entries[i] for i in kept]
        self._length = len(slots) * self._per_frame

    def keep(self, objects: Sequence[int]) -> None:
        """Drop the values of all other objects."""
        self._values = self._values.unflatten(2, (self._objects, -1))[:, :, list(objects)].flatten(2)
        self._objects = len(objects)

    def _written(self, buffer: torch.Tensor, rows: torch.Tensor, start: int) -> torch.Tensor:
        """The buffer with a frame's rows B×n×C at ``start``: in place if there is room, a new one under autograd."""
        end = start + rows.shape[1]
        if torch.is_grad_enabled():  # the backward pass of an earlier read still needs the old buffer
            return torch.cat([buffer[:, :start], rows, buffer[:, end : self._length]], dim=1)
        if end > buffer.shape[1]:
            capacity = max(self.reserve * rows.shape[1], end, end * 3 // 2 if start else 0)
            grown = rows.new_empty(rows.shape[0], capacity, rows.shape[2])
            grown[:, :start] = buffer[:, :start]
            buffer = grown
        buffer[:, start:end] = rows
        return buffer

    def read(self, query: torch.Tensor) -> torch.Tensor:
        """query B×Ck×h×w → readout B×K×Cv×h×w in the values' dtype. Raises RuntimeError while empty."""
        if not self._length:
            raise RuntimeError("the memory is empty: add a frame before reading")
        keys, values = self._keys[:, : self._length], self._values[:, : self._length]
        readout = attend(query.flatten(2).transpose(1, 2), keys, values, self.top_k)
        return readout.unflatten(2, (self._objects, -1)).permute(0, 2, 3, 1).unflatten(3, query.shape[-2:])

    @property
    def nbytes(self) -> int:
        """Bytes held, including the room allocated in advance."""
        return self._keys.nbytes + self._values.nbytes


class GlobalContextMemory:
    """One Ck×Cv matrix per object, whatever the number of frames (Global Context module, ECCV 2020, section 3).

    *Summarise* ``C_t = φ(K)ᵀ V``; *update* ``G_t = ((t−1) G_{t−1} + C_t) / t``; *read* ``ψ(Q) G``. The state is float32
    even under autocast.

    The contexts of permanent frames are kept, so that these can be replaced and forgotten.

    Args:
        norm: ``softmax``: φ over the positions of each channel, ψ over the channels of each position; ``mean``:
            φ(K) = K/n and ψ the identity, which makes the read equal to dot-product attention over all past frames.
        update: ``mean`` (the paper), or ``anchored``: the first frame keeps half of the weight.
    """

    def __init__(self, norm: str = "softmax", update: str = "mean"):
        self.norm, self.update = norm, update
        self._anchor: torch.Tensor | None = None  # context of the first frame, if anchored
        self._anchor_frame: int | None = None
        self._mean: torch.Tensor | None = None  # mean context of all frames, or of all but the first if anchored
        self._count = 0  # frames in the mean
        self._permanent: dict[int, torch.Tensor] = {}  # contexts in the mean, by frame
        self._temporary: torch.Tensor | None = None

    def add(
        self,
        key: torch.Tensor,
        value: torch.Tensor,
        temporary: bool = False,
        *,
        frame: int | None = None,
        permanent: bool = False,
    ) -> None:
        """Memorise a frame: key B×Ck×h×w, value B×K×Cv×h×w (any float dtype). Only permanent ones can be replaced."""
        context = self._summarise(key, value)
        self._temporary = context if temporary else None
        if temporary:
            return
        if frame in self._permanent:
            permanent = True
            self.forget(frame)
        if self.update == "anchored" and (self._anchor is None or frame is not None and frame == self._anchor_frame):
            self._anchor, self._anchor_frame = context, frame
            return
        self._mean, self._count = self._mean_with(context), self._count + 1
        if permanent and frame is not None:
            self._permanent[frame] = context

    def forget(self, frame: int | None = None) -> None:
        """Drop the context of ``frame``, or, without a number, those of all frames that are not permanent.

        Raises ValueError for a frame whose context is not kept apart: one that is not permanent, or the anchor.
        """
        if frame is None:
            self._temporary, self._mean, self._count = None, None, 0
            for context in self._permanent.values():
                self._mean, self._count = self._mean_with(context), self._count + 1
        elif frame not in self._permanent:
            raise ValueError(f"frame {frame} is mixed into the global context; expected a permanent frame, no anchor")
        else:
            context, self._count = self._permanent.pop(frame), self._count - 1
            assert self._mean is not None
            self._mean = self._mean + (self._mean - context) / self._count if self._count else None

    def keep(self, objects: Sequence[int]) -> None:
        """Drop the contexts of all other objects."""

        def kept(context: torch.Tensor | None) -> torch.Tensor | None:
            return None if context is None else context[:, list(objects)]

        self._anchor, self._mean, self._temporary = map(kept, (self._anchor, self._mean, self._temporary))
        self._permanent = {frame: context[:, list(objects)] for frame, context in self._permanent.items()}

    def read(self, query: torch.Tensor) -> torch.Tensor:
        """query B×Ck×h×w → readout B×K×Cv×h×w in its dtype. Raises RuntimeError while empty."""
        mean = self._mean if self._temporary is None else self._mean_with(self._temporary)
        contexts = [context for context in (self._anchor, mean) if context is not None]
        if not contexts:
            raise RuntimeError("the memory is empty: add a frame before reading")
        with torch.autocast(query.device.type, enabled=False):
            psi = query.float().softmax(dim=1) if self.norm == "softmax" else query.float()
            return torch.einsum("bchw,bkcv->bkvhw", psi, sum(contexts) / len(contexts)).to(query.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        contexts = (self._anchor, self._mean, self._temporary, *self._permanent.values())
        return sum(context.nbytes for context in contexts if context is not None)

    def _summarise(self, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Context of a frame, B×K×Ck×Cv float32: each key channel is an attention map over the frame's positions."""
        with torch.autocast(key.device.type, enabled=False):
            key, value = key.float().flatten(2), value.float().flatten(3)
            phi = key.softmax(dim=2) if self.norm == "softmax" else key / key.shape[2]
            return torch.einsum("bcn,bkvn->bkcv", phi, value)

    def _mean_with(self, context: torch.Tensor) -> torch.Tensor:
        """The mean after one more context. In this form it loses no precision over hours of video."""
        return context if self._mean is None else self._mean + (context - self._mean) / (self._count + 1)
