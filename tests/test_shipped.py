"""The shipped weights load like any others, and segment as they did when they were made."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from datasets.images import read_mask
from datasets.scene import Scene
from inference_core import InferenceCore
from inference_memory_bank import make_memory
from model.network import load_network
from scoring.metrics import score_masks
from scripts.demo import SHIPPED

FIXTURE = Path(__file__).parent / "fixtures" / "shipped_masks.png"
SEED, FRAMES, SIZE = 5, 6, (192, 320)


def segment(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true ids, T×H×W uint8, of a generated clip."""
    network = load_network(path)
    core = InferenceCore(network, partial(make_memory, network.config, 50))
    scene = Scene(SEED, FRAMES, SIZE, num_objects=2)
    frames, ids = zip(*(scene.render(t) for t in range(FRAMES)), strict=True)
    masks = []
    for t, frame in enumerate(frames):
        image = torch.from_numpy(frame).permute(2, 0, 1).float() / 255
        prob = core.step(image, torch.from_numpy(ids[0]) if t == 0 else None)
        assert prob is not None
        masks.append(prob.argmax(0).byte().numpy())
    return np.stack(masks), np.stack(ids)


@pytest.mark.parametrize(("objects", "limit"), [(1, 80), (3, 150)])
def test_operations_of_a_480p_frame(objects, limit):
    """GFLOP of convolutions and products, 2 per multiply-add, of the plain network, without the memory read."""
    network = load_network(SHIPPED)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        features = network.encode_key(torch.zeros(1, 3, 480, 864))
        network.decode(torch.zeros(1, objects, network.config.value_dim, 30, 54), features)
    assert counter.get_total_flops() / 1e9 < limit


def test_shipped_weights_segment_as_when_they_were_made():
    """A small fp16 file of the small preset, whose masks are those in the fixture."""
    assert SHIPPED.stat().st_size <= 20e6
    config = load_network(SHIPPED).config
    assert config.backbone == "resnet18" and config.lfm and config.hfm
    masks, truth = segment(SHIPPED)
    then = read_mask(FIXTURE).reshape(masks.shape)
    assert (then != masks).mean() < 1e-3
    scores = [score.j for t in range(1, FRAMES) for score in score_masks(truth[t], masks[t]).values()]
    assert np.mean(scores) > 0.85
