"""Shared fixtures: networks small enough for a test, with the parts of the full ones."""

import functools
import os

import pytest
import torch

import eval_program
from model.config import NetworkConfig
from model.network import Network, save_network

TINY = {"backbone": "resnet18", "key_dim": 16, "value_dim": 32, "decoder_dim": 16}


# Tiny networks are faster on one thread; programs that tests start inherit it.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

os.fsync = lambda fd: None  # what tests write need not survive a power cut, and waiting for the disk doubles their time


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def make_network(preset: str = "gsfm", **overrides) -> Network:
    torch.manual_seed(1)
    return Network(NetworkConfig.preset(preset, **{**TINY, **overrides})).eval()


@pytest.fixture
def tiny_network():
    """``tiny_network(preset="gsfm", **overrides)``: a random network in eval mode."""
    return make_network


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
    monkeypatch.setattr(eval_program, "load_network", functools.cache(eval_program.load_network))

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
