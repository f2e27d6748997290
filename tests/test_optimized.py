"""The network for evaluation against the plain one, and against the reference programs' whole clips."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

import model.network
import model.optimized
from attention import top_positions
from inference_core import InferenceCore
from inference_memory_bank import SpaceTimeMemory
from model.optimized import RowWinogradConv2d, optimized_copy
from model.spectral import SpectralFilter, filter_support
from tests import test_spectral
from tests.naive import DenseMemory, naive_copy
from tests.reference import CLIP_TOLERANCE, clip_error, reference_network, synth_clip


@pytest.mark.parametrize("family, run", [("gsfm", "syn2/every3_top50_last0"), ("stcn", "yv3/every5_top20_last0")])
def test_whole_clips_of_the_reference(family, run):
    """Full-size networks with every replacement in place, in the engine."""
    network = optimized_copy(reference_network(family))
    assert sum(isinstance(m, RowWinogradConv2d) for m in network.modules()) > 20
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert clip_error(network, family, run) < CLIP_TOLERANCE


@pytest.mark.parametrize("preset, compiled", [("gsfm", False), ("stcn", False), ("gc", False), ("gsfm", True)])
def test_equal_to_the_plain_network(tiny_network, preset, compiled, monkeypatch):
    monkeypatch.setattr(model.optimized, "WINOGRAD_MIN_CHANNELS", 2**31 if compiled else 16)  # compiled: as on GPUs
    graphs = partial(torch.compile, backend="aot_eager")  # all of compiling but the generated code, which takes minutes
    monkeypatch.setattr(torch, "compile", graphs)
    plain = tiny_network(preset)
    for norm in (m for m in plain.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5), nn.init.normal_(norm.bias, std=0.1)
        nn.init.normal_(norm.running_mean, std=0.1), nn.init.uniform_(norm.running_var, 0.5, 1.5)
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    optimized = optimized_copy(plain, compiled)
    assert ("encode_key" in vars(optimized)) == compiled
    image, masks = torch.randn(1, 3, 96, 112), torch.rand(1, 3, 96, 112)
    with torch.inference_mode():
        expected, features = plain.encode_key(image), optimized.encode_key(image)
        values = [network.encode_value(image, expected.f16, masks) for network in (plain, optimized)]
        logits = [network.decode(values[0], expected)[0] for network in (plain, optimized)]
    for ours, theirs in [*zip(features, expected, strict=True), values[::-1], logits[::-1]]:
        # Spread 1.1e-5.
        assert (ours - theirs).abs().max() < 1e-4 * theirs.std() + 1e-6
    after = plain.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


def test_whole_frames_equal_the_naive_computation(tiny_network, monkeypatch):
    """The eval scripts' network and memory against what the benchmarks measure them by."""
    monkeypatch.setattr(model.optimized, "WINOGRAD_MIN_CHANNELS", 16)
    plain = tiny_network("gsfm", spectrum="hermitian")
    cores = [
        InferenceCore(optimized_copy(plain), partial(SpaceTimeMemory, 20), mem_every=2),
        InferenceCore(naive_copy(plain), partial(DenseMemory, 20), mem_every=2),
    ]
    frames, masks = synth_clip(70, 90, 3, 5, seed=0)
    ids = (masks[0] * torch.arange(1, 4)[:, None, None]).sum(0).long()
    for frame, mask in zip(frames.sigmoid(), [ids, *[None] * 4], strict=True):
        ours, naive = (core.step(frame, mask) for core in cores)
        assert torch.allclose(ours, naive, atol=1e-5)
    assert ours.std(dim=(1, 2)).min() > 5e-4  # not the same everywhere


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (3, 3), (4, 5), (7, 6), (30, 54)])
def test_row_winograd(size, bias):
    conv, x = nn.Conv2d(24, 40, 3, padding=1, bias=bias), torch.randn(3, 24, *size)
    exact = copy.deepcopy(conv).double()(x.double())
    with torch.inference_mode():
        assert (RowWinogradConv2d(conv)(x) - exact).abs().max() < 5e-5 * exact.std() + 1e-6  # spread 8e-6


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (5, 6), (30, 54)])
def test_row_winograd_in_half_precision(size, bias):
    """Rounding about 1.8 times that of the plain convolution in bf16."""
    conv, x = nn.Conv2d(128, 128, 3, padding=1, bias=bias), torch.randn(3, 128, *size)
    exact = copy.deepcopy(conv).double()(x.double())
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        ours, plain = RowWinogradConv2d(conv, torch.bfloat16)(x), conv(x)
    assert ours.dtype == plain.dtype == torch.bfloat16
    assert (ours - exact).square().mean() < 2.5**2 * (plain - exact).square().mean()


@pytest.mark.parametrize("number, k", [(7, 7), (200, 1), (1000, 7), (1003, 50), (5000, 20)])
def test_top_positions(number, k):
    """The same set of positions as a plain top-k, whatever the remainder that fits no group."""
    similarity = torch.randn(2, 5, number)
    values, indices = top_positions(similarity, k)
    assert torch.equal(similarity.gather(2, indices), values)
    assert torch.equal(indices.sort(2).values, similarity.topk(k, dim=2).indices.sort(2).values)


def test_spectral_support():
    """Convolutions on the support alone, at a size where that is a small part, against the whole spectrum."""
    module, x = SpectralFilter(4, "high", "hermitian"), torch.randn(1, 4, 130, 211)
    assert filter_support(130, 211, "high", "bins", x.device).direct.numel() < 0.3 * 130 * 106
    with torch.no_grad():
        assert torch.allclose(module(x), test_spectral.full_spectrum(module, x).float(), atol=3e-6)


@pytest.mark.parametrize("preset", ["gsfm", "gc"])
def test_objects_in_batches(tiny_network, preset, monkeypatch):
    """Seven objects three at a time equal seven at once."""
    network = tiny_network(preset)
    image, masks = torch.randn(1, 3, 48, 64), torch.rand(1, 7, 48, 64)

    def run():
        with torch.inference_mode():
            features = network.encode_key(image)
            value = network.encode_value(image, features.f16, masks)
            return value, network.decode(value, features)[0]

    together = run()
    monkeypatch.setattr(model.network, "OBJECT_BUDGET", 3 * 48 * 64 + 5)
    assert all((a - b).abs().max() < 3e-5 * b.std() for a, b in zip(run(), together, strict=True))  # spread 4e-6
