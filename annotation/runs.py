"""Masks as run lengths, for the way between the page and the server: some kilobytes instead of megabytes."""

import numpy as np

from util.errors import InputError


def pack(ids: np.ndarray) -> bytes:
    """H×W uint8 → little-endian uint32 pairs (id, length), row after row."""
    flat = ids.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(starts, append=flat.size)
    return np.stack([flat[starts], lengths], axis=1).astype("<u4").tobytes()


def unpack(body: bytes, size: tuple[int, int], largest: int) -> np.ndarray:
    """H×W uint8 from `pack`. Raises `InputError` for another size and for ids above ``largest``."""
    if len(body) % 8:
        raise InputError(f"{len(body)} bytes; expected pairs of an id and a length")
    ids, lengths = np.frombuffer(body, "<u4").reshape(-1, 2).T
    if lengths.sum(dtype=np.uint64) != size[0] * size[1]:
        raise InputError(f"{lengths.sum(dtype=np.uint64)} pixels; expected a mask of {size[1]}×{size[0]}")
    if ids.max() > largest:
        raise InputError(f"the mask holds an object {ids.max()}; expected 1 to {largest}")
    return np.repeat(ids.astype(np.uint8), lengths).reshape(size)
