"""The stream of clips: the same for any number of processes and workers, packed on the way, and its failures."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import datasets.loader
from datasets.clip import PackedClip, pack_clip
from datasets.config import DataConfig
from datasets.loader import clip_batches, sample_requests
from datasets.mixture import Mixture, build_dataset
from tests.folders import bars, write_static
from util.errors import InputError

ROOT = Path(__file__).parents[1]


def static_dataset(root, count: int) -> Mixture:
    write_static(root / "set", count)
    return build_dataset(0, DataConfig(static_root=root, crop=32))


def batches(dataset: Mixture, **options) -> list[PackedClip]:
    return list(clip_batches(dataset, **{"batch_size": 2, "stop": 12, "seed": 5, **options}))


def assert_same(first: list[PackedClip], second: list[PackedClip]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.name == b.name
        assert all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))


def test_stream_is_the_same_for_any_workers_ranks_and_start(tmp_path):
    dataset = static_dataset(tmp_path, 5)
    alone = batches(dataset)
    assert len(alone) == 6 and alone[0].frames.shape == (2, 3, 3, 32, 32) and alone[0].valid.shape == (2, 1)
    assert_same(alone, batches(dataset, num_workers=1))
    assert_same(alone, batches(dataset, num_workers=2))
    assert_same(alone[2:], batches(dataset, start=4))
    ranks = [batches(dataset, batch_size=1, rank=rank, world_size=2) for rank in (0, 1)]
    for whole, *halves in zip(alone, *ranks, strict=True):
        assert list(whole.name) == [name for half in halves for name in half.name]
        assert torch.equal(whole.frames, torch.cat([half.frames for half in halves]))
    names = [name for batch in alone for name in batch.name]
    assert sorted(names[:5]) == sorted(names[5:10]) and len(set(names[:5])) == 5
    assert names[:5] != names[5:10]  # every image once an epoch, in a new order
    pictures = torch.cat([batch.frames for batch in alone])
    assert len(torch.unique(pictures.flatten(1), dim=0)) == 12  # no two alike, in this epoch or the next
    assert not torch.equal(alone[0].frames, batches(dataset, seed=6)[0].frames)
    assert [request.progress for request in sample_requests(5, 9, 12)] == [9 / 12, 10 / 12, 11 / 12]


def test_clips_travel_as_bytes_and_unpack_to_what_was_packed():
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (3, 48, 48, 3), np.uint8))
    images[0][0, :2] = ((0, 1, 2), (255, 254, 253))
    ids = np.stack([bars(48, 48, (4, 7, 200)), bars(48, 48, (7, 200, 4)), np.zeros((48, 48), np.uint8)])
    packed = [pack_clip(images, ids, objects, 2, "v") for objects in ([7, 4], [200])]
    assert sum(tensor.nbytes for tensor in packed[0][:3]) == 3 * 4 * 48 * 48 + 8  # a Clip has 60 bytes per pixel
    batch = PackedClip(*(torch.stack(tensors) for tensors in zip(*[clip[:3] for clip in packed], strict=True)), "v")
    clips = [packed[0].unpack("cpu"), packed[1].unpack("cpu")]
    both = batch.unpack(torch.device("cpu"))
    for i, objects in enumerate(([7, 4], [200])):
        assert all(torch.equal(whole[i], single) for whole, single in zip(both[:3], clips[i][:3], strict=True))
        assert torch.equal(clips[i].frames, torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255)
        expected = np.zeros((3, 2, 48, 48), np.float32)
        for slot, object_id in enumerate(objects):
            expected[:, slot] = ids == object_id
        assert np.array_equal(clips[i].masks, expected)
    assert both.valid.tolist() == [[1, 1], [1, 0]] and both.frames.dtype == both.masks.dtype == torch.float32


def fails(call, *names: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value) and all(name in str(caught.value) for name in names), caught.value


class Dies:
    """A data set whose samples end the process, or the connection to it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def sample(self, index: int, rng: np.random.Generator, progress: float) -> PackedClip:
        if self.error is None:
            os.kill(os.getpid(), signal.SIGKILL)
        raise self.error or AssertionError


def test_what_goes_wrong_in_a_worker_ends_in_one_line(tmp_path):
    dataset = static_dataset(tmp_path, 1)
    photo = tmp_path / "set" / "0.jpg"
    photo.write_bytes(photo.read_bytes()[:-400])
    for workers in (0, 1):
        fails(lambda workers=workers: batches(dataset, num_workers=workers), f"{photo}: truncated")
    fails(lambda: batches(Mixture([("killed", Dies(), 1)]), num_workers=1), "worker died", "--num_workers")
    for error in (EOFError(), ConnectionResetError("reset")):  # while a batch was handed over
        fails(lambda error=error: batches(Mixture([("closed", Dies(error), 1)])), "worker died", "--num_workers")
    shared, sized = "unable to allocate shared memory(shm) for file </torch_1>", "unable to resize file </torch_1>"
    files = "Too many open files. Communication with the workers is no longer possible"
    for reason in (shared, sized, files):
        full = Mixture([("full", Dies(RuntimeError(reason)), 1)])
        fails(lambda full=full: batches(full, num_workers=1), "worker died", reason)


def test_errors_of_workers_stay_what_they_are_and_workers_end():
    others = set(multiprocessing.active_children())  # of earlier tests
    for error in (InputError("a.png" + "." * 900), PermissionError(13, "denied", "a.png"), RuntimeError("a bug")):
        with pytest.raises(type(error)) as caught:
            batches(Mixture([("faulty", Dies(error), 1)]), num_workers=1)
        assert set(multiprocessing.active_children()) <= others  # although the error is kept
        if isinstance(error, RuntimeError):
            assert str(caught.value).rstrip().endswith("RuntimeError: a bug")  # below the worker's traceback
        else:
            assert str(caught.value) == str(error)


def test_worker_that_dies_between_batches(tmp_path, monkeypatch):
    """Nothing is raised where the main process happens to be, and an error without a text is named too."""
    dataset = static_dataset(tmp_path, 1)
    loader = clip_batches(dataset, batch_size=1, stop=100, num_workers=1)
    others = set(multiprocessing.active_children())  # of earlier tests
    next(loader)
    (worker,) = set(multiprocessing.active_children()) - others
    worker.kill()
    time.sleep(0.5)
    fails(lambda: list(loader), "worker died", "--num_workers")

    def ended(loader):
        raise EOFError

    monkeypatch.setattr(DataLoader, "__iter__", ended)
    fails(lambda: batches(dataset), "worker died (EOFError())")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX system")
@pytest.mark.parametrize("method", ["fork", "forkserver"])  # defaults on Linux: before and from Python 3.14 on
def test_workers_end_with_a_killed_training(tmp_path, method):
    write_static(tmp_path / "set", 1)
    program = f"""if __name__ == "__main__":
    import multiprocessing, pathlib, time
    from datasets.config import DataConfig
    from datasets.loader import clip_batches
    from datasets.mixture import build_dataset
    multiprocessing.set_start_method({method!r})
    data = build_dataset(0, DataConfig(static_root=pathlib.Path({str(tmp_path)!r}), crop=32))
    batches = clip_batches(data, batch_size=1, stop=100, num_workers=2)
    next(batches)
    print("begun", flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"begun\n"
    process.kill()
    process.communicate(timeout=60)  # the pipe closes with the last of them


def test_workers_start_without_process_groups(monkeypatch):
    """As on Windows."""
    monkeypatch.delattr(os, "setpgrp")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    datasets.loader._init_worker(0)
