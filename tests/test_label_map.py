"""From probabilities to object ids."""

import torch

from inference_core import label_map


def test_ties_go_to_the_background_and_then_to_the_first_object():
    prob = torch.tensor([[0.5, 0.2, 0.4], [0.5, 0.4, 0.1], [0.0, 0.4, 0.5]]).unsqueeze(1)
    assert label_map(prob, (1, 3), [7, 3]).tolist() == [[0, 7, 3]]
