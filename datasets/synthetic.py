"""Generated video with dense ground truth: training data, the demo's clip and test data that need no download."""

from collections.abc import Iterator, Sequence

import numpy as np

from datasets.clip import PackedClip, pack_clip
from datasets.sampling import choose_frames, max_jump
from datasets.scene import Scene

SCENE_LENGTH = 80  # frames of a scene that training clips are cut from
MOST_ANNOTATED = 4  # objects of such a scene; a clip shows some of them, the others are distractors
SMALLEST = 1 / 500  # smaller parts of the first frame are not chosen as objects


def synthetic_clip(
    seed: int | Sequence[int],
    num_frames: int,
    size: tuple[int, int] = (480, 854),
    num_objects: int = 3,
    late: int = 0,
    leaving: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """A whole clip: frames T×H×W×3 uint8 RGB and ids T×H×W uint8. Arguments and ids as for `Scene`."""
    pairs = list(iter_synthetic(seed, num_frames, size, num_objects, late, leaving))
    return np.stack([frame for frame, _ in pairs]), np.stack([ids for _, ids in pairs])


def iter_synthetic(
    seed: int | Sequence[int],
    num_frames: int,
    size: tuple[int, int] = (480, 854),
    num_objects: int = 3,
    late: int = 0,
    leaving: int = 0,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The frames of a clip one at a time: (frame H×W×3 uint8 RGB, ids H×W uint8). Arguments as for `Scene`."""
    scene = Scene(seed, num_frames, size, num_objects, late, leaving)
    return (scene.render(t) for t in range(num_frames))


class SyntheticClips:
    """Endless scenes, none twice, as training clips of up to ``max_objects`` objects (K: 1 in stage 0, else 2).

    ``length`` is what `len` says: the weight of generated clips beside other data.
    """

    def __init__(self, length: int, *, num_frames: int = 3, size: int = 384, max_objects: int = 2) -> None:
        self.length, self.num_frames, self.size, self.max_objects = length, num_frames, size, max_objects

    def __len__(self) -> int:
        return self.length

    def sample(self, index: int, rng: np.random.Generator, progress: float = 0.0) -> PackedClip:
        """A clip of a new scene: ``rng`` alone decides which. ``progress``: see `datasets.sampling.max_jump`."""
        while True:
            seed = int(rng.integers(2**63))
            num_objects = int(rng.integers(1, MOST_ANNOTATED + 1))
            late, leaving = (int(rng.integers(0, (num_objects + 1) // 2 + 1)) for _ in range(2))
            late = min(late, num_objects - 1)
            scene = Scene(
                seed, SCENE_LENGTH, (self.size, self.size), num_objects, late, min(leaving, num_objects - late)
            )
            times = choose_frames(rng, SCENE_LENGTH, self.num_frames, max_jump(progress))
            images, ids = zip(*(scene.render(int(t)) for t in times), strict=True)
            area = np.bincount(ids[0].ravel(), minlength=num_objects + 1)[1:]
            objects = np.flatnonzero(area >= max(1, SMALLEST * ids[0].size)) + 1
            if len(objects):
                break
        chosen = rng.choice(objects, min(self.max_objects, len(objects)), replace=False)
        return pack_clip(images, np.stack(ids), chosen, self.max_objects, f"scene {seed}")
