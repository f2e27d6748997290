"""One procedural video: a cast of figures, a place, a camera and light.

A `Scene` is a closed-form function of time: `scene.render(t)` draws frame t from nothing but the scene's seed, so a
clip of any length needs the memory of one frame. It holds articulated, textured, bending objects that pass in
front of each other, unannotated twins of them, foreground occluders, a moving camera, motion blur and changing
light. Objects may enter late, and leave and come back.

The bytes depend on the arguments alone: not on the machine, and not on whether OpenCV is 4 or 5.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from datasets.sprites import (
    Look,
    Part,
    Style,
    Wave,
    add_noise,
    blob,
    box,
    draw_polygon,
    draw_wave,
    fork,
    fractal,
    limb,
    paint,
)

MAX_OBJECTS = 20
_BITS = 5  # after the binary point, in cv2.remap's fixed-point maps
_LONGEST_BLUR = 11  # pixels; above it cv2.filter2D turns to another, slower method
_PASSAGE = 14  # frames that an object takes to enter or to leave


@dataclass
class _Actor:
    """A figure and its way through the picture; id 0 marks what is not annotated."""

    id: int
    parts: list[Part]
    x: Wave  # centre, pixels
    y: Wave
    scale: Wave  # pixels per object unit
    angle: Wave  # radians
    stretch: Wave  # width over height; turning away narrows a figure
    bend: np.ndarray  # 2×6×3: amplitude, period, phase of the bending coefficients of x and y
    shadow: float = 0.0
    enter: float = -math.inf  # first frame
    leave: float = math.inf  # frame at which it begins to leave
    back: float = math.inf  # frame at which it comes in again

    def away(self, t: float) -> float | None:
        """How far it is on its way out: 0 in place, 1 just outside the picture, None not there."""
        if t < self.enter or self.leave + _PASSAGE <= t < self.back:
            return None
        arrived = self.enter if t < self.leave else self.back
        coming = 1 - (t - arrived) / _PASSAGE if t >= arrived else 0.0
        going = (t - self.leave) / _PASSAGE if self.leave <= t < self.back else 0.0
        return min(max(coming, going, 0.0), 1.0) ** 2

    def place(self, t: float, width: int) -> tuple[float, float] | None:
        """Centre (x, y) in pixels at time t."""
        away = self.away(t)
        if away is None:
            return None
        x, reach = self.x(t), 1.3 * self.scale(t)
        out = width + reach - x if self.x.offset > width / 2 else -reach - x  # to the nearer side
        return x + away * out, self.y(t)


class Scene:
    """A procedural video.

    Args:
        seed: an integer, or several, that everything is drawn from; the same figures and ways at any size.
        num_frames: length on which late entries and leaves are spread; frames beyond it can be drawn, too.
        size: (H, W) in pixels.
        num_objects: 1 to 20 annotated objects with the ids 1..num_objects.
        late: how many of them, the last ids, come into the picture after frame 0; the others are in it.
        leaving: how many of the others go out of the picture for a while; the first ids.

    Raises:
        ValueError: numbers that do not fit together.
    """

    def __init__(
        self,
        seed: int | Sequence[int],
        num_frames: int,
        size: tuple[int, int] = (480, 854),
        num_objects: int = 3,
        late: int = 0,
        leaving: int = 0,
    ):
        self.check(num_frames, size, num_objects, late, leaving)
        self.size = size
        height, width = size
        rng = np.random.default_rng(seed)
        self._seed = rng.integers(2**32)
        self._light = rng.uniform(-2.6, -0.5)  # from above, left or right
        self._shutter = rng.choice([0.0, 0.3, 0.6])  # of a frame's time
        self._direct_camera(rng)
        self._direct_light(rng)
        margin = (height // 8, width // 6)
        self._canvas = _backdrop(rng, height + 2 * margin[0], width + 2 * margin[1], self._light)
        grain = int(rng.integers(0, 5))
        self._grain = grain, fork(rng).integers(0, 2 * grain + 1, (height + 31, width + 31, 3), dtype=np.uint8)
        self._actors = self._cast(rng, num_frames, num_objects, late, leaving)

    @staticmethod
    def check(num_frames: int, size: tuple[int, int], num_objects: int, late: int = 0, leaving: int = 0) -> None:
        """Raises `ValueError` with one line if the arguments of a scene do not fit together."""
        if not 1 <= num_objects <= MAX_OBJECTS:
            raise ValueError(f"number of objects: want 1 to {MAX_OBJECTS}, got {num_objects}")
        if not (0 <= late < num_objects and 0 <= leaving <= num_objects - late):
            raise ValueError(
                f"{late} late and {leaving} leaving of {num_objects} objects: one at least must not be late,"
                " and only those that are not late can leave"
            )
        if num_frames < 1 or min(size) < 16:
            raise ValueError(f"want at least 1 frame of 16×16 pixels, got {num_frames} of {size[0]}×{size[1]}")

    def render(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """Frame t: image H×W×3 uint8 RGB and ids H×W uint8 (0 is background and all that is not annotated)."""
        height, width = self.size
        frame = self._draw_background(t)
        ids = np.zeros(self.size, np.uint8)
        for actor in self._actors:
            _draw(actor, t, frame, ids, self._shutter, self._light)
        gain_x = (self._tilt[0](t) * 128) * (np.arange(width) / width - 0.5)
        gain_y = (self._tilt[1](t) * 128) * (np.arange(height) / height - 0.5)
        gain = (128.5 + gain_x.astype(np.float32) + gain_y.astype(np.float32)[:, None]).astype(np.uint8)
        frame = cv2.multiply(frame, cv2.merge([gain] * 3), scale=1 / 128)
        level = np.array([w(t) for w in self._gain])
        table = np.clip(np.rint(np.arange(256)[:, None] * level), 0, 255).astype(np.uint8)
        frame = cv2.LUT(frame, table[None])
        amplitude, tile = self._grain
        y, x = np.random.default_rng([self._seed, t]).integers(0, 32, 2)
        return add_noise(frame, tile[y : y + height, x : x + width], amplitude), ids

    def present(self, t: float) -> list[int]:
        """Ids of the objects whose centre is in the picture at time t (something may hide them)."""
        centres = {actor.id: actor.place(t, self.size[1]) for actor in self._actors if actor.id}
        return sorted(i for i, at in centres.items() if at and 0 <= at[0] < self.size[1])

    def _direct_camera(self, rng: np.random.Generator) -> None:
        height, width = self.size
        travel = rng.uniform(0, 1)
        self._pan = [draw_wave(rng, 0, travel * n / 8, (45, 180)) for n in (width, height)]
        self._zoom = draw_wave(rng, 1, 0.06 * travel, (60, 200))
        self._roll = draw_wave(rng, 0, 0.04 * travel, (40, 150))
        self._shake = [draw_wave(rng, 0, rng.uniform(0, 0.008) * height, (7, 25)) for _ in range(2)]

    def _direct_light(self, rng: np.random.Generator) -> None:
        strength, period = rng.uniform(0, 0.25), (15, 120)
        common = draw_wave(rng, rng.uniform(0.8, 1.15), strength, period)
        self._gain = [Wave(common.offset * rng.uniform(0.95, 1.05), common.terms) for _ in range(3)]
        self._tilt = [draw_wave(rng, 0, rng.uniform(0, 0.5), period) for _ in range(2)]  # brighter on one side

    def _draw_background(self, t: float) -> np.ndarray:
        """The canvas as the camera sees it, blurred along its motion: H×W×3 uint8."""
        height, width = self.size
        ch, cw = self._canvas.shape[:2]
        cos = np.float32(math.cos(self._roll(t)) / self._zoom(t))
        sin = np.float32(math.sin(self._roll(t)) / self._zoom(t))
        x = np.arange(width, dtype=np.float32) - np.float32(width / 2)
        y = np.arange(height, dtype=np.float32)[:, None] - np.float32(height / 2)
        px, py = (pan(t) - shake(t) for pan, shake in zip(self._pan, self._shake, strict=True))
        at_x = (x * cos + np.float32(cw / 2 + px)) - y * sin
        at_y = (y * cos + np.float32(ch / 2 + py)) + x * sin
        image = _sample(self._canvas, at_x, at_y, cv2.BORDER_REFLECT_101)
        return _smear(image, *(self._shutter * (pan(t + 0.5) - pan(t - 0.5)) for pan in self._pan))

    def _cast(
        self, rng: np.random.Generator, num_frames: int, num_objects: int, late: int, leaving: int
    ) -> list[_Actor]:
        """All figures, back to front."""
        crowd = num_objects + int(rng.integers(0, 3))  # unannotated twins
        num_looks = num_objects if rng.random() < 0.6 else int(rng.integers(1, num_objects + 1))
        looks = [Look.draw(rng) for _ in range(num_looks)]
        base = min(self.size) * rng.uniform(0.24, 0.46) / max(1.0, crowd / 2.5) ** 0.5
        placed: list[tuple[float, float, float]] = []
        actors = []
        for index in range(crowd):
            annotated = index < num_objects
            look = looks[index] if index < num_looks else looks[rng.integers(num_looks)]
            scale = max(base * rng.uniform(0.75, 1.25), 5.0)
            enters = num_objects - late <= index < num_objects
            facing, tumbling = rng.choice([-1, 1]), 2.5 * (rng.random() < 0.15)
            x, y = self._path(rng, [] if enters else placed, scale)
            if not enters:
                placed.append((x(0), y(0), scale))
            actor = _Actor(
                id=index + 1 if annotated else 0,
                parts=look.build(rng, 1.15 * scale, self._light),
                x=x,
                y=y,
                scale=draw_wave(rng, scale, scale * rng.uniform(0, 0.2), (50, 200)),
                angle=draw_wave(
                    rng,
                    rng.uniform(-0.3, 0.3),
                    rng.uniform(0, 0.4) + tumbling,
                    (25 + 60 * tumbling, 120 + 200 * tumbling),
                ),
                stretch=draw_wave(rng, 0.88 * facing, rng.uniform(0, 0.2), (40, 150)),
                bend=_draw_bend(rng, look.soft),
                shadow=rng.choice([0.0, 0.3, 0.5]),
            )
            if enters:
                actor.enter = 1 + (num_frames - 2) * (index - num_objects + late + 1) // (late + 2)
            elif index < leaving:
                actor.leave = num_frames * (index + 1) / (leaving + 2)
                actor.back = actor.leave + 1.5 * _PASSAGE
            actors.append(actor)
        order = rng.permutation(crowd)
        actors = sorted((actors[i] for i in order), key=lambda a: a.enter)  # who comes late comes in front
        return actors + [self._occluder(rng, placed) for _ in range(rng.integers(0, 3))]

    def _path(self, rng: np.random.Generator, placed: list, scale: float) -> tuple[Wave, Wave]:
        """A random way through the picture (x, y), the one of several that starts farthest from ``placed``."""
        height, width = self.size

        def along(length: int, swing: float, edge: float) -> Wave:
            amplitude = length * rng.uniform(0.02, swing)
            middle = rng.uniform(amplitude + edge * length, (1 - edge) * length - amplitude)
            quickest = max(25.0, math.tau * amplitude / (0.03 * length))  # 3 % of the picture per frame
            return draw_wave(rng, middle, amplitude, (quickest, 3 * quickest))

        ways = [(along(width, 0.3, 0.1), along(height, 0.14, 0.18)) for _ in range(16)]

        def room(way: tuple[Wave, Wave]) -> float:
            x, y = way[0](0), way[1](0)
            return min((math.hypot(x - px, y - py) / (scale + ps) for px, py, ps in placed), default=0.0)

        return max(ways, key=room)

    def _occluder(self, rng: np.random.Generator, placed: list) -> _Actor:
        """Something in front of everything that the camera moves past: a pole, a fence or leaves. Not annotated."""
        height, width = self.size
        kind = rng.integers(3)
        if kind == 0:
            groups = [[box(0, 0, rng.uniform(0.03, 0.08), 0.8, 0.1)]]
        elif kind == 1:
            bars = rng.integers(2, 5)
            groups = [[box(0.22 * i, 0, 0.02, 0.8, 0.1)] for i in range(bars)]
            groups.append([box(0.11 * (bars - 1), rng.uniform(-0.3, 0.3), 0.13 * bars, 0.02, 0.1)])
        else:
            groups = [[limb((0, -0.8), (0, -0.1), 0.02, 0.008)]]
            for at in rng.uniform(-0.7, -0.05, rng.integers(6, 14)):
                side = rng.uniform(0.08, 0.2) * rng.choice([-1, 1])
                groups.append([blob(rng, side / 2, at, abs(side) / 1.6, rng.uniform(0.02, 0.05), 0.2)])
        style = Style.draw(rng)
        ways = [draw_wave(rng, 0.5 * width, 0.55 * width, (90, 300)) for _ in range(12)]

        def room(way: Wave) -> float:
            return min(abs(way(0) - x) - scale for x, _, scale in placed)

        return _Actor(
            id=0,
            parts=[paint(rng, groups, style, max(height, 16), self._light)],
            x=max(ways, key=room),
            y=draw_wave(rng, 0.5 * height, 0.04 * height, (40, 120)),
            scale=Wave(height),
            angle=draw_wave(rng, 0, 0.03, (40, 120)),
            stretch=Wave(1.0),
            bend=_draw_bend(rng, 0.01),
        )


def _draw_bend(rng: np.random.Generator, amplitude: float) -> np.ndarray:
    """2×6×3: amplitude, period and phase of the six coefficients of a bending, for x and for y."""
    low, high = (0, 18, 0), (amplitude, 70, math.tau)
    return rng.uniform(low, high, (2, 6, 3))


def _sample(image: np.ndarray, x: np.ndarray, y: np.ndarray, border: int) -> np.ndarray:
    """image at the positions x, y (H×W float32, pixels), bilinear in fixed point: the same bytes everywhere."""
    fine_x, fine_y = (np.rint(p * np.float32(1 << _BITS)).astype(np.int32) for p in (x, y))
    whole = np.empty((*x.shape, 2), np.int16)
    whole[..., 0], whole[..., 1] = fine_x >> _BITS, fine_y >> _BITS
    rest = (1 << _BITS) - 1
    part = ((fine_y & rest) << _BITS | fine_x & rest).astype(np.uint16)
    return cv2.remap(image, whole, part, cv2.INTER_LINEAR, borderMode=border)


def _smear(image: np.ndarray, dx: float, dy: float) -> np.ndarray:
    """Motion blur along (dx, dy) pixels, centred: the mean of an odd number of shifted images, uint8."""
    steps = 2 * round(min(max(abs(dx), abs(dy)), _LONGEST_BLUR - 1) / 2) + 1
    if steps == 1:
        return image
    shrink = min(1.0, (_LONGEST_BLUR - 1) / max(abs(dx), abs(dy)))
    kernel = np.zeros((_LONGEST_BLUR, _LONGEST_BLUR), np.float32)
    for i in range(steps):
        along = (i / (steps - 1) - 0.5) * shrink
        kernel[_LONGEST_BLUR // 2 + round(dy * along), _LONGEST_BLUR // 2 + round(dx * along)] += 1 / steps
    return cv2.filter2D(image, -1, kernel)


def _over(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Premultiplied RGBA over RGB or RGBA, uint8."""
    through = 255 - top[..., 3]
    channels = bottom.shape[2]
    return cv2.add(top[..., :channels], cv2.multiply(bottom, cv2.merge([through] * channels), scale=1 / 255))


def _draw(actor: _Actor, t: float, frame: np.ndarray, ids: np.ndarray, shutter: float, light: float) -> None:
    """Draw the figure at time t into frame H×W×3 and ids H×W, in place."""
    height, width = ids.shape
    centre = actor.place(t, width)
    if centre is None:
        return
    before, after = actor.place(t - 0.5, width) or centre, actor.place(t + 0.5, width) or centre
    blur = [shutter * (b - a) for a, b in zip(before, after, strict=True)]
    scale, angle, stretch = actor.scale(t), actor.angle(t), actor.stretch(t)
    cos, sin = math.cos(angle), math.sin(angle)
    bend = actor.bend[..., 0] * np.sin(math.tau * t / actor.bend[..., 1] + actor.bend[..., 2])

    # The box of every part, so that only the pixels that it can reach are computed.
    softness = int(0.1 * scale) if actor.shadow else 0
    margin = scale * 1.5 * np.abs(bend).sum(axis=1).max() + 3 + min(max(map(abs, blur)), _LONGEST_BLUR)
    turns, boxes = [], []
    for part in actor.parts:
        turn = part.turn(t) + part.spin * t
        tc, ts = math.cos(turn), math.sin(turn)
        du, dv = (part.corners - part.pivot).T
        u, v = part.pivot[0] + du * tc - dv * ts, part.pivot[1] + du * ts + dv * tc
        x = centre[0] + scale * (u * stretch * cos - v * sin)
        y = centre[1] + scale * (u * stretch * sin + v * cos)
        turns.append((tc, ts))
        boxes.append((y.min() - margin, y.max() + margin, x.min() - margin, x.max() + margin))
    boxes = np.array(boxes)
    limits = (height, height, width, width)
    boxes = np.clip(np.rint(boxes), 0, limits).astype(int)
    (top, left), (bottom, right) = boxes[:, ::2].min(axis=0), boxes[:, 1::2].max(axis=0)
    around = (top - softness, bottom + softness, left - softness, right + softness)
    top, bottom, left, right = np.clip(around, 0, limits)
    if top >= bottom or left >= right:
        return

    # Inverse map: pixel → unbend → turn back → the figure's own coordinates.
    x = (np.arange(left, right, dtype=np.float32) - np.float32(centre[0])) * np.float32(1 / scale)
    y = (np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(centre[1])) * np.float32(1 / scale)
    unbent = []
    for axis, (a, b, c, d, e, f) in zip((x, y), bend.astype(np.float32), strict=True):
        unbent.append((y * (c + f * y) + axis) + x * (y * (b + e * y) + x * (a + d * y)))
    bx, by = unbent
    u = bx * np.float32(cos / stretch) + by * np.float32(sin / stretch)
    v = by * np.float32(cos) - bx * np.float32(sin)

    figure = np.zeros((bottom - top, right - left, 4), np.uint8)
    for part, (tc, ts), (p_top, p_bottom, p_left, p_right) in zip(actor.parts, turns, boxes, strict=True):
        if p_top >= p_bottom or p_left >= p_right:
            continue
        here = slice(p_top - top, p_bottom - top), slice(p_left - left, p_right - left)
        du, dv = u[here] - np.float32(part.pivot[0]), v[here] - np.float32(part.pivot[1])
        tc, ts = np.float32(tc * part.unit), np.float32(ts * part.unit)
        at = (np.array(part.pivot) - part.origin) * part.unit
        at_x, at_y = du * tc + dv * ts + np.float32(at[0]), dv * tc - du * ts + np.float32(at[1])
        figure[here] = _over(_sample(part.sprite, at_x, at_y, cv2.BORDER_CONSTANT), figure[here])
    figure = _smear(figure, *blur)

    alpha = figure[..., 3]
    if actor.shadow:
        _cast_shadow(frame, alpha, top, left, actor.shadow, softness, light)
    here = slice(top, bottom), slice(left, right)
    frame[here] = _over(figure, frame[here])
    ids[here][alpha >= 128] = actor.id


def _cast_shadow(
    frame: np.ndarray, alpha: np.ndarray, top: int, left: int, strength: float, softness: int, light: float
) -> None:
    """Darken frame by the soft outline alpha (at top, left), shifted away from the light, in place."""
    height, width = frame.shape[:2]
    table = np.rint(255 - strength * np.arange(256)).astype(np.uint8)
    dark = cv2.LUT(cv2.blur(alpha, (softness + 1 - softness % 2,) * 2), table)
    top, left = top - round(1.5 * softness * math.sin(light)), left - round(1.5 * softness * math.cos(light))
    dark = dark[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
    top, left = max(top, 0), max(left, 0)
    if dark.size:
        here = slice(top, top + dark.shape[0]), slice(left, left + dark.shape[1])
        frame[here] = cv2.multiply(frame[here], cv2.merge([dark] * 3), scale=1 / 255)


def _backdrop(rng: np.random.Generator, height: int, width: int, light: float) -> np.ndarray:
    """A place, height×width×3 uint8: open country, a room or a patchwork, with things that stand about."""
    unit = 0.5 * min(height, width)

    def surface(style: Style) -> np.ndarray:
        half = style.paint(rng, (height + 1) // 2, (width + 1) // 2, unit / 2)
        return cv2.resize(half, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)

    def lay(style: Style, mask: np.ndarray) -> None:
        image = cv2.multiply(surface(style), cv2.merge([mask] * 3), scale=1 / 255)
        canvas[:] = _over(np.dstack([image, mask]), canvas)

    def polygon(points: np.ndarray) -> np.ndarray:
        return draw_polygon(np.zeros((height, width), np.uint8), [points], 255)

    kind = rng.integers(3)
    hue = rng.random()
    canvas = surface(Style.draw(rng, hue))
    if kind == 0:  # ridges behind each other, the nearest is the ground
        for base in np.sort(rng.uniform(0.3, 0.8, rng.integers(1, 4))):
            across = np.linspace(-0.05, 1.05, 60)
            ridge = Wave(base, [(rng.uniform(0, 0.08) / k, 1.3 / k, rng.uniform(0, 6.3)) for k in range(1, 6)])
            edge = np.array([[a * width, ridge(a) * height] for a in across])
            lay(Style.draw(rng), polygon(np.vstack([edge, [[2 * width, 2 * height], [-width, 2 * height]]])))
    elif kind == 1:  # a wall with rectangles, and the floor
        for _ in range(rng.integers(0, 6)):
            x, y = rng.uniform(0, 1, 2) * (width, 0.6 * height)
            lay(Style.draw(rng), polygon(box(x, y, *(rng.uniform(0.05, 0.2, 2) * unit * 2), 0.05)))
        left, right = rng.uniform(0.55, 0.85, 2) * height
        floor = np.array([[0, left], [width, right], [width, 2 * height], [0, 2 * height]])
        lay(Style.draw(rng, hue + rng.uniform(-0.2, 0.2)), polygon(floor))
    else:  # patches
        for _ in range(rng.integers(1, 3)):
            blotches = fractal(fork(rng), height, width, 0.6 * unit, octaves=2)
            steep = np.clip((np.arange(256) - rng.uniform(110, 160)) * 12, 0, 255).astype(np.uint8)
            lay(Style.draw(rng), cv2.LUT(blotches, steep))
    unused = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(0, 7)):
        scale = min(height, width) * rng.uniform(0.06, 0.2)
        x, y = rng.uniform(0.05, 0.95) * width, rng.uniform(0.3, 0.95) * height
        thing = Look.draw(rng)
        still = np.zeros((2, 6, 3)) + (0, 1, 0)
        waves = (Wave(x), Wave(y), Wave(scale), Wave(rng.uniform(-0.3, 0.3)), Wave(rng.uniform(0.6, 1)))
        actor = _Actor(0, thing.build(rng, 1.15 * scale, light), *waves, still, rng.choice([0.0, 0.4]))
        _draw(actor, 0, canvas, unused, 0, light)
    sigma = rng.uniform(-0.6, 1.6) * min(height, width) / 480  # out of focus, now and then
    return cv2.GaussianBlur(canvas, (0, 0), sigma) if sigma > 0.3 else canvas
