"""Masks as polygons."""

import cv2
import numpy as np


class _Bridge:
    """The shortest cut from an outline N×2 to a hole M×2."""

    def __init__(self, hole: np.ndarray, outline: np.ndarray):
        self.hole, self.length = hole, np.inf
        self.shorten(outline)

    def shorten(self, outline: np.ndarray) -> None:
        distances = np.abs(outline[:, None] - self.hole[None]).max(2)
        i, j = np.unravel_index(distances.argmin(), distances.shape)
        if distances[i, j] < self.length:
            self.length, self.start, self.end = distances[i, j], outline[i], int(j)


def polygons(mask: np.ndarray) -> list[np.ndarray]:
    """A closed polygon per connected region of an H×W bool mask: N×2 (x, y) pixels, ints.

    ``cv2.fillPoly`` of them gives the mask again. A hole is joined to the outline by a cut of no width.
    """
    contours, hierarchy = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if hierarchy is None:
        return []
    result = []
    for outer, (_, _, child, parent) in zip(contours, hierarchy[0], strict=True):
        if parent >= 0:
            continue
        polygon, bridges = outer[:, 0], []
        while child >= 0:
            bridges.append(_Bridge(contours[child][:, 0], polygon))
            child = hierarchy[0][child][0]
        while bridges:  # the nearest hole first: a cut to another one might cross it
            bridges.sort(key=lambda bridge: -bridge.length)
            nearest = bridges.pop()
            hole, i = nearest.hole, int((polygon == nearest.start).all(1).argmax())
            around = np.concatenate([hole[nearest.end :], hole[: nearest.end + 1]])
            polygon = np.concatenate([polygon[: i + 1], around, polygon[i:]])
            for bridge in bridges:
                bridge.shorten(hole)
        steps = np.roll(polygon, -1, axis=0) - polygon
        corners = (steps != np.roll(steps, 1, axis=0)).any(1)
        result.append(polygon[corners] if corners.any() else polygon)
    return result
