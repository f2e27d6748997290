"""Training data on disk: images and their masks."""

import logging
import os
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from datasets.frames import FRAME_SUFFIXES, frame_files, visible_paths
from datasets.images import check_mask_size, image_size
from util.errors import InputError

MAX_SIDE = 32766  # of an image, in pixels, for OpenCV's warps


class Pair(NamedTuple):
    """An image file and the file of its mask."""

    image: Path
    mask: Path

    def check(self) -> None:
        """Raise `InputError` if the mask is missing or of another size, or the image is too large to be augmented.

        Reads the headers only.
        """
        if not self.mask.is_file():
            raise InputError(f"{self.image}: has no mask; expected {self.mask}")
        height, width = image_size(self.image)
        if max(height, width) > MAX_SIDE:
            raise InputError(f"{self.image}: is {width}×{height} pixels; expected at most {MAX_SIDE} along each side")
        check_mask_size(self.mask, image_size(self.mask), self.image.name, (height, width))


def _pair(image: Path, mask: Path) -> Pair:
    """The ``mask`` has the name of the image; its suffix becomes .png, or .PNG where only that exists."""
    found = (path for suffix in (".png", ".PNG") if (path := mask.with_suffix(suffix)).is_file())
    return Pair(image, next(found, mask.with_suffix(".png")))


def _images_below(folder: Path, suffixes: Collection[str], around: tuple[str, ...] = ()) -> Iterator[Path]:
    """The images that are not hidden. ``around``: folders on the way, to which a link may lead back."""
    place = os.path.realpath(folder)
    for path in visible_paths(folder) if place not in around else ():
        if path.is_dir():
            yield from _images_below(path, suffixes, (*around, place))
        elif path.suffix.lower() in suffixes:
            yield path


def static_pairs(images: Path, masks: Path | None = None) -> list[Pair]:
    """The JPEG files under ``images``, at any depth, each with the PNG mask of the same name beside it.

    With ``masks``, the masks are at the same places under that folder, and images may be PNG, too. Hidden files and
    folders are left out. Raises `InputError`, naming the file, if there are no images, or if an image has no mask or
    one of another size.
    """
    suffixes = FRAME_SUFFIXES if masks and masks != images else (".jpg", ".jpeg")
    photos = sorted(_images_below(images, suffixes))
    if not photos:
        raise InputError(f"{images}: no images; expected JPEG files, each with a PNG mask of the same name")

    def checked(photo: Path) -> Pair:
        pair = _pair(photo, (masks or images) / photo.relative_to(images))
        pair.check()
        return pair

    with ThreadPoolExecutor() as pool:
        return list(pool.map(checked, photos))


class VideoFolder:
    """Videos in ``images/<video>/<frame>.jpg|png`` and ``masks/<video>/<frame>.png``, without hidden ones and without
    the frames that have no mask.

    ``videos`` names those to use (default: all in ``images``); a warning tells of those that are missing. Raises
    `InputError`, naming the folder or file, if there are none, if one has no annotated frames, or if its first mask has
    another size than the frame.
    """

    def __init__(self, images: Path, masks: Path, videos: Sequence[str] | None = None) -> None:
        self.images, self.masks = images, masks
        present = {path.name for path in visible_paths(images) if path.is_dir()}
        listed = present if videos is None else set(videos)
        self.videos, missing = sorted(listed & present), sorted(listed - present)
        if not self.videos:
            expected = f"a folder of frames for each, such as {missing[0] if missing else 'VIDEO/'}"
            raise InputError(f"{images}: no videos; expected {expected}")
        if missing:
            message = "%s: %d of %d listed videos are missing, such as %s"
            logging.warning(message, images, len(missing), len(listed), missing[0])
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
        return _pair(self.images / video / frame, self.masks / video / frame)

    def _annotated_frames(self, video: str) -> str:
        """File names, joined with slashes: one object per video for the workers to share instead of thousands."""
        images, masks = self.images / video, self.masks / video
        annotated = {name.rpartition(".")[0] for name in frame_files(masks) if name.endswith((".png", ".PNG"))}
        frames = [name for name in frame_files(images) if name.rpartition(".")[0] in annotated]
        if not frames:
            raise InputError(f"{masks}: no annotations; expected a PNG for the frames in {images}")
        _pair(images / frames[0], masks / frames[0]).check()
        return "/".join(frames)
