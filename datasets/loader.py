"""The stream of training clips: in which order they come, and the worker processes that make them.

The stream is one permutation of the data after the other. A position decides everything about its sample: which it is,
its randomness and the frame distance. So the samples do not depend on the number of workers, W processes with batch b
see in each step what one process with batch W·b sees, and training resumes exactly from any position.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from datasets.clip import PackedClip
from datasets.mixture import Mixture, SampleRequest
from util.errors import InputError

# In PyTorch's errors when a worker is gone, had no /dev/shm (whose files are called /torch_…), or no file was free.
DIED = ("DataLoader worker (pid", "shared memory", "</torch_", "Communication with the workers")


def sample_requests(
    size: int, start: int, stop: int, seed: int = 0, rank: int = 0, world_size: int = 1
) -> Iterator[SampleRequest]:
    """Positions ``start`` to ``stop`` of the stream over ``size`` items; ``rank`` takes every ``world_size``-th."""
    current = None
    for position in range(start + rank, stop, world_size):
        epoch, place = divmod(position, size)
        if epoch != current:
            current, order = epoch, np.random.default_rng((seed, 1, epoch)).permutation(size)
        yield SampleRequest(int(order[place]), (seed, 2, position), position / stop)


def clip_batches(
    dataset: Mixture,
    *,
    batch_size: int,
    stop: int,
    start: int = 0,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[PackedClip]:
    """Batches of one process, from position ``start`` of the stream to ``stop``, the end of the training.

    ``batch_size`` is per process, so a step consumes ``batch_size * world_size`` positions. Raises the `InputError` or
    OSError of a worker as it was, and `InputError` if a worker dies. However it ends, the workers end with it.
    """
    loader = DataLoader(
        _Guarded(dataset),
        batch_size=batch_size,
        sampler=sample_requests(len(dataset), start, stop, seed, rank, world_size),
        num_workers=num_workers,
        pin_memory=pin_memory,
        drop_last=True,
        collate_fn=_collate,
        worker_init_fn=_init_worker,
    )
    batches: Iterator[PackedClip | Exception] = iter(())
    try:
        batches = iter(loader)
        if hasattr(signal, "SIGCHLD"):
            # PyTorch's handler raises wherever the main process happens to be when a worker dies, even in a destructor.
            # Without it the loader sees a dead worker by itself.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for batch in batches:
            if isinstance(batch, Exception):
                raise batch
            yield batch
    except (RuntimeError, ConnectionError, EOFError) as error:
        traceback.clear_frames(error.__traceback__)  # in which the workers' iterator would live on with the error
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in DIED):
            raise
        reason = (str(error).strip() or repr(error)).splitlines()[-1].rstrip(".")
        advice = "often for lack of memory, of /dev/shm or of open files (ulimit -n);"
        advice += " try fewer --num_workers or a smaller --batch_size"
        raise InputError(f"a data worker died ({reason}), {advice}") from error
    finally:
        del batches  # ends the workers: they hold the files of the process that were open when they were forked


class _Guarded(Dataset):
    """The data set, with faults that the user can put right as values: an error that a worker raised would come back
    with the worker's traceback as its text.
    """

    def __init__(self, dataset: Mixture) -> None:
        self.dataset = dataset

    def __getitem__(self, request: SampleRequest) -> PackedClip | Exception:
        try:
            return self.dataset[request]
        except (InputError, OSError) as error:
            return error


def _collate(samples: list[PackedClip | Exception]) -> PackedClip | Exception:
    """The batch, or the first fault in it."""
    return next((sample for sample in samples if isinstance(sample, Exception)), None) or default_collate(samples)


def _init_worker(worker: int) -> None:
    """One thread per worker, in a process group of its own: Ctrl-C and a launcher's SIGTERM go to the group of the main
    process, which needs the batch that it waits for to finish its iteration, save and stop.
    """
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    if hasattr(os, "setpgrp"):  # not on Windows
        os.setpgrp()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    threading.Thread(target=_follow_main_process, daemon=True).start()


def _follow_main_process() -> None:
    """End this worker with the main process, even if that is killed. PyTorch's own check looks at the parent process,
    which is another one, kept alive by its workers, where the start method is forkserver (Python 3.14's on Linux).
    """
    if main := multiprocessing.parent_process():
        main.join()
        os._exit(0)
