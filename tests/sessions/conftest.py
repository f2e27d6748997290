"""What the tests of sessions share: a video, its masks, and fixtures that count what the network does."""

import numpy as np
import pytest
import torch

from inference_core import InferenceCore
from model.config import MEMORIES
from model.network import Network
from predictor import VideoPredictor
from session import Session
from tests.videos import blocks, picture

LENGTH, SIZE = 13, (32, 48)
FRAMES = [picture(index, SIZE) for index in range(LENGTH)]
NETWORKS: dict[str, dict] = {name: {"memory": name} for name in MEMORIES}
every_memory = pytest.mark.parametrize("memory", NETWORKS)


def mask(*ids: int, shift: int = 0) -> np.ndarray:
    return np.roll(blocks(SIZE, *ids), shift, axis=1)


@pytest.fixture
def new_session(tiny_network):
    def new(memory="space_time", **settings) -> Session:
        return VideoPredictor(tiny_network(**NETWORKS[memory]), mem_every=2, **settings).session(FRAMES)

    return new


def results(session: Session) -> np.ndarray:
    """T×H×W"""
    return np.stack([session.result(index).ids for index in range(len(session))])


@pytest.fixture
def encoded(monkeypatch) -> list[torch.Tensor]:
    """The images that go through the key encoder."""
    images, encode_key = [], Network.encode_key

    def spy(network, image):
        images.append(image)
        return encode_key(network, image)

    monkeypatch.setattr(Network, "encode_key", spy)
    return images


@pytest.fixture
def stepped(monkeypatch) -> list[int]:
    """Numbers of the frames that go through the engine."""
    frames, step = [], InferenceCore.step

    def spy(core, *args, **options):
        frames.append(options["frame"])
        return step(core, *args, **options)

    monkeypatch.setattr(InferenceCore, "step", spy)
    return frames
