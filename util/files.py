"""Files that are either complete or absent."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from util.errors import InputError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` to write to; it takes the place of ``path`` at the end.

    A kill or an error leaves whatever stood there before. Missing parent folders are made. The temporary name
    ends in ``.tmp``: libraries that go by the suffix have to be told the format.
    Raises `InputError` when the place cannot be written (read-only, disk full).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):  # where the folder itself is unusable, the error above has said so
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file. Atomic. Raises `InputError` when it cannot be written."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
