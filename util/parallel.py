"""One function over many items, in threads, with a progress bar.

Threads rather than processes: decoding, resizing and comparing images run in C code that releases the GIL, and threads
are safe after CUDA or OpenMP has been used in the program.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from util.errors import InputError
from util.progress import progress_bar

# Freeing one large block raises glibc's mmap threshold, so that the memory of an image is reused for the next one
# instead of being returned to the kernel and faulted in again: scoring takes a fifth less time.
np.empty(16 << 20, np.uint8)

MAX_WORKERS = 1024

Item = TypeVar("Item")
Result = TypeVar("Result")


def cpu_count() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item], label: str, workers: int | None = None
) -> list[Result]:
    """``[function(item) for item in items]`` on ``workers`` threads (None: one for each core).

    The first exception is raised at once, and items that have not been started are dropped. ``label``: text before the
    progress bar. Raises `InputError` for ``workers`` out of range.
    """
    if workers is not None and not 1 <= workers <= MAX_WORKERS:
        raise InputError(f"--workers {workers}: expected 1 to {MAX_WORKERS} threads")
    items, results = list(items), []
    with ThreadPoolExecutor(workers or cpu_count()) as pool, progress_bar(len(items), f"{label}: ") as bar:
        try:
            for result in pool.map(function, items):
                results.append(result)
                bar.increment()
        finally:
            pool.shutdown(cancel_futures=True)
    return results
