"""From probabilities to object ids; sizes that are no multiples."""

import torch

from labels import confidences, label_map
from model.tensor import pad_to_multiple, unpad


def test_ties_go_to_the_background_and_then_to_the_first_object():
    prob = torch.tensor([[0.5, 0.2, 0.4], [0.5, 0.4, 0.1], [0.0, 0.4, 0.5]]).unsqueeze(1)
    assert label_map(prob, (1, 3), [7, 3]).tolist() == [[0, 7, 3]]


def test_padding_comes_off_where_it_was_put_on():
    x = torch.rand(1, 2, 27, 45)  # 5 and 3 pixels are missing: one side gets more than the other
    padded, padding = pad_to_multiple(x, 16)
    assert padded.shape == (1, 2, 32, 48) and torch.equal(unpad(padded, padding), x)


def test_confidence_is_the_margin_along_the_outline_or_the_least_one_without_outline():
    left, absent = torch.zeros(20, 30), torch.full((20, 30), 0.02)
    left[:, :10] = 0.9
    absent[5, 25] = 0.15  # comes nearest to a pixel, where the background has 0.85
    prob = torch.stack([1 - left - absent, left, absent])
    sure = confidences(prob, [4, 7])
    assert 0.8 < sure[4] < 0.99 and abs(sure[7] - 0.7) < 1e-6
    prob[0, 5, 25], prob[2, 5, 25] = 0.51, 0.49
    assert confidences(prob, [4, 7])[7] < 0.03  # nearly there
    assert abs(confidences(torch.tensor([0.2, 0.8]).view(2, 1, 1).repeat(1, 4, 4), [1])[1] - 0.6) < 1e-6
