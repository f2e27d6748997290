"""The processes of a run. Every helper degrades to one process, so callers need no ``if``."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist


def rank() -> int:
    """Global rank of this process: picks its share of the data."""
    return int(os.environ.get("RANK", 0))


def local_rank() -> int:
    """Rank on this machine: picks its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def world_size() -> int:
    """Number of processes over all machines."""
    return int(os.environ.get("WORLD_SIZE", 1))


@contextmanager
def process_group(device: torch.device, timeout: timedelta | None = None) -> Iterator[None]:
    """Join the group that the launcher described in the environment: nccl on CUDA, gloo elsewhere.

    Objects and flags on the CPU travel over gloo on every machine, so they never wait for the GPU. ``timeout``: how
    long one process may wait for another (None: PyTorch's default).
    """
    if world_size() == 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timeout)
    try:
        yield
    finally:
        dist.destroy_process_group()


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process; the same answer in all of them."""
    if not dist.is_initialized():
        return flag
    tensor = torch.tensor(int(flag))
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return bool(tensor)


def sum_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def gather(value: Any) -> list[Any]:
    """Every process's value, in the order of ranks, in every process."""
    if not dist.is_initialized():
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait for all processes."""
    any_process(False)
