"""The result files of each video, and the record that says how they were made and whether they are complete.

The record of a video is ``output/.records/<video>.json``: hidden and outside the video's folder, which thus contains
nothing but PNGs, as benchmark servers expect. It is written before the first frame, without files, and again after the
last one. Files of a video that has any record are this program's own and may be deleted.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from datasets.video import Video
from util.errors import InputError
from util.files import atomic_path


class VideoResults:
    """The result files of one video and their record.

    Args:
        output, subfolder: PNGs go to ``output/subfolder/<video>/``.
        settings: JSON values on which the results depend besides the video and its masks.
        overlay: whether ``output/overlay/<video>.mp4`` and ``.png`` belong to the results.

    Raises `InputError` if the frames or masks cannot be read.
    """

    def __init__(self, video: Video, output: Path, subfolder: str, settings: dict, overlay: bool):
        self.video, self.output = video, output
        self.folder = output / subfolder / video.name
        previews = output / "overlay" / f"{video.name}.mp4", output / "overlay" / f"{video.name}.png"
        self.overlay = previews if overlay else None
        self.record = output / ".records" / f"{video.name}.json"
        try:
            stats = [(path.name, path.stat()) for path in video.sources]
            frames = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
            masks = [[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in video.masks]
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error
        self.made_with = {**settings, "frames": _digest(frames), "masks": _digest(masks)}

    def png(self, name: str) -> Path:
        """The mask of frame ``name``."""
        return self.folder / f"{name}.png"

    def are_finished(self) -> bool:
        """Whether all files are there as they were written. A damaged record or file counts as not finished.

        Raises `InputError` if the files were made with other settings, frames or masks, or by another program.
        """
        if not self.record.exists() and any(self.folder.glob("*.png")):
            raise InputError(
                f"{self.folder}: contains PNGs that are not results of this program;"
                " expected --overwrite or another --output"
            )
        made_with, files = self._read()
        intact = all(found and _fingerprint(self.output / name) == found for name, found in files.items())
        if not files or not intact:
            return False
        different = [key for key, value in {**made_with, **self.made_with}.items() if made_with.get(key) != value]
        if different:
            raise InputError(
                f"{self.folder}: contains finished results of a run with different {', '.join(different)};"
                " expected --overwrite or another --output"
            )
        return {self._name(path) for path in self._paths(self.video.outputs or ())} <= files.keys()

    def begin(self) -> None:
        """Delete what earlier runs left, finished or not, so that none of it stays among the new files."""
        for file in (self.folder / "*.png", self.record, *(self.overlay or ())):
            for path in file.parent.glob(f".{file.name}.*.tmp"):
                path.unlink()
        self._write({})
        for path in (*self.folder.glob("*.png"), *(self.overlay or ())):
            path.unlink(missing_ok=True)

    def finish(self, names: Iterable[str]) -> None:
        """Record that the PNGs of the frames ``names``, and the overlay if there is one, are complete."""
        self._write({self._name(path): _fingerprint(path) for path in self._paths(names)})

    def _paths(self, names: Iterable[str]) -> list[Path]:
        return [*map(self.png, names), *(self.overlay or ())]

    def _name(self, path: Path) -> str:
        return path.relative_to(self.output).as_posix()

    def _read(self) -> tuple[dict, dict]:
        """``made_with`` and the fingerprints of the files by name, both empty without an intact record."""
        try:
            content = json.loads(self.record.read_bytes())
            made_with, files = content["made_with"], content["files"]
        except (OSError, ValueError, KeyError, TypeError):  # killed or powered off while writing
            return {}, {}
        return (made_with, files) if isinstance(made_with, dict) and isinstance(files, dict) else ({}, {})

    def _write(self, files: dict) -> None:
        with atomic_path(self.record) as temporary:
            temporary.write_text(json.dumps({"made_with": self.made_with, "files": files}))


def check_inputs_survive(results: Sequence[VideoResults], inputs: Iterable[Path]) -> None:
    """Raise `InputError` if the results would replace anything that is read.

    That is the frames and masks of all videos, the folders that they are in, and ``inputs``: further files, and
    folders of masks, which need not exist yet.
    """
    protected = {_identity(path): path for path in inputs}
    for result in results:
        files = {*result.video.sources, *result.video.masks}
        for path in chain(files, {path.parent for path in files}):
            protected[_identity(path)] = path
    for result in results:
        for path in (result.folder, result.record, *(result.overlay or ())):
            if replaced := protected.get(_identity(path)):
                raise InputError(f"{replaced}: the results would replace the input; expected another --output")
        if result.overlay and result.folder == result.overlay[0].parent:
            raise InputError(f"{result.folder}: no place for a video of this name with --overlay; rename the video")


def _identity(path: Path) -> object:
    """Equal for all names of one file or folder: through links, or in other case where the system ignores case."""
    try:
        stat = path.stat()
    except OSError:
        return path.resolve()
    return stat.st_dev, stat.st_ino


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _fingerprint(path: Path) -> list[int] | None:
    """Size in bytes and a checksum of both ends; None for a missing file.

    Cheap, yet reveals a file that was cut off, or that a power failure filled with zeros.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            ends = file.read(64)
            file.seek(max(0, size - 64))
            return [size, zlib.crc32(ends + file.read())]
    except OSError:
        return None
