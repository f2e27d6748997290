"""Exponential moving average of the weights."""

import copy

import torch

from model.network import Network


class WeightAverage:
    """A second network whose weights follow those of the trained one: average ← d · average + (1 − d) · weights.

    ``d`` is ``decay``, or (1 + n) / (10 + n) after n updates where that is smaller: the start is soon forgotten.
    The averaged ``network`` is in training mode, without gradients, on the device of the trained one.
    """

    def __init__(self, network: Network, decay: float):
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, network: Network) -> None:
        """Follow an optimiser step; buffers are copied."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for average, current in zip(self.network.parameters(), network.parameters(), strict=True):
            average.lerp_(current, 1 - decay)
        for copied, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            copied.copy_(buffer)
        self.updates += 1

    def state_dict(self) -> dict[str, object]:
        return {"network": self.network.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        self.network.load_state_dict(state["network"])
        self.updates = state["updates"]
