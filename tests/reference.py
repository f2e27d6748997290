"""Weights and inputs of the vectors in ``tests/fixtures/reference_{gsfm,stcn,training}.npz``, and how to compare.

The vectors are outputs of the public GSFM and STCN programs on CPU in float32. A tensor ``key`` is stored as a flat
strided sample, with ``key/info`` = [step, mean, std, abs-sum, min, max] of the full tensor. All weights are random.

Tolerances come from the spread over kernels: AVX-512, AVX2 and SSE, with and without oneDNN, one thread and two, and
float64. Each is given in a comment as "spread", with the effect of a mistake where one is close.
"""

import functools
import json
import math
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inference_core import InferenceCore
from inference_memory_bank import make_memory
from model.network import Network, load_network
from model.tensor import pad_to_multiple, unpad

FIXTURES = Path(__file__).parent / "fixtures"

# Factors without which the memory softmax of a random network is flat and its outputs saturate.
COMMON = {
    "key_proj.key_proj.weight": 3.0,
    "key_comp.weight": 0.5,
    "decoder.up_16_8.skip_conv.weight": 0.25,
    "decoder.up_8_4.skip_conv.weight": 0.25,
    "value_encoder.layer3.1.bn2.weight": 4.0,
}
FACTORS = {
    "gsfm": COMMON | {"decoder.pred.weight": 0.25, "decoder.predict_boundary_2.weight": 0.15},
    "stcn": COMMON | {"decoder.pred.weight": 1.5},
    None: {},
}
OFFSETS = {
    "gsfm": {"decoder.pred.bias": -0.5, "decoder.predict_boundary_2.bias": -2.0},
    "stcn": {"decoder.pred.bias": -4.8},
    None: {},
}


@functools.cache
def vectors(family: str) -> dict[str, np.ndarray]:
    """All vectors of a file: ``gsfm``, ``stcn`` or ``training``."""
    return dict(np.load(FIXTURES / f"reference_{family}.npz"))


def stored_json(family: str, key: str) -> Any:
    """A JSON value stored among the vectors, as bytes."""
    return json.loads(vectors(family)[key].tobytes())


def weight(name: str, shape: Sequence[int], is_norm: bool, family: str | None = None) -> torch.Tensor:
    """One entry of a state dict, from its name and shape alone."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(tuple(shape), dtype=torch.int64)
    random = np.random.RandomState(zlib.crc32(name.encode()))
    value: np.ndarray = random.standard_normal(tuple(shape)).astype(np.float32)
    if name.endswith("running_mean"):
        value = 0.1 * value
    elif name.endswith("running_var"):
        value = 1 + 0.1 * np.abs(value)
    elif name.endswith("bias"):
        value = 0.05 * value
    elif len(shape) == 1 and is_norm:
        value = 0.5 + 0.1 * value
    else:
        value = value * np.float32(math.sqrt(2.0 / int(np.prod(shape[1:]))))
    value = value.astype(np.float32)
    if name in FACTORS[family]:
        value = value * np.float32(FACTORS[family][name])
    if name in OFFSETS[family]:
        value = value + np.float32(OFFSETS[family][name])
    if family and name == "value_encoder.conv1.weight":
        value[:, 3:] *= np.float32(20)
    return torch.from_numpy(value.astype(np.float32))


def state_dict(family: str, variant: str = "eval") -> dict[str, torch.Tensor]:
    """A state dict as the programs write it; variant: eval, train_single_object or train_multi_object."""
    shapes = stored_json(family, f"shapes/{variant}")
    return {
        name: weight(name, shape, f"{name.rpartition('.')[0]}.running_mean" in shapes, family)
        for name, shape in shapes.items()
    }


@functools.cache
def reference_network(family: str) -> Network:
    """The evaluation network, loaded from a file as the reference program writes it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{family}.pth"
        torch.save(state_dict(family), path)
        return load_network(path)


def randn(seed: int, shape: Sequence[int]) -> torch.Tensor:
    """Standard normal float32 numbers of NumPy's legacy generator."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def ellipse(h: int, w: int, cy: float, cx: float, ry: float, rx: float, degrees: float) -> np.ndarray:
    """A rotated ellipse h×w, 0/1 float32; centre and radii as fractions of the sides."""
    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    dy, dx, t = y - cy * h, x - cx * w, math.radians(degrees)
    u, v = dx * math.cos(t) + dy * math.sin(t), -dx * math.sin(t) + dy * math.cos(t)
    return (((u / (rx * w)) ** 2 + (v / (ry * h)) ** 2) <= 1.0).astype(np.float32)


def objects(h: int, w: int, k: int, t: int, seed: int) -> np.ndarray:
    """k disjoint moving ellipses at time t, k×h×w 0/1; later ones cover earlier ones."""
    random, masks = np.random.RandomState(1000 + seed), np.zeros((k, h, w), np.float32)
    for i in range(k):
        cy, cx = random.uniform(0.3, 0.7), (i + 0.5) / k + random.uniform(-0.05, 0.05)
        ry, rx = random.uniform(0.14, 0.3), random.uniform(0.35, 0.6) / (k + 0.6)
        vy, vx, degrees = random.uniform(-0.02, 0.02), random.uniform(-0.02, 0.02), random.uniform(-40, 40)
        mask = ellipse(h, w, cy + vy * t, cx + vx * t, ry, rx, degrees + 3 * t)
        masks *= 1 - mask
        masks[i] = mask
    return masks


def synth_clip(h: int, w: int, k: int, length: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised-like frames T×3×h×w (striped objects over a smooth background, noise) and masks T×k×h×w."""
    random = np.random.RandomState(2000 + seed)
    background, fx, fy = random.uniform(-1, 1, 3), random.uniform(2, 6), random.uniform(2, 6)
    colours, stripes = random.uniform(-2, 2, (k, 3)), random.uniform(8, 20, (k, 2))
    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    y, x = y / h, x / w
    frames, masks = [], []
    for t in range(length):
        m = objects(h, w, k, t, seed)
        image = background[:, None, None] + 0.7 * np.sin(2 * np.pi * (fx * x + fy * y))[None]
        for i in range(k):
            texture = 0.6 * np.sin(2 * np.pi * (stripes[i, 0] * (x - 0.02 * t) + stripes[i, 1] * y))
            image = image * (1 - m[i]) + (colours[i][:, None, None] + texture[None]) * m[i]
        frames.append(image + 0.3 * random.standard_normal((3, h, w)))
        masks.append(m)
    return torch.from_numpy(np.stack(frames).astype(np.float32)), torch.from_numpy(np.stack(masks))


def difference(family: str, key: str, value: torch.Tensor, absolute: bool = False) -> np.ndarray:
    """Absolute differences from the stored sample, unless ``absolute`` in the full tensor's standard deviations."""
    stored = vectors(family)
    flat = value.detach().contiguous().numpy().reshape(-1)
    assert flat.size == np.prod(stored[f"{key}/shape"]), (key, tuple(value.shape), stored[f"{key}/shape"])
    step, _, std = stored[f"{key}/info"][:3]
    return np.abs(flat[:: int(step)].astype(np.float64) - stored[key]) / (1 if absolute else std)


# name: height, width, objects, length, seed, {frame: ids that appear}, frames asked for
CLIPS: dict[str, tuple[int, int, int, int, int, dict[int, list[int]], Sequence[int]]] = {
    "syn2": (120, 200, 2, 10, 81, {0: [1, 2]}, range(10)),
    "syn3": (150, 144, 3, 9, 82, {0: [1, 2, 3]}, range(9)),
    "yv2": (128, 176, 2, 10, 91, {0: [1], 4: [2]}, range(10)),
    "yv3": (120, 152, 3, 11, 92, {1: [1, 3], 5: [2]}, [1, 3, 5, 7, 10]),
}


# Of `clip_error`: spread 1.5e-6, and 5e-5 to 2e-4 where a near-tie of the top-k read falls the other way. Mistakes:
# without HFM 5e-4, batch norms with eps 1e-3 9e-4, sigma 8 1e-2, top 20 for 50 7e-2.
CLIP_TOLERANCE = 3e-4


def clip_error(network: Network, family: str, run: str) -> float:
    """Mean absolute difference of the probabilities of a whole clip through the engine.

    ``run``: ``<clip>/every<mem_every>_top<top_k>_last<include_last>``.
    """
    height, width, count, length, seed, appear, asked = CLIPS[run.split("/")[0]]
    every, top_k, last = (int(field.lstrip("evrytoplas")) for field in run.split("/")[1].split("_"))
    frames, masks = synth_clip(height, width, count, length, seed)
    frames = frames * network.std + network.mean
    ids = (masks * torch.arange(1, count + 1)[:, None, None]).sum(1).long()
    core = InferenceCore(network, functools.partial(make_memory, network.config, top_k), every, bool(last))
    stored, step = vectors(family)[f"{run}/prob"], int(vectors(family)[f"{run}/prob/info"][0])
    shape = tuple(vectors(family)[f"{run}/prob/shape"])
    ours, known = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
    for t in range(length):
        mask = torch.where(torch.isin(ids[t], torch.tensor(appear[t])), ids[t], 0) if t in appear else None
        prob = core.step(frames[t], mask, needed=t in asked)
        assert prob is not None or t not in asked
        if prob is None or t not in asked:
            continue
        padded, padding = pad_to_multiple(prob, 16)
        unpad(known[:, t], padding)[:] = True
        for channel, i in enumerate([0, *core.object_ids]):
            ours[i, t, 0] = padded[channel]
    inside = known.reshape(-1)[::step].numpy()
    assert inside.sum() > 1000
    return float(np.abs(ours.reshape(-1)[::step].numpy() - stored)[inside].mean())
