"""From probabilities to object ids; sizes that are no multiples."""

import torch

from labels import label_map
from model.tensor import pad_to_multiple, unpad


def test_ties_go_to_the_background_and_then_to_the_first_object():
    prob = torch.tensor([[0.5, 0.2, 0.4], [0.5, 0.4, 0.1], [0.0, 0.4, 0.5]]).unsqueeze(1)
    assert label_map(prob, (1, 3), [7, 3]).tolist() == [[0, 7, 3]]


def test_padding_comes_off_where_it_was_put_on():
    x = torch.rand(1, 2, 27, 45)  # 5 and 3 pixels are missing: one side gets more than the other
    padded, padding = pad_to_multiple(x, 16)
    assert padded.shape == (1, 2, 32, 48) and torch.equal(unpad(padded, padding), x)
