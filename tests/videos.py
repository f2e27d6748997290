"""Small videos for the tests of the eval scripts: folders of frames and masks, and video files."""

from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image

from datasets.images import PALETTE, write_image, write_mask


def picture(index: int, size: tuple[int, int]) -> np.ndarray:
    """H×W×3 uint8: smooth colours that move with the index."""
    rng = np.random.default_rng(7)
    image = cv2.resize(rng.integers(0, 255, (5, 5, 3), np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.roll(image, index, axis=1)


def blocks(size: tuple[int, int], *ids: int) -> np.ndarray:
    """H×W uint8: a mask with one upright bar for each id, background between them."""
    mask = np.zeros(size, np.uint8)
    width = size[1] // (2 * len(ids)) or 1
    for i, object_id in enumerate(ids):
        mask[size[0] // 4 : -(-size[0] * 3 // 4), 2 * i * width : (2 * i + 1) * width] = object_id
    return mask


def add_video(images: Path, annotations: Path, masks: dict[int, np.ndarray], frames=6, binary=False, name="{:05d}"):
    """Write frames to ``images`` and ``masks``, by index of the frame, to ``annotations``."""
    size = next(iter(masks.values())).shape
    for i in range(frames):
        write_image(images / f"{name.format(i)}.jpg", picture(i, size))
    for i, mask in masks.items():
        write_mask(annotations / f"{name.format(i)}.png", mask, binary)


def own_data(root: Path, videos: dict[str, dict[int, np.ndarray]], **options) -> Path:
    """A folder for ``eval_generic.py --data_path``; ``videos``: name → masks, see `add_video`."""
    for name, masks in videos.items():
        add_video(root / "JPEGImages" / name, root / "Annotations" / name, masks, **options)
    return root


def write_video(path: Path, frames: int, size: tuple[int, int], **options) -> Path:
    """An H.264 video of `picture`s."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for i in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(i, size), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_first_mask(path: Path, size: tuple[int, int]) -> Path:
    """A mask of object 1."""
    write_mask(path, blocks(size, 1))
    return path


def names(count: int) -> list[str]:
    return [f"{i:05d}" for i in range(count)]


def check_files(folder: Path, names: list[str], size: tuple[int, int], ids: set[int], mode: str = "P") -> None:
    """The folder holds exactly these PNGs, of this size and mode, with these ids."""
    assert sorted(p.name for p in folder.iterdir()) == [f"{name}.png" for name in names]
    found: set[int] = set()
    for path in folder.iterdir():
        with Image.open(path) as image:
            assert (image.mode, image.size) == (mode, size[::-1])
            assert mode == "L" or image.getpalette() == PALETTE.ravel().tolist()
            found |= set(np.unique(np.asarray(image)).tolist())
    assert found == {0} | ids
