"""The thread that computes: it keeps the predictor's session in step with the workspace and propagates."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from annotation.workspace import Workspace
from datasets.images import mask_ids
from util.errors import InputError

if TYPE_CHECKING:  # importing PyTorch takes seconds; the page is there before
    from session import Progress, Session

DIRECTIONS = ("both", "forward", "backward")
UNCERTAIN = 0.3  # confidence (mean margin along the border of the least sure object) below which a frame is marked

# Video → its session, and what results depend on besides the video and the masks.
OpenSession = Callable[[Path], "tuple[Session, dict[str, str | int]]"]
Publish = Callable[[str, dict[str, Any]], None]


class Project:
    """A workspace and the session that computes its results. Safe to use from several threads.

    Args:
        open_session: makes the session of a video; called in ``worker``, as everything that needs the network.
        worker: has one thread.
        publish: called from any thread with ("state", see `state`) and ("frame", …) whenever these change.
    """

    def __init__(
        self, workspace: Workspace, open_session: OpenSession, worker: ThreadPoolExecutor, publish: Publish
    ) -> None:
        self.workspace, self._worker, self._publish = workspace, worker, publish
        self.running: dict[str, float] | None = None  # frames done and in all, seconds left
        self.message: str | None = None  # what went wrong
        self.next: int | None = None  # frame to correct
        self._stop = threading.Event()
        self._unsynced = set(workspace.users)  # frames whose mask the session does not have
        self._agreeing: set[int] = set()  # frames of the user's on which the session is known to say the same
        self._opened = worker.submit(self._open, open_session)
        self._replaced: set[int] = set()
        self._submit(self._restore)

    def state(self) -> dict[str, Any]:
        """Everything that changes while a video is annotated, as JSON values."""
        workspace = self.workspace
        with workspace.lock:
            return {
                "objects": dict(workspace.objects),
                "users": dict(workspace.users),
                "confidence": dict(workspace.confidence),
                "stale": sorted(workspace.stale),
                "next": self.next,
                "running": self.running,
                "message": self.message or " ".join(workspace.notes) or None,
            }

    def annotate(self, index: int, ids: np.ndarray | None, complete: bool = False) -> None:
        """Replace the user's mask of a frame: H×W uint8, or None to take it back. It is on disk at return.

        ``complete``: objects that it does not hold are absent. Raises `InputError` if the file cannot be written.
        """
        with self.workspace.lock:
            says_something = ids is not None and (complete or ids.any())
            self.workspace.put_user_mask(index, ids if says_something else None, complete)
            self._unsynced.add(index)
            self._agreeing.clear()
        self._submit(self._sync)

    def name_object(self, object_id: int, name: str) -> None:
        """Add an object, or give it another name."""
        with self.workspace.lock:
            self.workspace.objects[object_id] = name
            self.workspace.save()
        self._publish("state", self.state())

    def remove_object(self, object_id: int) -> None:
        """Remove an object from all masks and results; stops a propagation."""
        self.pause()
        self._worker.submit(self._remove, object_id).result()

    def propagate(self, index: int, direction: str) -> None:
        """Begin to segment what is out of date: everywhere (``both``), or from frame ``index`` in one direction.

        Raises `InputError` while a propagation runs, and without any mask.
        """
        with self.workspace.lock:
            if self.running is not None:
                raise InputError("a propagation is running; pause it first")
            if not self.workspace.users:
                raise InputError("no frame has a mask; paint an object first")
            self.running = {"done": 0, "total": 0, "seconds": 0}
            self._stop.clear()
        self._publish("state", self.state())
        self._submit(self._propagate, index, direction)

    def pause(self) -> None:
        """Stop the propagation after the frame that is being segmented."""
        self._stop.set()

    def close(self) -> None:
        """Stop a propagation, and publish nothing any more."""
        self.pause()
        self._publish = lambda event, data: None

    # In the worker's thread

    def _submit(self, function: Callable, *args: Any) -> Future:
        def run() -> None:
            message = None
            try:
                function(*args)
            except InputError as error:
                message = str(error)
            except Exception as error:  # the thread goes on, and the page says what has happened
                message = f"{type(error).__name__}: {error}"
            self.message = message
            self._publish("state", self.state())

        return self._worker.submit(run)

    def _open(self, open_session: OpenSession) -> "Session":
        session, made_with = open_session(self.workspace.source)
        self.workspace.set_made_with(made_with)
        return session

    def _restore(self) -> None:
        """Give the session the masks and results that are in the workspace; damaged results are left out."""
        session, workspace = self._opened.result(), self.workspace
        with workspace.lock:  # no mask may change in between
            current = workspace.confidence.keys() - workspace.stale if workspace.stale_is_known else set()
            self._annotate()
        for index, confidence in list(workspace.confidence.items()):
            try:
                ids = workspace.mask(index, "result")
            except InputError:
                del workspace.confidence[index]
                continue
            if index in current:
                session.restore(index, ids, confidence)
        self._note_stale()

    def _sync(self) -> None:
        """Tell the session of the masks that have changed, and note what is out of date for it."""
        if self._annotate():
            self._note_stale()

    def _annotate(self) -> bool:
        """Give the session the masks that have changed; returns whether there are any."""
        session, workspace = self._opened.result(), self.workspace
        with workspace.lock:
            changed = {i: (workspace.mask(i, "user"), workspace.users.get(i)) for i in self._unsynced}
            self._unsynced.clear()
        for index, (ids, complete) in sorted(changed.items()):
            if complete is not None:
                session.annotate(index, ids, complete)
            elif index in session.annotated:
                session.forget(index)
        return bool(changed)

    def _note_stale(self) -> None:
        session, workspace = self._opened.result(), self.workspace
        with workspace.lock:
            workspace.stale = {index for index in workspace.confidence if not session.is_current(index)}
            workspace.stale_is_known = not self._unsynced
            workspace.save()
        try:
            self.next = session.next_frame()
        except InputError:  # nothing is left, or nothing has been propagated since the start of the program
            left = workspace.confidence.keys() - workspace.users.keys()
            self.next = min(left, key=workspace.confidence.__getitem__, default=None)

    def _remove(self, object_id: int) -> None:
        self._sync()
        session, workspace = self._opened.result(), self.workspace
        if object_id in session.object_ids:
            session.remove(object_id)
        workspace.remove_object(object_id)
        self._agreeing.clear()
        self._note_stale()
        self._publish("state", self.state())

    def _propagate(self, index: int, direction: str) -> None:
        self._replaced.clear()
        start = time.monotonic()
        try:
            self._sync()
            session = self._opened.result()
            around = None if direction == "both" else index
            session.propagate(around, lambda progress: self._on_frame(progress, start), direction=direction)
            workspace = self.workspace
            done = workspace.confidence.keys() - workspace.stale - workspace.users.keys()
            for frame in sorted(set(range(workspace.length)) - done - self._replaced - self._agreeing):
                if self._stop.is_set():
                    break
                if not session.is_current(frame):
                    continue
                # It has no objects or the user decides them all, and needs no network.
                if frame not in workspace.users or self._differs(frame):
                    self._write(frame, {})
                if frame in workspace.users:
                    self._agreeing.add(frame)
        finally:
            self.running = None
            self._note_stale()

    def _differs(self, index: int) -> bool:
        return not np.array_equal(self.workspace.mask(index), self._opened.result().result(index).ids)

    def _write(self, index: int, mattes: dict[int, np.ndarray]) -> None:
        """Put the session's result of a frame into the workspace and publish it; ``mattes``: of what is not absent."""
        session = self._opened.result()
        result, stale = session.result(index), not session.is_current(index)
        lost = mattes.keys() - mask_ids(result.ids)  # however sure the network is that they are gone
        sure = min((result.confidence | dict.fromkeys(lost, 0.0)).values(), default=1.0)
        keep = index not in self._replaced
        self._replaced.add(index)
        self.workspace.put_result(index, result.ids, sure, mattes, stale=stale, keep=keep)
        self._publish("frame", {"frame": index, "confidence": sure, "stale": stale, "running": self.running})

    def _on_frame(self, progress: "Progress", start: float) -> bool:
        index = progress.frame
        mattes = {i: (p * 255).round().byte().cpu().numpy() for i, p in progress.probabilities.items()}
        left = (time.monotonic() - start) / progress.done * (progress.total - progress.done)
        self.running = {"done": progress.done, "total": progress.total, "seconds": left}
        self._write(index, mattes)
        return not self._stop.is_set()
