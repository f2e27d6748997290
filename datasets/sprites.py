"""Random textured figures for `datasets.scene`: what the objects of a generated video look like.

A figure has coordinates of its own, (x, y) from about -1 to 1 with y pointing down. Everything is drawn from a
`numpy.random.Generator`; figures do not depend on the resolution of their textures.
"""

import colorsys
import math
from dataclasses import dataclass

import cv2
import numpy as np

TEXTURE_EXTENT = 1.2  # textures cover -1.2 to 1.2 in a figure's coordinates and are mirrored beyond


@dataclass(frozen=True)
class Wave:
    """A sine of time in frames."""

    offset: float
    amplitude: float = 0.0
    period: float = 1.0
    phase: float = 0.0

    @classmethod
    def draw(cls, rng: np.random.Generator, offset: float, amplitude: float, shortest: float) -> "Wave":
        """A wave of random phase with a period of ``shortest`` to three times ``shortest`` frames."""
        return cls(offset, amplitude, shortest * rng.uniform(1, 3), rng.uniform(0, math.tau))

    def __call__(self, t: float) -> float:
        return self.offset + self.amplitude * math.sin(math.tau * t / self.period + self.phase)


def similarity(x: float = 0, y: float = 0, scale: float = 1, angle: float = 0, stretch: float = 1) -> np.ndarray:
    """3×3 matrix: stretch along x, then scale, rotate by ``angle`` (radians) and translate by (x, y)."""
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    return np.array([[cos * stretch, -sin, x], [sin * stretch, cos, y], [0, 0, 1]])


def draw_texture(rng: np.random.Generator, height: int, width: int, cells: int, contrast: float = 1.0) -> np.ndarray:
    """A random pattern, height×width×3 uint8 RGB, with about ``cells`` features along the shorter side."""
    rows, columns = (round(cells * side / min(height, width)) for side in (height, width))

    def noise(fineness: int) -> np.ndarray:
        grid = rng.random((fineness * rows, fineness * columns), np.float32)
        return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)

    soft, fine = noise(1), noise(5)
    angle, warp = rng.uniform(0, math.pi), 2 * rng.random() * soft
    x = np.linspace(0, math.pi * columns, width, dtype=np.float32)
    y = np.linspace(0, math.pi * rows, height, dtype=np.float32)[:, None]
    across = np.sin(math.cos(angle) * x + math.sin(angle) * y + warp)
    along = np.sin(math.cos(angle) * y - math.sin(angle) * x + warp)
    blotches, stripes, checks, spots = 2 * soft - 0.5, 0.5 + across, 0.5 + 2 * across * along, across + along - 0.5
    pattern = (blotches, stripes, checks, spots)[rng.integers(4)]
    value = np.clip(pattern, 0, 1) + 0.6 * (fine - 0.5)

    hue, saturation, middle = rng.uniform(1, 2), contrast * rng.uniform(0.1, 0.8), rng.uniform(0.35, 0.65)
    brightness = middle + contrast * rng.permutation([-0.3, 0.3])
    start, end = (colorsys.hsv_to_rgb(hue + rng.normal(0, 0.06), saturation, b) for b in brightness)
    ramp = (255 * np.linspace(start, end, 256)).astype(np.uint8)
    return ramp[np.clip(255 * value, 0, 255).astype(np.uint8)]


def draw_outline(rng: np.random.Generator) -> np.ndarray:
    """A closed outline of a radius of about 1, P×2 (x, y): a smooth blob, a polygon, a star or a ring."""
    shape, corners = rng.choice(["blob", "blob", "polygon", "star", "ring"]), int(rng.integers(3, 7))
    angle = np.linspace(0, math.tau, 20 * corners + 1)
    if shape == "polygon":
        radius = 0.7 / np.cos(angle % (math.tau / corners) - math.pi / corners)
    elif shape == "star":
        radius = 0.8 + 0.2 * np.sin(corners * angle)
    else:
        radius = np.full(len(angle), 0.9)
        for k in range(2, 6):
            radius += rng.uniform(-0.3, 0.3) / k * np.cos(k * angle + rng.uniform(0, math.tau))
    outline = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    if shape == "ring":  # goes on along the inner border, backwards, so that the hole is outside
        outline = np.concatenate([outline, rng.uniform(0.4, 0.7) * outline[::-1]])
    return outline


@dataclass(frozen=True)
class Part:
    """A rigid part of a figure: an outline filled with a texture, swinging about a pivot."""

    outline: np.ndarray  # P×2 (x, y) in the figure's coordinates
    texture: np.ndarray  # N×N×3 uint8
    pivot: np.ndarray  # (x, y)
    swing: Wave  # radians

    def matrix(self, t: float) -> np.ndarray:
        """3×3, from the part at rest to the figure at time t."""
        return similarity(*self.pivot) @ similarity(angle=self.swing(t)) @ similarity(*-self.pivot)


def draw_skins(rng: np.random.Generator, resolution: float) -> list[np.ndarray]:
    """The two textures of a figure, with ``resolution`` pixels per unit of its coordinates: N×N×3 uint8 each."""
    side = max(16, round(2 * TEXTURE_EXTENT * resolution))
    return [draw_texture(rng, side, side, int(rng.integers(4, 9))) for _ in range(2)]


def draw_figure(rng: np.random.Generator, skins: list[np.ndarray]) -> list[Part]:
    """The parts of a figure, back to front: up to three pairs of limbs, a body, and a head if there are limbs."""
    skin, other_skin = skins
    parts = []
    for _ in range(rng.integers(0, 4)):
        angle, length, width = rng.uniform(-1.2, 1.2), rng.uniform(0.2, 0.35), rng.uniform(0.08, 0.18)
        joint = 0.5 * np.array([math.cos(angle), math.sin(angle)])
        limb = (draw_outline(rng) * (length, width) + (0.8 * length, 0)) @ similarity(angle=-angle)[:2, :2] + joint
        swing = Wave.draw(rng, 0, rng.uniform(0, 0.6), 12)
        parts += [Part(limb * side, other_skin, joint * side, swing) for side in np.array([[1, 1], [-1, 1]])]
    size = np.array([0.65, rng.uniform(0.5, 0.75)]) if parts else np.array([1, rng.uniform(0.6, 1)])
    parts.append(Part(draw_outline(rng) * size, skin, np.zeros(2), Wave(0)))
    if len(parts) > 1:
        neck, radius = np.array([0, -0.8 * size[1]]), rng.uniform(0.2, 0.35)
        head = draw_outline(rng) * radius + neck - (0, 0.6 * radius)
        parts.append(Part(head, other_skin, neck, Wave.draw(rng, 0, rng.uniform(0, 0.4), 15)))
    return parts
