"""The result files of each video, and the record that says how they were made and whether they are complete.

The record of a video is ``output/.records/<video>.json``, outside the video's folder because benchmark servers expect
nothing but PNGs there. It is written before the first frame, without files, and again after the last one; in between,
``<video>.frames`` lists the finished frames, so that an interrupted run can go on. Files of a video that has any record
are this program's own and may be deleted, except for complete PNGs that others have put among finished results.
"""

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from datasets.video import Video, is_enlarged
from util.errors import InputError
from util.files import read_json, sha256_of, write_bytes

PNG_END = b"IEND\xaeB`\x82"  # the type and the checksum of the last chunk
REPLACE = "expected --overwrite, which replaces it, or another --output"


class VideoResults:
    """The PNGs of one video in ``output/subfolder/<video>/``, with ``overlay`` also its previews, and their record.

    ``settings``: JSON values on which the results depend besides the video and its masks.
    Raises `InputError` if the frames or masks cannot be read.
    """

    def __init__(self, video: Video, output: Path, subfolder: str, settings: dict, overlay: bool):
        self.video, self.output = video, output
        self.folder = output / subfolder / video.name
        self._previews = output / "overlay" / f"{video.name}.mp4", output / "overlay" / f"{video.name}.png"
        self.overlay: tuple[Path, Path] | tuple[()] = self._previews if overlay else ()
        self.record = output / ".records" / f"{video.name}.json"
        self.journal = output / ".records" / f"{video.name}.frames"  # JSON lines: file, its checksum
        try:
            stats = [(path.name, path.stat()) for path in video.sources]
            frames = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
            masks = [[path.name, sha256_of(path)] for path in video.masks]
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error
        enlarged = is_enlarged(video.size, int(settings.get("size", 0)))
        self.made_with = {**settings, "enlarged": enlarged, "frames": frames, "masks": masks}

    def png(self, name: str) -> Path:
        """The mask of frame ``name``."""
        return self.folder / f"{name}.png"

    def are_finished(self, overwrite_changed: bool = False) -> bool:
        """Whether all files are there as they were written. A damaged record or file counts as not finished.

        Raises `InputError` if the files were made or changed by another program, or were made with other settings,
        frames or masks; with ``overwrite_changed`` the latter count as not finished.
        """
        for path in (*self.folder.glob("*.png"), *self.overlay) if not self.record.exists() else ():
            if path.exists():
                raise InputError(f"{path}: is not a result of this program; {REPLACE}")
        made_with, files = self._read()
        if not files:
            return False
        intact = {self.output / name for name, checksum in files.items() if self._is_intact(name, checksum)}
        for path in sorted(set(self.folder.glob("*.png")) - intact):
            if path.is_file() and path.read_bytes().endswith(PNG_END):  # not one of ours that was cut
                raise InputError(f"{path}: is not as this program wrote it; {REPLACE}")
        if len(intact) < len(files):
            return False
        different = self._different(made_with)
        if "precision" in different:  # the machine decides it, unless a flag does
            different[different.index("precision")] = "precision (--amp or --no-amp)"
        if different and not overwrite_changed:
            raise InputError(
                f"{self.folder}: contains finished results of a run with different {', '.join(different)};"
                " expected --overwrite or another --output"
            )
        return not different and self._files(self.video.outputs or ()).keys() <= files.keys()

    def begin(self, overwrite: bool = False) -> set[str]:
        """Names of the frames whose PNGs stay, because an interrupted run made them in the same way.

        What else earlier runs left is deleted. With ``overwrite``, everything is.
        """
        made_with, files = self._read()
        kept = {} if overwrite else self._finished_frames(made_with, files)
        outdated = [path for path in self._previews if self._name(path) in files and self._different(made_with)]
        # The journal first: that of other settings must never be found beside the new record.
        write_bytes(self.journal, b"".join(map(_line, kept, kept.values())))
        self._write({})
        own = {self.output / name for name in kept}
        for path in (*self.folder.glob("*.png"), *self.overlay, *outdated):
            if path not in own:
                path.unlink(missing_ok=True)
        return {path.stem for path in own}

    def add(self, name: str) -> None:
        """Note that the PNG of frame ``name`` is complete."""
        with self.journal.open("ab") as file:
            file.write(_line(self._name(self.png(name)), sha256_of(self.png(name))))

    def finish(self, names: Iterable[str]) -> None:
        """Record that the PNGs of the frames ``names``, and the overlay if there is one, are complete."""
        files = self._files(names).items()
        self._write({name: sha256_of(path) if path.is_file() else "" for name, path in files})  # "": is not finished
        self.journal.unlink(missing_ok=True)

    def _finished_frames(self, made_with: dict, files: dict[str, str]) -> dict[str, str]:
        """The intact PNGs, and their checksums, if the record is of the same settings, frames and masks."""
        if set(self._different(made_with)) - {"fps"}:
            return {}
        files = dict(files)
        for line in self.journal.read_bytes().splitlines() if self.journal.is_file() else ():
            with suppress(ValueError, TypeError):  # the last line of a killed run
                files |= [json.loads(line)]
        pngs = {name: checksum for name, checksum in files.items() if (self.output / name).parent == self.folder}
        return {name: checksum for name, checksum in pngs.items() if self._is_intact(name, checksum)}

    def _read(self) -> tuple[dict, dict[str, str]]:
        """``made_with`` and the files of the record; nothing if it is missing or damaged."""
        try:
            content = read_json(self.record, "a record")
            return dict(content["made_with"]), dict(content["files"])
        except (ValueError, KeyError, TypeError):
            return {}, {}

    def _different(self, made_with: dict) -> list[str]:
        """What differs in a record's ``made_with``. A missing setting, as in other versions, is false or none."""
        names = {**made_with, **self.made_with}
        if not (made_with.get("fps") and self.made_with.get("fps")):  # of overlays alone
            names.pop("fps", None)
        return [name for name in names if (made_with.get(name) or None) != (self.made_with.get(name) or None)]

    def _is_intact(self, name: str, checksum: str) -> bool:
        try:
            return sha256_of(self.output / name) == checksum
        except InputError:
            return False

    def _files(self, names: Iterable[str]) -> dict[str, Path]:
        return {self._name(path): path for path in (*map(self.png, names), *self.overlay)}

    def _name(self, path: Path) -> str:
        return path.relative_to(self.output).as_posix()

    def _write(self, files: dict[str, str]) -> None:
        write_bytes(self.record, json.dumps({"made_with": self.made_with, "files": files}).encode())


def check_inputs_survive(results: Sequence[VideoResults], inputs: Iterable[Path]) -> None:
    """Raise `InputError` if the results would replace the frames and masks of a video, their folders, or ``inputs``.

    ``inputs``: further files, and folders of masks, which need not exist yet.
    """
    files = {path for result in results for path in (*result.video.sources, *result.video.masks)}
    protected = {_identity(path): path for path in (*inputs, *files, *{path.parent for path in files})}
    for result in results:
        for path in (result.folder, result.record, *result.overlay):
            if replaced := protected.get(_identity(path)):
                raise InputError(f"{replaced}: the results would replace the input; expected another --output")
        if result.overlay and result.folder == result.overlay[0].parent:
            raise InputError(f"{result.folder}: no place for a video of this name with --overlay; rename the video")


def _identity(path: Path) -> object:
    """Equal for all names of one file or folder: through links, or in other case where the system ignores case."""
    try:
        stat = path.stat()
    except OSError:
        return os.path.realpath(path)
    return stat.st_dev, stat.st_ino


def _line(file: str, checksum: str) -> bytes:
    return json.dumps([file, checksum]).encode() + b"\n"
