"""Where training clips come from: still images (stage 0) and annotated videos (stages 1 to 3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datasets.clip import ClipShape, PackedClip, pack_clip
from datasets.colour import JitterRange, jitter_clip, shift_hue
from datasets.copy_paste import CopyPaste
from datasets.images import read_image, read_mask, read_static_mask
from datasets.occlusion import occlude
from datasets.pairs import Pair, VideoFolder
from datasets.sampling import choose_frames, max_jump, split_objects, visible_objects
from datasets.warps import static_warps, video_warps, warp_binary, warp_ids, warp_image
from util.errors import InputError

IMAGES = 20  # tried for one clip, until an object is visible in its first frame
VIDEOS, ATTEMPTS = 10, 5  # videos tried for one clip, and clips of each
HUE = 0.05  # largest turn of a still image's hue


@dataclass
class StaticClips:
    """Clips of up to ``shape.max_objects`` objects from still images, which are deformed differently in each frame."""

    pairs: Sequence[Pair]
    shape: ClipShape
    spline: float = 1 / 3  # see `datasets.warps.static_warps`
    deform: float = 1.0  # see `datasets.warps.static_warps`
    reveal: float = 0.0  # see `datasets.occlusion.occlude`

    def __len__(self) -> int:
        return len(self.pairs)

    def sample(self, index: int, rng: np.random.Generator, progress: float = 0.0) -> PackedClip:
        """A clip of image ``index``, or of another one if that shows no object. ``progress`` changes nothing."""
        num_frames, size, max_objects = self.shape
        for _ in range(IMAGES):
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
            raise InputError(f"{pair.mask}: no object in this and {IMAGES - 1} more masks; expected object masks")
        shrink = min(warp.shrink() for warp in warps)
        image = shift_hue(read_image(pair.image, shrink, (height, width)), rng.uniform(-HUE, HUE))
        frames = [warp_image(image, warp, shrink) for warp in warps]
        objects = occlude(rng, frames, ids, objects, self.reveal)
        frames = jitter_clip(rng, frames, JitterRange(0.1, 0.05, 0.05, grey=0.05), JitterRange(0.1, 0.05, 0.05))
        return pack_clip(frames, ids, objects, max_objects, "/".join(pair.image.parts[-2:]))


@dataclass
class VideoClips:
    """Clips of up to ``shape.max_objects`` objects from annotated videos."""

    videos: VideoFolder
    shape: ClipShape
    min_area: float = 0.36  # of the random crop, relative to the frame
    last_drop: float = 0.9  # see `datasets.sampling.max_jump`
    divisor: int = 1  # see `datasets.sampling.max_jump`
    large_objects: bool = False  # see `datasets.sampling.visible_objects`
    copy_paste: CopyPaste | None = None  # for clips that show fewer objects
    reveal: float = 0.0  # see `datasets.occlusion.occlude`

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
            masks = [read_mask(pair.mask) for pair in pairs]
            height, width = masks[0].shape
            for pair, mask in zip(pairs, masks, strict=True):
                if mask.shape != (height, width):
                    raise InputError(f"{pair.mask}: expected the same size as {pairs[0].mask}")
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
        objects = occlude(rng, frames, ids, objects, self.reveal)
        frames = jitter_clip(rng, frames, JitterRange(0.1, 0.03, 0.03, grey=0.05), JitterRange(0.01, 0.01, 0.01))
        chosen = rng.choice(objects, min(max_objects, len(objects)), replace=False)
        name = f"{self.videos.videos[index]}/{pairs[0].image.stem}"
        return pack_clip(frames, ids, chosen, max_objects, name)

    def _choose(self, index: int, rng: np.random.Generator, progress: float) -> list[Pair]:
        frames = self.videos.frames(index)
        jump = max_jump(progress, self.last_drop, self.divisor)
        times = choose_frames(rng, len(frames), self.shape.num_frames, jump)
        return [self.videos.pair(index, frames[t]) for t in times]
