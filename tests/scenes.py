"""Moving discs of two colours on a noisy background: clips that a small network learns in seconds."""

from pathlib import Path

import numpy as np

from datasets.images import write_image, write_mask


def discs(seed: int, length: int, size: int = 64, objects: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Frames T×size×size×3 uint8 and ids T×size×size uint8; object k has the same colour in every clip."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    colours = np.array([[220, 60, 50], [60, 90, 220]])
    centres = random.uniform(0.3, 0.7, (objects, 2)) + [[-0.12 + 0.3 * k, 0] for k in range(objects)]
    speeds, radii = random.uniform(-0.03, 0.03, (objects, 2)), random.uniform(0.2, 0.26, objects)
    background = random.integers(80, 160, (size, size, 3))
    frames, ids = [], []
    for t in range(length):
        frame, mask = background.copy(), np.zeros((size, size), np.uint8)
        for k in range(objects):
            inside = (x - centres[k, 0] - t * speeds[k, 0]) ** 2 + (y - centres[k, 1] - t * speeds[k, 1]) ** 2
            inside = inside < radii[k] ** 2
            frame[inside], mask[inside] = colours[k] + random.integers(-20, 20, (inside.sum(), 3)), k + 1
        frames.append(frame.clip(0, 255).astype(np.uint8))
        ids.append(mask)
    return np.stack(frames), np.stack(ids)


def write_davis_2016(root: Path, videos: dict[str, int], length: int = 8, size: int = 64) -> None:
    """A DAVIS 2016 folder: binary masks of one disc per video. ``videos``: name → seed."""
    for name, seed in videos.items():
        frames, ids = discs(seed, length, size, objects=1)
        for t in range(length):
            write_image(root / "JPEGImages" / "480p" / name / f"{t:05d}.jpg", frames[t])
            write_mask(root / "Annotations" / "480p" / name / f"{t:05d}.png", ids[t], binary=True)


def write_static(root: Path, count: int = 4, size: int = 96) -> None:
    """Stills ``<name>.jpg`` with binary masks ``<name>.png``."""
    for i in range(count):
        frames, ids = discs(i, 1, size, objects=1)
        write_image(root / f"{i}.jpg", frames[0])
        write_mask(root / f"{i}.png", ids[0], binary=True)
