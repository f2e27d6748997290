"""The processes of a run. Every function also works in a single process, so that callers need no ``if``.

PyTorch is imported where processes talk to each other: programs ask for their rank before they need it.
"""

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from util.errors import InputError

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist


Item = TypeVar("Item")

_stores: list["dist.Store"] = []  # that of the process group, while there is one
_queues = itertools.count()  # names of the queues; all processes open them in the same order

# Seconds that a process has for its checkpoint after its launcher has died.
GRACE = 20


def rank() -> int:
    """Rank of this process among all, from 0; it selects the data of the process."""
    return _number("RANK", 0)


def local_rank() -> int:
    """Rank of this process on its machine, from 0; it selects the GPU."""
    return _number("LOCAL_RANK", 0)


def world_size() -> int:
    """Number of processes over all machines."""
    return _number("WORLD_SIZE", 1)


def _number(variable: str, default: int) -> int:
    """What the launcher has set, else the default. Raises `InputError` for anything but a small whole number."""
    text = os.environ.get(variable, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and int(text) >= default):
        raise InputError(f"environment variable {variable}={text}: expected a whole number of at least {default}")
    return int(text)


@contextmanager
def process_group(device: "torch.device", timeout: timedelta | None = None) -> Iterator[None]:
    """Join the process group that the launcher described in the environment.

    NCCL on CUDA; Gloo for tensors on the CPU, so that they never wait for the GPU. ``timeout``: how long a process may
    wait for another (None: PyTorch's default). If the launcher is torchrun and dies, so does this process.
    Raises `InputError` for an environment that describes no group.
    """
    if world_size() == 1:
        yield
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing or rank() >= world_size():
        fault = f"{' and '.join(missing)} not set" if missing else f"RANK={rank()}"
        raise InputError(
            f"environment variable WORLD_SIZE={world_size()}: {fault}; expected a launcher such as torchrun"
        )
    _number("MASTER_PORT", 0)
    if "TORCHELASTIC_RUN_ID" in os.environ:  # others may leave processes to themselves
        threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    import torch.distributed as dist

    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store, number, size = next(dist.rendezvous("env://"))
    dist.init_process_group(
        backend, store=dist.PrefixStore("group", store), rank=number, world_size=size, timeout=timeout
    )
    _stores.append(dist.PrefixStore("queues", store))
    try:
        yield
    finally:
        _stores.clear()
        # Before PyTorch 2.8, destroying holds Python's lock while it waits for gloo's thread, which waits for the lock
        # to drop the tensors of its last exchange: often a deadlock, unless the thread may do so now.
        time.sleep(0.5)
        dist.destroy_process_group()


def as_free(items: Sequence[Item]) -> Iterator[Item]:
    """Distribute items over the processes: each is yielded once, in the first process that asks for it.

    Every process has to call this with the same items; long ones should come first.
    """
    if not _stores:
        yield from items
        return
    queue = f"{next(_queues)}"
    while (place := _stores[0].add(queue, 1) - 1) < len(items):
        yield items[place]


def _follow(launcher: int) -> None:
    """End this process when ``launcher`` is no longer its parent: SIGTERM lets a training save a checkpoint first.

    A launcher that is killed with SIGKILL cannot end its processes itself.
    """
    while os.getppid() == launcher:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(143)


def gather(value: Any) -> list[Any]:
    """The values of all processes in the order of their ranks, in every process."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast(tensors: Iterable["torch.Tensor"]) -> None:
    """Overwrite the tensors of all processes with those of rank 0."""
    import torch.distributed as dist

    if dist.is_initialized():
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def average(tensors: Sequence["torch.Tensor"]) -> None:
    """Replace tensors of one type by their mean over all processes, in one exchange.

    `DistributedDataParallel` would add them in another order in the first step after a start than in later steps.
    """
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world_size()
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def barrier() -> None:
    """Wait for all processes."""
    gather(None)
