"""Region similarity J, contour accuracy F and J&F (Perazzi et al., CVPR 2016, section 5).

They equal the official evaluations of DAVIS 2016 and 2017 (semi-supervised), with one exception: the official decay is
NaN for 256 frames or more, because it keeps frame indices in 8 bits.
"""

import functools
from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np

from datasets.images import mask_ids

TOLERANCE = 0.008  # how far apart two contours may lie and still match, as a fraction of the image diagonal


class Statistics(NamedTuple):
    """Statistics over the frames of one object, or their means over objects. Fractions, not percent."""

    mean: float
    recall: float  # fraction of frames above 0.5
    decay: float  # mean over the first quarter of the frames minus that over the last


class Summary(NamedTuple):
    """The statistics of J and F of one object, or their means over objects."""

    j: Statistics
    f: Statistics

    @property
    def jf(self) -> float:
        """Mean of the means of J and F."""
        return (self.j.mean + self.f.mean) / 2


def mean_summary(summaries: Iterable[Summary]) -> Summary:
    """The mean of at least one summary, each with the same weight."""
    j, f = np.mean(list(summaries), axis=0).tolist()
    return Summary(Statistics(*j), Statistics(*f))


class FrameScore(NamedTuple):
    """One object in one frame; ``j`` and ``f`` in [0, 1]."""

    j: float
    f: float
    in_truth: bool  # whether the frame's ground truth contains the object


def statistics(values: np.ndarray) -> Statistics:
    """Mean, recall and decay of per-frame values (1-D, at least one)."""
    values = np.asarray(values)
    # As in the official program: quarters overlap by one frame, and halves are rounded to even.
    bounds = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    first, last = values[: bounds[1] + 1], values[bounds[3] :]
    return Statistics(float(values.mean()), float((values > 0.5).mean()), float(first.mean() - last.mean()))


def boundary_map(mask: np.ndarray) -> np.ndarray:
    """H×W uint8 0/1: pixels that differ from their right, lower or lower right neighbour.

    ``mask`` H×W uint8 0/1; its last row and column are replicated beyond the border.
    """
    padded = cv2.copyMakeBorder(mask, 0, 1, 0, 1, cv2.BORDER_REPLICATE)
    return (mask ^ padded[:-1, 1:]) | (mask ^ padded[1:, :-1]) | (mask ^ padded[1:, 1:])


def score_masks(truth: np.ndarray, prediction: np.ndarray) -> dict[int, FrameScore]:
    """J and F of every id that occurs in either of two H×W uint8 masks of ids (0 is background).

    J is the intersection over union. F is the harmonic mean of precision and recall of boundary pixels; a boundary
    pixel is matched if the other boundary comes within `TOLERANCE` of the image diagonal, rounded up to pixels.
    """
    radius = int(np.ceil(TOLERANCE * np.linalg.norm(truth.shape)))
    truth, prediction = _crop(truth, prediction)
    scores = {}
    for object_id in sorted(mask_ids(truth) | mask_ids(prediction)):
        a, b = _crop(*(np.equal(mask, object_id).view(np.uint8) for mask in (truth, prediction)))
        j = np.count_nonzero(a & b) / np.count_nonzero(a | b)
        scores[object_id] = FrameScore(j, _contour_accuracy(a, b, radius), bool(a.any()))
    return scores


def _crop(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both masks where one is not 0, and a pixel around it, because boundary pixels lie up to one pixel outside."""
    x, y, width, height = cv2.boundingRect(cv2.bitwise_or(truth, prediction))
    box = slice(max(y - 1, 0), y + height + 1), slice(max(x - 1, 0), x + width + 1)
    return truth[box], prediction[box]


def _contour_accuracy(truth: np.ndarray, prediction: np.ndarray, radius: int) -> float:
    """F of two H×W uint8 0/1 masks whose boundaries match within ``radius`` pixels; 1 if neither has a boundary."""
    truth, prediction = boundary_map(truth), boundary_map(prediction)
    in_truth, in_prediction = np.count_nonzero(truth), np.count_nonzero(prediction)
    if not in_truth or not in_prediction:
        return float(in_truth == in_prediction)
    precision = np.count_nonzero(prediction & cv2.dilate(truth, _disk(radius))) / in_prediction
    recall = np.count_nonzero(truth & cv2.dilate(prediction, _disk(radius))) / in_truth
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@functools.lru_cache
def _disk(radius: int) -> np.ndarray:
    """(2r+1)×(2r+1) uint8 0/1: 1 up to ``radius`` pixels from the centre."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (x**2 + y**2 <= radius**2).astype(np.uint8)
