"""Which device to run on, which half-precision type it does well, and how its memory is handed out."""

import ctypes
import resource
import sys

import torch

from util.errors import InputError

DEVICES = ("auto", "cuda", "mps", "cpu")


def pick_device(name: str = "auto", local_rank: int = 0) -> torch.device:
    """Turn ``--device`` into a device; ``auto`` takes CUDA, then Apple's MPS, then the CPU.

    ``local_rank`` picks the GPU on this machine. Raises `InputError` for a device that is not there.
    """
    available = {"cuda": torch.cuda.is_available(), "cpu": True}
    # Before 2.5 PyTorch had no autocast on MPS, not even to switch it off.
    available["mps"] = torch.backends.mps.is_available() and torch.amp.is_autocast_available("mps")
    if name == "auto":
        name = next(kind for kind in DEVICES[1:] if available[kind])
    if name not in available:
        raise InputError(f"--device {name}: expected one of {', '.join(DEVICES)}")
    if not available[name]:
        there = ", ".join(kind for kind, ok in available.items() if ok)
        raise InputError(f"--device {name}: this machine's PyTorch does not offer it (it offers: {there})")
    if name != "cuda":
        return torch.device(name)
    if local_rank >= torch.cuda.device_count():
        raise InputError(
            f"--device cuda: process {local_rank} of this machine needs a GPU of its own, "
            f"but PyTorch sees {torch.cuda.device_count()}"
        )
    return torch.device("cuda", local_rank)


def half_precision(device: torch.device) -> torch.dtype:
    """The autocast type for ``device``: bf16 where the device has it, else fp16 (CUDA, MPS only)."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    if device.type == "mps":
        return torch.float16
    return torch.bfloat16


def keep_freed_memory(device: torch.device) -> None:
    """Let this process reuse freed feature maps on the CPU, instead of handing each back to the system.

    By default glibc maps every large tensor anew, and the system clears its pages one by one: that costs more than
    many operations on it. Elsewhere than on Linux with glibc, and on GPUs, nothing changes.
    """
    if device.type != "cpu" or not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap does not shrink …
        mallopt(-4, 0)  # M_MMAP_MAX: … and nothing is allocated outside it


def peak_memory(device: torch.device) -> float:
    """Peak memory of this process so far in GiB: on the GPU if it runs there, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return resident / 2 ** (30 if sys.platform == "darwin" else 20)
