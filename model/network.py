"""The network family: GSFM, STCN and Global Context are three settings of one class.

B clips, T frames, K objects, H×W image (multiples of 16), h×w = H/16×W/16. `Network.forward` is the training pass;
evaluation calls the same `encode_key`, `encode_value` and `decode` frame by frame (``inference_core.py``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from model.blocks import join
from model.config import InferenceSettings, NetworkConfig
from model.decoder import Decoder
from model.encoders import Backbone, ValueEncoder, backbone_dims
from model.spectral import SpectralFilter
from model.tensor import keep_uncompiled, soft_aggregate
from model.weights import fit_weights, read_network_file, write_network_file


class Memory(Protocol):
    """What the network and the engine need of a memory; the implementations are in ``inference_memory_bank.py``."""

    def add(self, key: torch.Tensor, value: torch.Tensor, temporary: bool = False) -> None:
        """Memorise a frame: key B×Ck×h×w, value B×K×Cv×h×w."""

    def read(self, query: torch.Tensor) -> torch.Tensor:
        """query B×Ck×h×w → readout B×K×Cv×h×w."""


class FrameFeatures(NamedTuple):
    """Key encoder features of N frames."""

    key: torch.Tensor  # N×Ck×h×w
    f16_thin: torch.Tensor  # N×Cv×h×w
    f16: torch.Tensor  # N×C₁₆×h×w, after the LFM
    f8: torch.Tensor  # N×C₈×2h×2w
    f4: torch.Tensor  # N×C₄×4h×4w


class Prediction(NamedTuple):
    """What a training pass predicts for frames 1 … T−1."""

    logits: torch.Tensor  # B×(T−1)×(K+1)×H×W, background first
    boundary: torch.Tensor | None  # B×(T−1)×K×H×W logits; None without the boundary branch


# Pixels × objects that are decoded, or encoded as values, in one pass: about 3 GB of feature maps in float32.
OBJECT_BUDGET = 2**22


def _objects_per_pass(pixels: int) -> int:
    """How many objects fit `OBJECT_BUDGET`. Training takes all at once."""
    return 2**31 if torch.is_grad_enabled() else max(1, OBJECT_BUDGET // pixels)


class Network(nn.Module):
    """Key encoder (+ LFM), value encoder, decoder (+ HFM and boundary branch)."""

    mean: torch.Tensor  # 3×1×1, of ImageNet's RGB in [0, 1]
    std: torch.Tensor

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.config = config
        self.recommended = InferenceSettings()  # how its weights are best evaluated, if known
        self.optimized: torch.dtype | None = None  # the precision for which `optimized_copy` made it, if it did
        self.checkpoint_activations = False  # in training: recompute activations in the backward pass
        f4_dim, f8_dim, f16_dim = backbone_dims(config.backbone)
        self.key_encoder = Backbone(config.backbone)
        self.lfm = SpectralFilter(f16_dim, "low", config.spectrum, config.filter) if config.lfm else nn.Identity()
        self.key_proj = nn.Conv2d(f16_dim, config.key_dim, 3, padding=1)
        self.key_comp = nn.Conv2d(f16_dim, config.value_dim, 3, padding=1)
        self.value_encoder = ValueEncoder(f16_dim, config.value_dim, config.single_object)
        self.decoder = Decoder(config, f8_dim, f4_dim)
        assert self.key_proj.bias is not None
        if not self.key_proj.weight.is_meta:  # drawing numbers on the meta device would import 900 modules
            self.key_encoder.initialize()
            self.value_encoder.backbone.initialize()
            nn.init.orthogonal_(self.key_proj.weight)
            nn.init.zeros_(self.key_proj.bias)
        for name, values in (("mean", [0.485, 0.456, 0.406]), ("std", [0.229, 0.224, 0.225])):
            # On the CPU also where the network is built on the meta device, which no file could fill.
            self.register_buffer(
                name, torch.tensor(values, dtype=torch.float32, device="cpu").view(3, 1, 1), persistent=False
            )

    def normalize(self, image: torch.Tensor) -> torch.Tensor:
        """RGB …×3×H×W in [0, 1] → ImageNet-normalised. Pad afterwards: zeros are then the mean colour."""
        return (image - self.mean) / self.std

    def encode_key(self, image: torch.Tensor) -> FrameFeatures:
        """Normalised frames N×3×H×W → features (STCN section 3.1; GSFM puts the LFM on f16)."""
        f4, f8, f16 = self.key_encoder(image)
        f16 = self.lfm(f16)
        return FrameFeatures(self.key_proj(f16), self.key_comp(f16), f16, f8, f4)

    def encode_value(self, image: torch.Tensor, f16: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """image B×3×H×W normalised, f16 B×C₁₆×h×w, masks B×K×H×W in [0, 1] → memory value B×K×Cv×h×w."""
        others = masks.sum(dim=1, keepdim=True) - masks
        at_once = _objects_per_pass(image[:, 0].numel())
        chunks = zip(masks.split(at_once, dim=1), others.split(at_once, dim=1), strict=True)
        return join([self.value_encoder(image, f16, *chunk) for chunk in chunks])

    def decode(
        self, readout: torch.Tensor, features: FrameFeatures, with_boundary: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """readout B×K×Cv×h×w → mask logits and, if wanted and predicted, boundary logits, each B×K×H×W float32."""
        chunks = [
            self.decoder(chunk, features.f16_thin, features.f8, features.f4, with_boundary)
            for chunk in readout.split(_objects_per_pass(features.f4[:, 0].numel() * 16), dim=1)
        ]
        masks, boundaries = zip(*chunks, strict=True)
        return join(masks), None if boundaries[0] is None else join(boundaries)

    def forward(
        self, frames: torch.Tensor, first_masks: torch.Tensor, valid: torch.Tensor, memory: Memory
    ) -> Prediction:
        """Training pass: each frame is segmented from those before it, which are memorised with their predicted masks.

        Args:
            frames: B×T×3×H×W RGB in [0, 1], H and W multiples of 16.
            first_masks: B×K×H×W, 0/1, the given masks of frame 0.
            valid: B×K, 0 where a clip has no such object: its probabilities and boundary logits are set to zero.
            memory: empty.
        """
        batch, length = frames.shape[:2]
        frames = self.normalize(frames)
        flat = self._checkpointed(self.encode_key, frames.flatten(0, 1))
        key, f16_thin, f16, f8, f4 = (feature.unflatten(0, (batch, length)) for feature in flat)
        valid = valid[:, :, None, None]

        masks, all_logits, all_boundary = first_masks, [], []
        for t in range(1, length):
            value = self._checkpointed(self.encode_value, frames[:, t - 1], f16[:, t - 1], masks)
            memory.add(key[:, t - 1], value)
            features = FrameFeatures(key[:, t], f16_thin[:, t], f16[:, t], f8[:, t], f4[:, t])
            mask_logits, boundary = self._checkpointed(self.decode, memory.read(key[:, t]), features, True)
            logits = soft_aggregate(torch.sigmoid(mask_logits) * valid)
            all_logits.append(logits)
            masks = torch.softmax(logits, dim=1)[:, 1:]
            if boundary is not None:
                all_boundary.append(boundary * valid)
        return Prediction(torch.stack(all_logits, 1), torch.stack(all_boundary, 1) if all_boundary else None)

    def _checkpointed(self, function: Callable, *arguments: Any) -> Any:
        """Call it; with ``checkpoint_activations``, only its arguments are kept for the backward pass."""
        if not self.checkpoint_activations:
            return function(*arguments)
        return checkpoint(function, *arguments, use_reentrant=False)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """`torch.compile` the training pass."""
        keep_uncompiled(SpectralFilter)
        super().compile(*args, **kwargs)

    def load_imagenet(self, files: list[Path] | None) -> None:
        """Start both encoders from ImageNet weights; see `Backbone.load_imagenet`."""
        self.key_encoder.load_imagenet(files)
        self.value_encoder.backbone.load_imagenet(files)


def save_network(path: Path, network: Network) -> None:
    """Write weights, config and recommended settings, atomically; `load_network` needs nothing but this file."""
    recommended = network.recommended.given()
    write_network_file(path, dataclasses.asdict(network.config), network.state_dict(), recommended=recommended)


def empty_state(config: NetworkConfig) -> dict[str, torch.Tensor]:
    """The state dict of such a network on the meta device: names, shapes and types without memory."""
    with torch.device("meta"):
        return Network(config).state_dict()


def load_network(path: Path, device: torch.device | str = "cpu") -> Network:
    """Rebuild a network, in eval mode, from a file; see `read_network_file`.

    A stage-0 file becomes a multi-object network whose new mask channel is zero, which leaves its results unchanged.
    """
    settings, state, recommended = read_network_file(path)
    config = NetworkConfig.from_file(settings | {"single_object": False}, path)
    with torch.device("meta"):  # without memory of its own: it takes over the tensors of the file
        network = Network(config).float()  # whatever the caller's default type is
    network.load_state_dict(fit_weights(network.state_dict(), state, path, new_channel="zero"), assign=True)
    network.recommended = recommended
    return network.to(device).eval()


def load_weights(network: Network, state: dict[str, torch.Tensor], path: Path) -> None:
    """Load the state dict that was read from ``path``, to go on training; see `model.weights.fit_weights`."""
    network.load_state_dict(fit_weights(network.state_dict(), state, path, new_channel="orthogonal"))
