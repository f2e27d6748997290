"""Download a file so that it is complete or absent, and so that an interrupted download continues."""

import hashlib
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from util.errors import InputError
from util.files import check_output
from util.progress import progress_bar

TIMEOUT = 30  # seconds without a byte
RETRIES = 5


def download(url: str, target: Path, sha256: str | None = None, show: bool = True) -> None:
    """Download ``url`` (HTTP, or a file shared on Google Drive) to ``target``, unless ``target`` exists.

    ``target`` appears once all bytes that the server announced are there and their hexadecimal ``sha256``, if given,
    is right. If the server stops sending or the connection breaks, the download continues where it stopped: up to
    ``RETRIES`` times by itself, and again in the next call with the same ``sha256`` or, without one, ``url``. With
    ``show``, a terminal shows the progress. Raises `InputError` for a failed download and for a wrong checksum.
    """
    if target.is_file():
        return
    check_output(target, [])
    import gdown  # slow to import, and most runs download nothing
    import requests  # type: ignore[import-untyped]  # it has no stubs; gdown depends on it

    content = hashlib.sha256((sha256 or url).encode()).hexdigest()[:8]
    unchecked = target.with_name(f"{target.name}.{content}.download")
    digest = hashlib.sha256()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        unchecked.unlink(missing_ok=True)
        unchecked.touch()
        usual_mode = unchecked.stat().st_mode
        unchecked.unlink(missing_ok=True)
        gdown.download(
            url,
            str(unchecked),
            quiet=not (show and sys.stderr.isatty()),
            use_cookies=False,
            resume=True,
            hasher=digest,
            timeout=TIMEOUT,
            retries=RETRIES,
        )
    except Exception as error:  # of gdown, requests, urllib3, the file system
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error.__cause__ or error, requests.ConnectionError):
            reason = f"the connection to {urlsplit(url).netloc} failed"
        advice = f"run again to continue, or delete {unchecked}*.part to start over"
        raise InputError(f"{url}: download failed ({reason}); {advice}") from error
    if sha256 and digest.hexdigest() != sha256:
        unchecked.unlink()
        raise InputError(f"{url}: has the SHA-256 {digest.hexdigest()}; expected {sha256}")
    with suppress(OSError):  # of file systems without modes
        unchecked.chmod(usual_mode)  # gdown leaves that of temporary files, which nobody else may read
    unchecked.replace(target)


def download_listed(checksums: Path, url: str, folder: Path) -> None:
    """Download every file that ``checksums``, in the format of ``sha256sum``, lists from below ``url`` to ``folder``.

    Raises `InputError` like `download`; the next call continues.
    """
    files = [line.split(maxsplit=1) for line in checksums.read_text(encoding="utf-8").splitlines()]
    with progress_bar(len(files), "files ") as bar:
        for i, (sha256, name) in enumerate(files):
            download(f"{url.rstrip('/')}/{name}", folder / name, sha256, show=False)
            bar.update(i + 1)
