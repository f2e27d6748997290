"""Stage 0: clips from still images, by deforming an image and its mask differently in each frame."""

from collections.abc import Sequence

import numpy as np

from datasets.clip import ClipShape, PackedClip, pack_clip
from datasets.colour import JitterRange, jitter_clip, shift_hue
from datasets.images import read_image, read_static_mask
from datasets.occlusion import Occlusion
from datasets.pairs import Pair
from datasets.sampling import split_objects, visible_objects
from datasets.warps import static_warps, warp_binary, warp_image
from util.errors import InputError

ATTEMPTS = 20  # images tried for one clip, until an object is visible in its first frame
CLIP_JITTER = JitterRange(0.1, 0.05, 0.05, grey=0.05)
FRAME_JITTER = JitterRange(0.1, 0.05, 0.05)
HUE = 0.05


class StaticClips:
    """Clips from still images (`datasets.pairs.static_pairs`) of up to ``shape.max_objects`` objects.

    Args:
        spline: probability of a thin-plate spline in a frame.
        deform: see `datasets.warps.static_warps`.
        occlusion: hides a part of an object in the first frame.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        shape: ClipShape,
        *,
        spline: float = 1 / 3,
        deform: float = 1.0,
        occlusion: Occlusion | None = None,
    ) -> None:
        self.pairs, self.shape, self.spline, self.deform, self.occlusion = pairs, shape, spline, deform, occlusion

    def __len__(self) -> int:
        return len(self.pairs)

    def sample(self, index: int, rng: np.random.Generator, progress: float = 0.0) -> PackedClip:
        """A clip of image ``index``, or of another one if that shows no object. ``progress`` changes nothing."""
        num_frames, size, max_objects = self.shape
        for _ in range(ATTEMPTS):
            pair = self.pairs[index]
            masks = split_objects(rng, *read_static_mask(pair.mask), max_objects)
            height, width = masks[0].shape
            warps = static_warps(rng, height, width, num_frames, size, self.spline, self.deform)
            ids = np.zeros((num_frames, size, size), np.uint8)
            for object_id, mask in enumerate(masks, 1):
                for frame_ids, warp in zip(ids, warps, strict=True):
                    frame_ids[warp_binary(mask, warp)] = object_id
            objects = visible_objects(ids)
            if len(objects):
                break
            index = int(rng.integers(len(self)))
        else:
            raise InputError(f"{pair.mask}: no object in this and {ATTEMPTS - 1} more masks; expected object masks")
        shrink = min(warp.shrink() for warp in warps)
        image = shift_hue(read_image(pair.image, shrink, (height, width)), rng.uniform(-HUE, HUE))
        frames = [warp_image(image, warp, shrink) for warp in warps]
        if self.occlusion:
            objects = self.occlusion(rng, frames, ids, objects)
        frames = jitter_clip(rng, frames, CLIP_JITTER, FRAME_JITTER)
        return pack_clip(frames, ids, objects, max_objects, "/".join(pair.image.parts[-2:]))
