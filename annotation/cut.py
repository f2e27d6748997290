"""Box → mask by GrabCut, on a small crop so that it answers at once."""

import cv2
import numpy as np

LONG_SIDE = 240  # of the crop in pixels: larger ones take seconds and are not better
ENLARGE = 4.0  # at most: small objects are cut much better enlarged
MARGIN = 0.15  # of the box's longer side, shown to GrabCut around the box as background
ITERATIONS = 5
OBJECT, BACKGROUND = 1, 2  # values of hints


def cut(image: np.ndarray, box: tuple[int, int, int, int], hints: np.ndarray) -> np.ndarray:
    """The object in a box: H×W bool, False outside the box.

    Args:
        image: H×W×3 uint8.
        box: (x0, y0, x1, y1) in pixels, x1 and y1 exclusive, in any order and possibly beyond the image.
        hints: H×W uint8, `OBJECT` and `BACKGROUND` where the user has said so, else 0.
    """
    height, width = hints.shape
    (x0, x1), (y0, y1) = sorted(box[::2]), sorted(box[1::2])
    x0, x1, y0, y1 = max(x0, 0), min(x1, width), max(y0, 0), min(y1, height)
    result = np.zeros((height, width), bool)
    if x1 - x0 < 2 or y1 - y0 < 2:
        return result
    margin = max(4, round(MARGIN * max(x1 - x0, y1 - y0)))
    crop = slice(max(0, y0 - margin), y1 + margin), slice(max(0, x0 - margin), x1 + margin)
    labels = np.full((height, width), cv2.GC_BGD, np.uint8)
    labels[y0:y1, x0:x1] = cv2.GC_PR_FGD
    labels, given = labels[crop], hints[crop]
    if not (labels == cv2.GC_BGD).any():  # the box is the picture: nothing but its edge may be background
        edge = max(1, min(labels.shape) // 50)
        inner = labels[edge:-edge, edge:-edge].copy()
        labels[:] = cv2.GC_PR_BGD
        labels[edge:-edge, edge:-edge] = inner
    inside = labels != cv2.GC_BGD
    scale = min(ENLARGE, LONG_SIDE / max(labels.shape))
    size = max(2, round(labels.shape[1] * scale)), max(2, round(labels.shape[0] * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
    # A hint holds wherever any of its pixels falls; a thin stroke must not vanish. Background is written last.
    for hint, label in ((OBJECT, cv2.GC_FGD), (BACKGROUND, cv2.GC_BGD)):
        covered = cv2.resize((given == hint).astype(np.float32), size, interpolation=method)
        small[covered > 0] = label
    if np.isin(small, (cv2.GC_FGD, cv2.GC_PR_FGD)).any():
        pixels = cv2.resize(np.ascontiguousarray(image[crop]), size, interpolation=method)
        cv2.setRNGSeed(0)  # GrabCut starts from k-means: the same box gives the same cut
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(pixels, small, None, *models, ITERATIONS, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    foreground = np.isin(small, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    soft = cv2.resize(foreground, labels.shape[::-1], interpolation=cv2.INTER_LINEAR)
    result[crop] = ((soft > 0.5) | (given == OBJECT)) & (given != BACKGROUND) & (inside | (given == OBJECT))
    return result
