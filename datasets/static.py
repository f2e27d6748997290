"""Clips from still images, by deforming an image and its mask differently in each frame."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.clip import Clip, make_clip
from datasets.images import image_size
from datasets.transforms import (
    colour,
    draw_jitter,
    read_reduced,
    shift_hue,
    static_warps,
    warp_binary,
    warp_image,
)
from util.errors import InputError

DRAWS = 20  # images tried for one clip, until an object is found that is visible in its first frame
SMALLEST = 1 / 400  # objects of index masks that cover less of the image are not drawn, unless all are smaller


class StaticImages:
    """Photos with masks, as clips of up to ``max_objects`` objects (K: 1 in stage 0, else 2).

    Images are the JPEG files under ``images``, at any depth; the mask of ``name.jpg`` is ``name.png`` beside it or,
    with ``masks``, at the same place under that folder (then images may be PNG, too). A mask is

    - an *index mask* if it is a PNG with a colour palette, or grey with no value above 127: each value is an object
      and K of them are drawn (255 is void, unless it is alone);
    - *binary* otherwise: the object is where it is brighter than 127.

    Raises `InputError`, naming the file, if there are no images, if an image has no mask or one of another size.
    """

    def __init__(
        self,
        images: Path,
        masks: Path | None = None,
        *,
        num_frames: int = 3,
        size: int = 384,
        spline: float = 1 / 3,
        max_objects: int = 1,
    ) -> None:
        self.num_frames, self.size, self.spline, self.max_objects = num_frames, size, spline, max_objects
        masks = None if masks == images else masks
        suffixes = {".jpg", ".jpeg"} if masks is None else {".jpg", ".jpeg", ".png"}
        found = (Path(folder, file) for folder, _, files in os.walk(images, followlinks=True) for file in files)
        photos = sorted(path for path in found if path.suffix.lower() in suffixes)
        if not photos:
            raise InputError(f"{images}: no images; expected JPEG files, each with a PNG mask of the same name")
        self.pairs = [
            (photo, (photo if masks is None else masks / photo.relative_to(images)).with_suffix(".png"))
            for photo in photos
        ]
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(check_pair, *zip(*self.pairs, strict=True)):
                pass

    def __len__(self) -> int:
        return len(self.pairs)

    def sample(self, index: int, rng: np.random.Generator, progress: float = 0.0) -> Clip:
        """A clip of image ``index``, or of another one if no object of it shows. ``progress`` changes nothing."""
        for _ in range(DRAWS):
            image_path, mask_path = self.pairs[index]
            drawn = draw_objects(rng, mask_path, self.max_objects)
            warps = static_warps(rng, *drawn[0].shape, self.num_frames, self.size, self.spline)
            ids = np.zeros((self.num_frames, self.size, self.size), np.uint8)
            for number, mask in enumerate(drawn, 1):
                for t, warp in enumerate(warps):
                    ids[t][warp_binary(mask, warp)] = number
            objects = np.flatnonzero(np.bincount(ids[0].ravel(), minlength=1)[1:]) + 1
            if len(objects):
                break
            index = int(rng.integers(len(self)))
        else:
            raise InputError(f"{mask_path}: no object in this and {DRAWS - 1} more masks; expected object masks")
        shrink = min(warp.shrink() for warp in warps)
        image = read_reduced(image_path, drawn[0].shape, shrink)
        shared = draw_jitter(rng, 0.1, 0.05, 0.05, grey=0.05)
        image = shift_hue(image, rng.uniform(-0.05, 0.05))
        frames = np.empty((self.num_frames, 3, self.size, self.size), np.float32)
        for frame, warp in zip(frames, warps, strict=True):
            colour(warp_image(image, warp, shrink), (shared, draw_jitter(rng, 0.1, 0.05, 0.05)), out=frame)
        return make_clip(frames, ids, objects, self.max_objects, "/".join(image_path.parts[-2:]))


def check_pair(image: Path, mask: Path) -> None:
    """Raise `InputError` if the mask is missing or of another size than the image; reads the headers only."""
    if not mask.is_file():
        raise InputError(f"{image}: has no mask; expected {mask}")
    (height, width), (mask_height, mask_width) = image_size(image), image_size(mask)
    if (height, width) != (mask_height, mask_width):
        raise InputError(
            f"{mask}: is {mask_width}×{mask_height} pixels, its image {image.name} {width}×{height};"
            " expected a mask of the image's size"
        )


def draw_objects(rng: np.random.Generator, path: Path, most: int = 1) -> list[np.ndarray]:
    """Read a mask and draw ``most`` of its objects, or all that it has, at least one mask: each H×W uint8, 255 on the
    object and 0 elsewhere (everywhere if there is none).

    See `StaticImages` for what counts as an object. A binary mask keeps its soft edge.
    """
    try:
        with Image.open(path) as image:
            palette = np.array(image.getpalette() or [0, 0, 0]).reshape(-1, 3)
            has_ids = image.mode == "P" and (palette != palette[:, :1]).any()
            values = np.asarray(image if has_ids else image.convert("L"))
            if image.mode.startswith("RGB") and np.ptp(np.asarray(image)[..., :3], axis=2).max() > 64:
                raise InputError(f"{path}: is a colour picture; expected a mask, grey or with a palette")
    except InputError:
        raise
    except Exception as error:  # Pillow raises many types for damaged files
        raise InputError(f"{path}: cannot be read as a mask ({error}); expected a whole PNG") from error
    area = np.bincount(values.ravel(), minlength=256)
    area[0] = 0
    if not has_ids and area[128:].any():
        return [values]
    if area[1:255].any():
        area[255] = 0
    enough = np.flatnonzero(area >= max(1, min(values.size * SMALLEST, area.max())))
    chosen = rng.choice(enough, min(most, len(enough)), replace=False) if len(enough) else [256]
    return [(values == number) * np.uint8(255) for number in chosen]
