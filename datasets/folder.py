"""Your own data: a folder of frames and masks, or a video file and its masks."""

from collections.abc import Collection, Iterable
from pathlib import Path

from datasets.frames import check_folder, list_frames
from datasets.video import Video, file_video, frames_video, select
from util.errors import InputError


def folder_videos(root: Path, short_side: int, wanted: Collection[str] | None = None) -> list[Video]:
    """The videos ``root/JPEGImages/<video>/*.jpg|png`` with masks ``root/Annotations/<video>/<frame>.png``.

    With ``wanted``, only these. An object is segmented from its first mask on; a later mask corrects it. Raises
    `InputError` for anything missing or faulty.
    """
    images, annotations = root / "JPEGImages", root / "Annotations"
    for folder in (images, annotations):
        check_folder(folder, f"{root} to hold JPEGImages/VIDEO and Annotations/VIDEO")
    names = sorted(p.name for p in images.iterdir() if p.is_dir() and p.name[0] != ".")
    if not names:
        raise InputError(f"{images}: holds no folders; expected one folder of frames for each video")
    videos = []
    for name in select(names, wanted, images):
        masks = {p.stem: p for p in (annotations / name).glob("[!.]*") if p.suffix.lower() == ".png"}
        if not masks:
            raise InputError(
                f"{annotations / name}: no mask for video {name}; expected a PNG with the name of the frame"
                " on which an object first appears"
            )
        videos.append(frames_video(name, list_frames(images / name), masks, short_side))
    return videos


def video_with_masks(path: Path, masks: Iterable[str], short_side: int) -> list[Video]:
    """One video file; each of ``masks`` is ``first.png`` (of frame 0) or ``30:later.png`` (of frame 30, from 0).

    Raises `InputError` for anything missing or faulty, and for two masks of the same frame.
    """
    by_frame: dict[int, Path] = {}
    for value in masks:
        number, _, file = value.partition(":")
        if not (number.isascii() and number.isdecimal()):  # no number: a path, perhaps with a drive letter
            number, file = "0", value
        frame = int(number)
        if frame in by_frame:
            raise InputError(f"--mask {value}: frame {frame} already has the mask {by_frame[frame]}")
        by_frame[frame] = Path(file)
    return [file_video(path, by_frame, short_side)]
