"""Files of others, which must be regular files, and own files, which are either complete or absent."""

import functools
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from util.errors import InputError


def check_is_file(path: Path, expected: str) -> None:
    """Raise `InputError`, saying what was ``expected``, unless ``path`` is a regular file or a link to one.

    Everything that reads a file of others calls this first: to open a pipe may wait and to read a device last for ever.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # the latter: a name that no file can have
        why = error.strerror if isinstance(error, OSError) else error
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({why})"
        raise InputError(f"{path}: {reason}; expected {expected}") from error
    if not stat.S_ISREG(mode):
        found = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise InputError(f"{path}: is {found}; expected {expected}")


def read_bytes(path: Path, expected: str) -> bytes:
    """The contents of a file of others. Raises `InputError`, see `check_is_file`, also if it cannot be read."""
    check_is_file(path, expected)
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected {expected}") from error


def sha256_of(path: Path) -> str:
    """The hexadecimal SHA-256 of a file. Raises `InputError` like `read_bytes`."""
    return hashlib.sha256(read_bytes(path, "a file")).hexdigest()


def read_json(path: Path, expected: str) -> Any:
    """The value in a JSON file of others. Raises `InputError` like `read_bytes`, also for anything but JSON."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            raise ValueError("the same name twice in one object")
        return values

    data = read_bytes(path, expected)
    try:
        return json.loads(data, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); expected {expected}") from error


def visible(names: Collection[str]) -> list[str]:
    """The names in a folder without hidden ones and, beside the ``.records`` of an evaluation, its ``overlay``."""
    overlay = "overlay" if ".records" in names else None
    return [name for name in names if not name.startswith(".") and name != overlay]


def files_below(folder: Path) -> list[Path]:
    """Every file below a folder, also behind links that do not lead in a circle, whose path there is `visible`.

    Raises OSError for a folder that cannot be read, which `Path.rglob` leaves out.
    """

    def refuse(error: OSError) -> None:
        raise error

    def leads_back(path: Path) -> bool:
        return path.is_symlink() and any(path.samefile(above) for above in path.absolute().parents)

    files = []
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = [name for name in visible(folders) if not leads_back(Path(parent, name))]
        files += [Path(parent, name) for name in visible(names)]
    return files


def check_output(path: Path, inputs: Iterable[Path], mark: bytes | None = None) -> None:
    """Raise `InputError` if the file to write is an input, is there already but of others, or cannot be written.

    ``inputs``: files, and folders with all that is in them. ``mark``: is near the start of the program's own files;
    None: whatever is there already is refused.
    """
    target = Path(os.path.realpath(path))
    for source in inputs:
        if target.is_relative_to(os.path.realpath(source)):
            raise InputError(f"{path}: is part of the input {source}; expected another file to write")
    if os.path.lexists(target) and (mark is None or not target.is_file()):
        fault = "exists" if mark is None else "is not a regular file"
        raise InputError(f"{path}: {fault}; expected the name of a new file or folder to write")
    if mark and target.is_file():
        with target.open("rb") as file:
            if mark not in file.read(4096):
                raise InputError(f"{path}: exists and was not written by this program; expected another file to write")
    check_writable(path, target.parent)


def check_writable(path: Path, folder: Path) -> None:
    """Raise `InputError`, which names ``path``, unless ``folder``, which need not exist yet, can hold a new file."""
    place = Path(os.path.realpath(folder))
    try:
        with tempfile.TemporaryFile(dir=next(parent for parent in (place, *place.parents) if parent.exists())):
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


def check_outputs(outputs: Iterable[tuple[Path | None, bytes]], inputs: Collection[Path] = ()) -> None:
    """`check_output` for each file to write, with its mark; None: it is not wanted. No two may be the same file."""
    seen: set[str] = set()
    for path, mark in outputs:
        if path:
            check_output(path, inputs, mark)
            if (target := os.path.realpath(path)) in seen:
                raise InputError(f"{path}: is named for two outputs; expected another file for each")
            seen.add(target)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary file name beside ``path``; what is written there replaces ``path`` when the block ends.

    After an error or a kill, ``path`` is unchanged. Temporary names are unique, so that several processes and threads
    may write the same file: the last one wins. What a killed process left is removed by the next process that writes
    to the folder. Missing parent folders are created, and a symbolic link is followed. The temporary name ends in
    ``.tmp``, so libraries that choose the format by suffix have to be told the format.
    Raises `InputError` if ``path`` is not a regular file (a folder, a device) or cannot be written.
    """
    target = Path(os.path.realpath(path))
    # Of bounded length, as file systems limit names, whatever the target's. Not `with_name`: the root folder has none.
    short = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]
    temporary = target.parent / f".{short}.{threading.get_native_id()}{_temporary_suffix()}"
    try:
        if os.path.lexists(target) and not target.is_file():  # a link that is left is part of a loop
            raise InputError(f"{path}: is not a regular file; expected the name of a file to write")
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target.parent)
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


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield the name of a folder or file to make, which becomes ``path`` when the block ends; an error leaves nothing.

    ``path`` must not exist. Missing parent folders are created; leftovers of killed processes go as in `atomic_path`.
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target.parent)
    with tempfile.TemporaryDirectory(_temporary_suffix(), ".", target.parent) as scratch:
        made = Path(scratch) / target.name
        yield made
        made.rename(target)


def _temporary_suffix() -> str:
    return f".{os.getpid()}@{platform.node()}.tmp"


@functools.cache  # once per process and folder: folders of results are large
def _remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that killed processes of this machine left in ``folder``."""
    own = re.compile(rf"\..+\.([0-9]+)@{re.escape(platform.node())}\.tmp")
    for path in folder.iterdir():
        if (match := own.fullmatch(path.name)) and not _is_running(int(match[1])):
            with suppress(OSError):
                # Windows, see `_is_running`, would remove what another process has finished in its folder.
                shutil.rmtree(path) if path.is_dir() and os.name != "nt" else path.unlink()


def _is_running(pid: int) -> bool:
    if os.name == "nt":  # has no signal 0, but refuses to remove files that are open
        return pid == os.getpid()
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # runs, and belongs to somebody else
        return True
    return True
