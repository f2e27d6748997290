"""Locks between processes."""

import logging
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from util.errors import InputError


def hold(path: Path, taken: str) -> BaseFileLock:
    """Hold a lock of the operating system on the file ``path``, made if need be, until it is released.

    It ends with the process, however that ends. Raises `InputError`, with the message ``taken``, if another process
    holds it, and if the folder cannot be written.
    """
    lock = FileLock(path, timeout=0, thread_local=False)  # any thread may release it
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise InputError(taken) from None
    except NotImplementedError:
        logging.warning("%s: this file system has no locks; nothing keeps a second program away", path.parent)
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be written ({error.strerror or error})") from error
    return lock
