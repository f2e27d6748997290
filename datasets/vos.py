"""Stages 1 to 3: clips of up to two objects from annotated videos."""

import numpy as np

from datasets.clip import ClipShape, PackedClip, pack_clip
from datasets.colour import JitterRange, jitter_clip
from datasets.copy_paste import CopyPaste
from datasets.images import read_image, read_mask
from datasets.occlusion import Occlusion
from datasets.pairs import Pair, VideoFolder
from datasets.sampling import choose_frames, max_jump, visible_objects
from datasets.warps import video_warps, warp_ids, warp_image
from util.errors import InputError

VIDEOS, ATTEMPTS = 10, 5  # videos tried for one clip, and clips of each, until the first frame shows an object
CLIP_JITTER = JitterRange(0.1, 0.03, 0.03, grey=0.05)
FRAME_JITTER = JitterRange(0.01, 0.01, 0.01)


class VideoClips:
    """Clips from annotated videos.

    Args:
        min_area: smallest area of the random crop, relative to the frame.
        last_drop, divisor: see `datasets.sampling.max_jump`.
        large_objects: see `datasets.sampling.visible_objects`.
        occlusion: hides a part of an object in the first frame.
        copy_paste: puts a second object into clips that show one only.
    """

    def __init__(
        self,
        videos: VideoFolder,
        shape: ClipShape,
        *,
        min_area: float = 0.36,
        last_drop: float = 0.9,
        divisor: int = 1,
        large_objects: bool = False,
        copy_paste: CopyPaste | None = None,
        occlusion: Occlusion | None = None,
    ) -> None:
        self.videos, self.shape, self.min_area, self.copy_paste = videos, shape, min_area, copy_paste
        self.occlusion = occlusion
        self.last_drop, self.divisor, self.large_objects = last_drop, divisor, large_objects

    def __len__(self) -> int:
        return len(self.videos)

    def sample(self, index: int, rng: np.random.Generator, progress: float = 0.0) -> PackedClip:
        """A clip of video ``index``, or of another one if that shows no object.

        ``progress``: see `datasets.sampling.max_jump`.
        """
        num_frames, size, max_objects = self.shape
        for attempt in range(VIDEOS * ATTEMPTS):
            if attempt and attempt % ATTEMPTS == 0:
                index = int(rng.integers(len(self)))
            pairs = self._choose(index, rng, progress)
            masks = _read_masks(pairs)
            height, width = masks[0].shape
            warps = video_warps(rng, height, width, num_frames, size, self.min_area)
            ids = np.stack([warp_ids(mask, warp) for mask, warp in zip(masks, warps, strict=True)])
            objects = visible_objects(ids, self.large_objects)
            if len(objects):
                break
        else:
            raise InputError(
                f"{self.videos.masks}: no object in {VIDEOS * ATTEMPTS} clips (the last from"
                f" {self.videos.videos[index]}); expected masks of objects"
            )
        frames = []
        for pair, warp in zip(pairs, warps, strict=True):
            shrink = warp.shrink()
            frames.append(warp_image(read_image(pair.image, shrink, (height, width)), warp, shrink))
        if self.copy_paste and len(objects) < max_objects:
            objects = np.intersect1d([*objects, *self.copy_paste(rng, frames, ids)], ids[0])
        if self.occlusion:
            objects = self.occlusion(rng, frames, ids, objects)
        frames = jitter_clip(rng, frames, CLIP_JITTER, FRAME_JITTER)
        chosen = rng.choice(objects, min(max_objects, len(objects)), replace=False)
        name = f"{self.videos.videos[index]}/{pairs[0].image.stem}"
        return pack_clip(frames, ids, chosen, max_objects, name)

    def _choose(self, index: int, rng: np.random.Generator, progress: float) -> list[Pair]:
        frames = self.videos.frames(index)
        jump = max_jump(progress, self.last_drop, self.divisor)
        times = choose_frames(rng, len(frames), self.shape.num_frames, jump)
        return [self.videos.pair(index, frames[t]) for t in times]


def _read_masks(pairs: list[Pair]) -> list[np.ndarray]:
    masks = [read_mask(pair.mask) for pair in pairs]
    for pair, mask in zip(pairs, masks, strict=True):
        if mask.shape != masks[0].shape:
            raise InputError(f"{pair.mask}: expected the same size as {pairs[0].mask}")
    return masks
