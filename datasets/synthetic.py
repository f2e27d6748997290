"""Generated videos as training data."""

import numpy as np

from datasets.clip import PackedClip, pack_clip
from datasets.sampling import choose_frames, max_jump
from datasets.scene import Scene

SCENE_LENGTH = 80  # frames of a scene that training clips are cut from
MAX_ANNOTATED = 4  # objects of such a scene; a clip shows some of them, the others are distractors
MIN_AREA = 1 / 500  # of the first frame, for an object to be chosen


class SyntheticClips:
    """Endless training clips of up to ``max_objects`` objects (K), each from a new `Scene`.

    ``length`` is what `len` returns: the weight of generated clips relative to other data.
    """

    def __init__(self, length: int, *, num_frames: int = 3, size: int = 384, max_objects: int = 2) -> None:
        self.length, self.num_frames, self.size, self.max_objects = length, num_frames, size, max_objects

    def __len__(self) -> int:
        return self.length

    def sample(self, index: int, rng: np.random.Generator, progress: float = 0.0) -> PackedClip:
        """A clip that depends on ``rng`` and ``progress`` (see `datasets.sampling.max_jump`) but not on ``index``."""
        objects = np.array([], int)
        while not len(objects):
            seed = int(rng.integers(2**63))
            num_objects = int(rng.integers(1, MAX_ANNOTATED + 1))
            late = int(rng.integers(0, num_objects))
            leaving = int(rng.integers(0, num_objects - late + 1))
            scene = Scene(seed, SCENE_LENGTH, (self.size, self.size), num_objects, late, leaving)
            times = choose_frames(rng, SCENE_LENGTH, self.num_frames, max_jump(progress))
            frames, ids = zip(*(scene.render(int(t)) for t in times), strict=True)
            area = np.bincount(ids[0].ravel(), minlength=num_objects + 1)[1:]
            objects = np.flatnonzero(area >= MIN_AREA * ids[0].size) + 1
        chosen = rng.choice(objects, min(self.max_objects, len(objects)), replace=False)
        return pack_clip(frames, np.stack(ids), chosen, self.max_objects, f"scene {seed}")
