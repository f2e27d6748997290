"""A generated video: textured figures that pass in front of each other, seen by a moving camera.

World coordinates have their origin in the middle of the picture, y pointing down, and the picture's shorter side as
their unit. 3×3 matrices lead from one frame of reference to the next: part → figure → world → pixels.
"""

import math

import cv2
import numpy as np

from datasets.sprites import TEXTURE_EXTENT, Part, Wave, draw_figure, draw_skins, draw_texture, similarity
from util.errors import InputError

MAX_OBJECTS = 20
PASSAGE = 10  # frames that an object takes to enter or to leave
MARGIN = 0.2  # by which the background exceeds the picture on each side (world units)


class Actor:
    """A figure of ``scale`` world units that moves between two places (x, y), ``start`` at time 0 and ``end``."""

    def __init__(
        self, rng: np.random.Generator, parts: list[Part], start: np.ndarray, end: np.ndarray, scale: float
    ) -> None:
        self.id = 0  # not annotated
        self.parts = parts
        middle, reach = (start + end) / 2, (end - start) / 2
        self.x, self.y = (Wave(middle[i], reach[i], rng.uniform(80, 200), -math.pi / 2) for i in range(2))
        self.scale = Wave.draw(rng, scale, scale * rng.uniform(0, 0.2), 50)
        self.angle = Wave.draw(rng, rng.uniform(-0.4, 0.4), rng.choice([0.3, 0.3, 2]) * rng.random(), 50)
        # A figure that turns away gets narrower, and its texture scrolls: parts of it that were hidden come into view.
        self.stretch = Wave.draw(rng, 0.9, rng.uniform(0, 0.2), 40)
        self.scroll = Wave.draw(rng, rng.uniform(-1, 1), rng.uniform(0, 0.8), 60)
        self.shift = {0.0: 0.0}  # frame → what is added to x, linear in between

    def matrix(self, t: float) -> np.ndarray:
        """3×3, from the figure to the world at time t."""
        x = self.x(t) + np.interp(t, list(self.shift), list(self.shift.values()))
        return similarity(x, self.y(t), self.scale(t), self.angle(t), self.stretch(t))


class Scene:
    """A procedural video: a closed-form function of time, so that a clip of any length needs the memory of one frame.

    ``seed`` determines everything; figures and paths do not depend on ``size``, (H, W) in pixels. The annotated objects
    have the ids 1..``num_objects``. The last ``late`` of them enter the picture after frame 0 and the first ``leaving``
    leave it for a while, spread over ``num_frames``; later frames can be rendered, too. Raises `InputError` for
    arguments out of range.
    """

    def __init__(
        self, seed: int, num_frames: int, size: tuple[int, int], num_objects: int = 3, late: int = 0, leaving: int = 0
    ) -> None:
        if not 1 <= num_objects <= MAX_OBJECTS:
            raise InputError(f"{num_objects} objects: expected 1 to {MAX_OBJECTS}")
        if late not in range(num_objects):
            raise InputError(f"{late} late objects of {num_objects}: expected at least one that is not late")
        if leaving not in range(num_objects - late + 1):
            raise InputError(f"{leaving} leaving objects: expected at most the {num_objects - late} that are not late")
        if num_frames < 1 or min(size) < 16:
            raise InputError(f"{num_frames} frames of {size[0]}x{size[1]} pixels: expected at least 1 of 16x16")
        rng = np.random.default_rng(seed)
        self.size, self._short = size, min(size)
        self._half = 0.5 * np.array(size[::-1]) / self._short  # the picture's lower right corner (world)
        left, top = -self._half - MARGIN
        self._canvas = similarity(left, top, 1 / self._short)  # from pixels of the background to the world
        travel = rng.uniform(0, 0.1)
        self._pan = [Wave.draw(rng, half, travel, 50) for half in self._half]
        self._zoom = Wave.draw(rng, 1 + travel, 0.5 * travel, 50)
        self._roll = Wave.draw(rng, 0, 0.5 * travel, 50)
        self._light = Wave.draw(rng, rng.uniform(0.9, 1.1), rng.uniform(0, 0.2), 40)
        self._tint = rng.uniform(0.95, 1.05, 3)
        self._shutter = rng.choice([0.0, 0.3, 0.6])  # exposure time in frames
        self._noise_seed, self._noise_level = int(rng.integers(2**32)), int(rng.integers(0, 5))
        self._actors = self._draw_actors(rng, num_frames, num_objects, late, leaving)
        self._background = self._draw_background(rng)

    def render(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """Frame t: image H×W×3 uint8 RGB and ids H×W uint8 (0 for all that is not annotated)."""
        view = (self._camera(t) @ self._canvas)[:2]
        frame = cv2.warpAffine(self._background, view, self.size[::-1], borderMode=cv2.BORDER_REFLECT)
        ids = np.zeros(self.size, np.uint8)
        for actor in self._actors:
            after, before = ((self._camera(u) @ actor.matrix(u))[:2, 2] for u in (t + 0.5, t - 0.5))
            _draw(frame, ids, actor, t, self._camera(t), self._shutter * (after - before))
        lit = np.arange(256)[:, None] * self._tint * self._light(t)
        frame = cv2.LUT(frame, lit.clip(0, 255).astype(np.uint8)[None])
        rng = np.random.default_rng((self._noise_seed, t))
        noise = rng.integers(0, 2 * self._noise_level + 1, frame.shape, np.uint8)
        return cv2.subtract(cv2.add(frame, noise), np.full_like(frame, self._noise_level)), ids

    def present(self, t: int) -> list[int]:
        """Ids of the objects whose centre is in the picture at time t (others may hide them)."""
        centres = {actor.id: (self._camera(t) @ actor.matrix(t))[:2, 2] for actor in self._actors if actor.id}
        return sorted(i for i, centre in centres.items() if (centre >= 0).all() and (centre < self.size[::-1]).all())

    def _camera(self, t: float) -> np.ndarray:
        """3×3, from the world to pixels at time t."""
        x, y = (self._short * pan(t) for pan in self._pan)
        return similarity(x, y, self._short * self._zoom(t), self._roll(t))

    def _draw_actors(
        self, rng: np.random.Generator, num_frames: int, num_objects: int, late: int, leaving: int
    ) -> list[Actor]:
        """All figures, back to front: the objects, and up to two in the skins of one of them that are not annotated."""
        crowd = num_objects + int(rng.integers(0, 3))
        base = rng.uniform(0.18, 0.3) / max(1, crowd / 3) ** 0.5
        # At frame 0, every figure is in another cell of a grid.
        columns = math.ceil(math.sqrt(crowd * self._half[0] / self._half[1]))
        rows = math.ceil(crowd / columns)
        y, x = np.divmod(rng.permutation(rows * columns)[:crowd], columns)
        places = (np.stack([x, y], axis=1) + rng.uniform(0.3, 0.7, (crowd, 2))) / (columns, rows)
        inside = self._half - 0.7 * base  # most of a figure there is in the picture
        skins: list[list[np.ndarray]] = []
        actors: list[Actor] = []
        for index, start in enumerate(inside * (2 * places - 1)):
            twin = index >= num_objects or index > 0 and rng.random() < 0.2
            skins.append(skins[rng.integers(index)] if twin else draw_skins(rng, base * self._short))
            parts = draw_figure(rng, skins[-1])
            actor = Actor(rng, parts, start, inside * rng.uniform(-1, 1, 2), base * rng.uniform(0.8, 1.2))
            actor.id = index + 1 if index < num_objects else 0
            way_out = self._half[0] + MARGIN + 2 * base + abs(actor.x.amplitude) - abs(actor.x.offset)
            outside = math.copysign(way_out, actor.x.offset)
            if num_objects - late <= index < num_objects:
                enter = num_frames * (index - num_objects + late + 1) / (late + 3)
                actor.shift = {enter: outside, enter + PASSAGE: 0}
            elif index < leaving:
                leave = num_frames * (index + 1) / (leaving + 2)
                actor.shift = dict(zip(leave + PASSAGE * np.arange(4), (0, outside, outside, 0), strict=True))
            actors.append(actor)
        return [actors[i] for i in rng.permutation(crowd)]

    def _draw_background(self, rng: np.random.Generator) -> np.ndarray:
        """A wall, the ground and a few things that do not move, larger than the picture by the margin: h×w×3 uint8."""
        width, height = (2 * (self._half + MARGIN) * self._short).astype(int)
        wall, ground = (draw_texture(rng, height, width, int(rng.integers(5, 12)), contrast=0.5) for _ in range(2))
        wave = np.sin(np.linspace(0, rng.uniform(0, 6), width) + rng.uniform(0, 6))
        ridge = height * (rng.uniform(0.4, 0.9) + rng.uniform(0, 0.1) * wave)
        background = np.where(np.arange(height)[:, None, None] > ridge[:, None], ground, wall)
        for _ in range(rng.integers(0, 6)):
            scale = rng.uniform(0.05, 0.15)
            parts, start = draw_figure(rng, draw_skins(rng, scale * self._short)), self._half * rng.uniform(-1, 1, 2)
            thing, ids = Actor(rng, parts, start, start, scale), np.zeros((height, width), np.uint8)
            _draw(background, ids, thing, 0, np.linalg.inv(self._canvas), np.zeros(2))
        return background


def _draw(frame: np.ndarray, ids: np.ndarray, actor: Actor, t: float, camera: np.ndarray, velocity: np.ndarray) -> None:
    """Draw a figure into ``frame`` (H×W×3) and ``ids`` (H×W) in place, blurred by ``velocity`` (dx, dy) in pixels."""
    matrices = [camera @ actor.matrix(t) @ part.matrix(t) for part in actor.parts]
    outlines = [p.outline @ m[:2, :2].T + m[:2, 2] for p, m in zip(actor.parts, matrices, strict=True)]
    blur = 2 * (np.minimum(np.abs(velocity), 20) / 2).astype(int) + 1
    limits, points = ids.shape[::-1], np.concatenate(outlines)
    left, top = np.clip(points.min(axis=0) - blur, 0, limits).astype(int)
    right, bottom = np.clip(points.max(axis=0) + blur + 1, 0, limits).astype(int)
    if left == right or top == bottom:
        return
    box = slice(top, bottom), slice(left, right)
    layer, alpha = frame[box].copy(), np.zeros((bottom - top, right - left), np.uint8)
    soft = int(0.4 * actor.scale(t) * min(limits)) | 1
    for part, matrix, outline in zip(actor.parts, matrices, outlines, strict=True):
        points = np.rint(16 * (outline - (left, top))).astype(np.int32)
        mask = cv2.fillPoly(np.zeros_like(alpha), [points], 255, cv2.LINE_AA, shift=4)
        scroll = similarity(actor.scroll(t) - TEXTURE_EXTENT, -TEXTURE_EXTENT, 2 * TEXTURE_EXTENT / len(part.texture))
        view = (similarity(-left, -top) @ matrix @ scroll)[:2]
        colour = cv2.warpAffine(part.texture, view, alpha.shape[::-1], borderMode=cv2.BORDER_REFLECT)
        # A blurred mask is dark towards its outline, which makes the part look solid; shifted, it is lit from above.
        shade = cv2.blur(mask, (soft, soft), anchor=(soft // 2, soft // 3)) // 2 + 100
        layer = _blend(cv2.multiply(colour, cv2.merge([shade] * 3), scale=1 / 200), layer, mask)
        alpha = np.maximum(alpha, mask)
    # Motion blur, approximated by the mean over a rectangle.
    layer, alpha = cv2.blur(layer, blur.tolist()), cv2.blur(alpha, blur.tolist())
    frame[box] = _blend(layer, frame[box], alpha)
    ids[box][alpha > 127] = actor.id


def _blend(top: np.ndarray, bottom: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """``top`` over ``bottom`` (both h×w×3 uint8) with the opacity ``alpha`` (h×w uint8)."""
    weight = alpha * np.float32(1 / 255)
    return cv2.blendLinear(top, bottom, weight, 1 - weight)
