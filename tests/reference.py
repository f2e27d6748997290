"""Deterministic weights and inputs of the reference vectors in ``tests/fixtures/reference_{gsfm,stcn}.npz``.

The vectors are outputs of the public GSFM and STCN programs on CPU in float32. A tensor ``key`` is stored as a flat
strided sample, with ``key/info`` = [step, mean, std, abs-sum, min, max] of the full tensor. All weights are random.
"""

import functools
import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch

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
    return dict(np.load(FIXTURES / f"reference_{family}.npz"))


def stored_json(family: str, key: str) -> dict:
    return json.loads(vectors(family)[key].tobytes())


def weight(name: str, shape, is_norm: bool, family: str | None = None) -> torch.Tensor:
    """One entry of a state dict, from its name and shape alone."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(tuple(shape), dtype=torch.int64)
    value = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape)).astype(np.float32)
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


def state_dict(family: str, kind: str = "eval") -> dict[str, torch.Tensor]:
    """A state dict as the reference programs write it. kind: eval, train_single_object, train_multi_object."""
    shapes = stored_json(family, f"shapes/{kind}")
    return {
        name: weight(name, shape, f"{name.rpartition('.')[0]}.running_mean" in shapes, family)
        for name, shape in shapes.items()
    }


def randn(seed: int, shape) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def ellipse(h, w, cy, cx, ry, rx, degrees) -> np.ndarray:
    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    dy, dx, t = y - cy * h, x - cx * w, math.radians(degrees)
    u, v = dx * math.cos(t) + dy * math.sin(t), -dx * math.sin(t) + dy * math.cos(t)
    return (((u / (rx * w)) ** 2 + (v / (ry * h)) ** 2) <= 1.0).astype(np.float32)


def objects(h, w, k, t, seed) -> np.ndarray:
    """k disjoint moving ellipses at time t, k×h×w 0/1; later ones win overlaps."""
    random, masks = np.random.RandomState(1000 + seed), np.zeros((k, h, w), np.float32)
    for i in range(k):
        cy, cx = random.uniform(0.3, 0.7), (i + 0.5) / k + random.uniform(-0.05, 0.05)
        ry, rx = random.uniform(0.14, 0.3), random.uniform(0.35, 0.6) / (k + 0.6)
        vy, vx, degrees = random.uniform(-0.02, 0.02), random.uniform(-0.02, 0.02), random.uniform(-40, 40)
        mask = ellipse(h, w, cy + vy * t, cx + vx * t, ry, rx, degrees + 3 * t)
        masks *= 1 - mask
        masks[i] = mask
    return masks


def synth_clip(h, w, k, length, seed) -> tuple[torch.Tensor, torch.Tensor]:
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
    """Absolute differences on the stored sample, in units of the full tensor's standard deviation."""
    stored = vectors(family)
    flat = value.detach().contiguous().numpy().reshape(-1)
    assert flat.size == np.prod(stored[f"{key}/shape"]), (key, tuple(value.shape), stored[f"{key}/shape"])
    step, _, std = stored[f"{key}/info"][:3]
    return np.abs(flat[:: int(step)].astype(np.float64) - stored[key]) / (1 if absolute else std)
