"""Training data on disk: images and their masks."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from datasets.frames import FRAME_SUFFIXES, frame_files
from datasets.images import check_mask_size
from util.errors import InputError


class Pair(NamedTuple):
    """An image file and the file of its mask."""

    image: Path
    mask: Path


def static_pairs(images: Path, masks: Path | None = None) -> list[Pair]:
    """The JPEG files under ``images``, at any depth, each with the PNG mask of the same name beside it.

    With ``masks``, the masks are at the same places under that folder, and images may be PNG, too. Raises `InputError`,
    naming the file, if there are no images, or if an image has no mask or one of another size.
    """
    suffixes = FRAME_SUFFIXES if masks and masks != images else (".jpg", ".jpeg")
    masks = masks or images
    found = (Path(folder, file) for folder, _, files in os.walk(images, followlinks=True) for file in files)
    photos = sorted(path for path in found if path.suffix.lower() in suffixes)
    if not photos:
        raise InputError(f"{images}: no images; expected JPEG files, each with a PNG mask of the same name")
    pairs = [Pair(photo, (masks / photo.relative_to(images)).with_suffix(".png")) for photo in photos]
    with ThreadPoolExecutor() as pool:
        list(pool.map(check_mask_size, *zip(*pairs, strict=True)))
    return pairs


class VideoFolder:
    """Videos in ``images/<video>/<frame>.jpg|png`` and ``masks/<video>/<frame>.png``, without the frames that have no
    mask.

    ``videos`` names those to use (default: all in ``images``). Raises `InputError`, naming the folder or file, if there
    are none, if one has no annotated frames, or if its first mask has another size than the frame.
    """

    def __init__(self, images: Path, masks: Path, videos: Sequence[str] | None = None) -> None:
        self.images, self.masks = images, masks
        if videos is None:
            videos = [path.name for path in images.iterdir() if path.is_dir()] if images.is_dir() else []
        self.videos = sorted(videos)
        if not self.videos:
            raise InputError(f"{images}: no videos; expected a folder of frames for each")
        with ThreadPoolExecutor() as pool:
            self._frames = list(pool.map(self._annotated_frames, self.videos))

    def __len__(self) -> int:
        return len(self.videos)

    def frames(self, index: int) -> list[str]:
        """File names of the annotated frames of video ``index``, in order."""
        return self._frames[index].split("/")

    def pair(self, index: int, frame: str) -> Pair:
        """The files of a frame that `frames` listed."""
        video = self.videos[index]
        return Pair(self.images / video / frame, (self.masks / video / frame).with_suffix(".png"))

    def _annotated_frames(self, video: str) -> str:
        """File names, joined with slashes: one object per video for the workers to share instead of thousands."""
        images, masks = self.images / video, self.masks / video
        annotated = {name.rpartition(".")[0] for name in frame_files(masks) if name.endswith(".png")}
        frames = [name for name in frame_files(images) if name.rpartition(".")[0] in annotated]
        if not frames:
            raise InputError(f"{masks}: no annotations; expected a PNG for the frames in {images}")
        check_mask_size(images / frames[0], (masks / frames[0]).with_suffix(".png"))
        return "/".join(frames)
