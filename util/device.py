"""Which device to run on, which half-precision type it does well, and how memory is handed out."""

import os
import resource
import sys

import torch

from util.errors import InputError

# On the CPU each large tensor comes fresh from the system, which clears it page by page: more work than many an
# operation on it. In pages of 2 MiB that takes a quarter of the time, and what is freed is still given back. PyTorch
# reads this with its first allocation; only Linux knows it.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

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


def peak_memory(device: torch.device) -> float:
    """Peak memory of this process so far in GiB: on the GPU if it runs there, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return resident / 2 ** (30 if sys.platform == "darwin" else 20)
