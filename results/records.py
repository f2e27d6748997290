"""The result files of a video: where they are, whether they are complete, and a thread that writes them."""

import hashlib
import json
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from util.errors import InputError
from util.files import atomic_path

WRITE_BEHIND = 8  # results that may wait for the writer thread


class VideoResults:
    """The files of one video, and the record that says whether they are complete and how they were made.

    ``video`` is a `datasets.video.Video`; ``settings`` are JSON values that the results depend on besides its masks.
    Raises `InputError` if the results would replace the input.
    """

    def __init__(self, video, output: Path, subfolder: str, settings: dict, overlay: bool):
        self.video = video
        self.folder = output / subfolder / video.name
        for source in (video.folder, *(mask.parent for mask in video.masks)):
            if self.folder.resolve() == source.resolve():
                raise InputError(f"{source}: the results would replace the input; expected another --output")
        previews = output / "overlay"
        if overlay and self.folder == previews:
            raise InputError(f"{video.folder}: a video of this name cannot be drawn with --overlay; expected another")
        self.overlay = (previews / f"{video.name}.mp4", previews / f"{video.name}.png") if overlay else ()
        # Hidden and outside the video's folder, which so holds nothing but PNGs, as benchmark servers expect.
        self.record = output / ".finished" / f"{video.name}.json"
        masks = hashlib.sha256()
        for mask in video.masks:
            masks.update(mask.read_bytes())
        self.made_with = {**settings, "frames": video.num_frames, "masks": masks.hexdigest()}

    def png(self, name: str) -> Path:
        return self.folder / f"{name}.png"

    def are_finished(self) -> bool:
        """Raises `InputError` if they are, but were made with other settings or masks."""
        if not self.record.is_file():
            return False
        record = json.loads(self.record.read_text())
        if self.video.outputs is None:
            complete = len(list(self.folder.glob("*.png"))) >= record["frames"]
        else:
            complete = all(_holds_something(self.png(name)) for name in self.video.outputs)
        if not complete or not all(path.is_file() for path in self.overlay):
            return False
        other = [key for key, value in self.made_with.items() if record["made_with"].get(key) != value]
        if other:
            raise InputError(
                f"{self.folder}: holds finished results of a run with different {', '.join(other)};"
                " expected --overwrite or another --output"
            )
        return True

    def begin(self) -> None:
        """Take away what an earlier run finished or was killed at, so that none of it is left among the new files."""
        for file in (self.folder / "*.png", self.record, *self.overlay):
            for path in file.parent.glob(f".{file.name}.*.tmp"):
                path.unlink()
        if self.record.is_file():
            for path in self.folder.glob("*.png"):
                path.unlink()
            self.record.unlink()

    def finish(self, frames: int) -> None:
        """Record that ``frames`` PNGs and the overlay are complete."""
        with atomic_path(self.record) as temporary:
            temporary.write_text(json.dumps({"frames": frames, "made_with": self.made_with}))


def _holds_something(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0  # a power cut may leave empty files


class WriteBehind:
    """One thread that runs calls in order, a bounded number behind; its first error is raised by `put` or the end."""

    def __enter__(self) -> "WriteBehind":
        self.pool, self.waiting = ThreadPoolExecutor(1), deque()
        return self

    def put(self, function: Callable, *args) -> None:
        """Queue ``function(*args)``; waits while too many are queued."""
        self.waiting.append(self.pool.submit(function, *args))
        while len(self.waiting) > WRITE_BEHIND or self.waiting and self.waiting[0].done():
            self.waiting.popleft().result()

    def __exit__(self, kind, *_) -> None:
        self.pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            for call in self.waiting:
                call.result()
