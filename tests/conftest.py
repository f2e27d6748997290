"""Shared fixtures: networks small enough for a test, with the parts of the full ones."""

import os

import pytest
import torch

from model.config import NetworkConfig
from model.network import Network

TINY = {"backbone": "resnet18", "key_dim": 16, "value_dim": 32, "decoder_dim": 16}


# Tiny networks are faster on one thread; programs that tests start inherit it.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

os.fsync = lambda fd: None  # what tests write need not survive a power cut, and waiting for the disk doubles their time


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def tiny_network():
    """``tiny_network(preset="gsfm", **overrides)``: a random network in eval mode."""

    def make(preset: str = "gsfm", **overrides) -> Network:
        torch.manual_seed(1)
        return Network(NetworkConfig.preset(preset, **{**TINY, **overrides})).eval()

    return make
