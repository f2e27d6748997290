"""The device to run on, its half-precision type, and how its memory is managed."""

import ctypes
import functools
import os
import sys
import time
from types import ModuleType
from typing import get_args

import torch
import torch.nn.functional as F

from util.distributed import gather
from util.errors import InputError
from util.parallel import cpu_count
from util.settings import DeviceName

resource: ModuleType | None
try:
    import resource
except ImportError:  # POSIX only
    resource = None

DEVICES: tuple[str, ...] = get_args(DeviceName)


def pick_device(name: str = "auto", local_rank: int = 0) -> torch.device:
    """The device for ``--device``; ``auto`` means CUDA if available, then Apple's MPS, then the CPU.

    ``local_rank`` chooses the GPU on this machine, which also becomes the current one: otherwise every process of a
    machine would open a context on the first GPU. Raises `InputError` for a device that is not available.
    """
    available = {"cuda": torch.cuda.is_available(), "cpu": True}
    # Before 2.5 PyTorch had no autocast on MPS, not even to switch it off.
    available["mps"] = torch.backends.mps.is_available() and torch.amp.is_autocast_available("mps")
    if name == "auto":
        name = next(device for device in DEVICES[1:] if available[device])
    if not available.get(name):
        offered = ", ".join(device for device, ok in available.items() if ok)
        raise InputError(f"--device {name}: not available in this machine's PyTorch (available: {offered})")
    if name != "cuda":
        return torch.device(name)
    if local_rank >= (count := torch.cuda.device_count()):
        raise InputError(f"--device cuda: process {local_rank} needs a GPU of its own, but this machine has {count}")
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def divide_cores(device: torch.device) -> None:
    """Give this process its part of the machine's cores where a launcher has started several of them for the CPU.

    torchrun allows each a single thread, unless OMP_NUM_THREADS says otherwise.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if device.type == "cpu" and processes > 1 and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, cpu_count() // processes))


def fast_precision(device: torch.device) -> torch.dtype:
    """The fastest type for `autocast`: float16 on CUDA and MPS, bfloat16 on CPUs where it pays, else float32.

    A CPU without bfloat16 instructions emulates them, several times slower.
    """
    if device.type != "cpu":
        return torch.float16
    return torch.bfloat16 if _bfloat16_pays() else torch.float32


def shared_precision(device: torch.device) -> torch.dtype:
    """`fast_precision` of all processes of a run: float32 if any of them needs it."""
    found = gather(fast_precision(device))
    return torch.float32 if torch.float32 in found else found[0]


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """The context in which the network runs in ``precision``; float32 switches autocast off."""
    return torch.autocast(device.type, precision, enabled=precision is not torch.float32)


@functools.cache
def _bfloat16_pays() -> bool:
    """Whether this CPU convolves faster in bfloat16 than in float32, by trial (under half a second, once).

    bfloat16 is 1.5 to 2.5 times as fast with AVX-512 bf16 and 0.05 to 0.4 times without, so the shortest of a few
    alternating runs decides reliably.
    """
    shortest: dict[torch.dtype, float] = {}
    layout = torch.channels_last
    image = torch.ones(1, 64, 64, 64).to(memory_format=layout)
    weight = torch.ones(64, 64, 3, 3).to(memory_format=layout)
    with torch.inference_mode():
        inputs = {dtype: (image.to(dtype), weight.to(dtype)) for dtype in (torch.float32, torch.bfloat16)}
        for attempt in range(7):
            for dtype, (x, w) in inputs.items():
                start = time.perf_counter()
                F.conv2d(x, w, padding=1)
                seconds = time.perf_counter() - start
                if attempt:  # the first compiles the kernel
                    shortest[dtype] = min(seconds, shortest.get(dtype, seconds))
    return shortest[torch.bfloat16] < shortest[torch.float32]


def keep_freed_memory(device: torch.device) -> None:
    """Let this process reuse freed feature maps on the CPU instead of returning each to the operating system.

    By default glibc maps every large tensor anew, and the kernel clears its pages. To be called once the network is
    ready: what loading it has freed is returned. Does nothing on GPUs and on systems other than Linux with glibc.
    """
    if device.type != "cpu" or not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    mallopt = getattr(libc, "mallopt", None)
    if mallopt is not None:
        libc.malloc_trim(0)
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap does not shrink …
        mallopt(-4, 0)  # M_MMAP_MAX: … and nothing is allocated outside it


def peak_memory(device: torch.device) -> float:
    """Peak memory of this process so far, in GiB: on the GPU if it runs there, else resident.

    NaN on the CPU of systems that do not tell (Windows).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if resource is None:
        return float("nan")
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return resident / 2 ** (30 if sys.platform == "darwin" else 20)
