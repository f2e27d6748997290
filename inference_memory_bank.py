"""Memories: what past frames leave behind for the frames to come. PyTorch only; no network, no files.

B clips, K objects, h×w feature map, Ck and Cv channels of keys and values, N = frames·h·w memory positions, Q = h·w
query positions. Every memory has the same two methods, differentiable, so that training and evaluation share them::

    memory.add(key B×Ck×h×w, value B×K×Cv×h×w, temporary=False)
    memory.read(query B×Ck×h×w) → readout B×K×Cv×h×w

A *temporary* entry lasts until the next ``add``. All objects of a memory entered on the same frame and share its keys.
"""

import math

import torch
import torch.nn.functional as F

# Largest affinity that a top-k read holds at once, in elements: queries come in chunks below it (64 MiB in float32).
AFFINITY_BUDGET = 2**24
# Frames that a memory makes room for in advance, at most; longer videos grow it when they get there.
RESERVE_LIMIT = 500


def make_memory(config, top_k: int | None = None, max_frames: int | None = None, reserve: int = 0):
    """The memory that a network's config names: the only place that knows the kinds apart.

    Args:
        config: has ``memory``, ``gc_norm`` and ``gc_update`` (`model.config.NetworkConfig`).
        top_k: positions per query that enter the softmax of the space-time memory; None: all (training).
        max_frames: bound of the space-time memory, see `SpaceTimeMemory`.
        reserve: number of frames expected, so that buffers are allocated once.
    """
    if config.memory == "global_context":
        return GlobalContextMemory(config.gc_norm, config.gc_update)
    return SpaceTimeMemory(top_k, max_frames, reserve)


class _Rows:
    """Rows B×N×C that grow: into a preallocated buffer, or functionally while autograd is watching."""

    def __init__(self, reserve: int):
        self.reserve = reserve  # rows to make room for at first
        self.buffer: torch.Tensor | None = None
        self.length = 0

    def write(self, rows: torch.Tensor, start: int, length: int) -> None:
        """Put rows B×n×C at ``start``; ``length`` rows count from then on."""
        end = start + rows.shape[1]
        if torch.is_grad_enabled():  # what an earlier read saved for its backward pass must not be written over
            others = [] if self.buffer is None else [self.buffer[:, :start], self.buffer[:, end:length]]
            self.buffer = torch.cat([*others[:1], rows, *others[1:]], dim=1)
        else:
            if self.buffer is None or end > self.buffer.shape[1]:
                capacity = max(self.reserve, end, end * 3 // 2 if start else 0)
                grown = rows.new_empty(rows.shape[0], capacity, rows.shape[2])
                if start:
                    grown[:, :start] = self.buffer[:, :start]
                self.buffer = grown
            self.buffer[:, start:end] = rows
        self.length = length

    def view(self) -> torch.Tensor:
        return self.buffer[:, : self.length]


class SpaceTimeMemory:
    """Keys and values of every memorised position, read by attention with the L2 similarity (STCN section 3.3).

    ``S(i, j) = (2 k_i·q_j − ‖k_i‖²) / √Ck``; a softmax over all memory positions i, or over the ``top_k`` largest per
    query, weighs the values. One affinity serves all objects. ``top_k`` above N takes all N.

    Args:
        top_k: see above; None takes all positions.
        max_frames: keep the first frame and the most recent ``max_frames − 1``; None keeps all.
        reserve: number of frames to allocate for at the first ``add``.
    """

    def __init__(self, top_k: int | None = None, max_frames: int | None = None, reserve: int = 0):
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k {top_k}: expected at least 1, or None for all positions")
        if max_frames is not None and max_frames < 2:
            raise ValueError(f"max_frames {max_frames}: expected at least 2 (the first and the latest), or None")
        self.top_k, self.max_frames = top_k, max_frames
        self.reserve = min(reserve, RESERVE_LIMIT if max_frames is None else max_frames + 1)
        self._keys: _Rows | None = None
        self._values: _Rows | None = None
        self._frames = 0  # permanent frames seen; a temporary one may follow the rows of those that are kept

    def add(self, key: torch.Tensor, value: torch.Tensor, temporary: bool = False) -> None:
        """Memorise a frame: key B×Ck×h×w, value B×K×Cv×h×w (any float dtype)."""
        if self._keys is None:
            positions = self.reserve * key.shape[-2] * key.shape[-1]
            self._keys, self._values = _Rows(positions), _Rows(positions)
            self._objects = value.shape[1]
        if value.shape[1] != self._objects:
            raise ValueError(f"value of {value.shape[1]} objects for a memory of {self._objects}")
        # Order does not matter to attention, so a full memory overwrites the oldest frame but the first.
        kept, slot = self._frames, self._frames
        if self.max_frames is not None and self._frames >= self.max_frames:
            kept = self.max_frames
            slot = kept if temporary else 1 + (self._frames - 1) % (self.max_frames - 1)
        positions = key.shape[-2] * key.shape[-1]
        keep = max(kept, slot + 1) * positions
        # Position-major: a position's key, and all objects' values, lie together.
        self._keys.write(_key_rows(key), slot * positions, keep)
        self._values.write(value.flatten(3).permute(0, 3, 1, 2).flatten(2), slot * positions, keep)
        if not temporary:
            self._frames += 1

    def read(self, query: torch.Tensor) -> torch.Tensor:
        """query B×Ck×h×w → readout B×K×Cv×h×w in the values' dtype. Raises RuntimeError while empty."""
        if self._keys is None:
            raise RuntimeError("the memory is empty: add a frame before reading")
        height, width = query.shape[-2:]
        keys, values = self._keys.view(), self._values.view()
        queries = F.pad(query.flatten(2).transpose(1, 2), (0, 1), value=1)
        if self.top_k is None:
            readout = self._read_all(queries, keys, values)
        else:
            chunk = max(1, AFFINITY_BUDGET // (keys.shape[0] * keys.shape[1]))
            readout = torch.cat([self._read_top(part, keys, values) for part in queries.split(chunk, dim=1)], dim=1)
        return readout.unflatten(2, (self._objects, -1)).permute(0, 2, 3, 1).unflatten(3, (height, width))

    @property
    def nbytes(self) -> int:
        """Bytes held, with the room that was made in advance."""
        return sum(rows.buffer.nbytes for rows in (self._keys, self._values) if rows is not None)

    @staticmethod
    def _similarity(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Queries B×Q×(Ck+1) with a last 1, rows of `_key_rows` B×N×(Ck+1) → S B×Q×N, float32 under autocast, too."""
        with torch.autocast(queries.device.type, enabled=False):
            return queries.float() @ keys.transpose(1, 2)

    def _read_all(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(self._similarity(queries, keys), dim=2)
        return weights.to(values.dtype) @ values

    def _read_top(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Gather only the ``top_k`` values of each query, instead of a product with a matrix that is mostly zero."""
        similarity, indices = top_positions(self._similarity(queries, keys), min(self.top_k, keys.shape[1]))
        weights = torch.softmax(similarity, dim=2).to(values.dtype)
        readout = [
            F.embedding_bag(index, rows, mode="sum", per_sample_weights=weight)
            for index, rows, weight in zip(indices, values, weights, strict=True)
        ]
        return torch.stack(readout)


def _key_rows(key: torch.Tensor) -> torch.Tensor:
    """B×Ck×h×w → rows B×N×(Ck+1), float32 (fp16 cannot hold squared norms): ``2 k/√Ck`` and ``−‖k‖²/√Ck``.

    One product with queries that end in 1 is then the similarity, with nothing left to do on the N×Q matrix.
    """
    rows = key.flatten(2).transpose(1, 2).float()
    scale = 1 / math.sqrt(key.shape[1])
    return torch.cat([2 * scale * rows, -scale * rows.square().sum(dim=2, keepdim=True)], dim=2)


def top_positions(similarity: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of each row of B×Q×N, in any order: values and indices, each B×Q×k.

    Positions are dealt into groups; the k largest lie in the k groups with the largest maxima. So one cheap pass finds
    the maxima, and only about 2 √(N k) elements per row are ranked instead of N.
    """
    number = similarity.shape[2]
    size = math.isqrt(number // k)
    if size < 4:
        return similarity.topk(k, dim=2, sorted=False)
    groups = number // size
    maxima = similarity[..., : groups * size].unflatten(2, (size, groups)).amax(2)
    best = maxima.topk(k, dim=2, sorted=False).indices
    members = torch.arange(0, groups * size, groups, device=similarity.device)
    rest = torch.arange(groups * size, number, device=similarity.device)
    candidates = (best.unsqueeze(3) + members).flatten(2)
    candidates = torch.cat([candidates, rest.expand(*candidates.shape[:2], -1)], dim=2)
    top = similarity.gather(2, candidates).topk(k, dim=2, sorted=False)
    return top.values, candidates.gather(2, top.indices)


class GlobalContextMemory:
    """One Ck×Cv matrix per object, whatever the number of frames (Global Context module, ECCV 2020, section 3).

    *Summarise* ``C_t = φ(K)ᵀ V``; *update* ``G_t = ((t−1) G_{t−1} + C_t) / t``; *read* ``ψ(Q) G``. The state is float32
    under autocast, too.

    Args:
        norm: ``softmax``: φ over positions for each channel, ψ over channels for each position; ``mean``: φ(K) = K/n
            and ψ the identity, which makes the read equal dot-product attention over all past frames.
        update: ``mean`` (the paper), or ``anchored``: the first frame keeps half of the weight.
    """

    def __init__(self, norm: str = "softmax", update: str = "mean"):
        if norm not in ("softmax", "mean") or update not in ("mean", "anchored"):
            raise ValueError(f"norm {norm!r} of ('softmax', 'mean'), update {update!r} of ('mean', 'anchored')")
        self.norm, self.update = norm, update
        self._anchor: torch.Tensor | None = None  # the first frame's context
        self._mean: torch.Tensor | None = None  # mean over all frames, or over all but the first when anchored
        self._count = 0
        self._temporary: torch.Tensor | None = None

    def add(self, key: torch.Tensor, value: torch.Tensor, temporary: bool = False) -> None:
        """Memorise a frame: key B×Ck×h×w, value B×K×Cv×h×w (any float dtype)."""
        context = self._summarise(key, value)
        self._temporary = context if temporary else None
        if temporary:
            return
        if self.update == "anchored" and self._anchor is None:
            self._anchor = context
        else:
            self._mean, self._count = self._with(context), self._count + 1

    def read(self, query: torch.Tensor) -> torch.Tensor:
        """query B×Ck×h×w → readout B×K×Cv×h×w in the query's dtype. Raises RuntimeError while empty."""
        mean = self._mean if self._temporary is None else self._with(self._temporary)
        parts = [part for part in (self._anchor, mean) if part is not None]
        if not parts:
            raise RuntimeError("the memory is empty: add a frame before reading")
        with torch.autocast(query.device.type, enabled=False):
            psi = query.float().softmax(dim=1) if self.norm == "softmax" else query.float()
            return torch.einsum("bchw,bkcv->bkvhw", psi, sum(parts) / len(parts)).to(query.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(part.nbytes for part in (self._anchor, self._mean, self._temporary) if part is not None)

    def _summarise(self, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Frame context B×K×Ck×Cv, float32: every key channel is one attention map over the frame's positions."""
        with torch.autocast(key.device.type, enabled=False):
            key, value = key.float().flatten(2), value.float().flatten(3)
            phi = key.softmax(dim=2) if self.norm == "softmax" else key / key.shape[2]
            return torch.einsum("bcn,bkvn->bkcv", phi, value)

    def _with(self, context: torch.Tensor) -> torch.Tensor:
        """The running mean after one more context. The increment form loses no precision over hours of video."""
        return context if self._mean is None else self._mean + (context - self._mean) / (self._count + 1)
