"""Download a file so that it is complete or absent, and so that an interrupted download continues."""

import hashlib
import sys
from pathlib import Path

from util.errors import InputError

TIMEOUT = 30  # seconds without a byte
RETRIES = 5


def download(url: str, target: Path, sha256: str | None = None) -> None:
    """Download ``url`` (HTTP, or a file shared on Google Drive) to ``target``, unless ``target`` exists.

    ``target`` appears once all bytes that the server announced are there and their hexadecimal ``sha256``, if given,
    is right. If the server stops sending or the connection breaks, the download continues where it stopped: up to
    ``RETRIES`` times by itself, and again in the next call. Raises `InputError` for a failed download and for a wrong
    checksum.
    """
    if target.is_file():
        return
    import gdown  # slow to import, and most runs download nothing

    unchecked = target.with_name(f"{target.name}.download")
    digest = hashlib.sha256()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        unchecked.unlink(missing_ok=True)
        gdown.download(
            url,
            str(unchecked),
            quiet=not sys.stderr.isatty(),
            use_cookies=False,
            resume=True,
            hasher=digest,
            timeout=TIMEOUT,
            retries=RETRIES,
        )
    except Exception as error:  # of gdown, requests, urllib3, the file system
        reason = " ".join(str(error).split()) or type(error).__name__
        advice = f"run again to continue, or delete {unchecked}*.part to start over"
        raise InputError(f"{url}: download failed ({reason}); {advice}") from error
    if sha256 and digest.hexdigest() != sha256:
        unchecked.unlink()
        raise InputError(f"{url}: has the SHA-256 {digest.hexdigest()}; expected {sha256}")
    unchecked.replace(target)
