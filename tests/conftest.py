"""Settings of all tests, and fixtures: networks that are small enough for a test but have every part of a full one.

``VOS_TEST_ISA=avx2 python -m pytest`` runs the suite with the kernels of a processor that has AVX2 but not AVX-512.
"""

# ruff: noqa: E402 - the environment comes before the imports
import copy
import functools
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

# Libraries read these when they are loaded, so they come before the first import of torch; child processes inherit
# them. Tiny networks are faster on one thread, and threads that spin while they wait slow down other test processes.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
ISA = os.environ.get("VOS_TEST_ISA")
if ISA == "avx2":
    os.environ |= {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
    os.environ |= {"ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2"}  # the latter: name in older versions
elif ISA is not None:
    raise ValueError(f"VOS_TEST_ISA={ISA}: expected avx2, or no such variable")

import pytest
import torch

import eval_program
from inference_core import InferenceCore
from inference_memory_bank import make_memory
from model.config import MEMORIES, NetworkConfig
from model.network import Network, save_network
from tests.server import Server

if ISA and torch.backends.cpu.get_cpu_capability() != "AVX2":
    raise RuntimeError(f"VOS_TEST_ISA=avx2: PyTorch runs {torch.backends.cpu.get_cpu_capability()} kernels instead")

# Kinds of memory: settings of the network, and of its memory.
KINDS: dict[str, tuple[dict, dict]] = {
    **{name: ({"memory": name}, {"top_k": 20}) for name in MEMORIES},
    "bounded": ({}, {"top_k": 20, "max_frames": 2}),
    "anchored": ({"memory": "global_context", "gc_update": "anchored"}, {}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)

TINY = {"backbone": "resnet18", "key_dim": 16, "value_dim": 32, "decoder_dim": 16}

torch.set_num_threads(1)

os.fsync = lambda fd: None  # what tests write need not survive a power cut, and waiting for the disk doubles their time


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state."""
    torch.manual_seed(0)


def make_network(preset: str = "gsfm", **overrides: Any) -> Network:
    """A network with random weights, in eval mode."""
    torch.manual_seed(1)
    return Network(NetworkConfig.preset(preset, **{**TINY, **overrides})).eval()


@pytest.fixture
def tiny_network() -> Callable[..., Network]:
    """``tiny_network(preset="gsfm", **overrides)``, see `make_network`."""
    return make_network


@pytest.fixture
def make_core() -> Callable[..., InferenceCore]:
    """``make_core(kind="space_time", **options)``: an engine with a random network and one of `KINDS`."""

    def make(kind="space_time", **options):
        overrides, memory = KINDS[kind]
        network = make_network(**overrides)
        return InferenceCore(network, functools.partial(make_memory, network.config, **memory), **options)

    return make


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory):
    """The file of a random GSFM network."""
    path = tmp_path_factory.mktemp("model") / "tiny.pth"
    save_network(path, make_network())
    return path


@pytest.fixture
def evaluate(tiny_weights, tmp_path, capsys, monkeypatch):
    """``evaluate(script, *flags)`` → (exit code, stdout, stderr) of an eval script.

    ``--model`` and ``--output`` are `tiny_weights` and tmp_path/out unless given. Each file of weights is loaded once.
    """
    load = functools.cache(eval_program.load_network)
    monkeypatch.setattr(eval_program, "load_network", lambda *place: copy.deepcopy(load(*place)))

    def call(script, *flags) -> tuple[int | str | None, str, str]:
        words = [str(flag) for flag in flags]
        for flag, value in (("--model", tiny_weights), ("--output", tmp_path / "out")):
            words += [] if flag in words else [flag, str(value)]
        capsys.readouterr()
        code: int | str | None = 0
        try:
            script.main([*words, "--device", "cpu"])
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)  # the pause between two tries
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.stopped.set()
        server.shutdown()
