"""Names of videos and frames: their order, and which are accepted."""

import os
import re
from pathlib import Path

from util.errors import InputError
from util.files import read_bytes

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")


def natural_order(name: str) -> tuple[list, str]:
    """Sort key for names of frames, without suffix: ``9`` comes before ``10``, and ``01`` before ``1``."""
    pieces: list = re.split("([0-9]+)", name)  # text and digits alternate
    for i, digits in enumerate(pieces):
        if i % 2:  # compared by length and then by text, because `int` refuses more than 4300 digits
            digits = digits.lstrip("0")
            pieces[i] = len(digits), digits
    return pieces, name


def frame_files(folder: Path) -> list[str]:
    """File names of the images in a folder, if any, in natural order. `InputError` if two differ in suffix only."""
    suffixes: dict[str, str] = {}
    # As strings: ten million `Path`s would take minutes. Folders, too, to refuse those in the place of a frame.
    for file in [entry.name for entry in os.scandir(folder)] if folder.is_dir() else ():
        stem, dot, suffix = file.rpartition(".")
        if (dot + suffix).lower() in FRAME_SUFFIXES and not file.startswith("."):
            if stem in suffixes:
                raise InputError(f"{folder}: holds frame {stem} in two formats; expected one file per frame")
            suffixes[stem] = dot + suffix
    return [stem + suffixes[stem] for stem in sorted(suffixes, key=natural_order)]


def visible_paths(folder: Path) -> list[Path]:
    """What is in a folder, if it exists, in order. Raises OSError if it cannot be read, which `glob` passes over."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def check_folder(folder: Path, expected: str) -> None:
    """Raise `InputError`, saying what was ``expected``, if there is no such folder."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected {expected}")


def list_frames(folder: Path) -> list[Path]:
    """The images of a folder in natural order. Raises `InputError` if there is none."""
    check_folder(folder, "the frames of a video as .jpg or .png")
    frames = [folder / file for file in frame_files(folder)]
    if not frames:
        raise InputError(f"{folder}: holds no frames; expected .jpg or .png files")
    return frames


def check_name(name: object, source: Path) -> str:
    """Return a name of a video or frame that was read from ``source``; `InputError` if it could leave its folder."""
    if not isinstance(name, str):
        raise InputError(f"{source}: holds {str(name)[:60]!r} where the name of a video or frame is expected")
    unsafe = not name.strip() or re.match(r"\.|.*[/\\\ufffd\0-\x1f]", name, re.DOTALL)
    if unsafe or Path(name).name != name:  # the latter also refuses drive letters on Windows
        raise InputError(f"{source}: holds the name {name[:60]!r}; expected the name of a video or frame, not a path")
    return name


def read_names(path: Path) -> list[str]:
    """The names in a text file, one per line, without blank lines and repetitions. Raises `InputError`."""
    lines = read_bytes(path, "names of videos, one per line").decode("utf-8-sig", errors="replace").splitlines()
    names = list(dict.fromkeys(check_name(line.strip(), path) for line in lines if line.strip()))
    if not names:
        raise InputError(f"{path}: the list is empty; expected names of videos, one per line")
    return names
