"""Painted, articulated figures for `datasets/scene.py`: textures, shapes and the sprites made of both.

Everything is drawn from a `numpy.random.Generator`. The pixels are the same on every machine and for OpenCV 4 and
5: they come only from elementwise float32 arithmetic (IEEE exact) and from uint8 filters with exact results.

Units: u, v are a figure's own coordinates, about -1..1 with v down; `unit` is pixels per such unit.
"""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

_PAD = 2  # transparent pixels around a sprite


@dataclass
class Wave:
    """offset + a sum of sines of time: bounded for ever, smooth, and known at any time t (frames)."""

    offset: float = 0.0
    terms: list[tuple[float, float, float]] = field(default_factory=list)  # amplitude, period, phase

    def __call__(self, t: float) -> float:
        return self.offset + sum(a * math.sin(math.tau * t / p + phase) for a, p, phase in self.terms)


def draw_wave(rng: np.random.Generator, offset: float, amplitude: float, periods: tuple[float, float]) -> Wave:
    """A main sine with a period from the range `periods` (frames) and a weaker one about twice as fast."""
    period = rng.uniform(*periods)
    slow = (0.75 * amplitude, period, rng.uniform(0, math.tau))
    fast = (0.25 * amplitude, period * rng.uniform(0.37, 0.61), rng.uniform(0, math.tau))
    return Wave(offset, [slow, fast])


def fork(rng: np.random.Generator) -> np.random.Generator:
    """A generator for as many numbers as the size asks for, so that what ``rng`` draws next is the same at any size."""
    return np.random.default_rng(rng.integers(2**63))


# --- Textures


def _spline_noise(rng: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """Smooth noise, height×width float32 in (0, 1): a cubic B-spline over random values `cell` pixels apart."""

    def basis(length: int) -> tuple[np.ndarray, list[np.ndarray]]:
        position = np.arange(length, dtype=np.float32) / np.float32(max(cell, 1.0))
        first = np.floor(position)
        f = position - first
        g = 1 - f
        weights = [g * g * g, 4 - 3 * f * f * (1 + g), 4 - 3 * g * g * (1 + f), f * f * f]
        return first.astype(np.intp), [w / np.float32(6) for w in weights]

    iy, wy = basis(height)
    ix, wx = basis(width)
    grid = rng.random((iy[-1] + 4, ix[-1] + 4), dtype=np.float32)
    rows = sum(wy[k][:, None] * grid[iy + k] for k in range(4))
    return sum(wx[k] * np.take(rows, ix + k, axis=1) for k in range(4))


def _to_bytes(values: np.ndarray) -> np.ndarray:
    """Stretch float32 values to uint8 0..255."""
    low, high = values.min(), values.max()
    return ((values - low) * (np.float32(255) / max(high - low, np.float32(1e-6)))).astype(np.uint8)


def fractal(rng: np.random.Generator, height: int, width: int, cell: float, octaves: int = 3) -> np.ndarray:
    """Noise of several octaves (features from `cell` pixels downwards), height×width uint8 over 0..255."""
    total = np.float32(0)
    for octave in range(octaves):
        total = total + _spline_noise(rng, height, width, cell / 2.1**octave) * np.float32(0.55**octave)
    return _to_bytes(total)


def _colour(rng: np.random.Generator, hue: float, dark: float = 0.15, light: float = 0.95) -> np.ndarray:
    """A colour near the hue (0..1), of random saturation and brightness: 3 float64 in 0..255."""
    saturation = rng.uniform(0.08, 0.8) * rng.uniform(0.4, 1)
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, saturation, rng.uniform(dark, light)))


def _ramp(colours: Sequence[np.ndarray]) -> np.ndarray:
    """Colour map through the colours, 256×3 uint8."""
    at = np.linspace(0, 255, len(colours))
    channels = [np.interp(np.arange(256), at, [c[i] for c in colours]) for i in range(3)]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)


_SINE = np.rint(127.5 + 127.5 * np.sin(np.arange(256) * (math.tau / 256))).astype(np.uint8)
_SQUARE = np.clip((_SINE.astype(int) - 128) * 5 + 128, 0, 255).astype(np.uint8)
_PATTERNS = ("fractal", "stripes", "spots", "plaid", "gradient", "tiles", "streaks")


@dataclass
class Style:
    """What a surface looks like; two surfaces painted in one style look alike and differ in detail."""

    pattern: str
    ramp: np.ndarray  # 256×3 uint8
    cell: float  # size of the pattern's features, in object units
    angle: float
    warp: float
    table: np.ndarray  # 256 uint8: profile of the pattern
    grain: int  # amplitude of the noise on top, grey levels
    coarse: int  # its size, pixels

    @classmethod
    def draw(cls, rng: np.random.Generator, hue: float | None = None) -> "Style":
        hue = rng.random() if hue is None else hue
        coarse = int(rng.choice([1, 1, 3]))
        spread = rng.choice([0.02, 0.06, 0.3])
        colours = [_colour(rng, hue + rng.uniform(-spread, spread)) for _ in range(rng.integers(2, 5))]
        return cls(
            pattern=_PATTERNS[rng.integers(len(_PATTERNS))],
            ramp=_ramp(colours),
            cell=rng.uniform(0.12, 0.5),
            angle=rng.uniform(0, math.pi),
            warp=rng.uniform(0, 1.2),
            table=_SQUARE if rng.random() < 0.5 else _SINE,
            grain=int(rng.integers(2, 14)) * coarse,
            coarse=coarse,
        )

    def paint(self, rng: np.random.Generator, height: int, width: int, unit: float) -> np.ndarray:
        """height×width×3 uint8, with `unit` pixels per object unit. Takes one number from ``rng``, at any size."""
        rng = fork(rng)
        cell = max(self.cell * unit, 3.0)
        y, x = np.ogrid[:height, :width]
        y, x = y.astype(np.float32) / np.float32(cell), x.astype(np.float32) / np.float32(cell)
        cos, sin = np.float32(math.cos(self.angle)), np.float32(math.sin(self.angle))
        soft = fractal(rng, height, width, 1.5 * cell, octaves=2)
        warp = soft.astype(np.float32) * np.float32(self.warp / 255)

        def periodic(phase: np.ndarray) -> np.ndarray:
            return self.table[(phase * np.float32(256)).astype(np.int32) & 255]

        if self.pattern == "stripes":
            index = periodic(x * cos + y * sin + warp)
        elif self.pattern == "plaid":
            across, along = periodic(x * cos + y * sin + warp), periodic(y * cos - x * sin + warp)
            index = (across >> 1) + (along >> 1)
        elif self.pattern == "spots":
            index = _SQUARE[(fractal(rng, height, width, 0.7 * cell, octaves=1) >> 1) + 64]
        elif self.pattern == "gradient":
            index = _to_bytes(x * cos + y * sin + warp)
        elif self.pattern == "tiles":
            shade = rng.integers(60, 256, (64, 64), dtype=np.uint8)
            row, column = np.floor(y).astype(int), np.floor(2 * x / 3).astype(int)
            joint = (y - row < 0.12) | (2 * x / 3 - column < 0.08)
            index = np.where(joint, 0, shade[row % 64, column % 64])
        elif self.pattern == "streaks":
            index = cv2.resize(
                fractal(rng, max(height // 6, 1), width, 0.4 * cell),
                (width, height),
                interpolation=cv2.INTER_LINEAR_EXACT,
            )
        else:
            index = fractal(rng, height, width, cell)
        image = self.ramp[index]
        image = cv2.multiply(image, cv2.merge([soft // 4 + 96] * 3), scale=1 / 128)  # no surface is quite even
        noise = rng.integers(0, 2 * self.grain + 1, image.shape, dtype=np.uint8)
        return add_noise(image, cv2.blur(noise, (self.coarse, self.coarse)), self.grain)


def add_noise(image: np.ndarray, noise: np.ndarray, middle: int) -> np.ndarray:
    """image + noise - middle with saturation, all uint8."""
    return cv2.subtract(cv2.add(image, noise), np.full_like(image, middle))


# --- Shapes

Contours = list[list[np.ndarray]]  # groups drawn over each other; a group's contours P×2 (u, v) cut holes by even-odd


def blob(rng: np.random.Generator, u: float, v: float, ru: float, rv: float, rough: float) -> np.ndarray:
    """Closed smooth outline around (u, v), 48×2; `rough` 0 is an ellipse, 0.5 has deep bays."""
    angle = np.arange(48) * (math.tau / 48)
    radius = np.ones(48)
    for k in range(2, 7):
        radius += rough / (k - 0.5) * rng.uniform(-1, 1) * np.cos(k * angle + rng.uniform(0, math.tau))
    return np.stack([u + ru * radius * np.cos(angle), v + rv * radius * np.sin(angle)], axis=1)


def limb(start: tuple[float, float], end: tuple[float, float], r0: float, r1: float) -> np.ndarray:
    """Tapered capsule from start (radius r0) to end (radius r1), 24×2."""
    heading = math.atan2(end[1] - start[1], end[0] - start[0])
    half = np.linspace(math.pi / 2, 3 * math.pi / 2, 12) + heading
    circle = np.stack([np.cos(half), np.sin(half)], axis=1)
    return np.concatenate([np.array(start) + r0 * circle, np.array(end) - r1 * circle])


def box(u: float, v: float, ru: float, rv: float, corner: float = 0.3) -> np.ndarray:
    """Rectangle with rounded corners, 32×2."""
    angle = np.arange(32) * (math.tau / 32) + math.tau / 64
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([u + ru * np.sign(c) * np.abs(c) ** corner, v + rv * np.sign(s) * np.abs(s) ** corner], axis=1)


@dataclass
class _Piece:
    """One rigid part before painting: outline, the style it wears and how it moves about its pivot."""

    contours: Contours
    pivot: tuple[float, float] = (0.0, 0.0)
    swing: float = 0.0  # radians
    style: int = 0
    spin: bool = False  # turns for ever (a wheel)


def _lump(rng: np.random.Generator) -> list[_Piece]:
    limbs = [_Piece([[blob(rng, 0, 0, 1, rng.uniform(0.5, 1), rng.uniform(0.1, 0.55))]])]
    for _ in range(rng.integers(0, 4)):  # knobs
        a = rng.uniform(0, math.tau)
        u, v = 0.6 * math.cos(a), 0.5 * math.sin(a)
        r = rng.uniform(0.2, 0.4)
        limbs.append(_Piece([[blob(rng, 1.4 * u, 1.4 * v, r, r, 0.3)]], (u, v), rng.uniform(0, 0.4), rng.integers(3)))
    return limbs


def _person(rng: np.random.Generator) -> list[_Piece]:
    w, swing = rng.uniform(0.16, 0.26), rng.uniform(0.15, 0.6)
    limbs = []
    for side, phase in ((-1, 1), (1, -1)):
        foot = (side * rng.uniform(0.08, 0.2), 1.0)
        limbs.append(_Piece([[limb((side * 0.09, 0.2), foot, 0.13, 0.07)]], (side * 0.09, 0.2), phase * swing, 1))
    hand = (-w - 0.15, 0.2)
    limbs.append(_Piece([[limb((-w, -0.4), hand, 0.08, 0.05)]], (-w, -0.4), -1.3 * swing, 0))
    limbs.append(_Piece([[limb((0, -0.38), (0, 0.18), w, 0.8 * w)]]))
    limbs.append(_Piece([[blob(rng, 0, -0.78, 0.15, 0.19, 0.05)]], (0, -0.6), 0.15, 2))
    limbs.append(_Piece([[limb((w, -0.4), (w + 0.12, 0.2), 0.08, 0.05)]], (w, -0.4), 1.3 * swing, 0))
    if rng.random() < 0.3:  # something long in the hand
        limbs.append(_Piece([[limb((w, 0.25), (w + 0.7, -0.5), 0.03, 0.03)]], (w, -0.4), 1.3 * swing, 2))
    return limbs


def _animal(rng: np.random.Generator) -> list[_Piece]:
    h, leg, swing = rng.uniform(0.25, 0.42), rng.uniform(0.4, 0.8), rng.uniform(0.2, 0.6)
    thick = rng.uniform(0.05, 0.12)
    limbs = [_Piece([[limb((-0.65, -0.1), (-1.1, rng.uniform(-0.6, 0.3)), 0.07, 0.03)]], (-0.65, -0.1), 0.5)]
    for u, phase in ((-0.45, 1), (0.45, -1), (-0.6, -1), (0.55, 1)):
        shin = limb((u, 0.1), (u + rng.uniform(-0.1, 0.1), 0.1 + leg), 1.6 * thick, thick)
        limbs.append(_Piece([[shin]], (u, 0.1), phase * swing, int(rng.integers(2))))
    limbs.insert(3, _Piece([[blob(rng, 0, 0, 0.8, h, 0.15)]]))
    head = (0.95, -rng.uniform(0.3, 0.7))
    ear = (head[0] - 0.1, head[1] - 0.15)
    limbs.append(_Piece([[limb((0.6, -0.1), head, 0.2, 0.14)]], (0.6, -0.1), 0.3))
    group = [
        [blob(rng, head[0] + 0.08, head[1], 0.24, 0.15, 0.1)],
        [limb(ear, (ear[0], ear[1] - 0.15), 0.07, 0.03)],
    ]
    limbs.append(_Piece(group, (0.6, -0.1), 0.3, 2))
    return limbs


def _vehicle(rng: np.random.Generator) -> list[_Piece]:
    h, r = rng.uniform(0.22, 0.4), rng.uniform(0.18, 0.28)
    cabin = rng.uniform(-0.25, 0.15)
    limbs = [_Piece([[box(cabin, -h, 0.5, 0.3, 0.5)]], style=1)]
    limbs += [_Piece([[box(cabin + du, -h - 0.02, 0.2, 0.17)]], style=2) for du in (-0.24, 0.22)]
    limbs.append(_Piece([[box(0, 0, 1, h, rng.uniform(0.2, 0.5))]]))
    limbs.append(_Piece([[box(0, 0.1 * h, 0.95, 0.12 * h)]], style=1))
    for u in (-0.58, 0.58):
        limbs.append(_Piece([[blob(rng, u, h, r, r, 0)]], (u, h), style=2, spin=True))
        limbs.append(_Piece([[box(u, h, 0.5 * r, 0.2 * r)]], (u, h), style=0, spin=True))
    return limbs


def _flyer(rng: np.random.Generator) -> list[_Piece]:
    """Bird, fish or kite: a body, a tail and flapping fins."""
    h, flap = rng.uniform(0.2, 0.45), rng.uniform(0.3, 0.8)
    tail = np.array([[-0.6, 0], [-1.1, -0.4], [-0.95, 0], [-1.1, 0.4]])
    back = np.array([[-0.2, 0], [-0.5, -rng.uniform(0.6, 1.1)], [0.1, -0.7], [0.35, 0]])
    return [
        _Piece([[back * (0.9, 1)]], (0.1, 0), flap, 1),
        _Piece([[tail]], (-0.6, 0), 0.4, 1),
        _Piece([[blob(rng, 0, 0, 0.8, h, 0.12)]]),
        _Piece([[blob(rng, 0.5, -0.1 * h, 0.09, 0.09, 0)]], style=2),
        _Piece([[back * (1, -0.8)]], (0.1, 0), -flap, 1),
    ]


def _cycle(rng: np.random.Generator) -> list[_Piece]:
    """Thin rings and bars: most of the box is background seen through it."""
    r, w = rng.uniform(0.42, 0.52), rng.uniform(0.04, 0.08)
    limbs = []
    for u in (-0.6, 0.6):
        ring = [blob(rng, u, 0.3, r, r, 0), blob(rng, u, 0.3, r - 1.6 * w, r - 1.6 * w, 0)]
        spoke = [limb((u - r + w, 0.3), (u + r - w, 0.3), 0.3 * w, 0.3 * w)]
        limbs.append(_Piece([ring, spoke], (u, 0.3), style=1, spin=True))
    joints = [(-0.6, 0.3), (-0.25, -0.4), (0.4, -0.45), (0.6, 0.3), (-0.05, 0.35)]
    bars = [[limb(joints[a], joints[b], w, w)] for a, b in ((0, 1), (1, 2), (2, 3), (4, 1), (4, 2), (0, 4))]
    limbs.append(_Piece(bars))
    limbs.append(_Piece([[limb((-0.42, -0.48), (-0.1, -0.48), 0.09, 0.05)]], style=2))
    limbs.append(_Piece([[limb((0.4, -0.45), (0.25, -0.62), 0.05, 0.05)]], (0.4, -0.45), 0.3, 2))
    return limbs


def _ring(rng: np.random.Generator) -> list[_Piece]:
    hole = rng.uniform(0.4, 0.75)
    outer, inner = blob(rng, 0, 0, 1, 1, 0.06), blob(rng, 0, 0, hole, hole, 0.06)
    return [_Piece([[outer, inner]], spin=bool(rng.integers(2)))]


_SHAPES = (_lump, _lump, _person, _person, _animal, _vehicle, _flyer, _cycle, _ring)


# --- Sprites


@dataclass
class Part:
    """A painted rigid part: premultiplied RGBA and the way it turns about its pivot."""

    sprite: np.ndarray  # h×w×4 uint8
    unit: float  # sprite pixels per object unit
    origin: np.ndarray  # (u, v) of the sprite's first pixel, padding included
    corners: np.ndarray  # 4×2 (u, v) of the outline's box
    pivot: tuple[float, float] = (0.0, 0.0)
    turn: Wave = field(default_factory=Wave)  # radians
    spin: float = 0.0  # radians per frame


def paint(rng: np.random.Generator, contours: Contours, style: Style, unit: float, light: float) -> Part:
    """Paint outlines in a style, lit from the angle `light` (radians), as a part that does not turn."""
    points = np.concatenate([c for group in contours for c in group])
    low, high = points.min(axis=0), points.max(axis=0)
    origin = low - _PAD / unit
    width, height = (np.ceil((high - low) * unit).astype(int) + 2 * _PAD + 1).tolist()
    alpha = np.zeros((height, width), np.uint8)
    for group in contours:
        draw_polygon(alpha, [(c - origin) * unit for c in group], 255)
    image = style.paint(rng, height, width, unit)
    for _ in range(rng.integers(0, 3)):  # marks that tell one side from the other
        centre, radii = rng.uniform(0, 1, 2) * (width, height), rng.uniform(0.05, 0.2, 2) * (width, height)
        dark, other = style.ramp[rng.integers(0, 256, 2)]
        draw_polygon(image, [blob(rng, *centre, *radii, 0.2)], (dark // 2 + other // 3).tolist())

    # Pseudo-relief: a blurred outline is a height map; its slope towards the light is the shading.
    reach = max(round(0.16 * min(height, width)), 1)
    window = (2 * reach + 1, 2 * reach + 1)
    relief = cv2.blur(cv2.blur(np.pad(alpha, 3 * reach), window), window).astype(np.int16)

    def shifted(dx: int, dy: int) -> np.ndarray:
        return relief[3 * reach + dy :, 3 * reach + dx :][:height, :width]

    level = shifted(0, 0)
    slope = level - shifted(round(reach * math.cos(light)), round(reach * math.sin(light)))
    shade = np.clip(96 + (level >> 3) + (slope >> 1), 40, 220).astype(np.uint8)
    image = cv2.multiply(image, cv2.merge([shade] * 3), scale=1 / 120)
    image = cv2.multiply(image, cv2.merge([alpha] * 3), scale=1 / 255)
    corners = np.array([[u, v] for u in (low[0], high[0]) for v in (low[1], high[1])])
    return Part(np.dstack([image, alpha]), unit, origin, corners)


def draw_polygon(image: np.ndarray, contours: list[np.ndarray], colour: int | list[int]) -> np.ndarray:
    """Fill contours P×2 (pixels; even-odd, so the second can be a hole) in a uint8 image, in place; smooth edges."""
    # LINE_AA: its bytes agree between the releases of OpenCV, those of the plain fill do not.
    fixed = [np.rint(c * 16).astype(np.int32) for c in contours]
    return cv2.fillPoly(image, fixed, colour, lineType=cv2.LINE_AA, shift=4)


@dataclass
class Look:
    """A kind of figure: outlines of its pieces and the three styles they wear. Twins share a look."""

    pieces: list[_Piece]
    styles: list[Style]
    soft: float  # how far the figure bends, in object units

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Look":
        shape = _SHAPES[rng.integers(len(_SHAPES))]
        pieces = shape(rng)
        points = np.concatenate([c for p in pieces for group in p.contours for c in group])
        low, high = points.min(axis=0), points.max(axis=0)
        middle, half = (low + high) / 2, (high - low).max() / 2
        for piece in pieces:  # centred, the longer side from -1 to 1
            piece.contours = [[(c - middle) / half for c in group] for group in piece.contours]
            piece.pivot = tuple((np.array(piece.pivot) - middle) / half)
        hue = rng.random()
        styles = [Style.draw(rng, hue + rng.uniform(-0.5, 0.5) * (i > 0)) for i in range(3)]
        soft = {_lump: 0.05, _ring: 0.03, _vehicle: 0.004, _cycle: 0.006}.get(shape, 0.02)
        return cls(pieces, styles, soft * rng.uniform(0.3, 1.2))

    def build(self, rng: np.random.Generator, unit: float, light: float) -> list[Part]:
        """Paint one figure of this look, back to front."""
        pace, spin = rng.uniform(12, 40), rng.choice([-1, 1]) * rng.uniform(0.03, 0.25)
        phase = rng.uniform(0, math.tau)
        parts = []
        for piece in self.pieces:
            part = paint(rng, piece.contours, self.styles[piece.style], unit, light)
            part.pivot = piece.pivot
            part.turn = Wave(0.0, [(piece.swing, pace, phase)])
            part.spin = spin * piece.spin
            parts.append(part)
        return parts
