"""Activation checkpointing: the same gradients from fewer stored activations."""

import torch

from inference_memory_bank import make_memory


def test_same_gradients_from_less_memory(tiny_network):
    network = tiny_network("gsfm").train()
    frames, masks = torch.rand(2, 3, 3, 64, 64), torch.rand(2, 2, 64, 64).round()
    stored = []

    def gradients(checkpointed):
        network.zero_grad()
        network.checkpoint_activations = checkpointed
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            prediction = network(frames, masks, torch.ones(2, 2), make_memory(network.config))
        stored.append(sum(sizes))
        (prediction.logits.square().mean() + prediction.boundary.square().mean()).backward()
        return [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]

    for plain, recomputed in zip(gradients(False), gradients(True), strict=True):
        assert torch.allclose(plain, recomputed, rtol=1e-5, atol=1e-8)
    assert stored[1] < stored[0] / 5
