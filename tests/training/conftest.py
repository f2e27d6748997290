"""Runs of train.py on tiny networks and generated data."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import train
from tests.conftest import TINY
from tests.scenes import write_davis_2016, write_static

ROOT = Path(__file__).resolve().parents[2]
NETWORK = [f"--{name}={value}" for name, value in TINY.items()] + ["--pretrained", "none"]
SMALL = ["--crop", "48", "--global_batch_size", "2", "--num_workers", "0", "--device", "cpu", "--log_every", "3"]

# One process imports the program, and those that tests start are forked from it, which saves seconds each time.
os.environ["PYTHONPATH"] = str(ROOT)  # for that process
if sys.platform == "win32":
    CONTEXT = multiprocessing.get_context("spawn")
else:
    CONTEXT = multiprocessing.get_context("forkserver")
# What a training imports late is named, too; the optimiser imports torch._dynamo.
LATE = ["training.loop", "torch._dynamo", "torch.utils.tensorboard"]
CONTEXT.set_forkserver_preload([*LATE, "tests.training.conftest"])


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Holds ``static/ours`` (stills) and ``DAVIS/2016`` (videos bear and bus)."""
    root = tmp_path_factory.mktemp("data")
    write_static(root / "static" / "ours")
    write_davis_2016(root / "DAVIS" / "2016", {"bear": 1, "bus": 2})
    return root


@pytest.fixture
def flags(data, tmp_path):
    """``flags(*more)``: those of a small run with its saves in ``tmp_path``."""

    def make(*more) -> list[str]:
        folders = ["--static_root", data / "static", "--davis_root", data / "DAVIS", "--saves", tmp_path]
        return [str(part) for part in (*SMALL, *folders, *more)]

    return make


@pytest.fixture
def run(flags):
    """``run(*flags)``: train in this process."""
    return lambda *more: train.main(flags(*more))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def as_rank(rank: int, processes: int, port: int, main: Callable, arguments: list[str]) -> None:
    """Call ``main`` as a launcher would."""
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{processes}"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    torch.set_num_threads(1)
    main(arguments)


@pytest.fixture
def call(flags):
    """``call(*flags, processes=1, main=train.main)``: train in processes of its own; their exit codes."""

    def call(*more, processes=1, main=train.main) -> list[int | None]:
        port = free_port()
        started = [
            CONTEXT.Process(target=as_rank, args=(rank, processes, port, main, flags(*more)))
            for rank in range(processes)
        ]
        for process in started:
            process.start()
        for process in started:
            process.join()
        return [process.exitcode for process in started]

    return call
