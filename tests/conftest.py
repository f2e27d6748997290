"""Shared fixtures: networks small enough for a test, with the parts of the full ones."""

import pytest
import torch

from model.network import Network, NetworkConfig

TINY = {"backbone": "resnet18", "key_dim": 16, "value_dim": 32, "decoder_dim": 16}


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
