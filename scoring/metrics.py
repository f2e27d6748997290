"""Scores of segmentations against ground truth: region similarity J, contour accuracy F, and J&F.

The measures of Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object
Segmentation" (CVPR 2016, section 5), equal to the official DAVIS 2017 evaluation (semi-supervised) and, for
binary masks, to DAVIS 2016. One difference: the official decay is not a number from 256 frames on, because
frame indices are kept in 8 bits there; here it is right for any length.

Only the bounding box of both masks is looked at: outside of it there is nothing to count.
"""

import functools
from typing import NamedTuple

import cv2
import numpy as np

TOLERANCE = 0.008  # how far two contours may lie apart and still match, as a fraction of the image diagonal


class Statistics(NamedTuple):
    """Over the frames of one object, or means of that over objects. Fractions, not per cent."""

    mean: float
    recall: float  # share of frames above 0.5
    decay: float  # mean of the first quarter of the frames less that of the last


class Summary(NamedTuple):
    """Means over objects of their statistics."""

    jf: float  # mean of J mean and F mean
    j: Statistics
    f: Statistics


class FrameScore(NamedTuple):
    """One object on one frame."""

    j: float
    f: float
    in_truth: bool  # whether the ground truth of the frame has it


def statistics(values: np.ndarray) -> Statistics:
    """Mean, recall and decay of per-frame values (1-D, at least one)."""
    values = np.asarray(values, np.float64)
    # The official bounds: quarters overlap by one frame, halves round to even.
    bounds = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    first, last = values[: bounds[1] + 1], values[bounds[3] :]
    return Statistics(float(values.mean()), float((values > 0.5).mean()), float(first.mean() - last.mean()))


def region_similarity(truth: np.ndarray, prediction: np.ndarray, void: np.ndarray | None = None) -> float:
    """J: intersection over union of two H×W masks (non-zero is inside); 1 if both are empty.

    ``void`` H×W: pixels that do not count.
    """
    return _overlap(*_crop(truth, prediction, void))


def contour_accuracy(
    truth: np.ndarray, prediction: np.ndarray, void: np.ndarray | None = None, tolerance: float = TOLERANCE
) -> float:
    """F: harmonic mean of precision and recall of the boundary pixels of two H×W masks; 1 if neither has any.

    A boundary pixel is found if the other boundary comes within ``tolerance``: a fraction of the image
    diagonal (rounded up to pixels) or, from 1 on, a number of pixels. ``void`` H×W: pixels outside both.
    """
    return _contour(*_crop(truth, prediction, void), _radius(truth.shape, tolerance))


def boundary_map(mask: np.ndarray) -> np.ndarray:
    """H×W uint8 0/1: pixels that differ from their right, lower or lower right neighbour.

    Beyond the last row and column the mask goes on as it is. ``mask`` H×W uint8 0/1.
    """
    padded = cv2.copyMakeBorder(mask, 0, 1, 0, 1, cv2.BORDER_REPLICATE)
    return (mask ^ padded[:-1, 1:]) | (mask ^ padded[1:, :-1]) | (mask ^ padded[1:, 1:])


def score_masks(truth: np.ndarray, prediction: np.ndarray) -> dict[int, FrameScore]:
    """Scores of every id in either of two H×W uint8 masks of ids (0 is background)."""
    radius = _radius(truth.shape, TOLERANCE)
    box = _bounding_box(truth, prediction)
    truth, prediction = truth[box], prediction[box]
    if not truth.size:
        return {}
    counts = cv2.calcHist([truth], [0], None, [256], [0, 256])
    counts += cv2.calcHist([prediction], [0], None, [256], [0, 256])
    scores = {}
    for object_id in (np.flatnonzero(counts[1:]) + 1).tolist():
        masks = _crop(truth == object_id, prediction == object_id)
        scores[object_id] = FrameScore(_overlap(*masks), _contour(*masks, radius), bool(masks[0].any()))
    return scores


def _crop(truth: np.ndarray, prediction: np.ndarray, void: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Both masks as uint8 0/1, cut to the bounding box of their union and one pixel around it."""
    if truth.shape != prediction.shape or truth.ndim != 2:
        raise ValueError(f"expected two H×W masks of one size, got {truth.shape} and {prediction.shape}")
    masks = [np.not_equal(mask, 0) for mask in (truth, prediction)]
    if void is not None:
        masks = [mask & (void == 0) for mask in masks]
    truth, prediction = (mask.view(np.uint8) for mask in masks)
    box = _bounding_box(truth, prediction)
    return truth[box], prediction[box]


def _bounding_box(truth: np.ndarray, prediction: np.ndarray) -> tuple[slice, slice]:
    """Of the non-zero pixels of both, and one pixel around: boundary pixels lie up to one pixel outside."""
    x, y, width, height = cv2.boundingRect(cv2.bitwise_or(truth, prediction))
    if not width:
        return slice(0), slice(0)
    return slice(max(y - 1, 0), y + height + 1), slice(max(x - 1, 0), x + width + 1)


def _overlap(truth: np.ndarray, prediction: np.ndarray) -> float:
    union = np.count_nonzero(truth | prediction)
    return np.count_nonzero(truth & prediction) / union if union else 1.0


def _contour(truth: np.ndarray, prediction: np.ndarray, radius: int) -> float:
    if not truth.size:
        return 1.0
    truth, prediction = boundary_map(truth), boundary_map(prediction)
    in_truth, in_prediction = np.count_nonzero(truth), np.count_nonzero(prediction)
    if not in_truth or not in_prediction:
        return float(in_truth == in_prediction)
    precision = np.count_nonzero(prediction & cv2.dilate(truth, _disk(radius))) / in_prediction
    recall = np.count_nonzero(truth & cv2.dilate(prediction, _disk(radius))) / in_truth
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _radius(shape: tuple[int, ...], tolerance: float) -> int:
    """``tolerance`` in whole pixels."""
    return int(tolerance if tolerance >= 1 else np.ceil(tolerance * np.linalg.norm(shape)))


@functools.lru_cache
def _disk(radius: int) -> np.ndarray:
    """(2r+1)×(2r+1) uint8 0/1: 1 up to ``radius`` pixels from the centre."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (x**2 + y**2 <= radius**2).astype(np.uint8)
