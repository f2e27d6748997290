"""Runs of train.py on tiny networks and generated data."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import train
from tests.conftest import TINY
from tests.scenes import write_davis_2016, write_static

ROOT = Path(__file__).resolve().parents[2]
NETWORK = [f"--{name}={value}" for name, value in TINY.items()] + ["--pretrained", "none"]
SMALL = ["--crop", "48", "--global_batch_size", "2", "--num_workers", "0", "--device", "cpu", "--log_every", "3"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


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


@pytest.fixture
def call(flags):
    """``call(*flags, launcher=[…])``: train in a process of its own."""

    def call(*more, launcher=(), program=("train.py",), check=True) -> subprocess.CompletedProcess:
        command = [str(part) for part in (sys.executable, *launcher, *program)] + flags(*more)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert not check or result.returncode == 0, result.stderr[-3000:]
        return result

    return call
