"""Files that are either complete or absent."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from util.errors import InputError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary file name beside ``path``; what is written there replaces ``path`` when the block ends.

    After an error or a kill, ``path`` is unchanged. Missing parent folders are created, a symbolic link is followed,
    and temporary files that killed processes left for the same target are removed. The temporary name ends in
    ``.tmp``, so libraries that choose the format by suffix have to be told the format.
    Raises `InputError` if ``path`` is not a regular file (a folder, a device) or cannot be written.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        if target.exists() and not target.is_file():
            raise InputError(f"{path}: is not a regular file; expected the name of a file to write")
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
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


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote ``target``."""
    with suppress(OSError):  # a leftover does no harm
        for path in _temporary_files(target.parent):
            match = re.fullmatch(rf"\.{re.escape(target.name)}\.([0-9]+)\.tmp", path.name)
            if match and not _is_running(int(match[1])):
                path.unlink(missing_ok=True)


@cache  # listing a large folder before every write would be slow
def _temporary_files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix == ".tmp"]


def _is_running(pid: int) -> bool:
    if sys.platform == "win32":  # os.kill would end the process; Windows refuses to delete a file that is in use
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:  # it belongs to another user
        return True
    except (OSError, OverflowError):
        return False
    return True
