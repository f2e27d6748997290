"""Files that are either complete or absent."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from util.errors import InputError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary file name beside ``path``; what is written there replaces ``path`` when the block ends.

    After an error or a kill, ``path`` is unchanged; the next write overwrites what a killed process left. Missing
    parent folders are created, and a symbolic link is followed. Only one process may write a file at a time. The
    temporary name ends in ``.tmp``, so libraries that choose the format by suffix have to be told the format.
    Raises `InputError` if ``path`` is not a regular file (a folder, a device) or cannot be written.
    """
    target = Path(os.path.realpath(path))
    temporary = target.parent / f".{target.name}.tmp"  # the root folder has no name
    try:
        if target.exists() and not target.is_file():
            raise InputError(f"{path}: is not a regular file; expected the name of a file to write")
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:  # Windows flushes only files that are open for writing
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):  # if the folder itself is unusable, the error above has said so
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically, see `atomic_path`. Raises `InputError`, also when the disk is full.

    Encode in memory and write with this wherever the data fit: Python retries short writes and reports a full disk,
    whereas Pillow, given a file name, may leave a truncated JPEG without an error.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def check_is_file(path: Path, flag: str) -> None:
    """Raise `InputError` for a folder, pipe or device; a missing file is reported by whatever reads it."""
    if path.exists() and not path.is_file():
        found = "a folder" if path.is_dir() else "not a regular file"
        raise InputError(f"{path}: is {found}; expected a file for {flag}")
