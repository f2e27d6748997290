"""Where training clips come from: still images (stage 0) and annotated videos (stages 1 to 3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from datasets.augmentation import JitterRange, blur, copy_paste, distract, jitter_clip, occlude, shift_hue
from datasets.clip import PackedClip, pack_clip
from datasets.config import DataConfig
from datasets.images import read_image, read_mask, read_static_mask
from datasets.pairs import Pair, VideoFolder
from datasets.sampling import choose_frames, max_jump, split_objects, visible_objects
from datasets.warps import static_warps, video_warps, warp_binary, warp_ids, warp_image
from util.errors import InputError

MAX_OBJECTS = 2  # of a clip in the video stages
IMAGES = 20  # tried for one clip, until an object is visible in its first frame
VIDEOS, ATTEMPTS = 10, 5  # videos tried for one clip, and clips of each
HUE = 0.05  # largest turn of a still image's hue


@dataclass
class StaticClips:
    """Clips of up to ``max_objects`` objects from still images, which are deformed differently in each frame."""

    pairs: Sequence[Pair]
    data: DataConfig
    max_objects: int = 1
    spline: float = 1 / 3  # see `datasets.warps.static_warps`

    def __len__(self) -> int:
        return len(self.pairs)

    def sample(self, index: int, rng: Generator, progress: float = 0.0) -> PackedClip:
        """A clip of image ``index``, or of another one if that shows no object. ``progress`` changes nothing."""
        num_frames, size = self.data.num_frames, self.data.crop
        for _ in range(IMAGES):
            pair = self.pairs[index]
            masks = split_objects(rng, *read_static_mask(pair.mask), self.max_objects)
            height, width = masks[0].shape
            warps = static_warps(rng, height, width, num_frames, size, self.spline, self.data.deform)
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
        distract(rng, frames, ids, objects, self.data.distract)
        objects = occlude(rng, frames, ids, objects, self.data.reveal)
        frames = blur(rng, frames, self.data.blur)
        frames = jitter_clip(rng, frames, JitterRange(0.1, 0.05, 0.05, grey=0.05), JitterRange(0.1, 0.05, 0.05))
        return pack_clip(frames, ids, objects, self.max_objects, "/".join(pair.image.parts[-2:]))


@dataclass
class VideoClips:
    """Clips of up to two objects from annotated videos."""

    videos: VideoFolder
    data: DataConfig
    cutouts: Sequence[Pair] = ()  # still images for `copy_paste` into clips that show one object
    min_area: float = 0.36  # of the random crop, relative to the frame
    last_drop: float = 0.9  # see `datasets.sampling.max_jump`
    divisor: int = 1  # see `datasets.sampling.max_jump`
    large_objects: bool = False  # see `datasets.sampling.visible_objects`

    def __len__(self) -> int:
        return len(self.videos)

    def sample(self, index: int, rng: Generator, progress: float = 0.0) -> PackedClip:
        """A clip of video ``index``, or of another one if that shows no object.

        ``progress``: see `datasets.sampling.max_jump`.
        """
        for attempt in range(VIDEOS * ATTEMPTS):
            if attempt and attempt % ATTEMPTS == 0:
                index = int(rng.integers(len(self)))
            pairs = self._choose(index, rng, progress)
            masks = [read_mask(pair.mask) for pair in pairs]
            height, width = masks[0].shape
            for pair, mask in zip(pairs, masks, strict=True):
                if mask.shape != (height, width):
                    raise InputError(f"{pair.mask}: expected the same size as {pairs[0].mask}")
            warps = video_warps(rng, height, width, len(pairs), self.data.crop, self.min_area)
            ids = np.stack([warp_ids(mask, warp) for mask, warp in zip(masks, warps, strict=True)])
            objects = visible_objects(ids, self.large_objects)
            if len(objects):
                break
        else:
            clips = f"{VIDEOS * ATTEMPTS} clips, the last from {self.videos.videos[index]}"
            raise InputError(f"{self.videos.masks}: no object in {clips}; expected masks of objects")
        frames = []
        for pair, warp in zip(pairs, warps, strict=True):
            shrink = warp.shrink()
            frames.append(warp_image(read_image(pair.image, shrink, (height, width)), warp, shrink))
        if self.cutouts and len(objects) < MAX_OBJECTS:
            pasted = copy_paste(rng, frames, ids, self.cutouts, self.data.paste)
            objects = np.intersect1d([*objects, *pasted], ids[0])
        distract(rng, frames, ids, objects, self.data.distract)
        objects = occlude(rng, frames, ids, objects, self.data.reveal)
        frames = blur(rng, frames, self.data.blur)
        frames = jitter_clip(rng, frames, JitterRange(0.1, 0.03, 0.03, grey=0.05), JitterRange(0.01, 0.01, 0.01))
        chosen = rng.choice(objects, min(MAX_OBJECTS, len(objects)), replace=False)
        return pack_clip(frames, ids, chosen, MAX_OBJECTS, f"{self.videos.videos[index]}/{pairs[0].image.stem}")

    def _choose(self, index: int, rng: Generator, progress: float) -> list[Pair]:
        frames = self.videos.frames(index)
        jump = max_jump(progress, self.last_drop, self.divisor)
        times = choose_frames(rng, len(frames), self.data.num_frames, jump)
        return [self.videos.pair(index, frames[t]) for t in times]
