"""The files of one video that is being annotated: its frames, the user's masks, and the results.

They have the layout of ``eval_generic.py`` (FRAME is the name of a frame)::

    Annotations/VIDEO/FRAME.png  the user's masks             VIDEO.json  names of objects, confidences
    results/VIDEO/FRAME.png      what was made of them        before/VIDEO/FRAME.png  results before the latest ones
    exports/VIDEO/               see `annotation.export`      mattes/ID/VIDEO/FRAME.png  probabilities
"""

import json
import threading
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from datasets.access import load_mask, open_frames
from datasets.frames import list_frames
from datasets.images import read_static_mask, write_mask
from util.errors import InputError
from util.files import write_bytes


def read_user_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """H×W uint8 ids of a mask file for a video of ``size`` (H, W); 0/255 masks hold object 1. Raises `InputError`."""
    ids = load_mask(path, str(path), size)
    return (ids > 0).astype(np.uint8) if ids.max() == 255 else ids


class Workspace:
    """State that is on disk as soon as a method that changes it returns. Safe to use from several threads.

    Args:
        source: a video file or a folder of frames.
        folder: the workspace.
        masks: frame number → mask file: taken in, unless the workspace knows the video already. None: those in the
            folder Annotations beside JPEGImages, if that is where the frames are; faulty ones are left out.

    Raises `InputError` for a video or masks that cannot be read, and for a workspace of another video of this name.
    """

    def __init__(self, source: Path, folder: Path, masks: Mapping[int, Path] | None = None):
        self.source, self.folder = source.resolve(), folder
        self._frames = open_frames(self.source)
        self.name, self.size, self.fps = self._frames.name, self._frames.size, self._frames.fps  # size: (H, W)
        self.length = self._frames.length
        if self.source.is_dir():
            self.files = [path.name for path in list_frames(self.source)]
        else:
            self.files = [f"{i:05d}.jpg" for i in range(self.length)]
        self.names = [Path(file).stem for file in self.files]
        self.objects: dict[int, str] = {}
        self.users: dict[
            int, bool
        ] = {}  # frames with a mask of the user's → whether it is complete (`Session.annotate`)
        self.confidence: dict[int, float] = {}  # of the frames with a result
        self.stale: set[int] = set()  # results that are out of date
        self.lock = threading.RLock()
        self._reader = threading.Lock()
        self._record = folder / f"{self.name}.json"
        self.notes: list[str] = []  # what was left out
        if self._record.is_file():
            self._load()
            return
        for index, path in (self._found_masks() if masks is None else masks).items():
            try:
                self.put_user_mask(index, read_user_mask(path, self.size), complete=False)
            except InputError as error:
                if masks is not None:
                    raise
                self.notes.append(str(error))
        self.save()

    def _found_masks(self) -> dict[int, Path]:
        if not self.source.is_dir() or self.source.parent.name != "JPEGImages":
            return {}
        folder = self.source.parents[1] / "Annotations" / self.source.name
        paths = {index: folder / f"{name}.png" for index, name in enumerate(self.names)}
        return {index: path for index, path in paths.items() if path.is_file()}

    def image(self, index: int) -> np.ndarray:
        """H×W×3 uint8 RGB, read again each time. Raises `InputError` for a damaged frame."""
        with self._reader:
            return self._frames.read(index)

    def mask(self, index: int, of: str = "") -> np.ndarray:
        """H×W uint8 ids: the user's word, and below it the result; background where there is neither.

        ``of``: "user" or "result" for one of them alone, "before" for what the latest result has replaced.
        """
        with self.lock:
            if of == "user":
                return self._read("Annotations", index)
            result = self._read("before" if of == "before" and self._path(of, index).is_file() else "results", index)
            if of or index not in self.users:
                return result
            given = self._read("Annotations", index)
            return given if self.users[index] else np.where(given > 0, given, result)

    def mattes(self, index: int) -> dict[int, np.ndarray]:
        """Object id → H×W uint8 probability, 255 for 1. The user's own masks are certain."""
        ids, mattes = self.mask(index), {}
        for object_id in self.objects:
            mattes[object_id] = (ids == object_id) * np.uint8(255)
            path = self._path(f"mattes/{object_id}", index)
            if index not in self.users and path.is_file():
                small = read_static_mask(path)[0]
                mattes[object_id] = cv2.resize(small, self.size[::-1], interpolation=cv2.INTER_LINEAR)
        return mattes

    def frames_with_masks(self) -> list[int]:
        """Numbers of the frames that have a result or a mask of the user's, ascending."""
        return sorted(self.users.keys() | self.confidence.keys())

    def put_user_mask(self, index: int, ids: np.ndarray | None, complete: bool) -> None:
        """Replace the user's mask of a frame: H×W uint8 ids, or None to take it back. Raises `InputError`."""
        with self.lock:
            path = self._path("Annotations", index)
            if ids is None:
                self.users.pop(index, None)
                self.save()
                path.unlink(missing_ok=True)
                return
            write_mask(path, ids)
            self.users[index] = complete
            for object_id in np.unique(ids[ids > 0]).tolist():
                self.objects.setdefault(object_id, f"object {object_id}")
            self.save()

    def put_result(
        self,
        index: int,
        ids: np.ndarray,
        confidence: float,
        mattes: Mapping[int, np.ndarray],
        *,
        stale: bool,
        keep: bool,
    ) -> None:
        """Replace the result of a frame: H×W uint8 ids, and id → h×w uint8 probability of any size.

        ``stale``: it is out of date already. ``keep``: keep what it replaces, see `mask`. Raises `InputError`.
        """
        with self.lock:
            path = self._path("results", index)
            if keep and path.is_file():
                write_bytes(self._path("before", index), path.read_bytes())
            write_mask(path, ids)
            for object_id, matte in mattes.items():
                write_bytes(self._path(f"mattes/{object_id}", index), cv2.imencode(".png", matte)[1].tobytes())
            self.confidence[index] = confidence
            (self.stale.add if stale else self.stale.discard)(index)
            self.save()

    def remove_object(self, object_id: int) -> list[int]:
        """Remove an object from all masks and results; returns the numbers of the user's masks that held it."""
        with self.lock:
            self.objects.pop(object_id, None)
            held = []
            for index, complete in list(self.users.items()):
                ids = self._read("Annotations", index)
                if (ids == object_id).any():
                    held.append(index)
                    rest = np.where(ids == object_id, np.uint8(0), ids)
                    self.put_user_mask(index, rest if complete or rest.any() else None, complete)
            for index in self.confidence:
                ids = self._read("results", index)
                if (ids == object_id).any():
                    write_mask(self._path("results", index), np.where(ids == object_id, np.uint8(0), ids))
            self.save()
            return held

    def save(self) -> None:
        """Write everything that is not a picture. Raises `InputError`."""
        content = {
            "source": str(self.source),
            "objects": self.objects,
            "complete": {self.names[i]: complete for i, complete in sorted(self.users.items())},
            "confidence": {self.names[i]: value for i, value in sorted(self.confidence.items())},
            "stale": [self.names[i] for i in sorted(self.stale)],
        }
        write_bytes(self._record, json.dumps(content, indent=1).encode())

    def _load(self) -> None:
        index = {name: i for i, name in enumerate(self.names)}
        try:
            saved = json.loads(self._record.read_bytes())
            source = saved["source"]
            if source == str(self.source):
                self.objects = {int(i): name for i, name in saved["objects"].items()}
                self.users = {index[name]: complete for name, complete in saved["complete"].items()}
                self.confidence = {index[name]: value for name, value in saved["confidence"].items()}
                self.stale = {index[name] for name in saved["stale"]}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self._record}: damaged, or the video has changed; expected another --workspace"
            ) from error
        if source != str(self.source):
            raise InputError(f"{self._record}: belongs to {source}; expected another --workspace for {self.source}")

    def _read(self, folder: str, index: int) -> np.ndarray:
        path = self._path(folder, index)
        # Not `read_mask`, which refuses thin strokes of several objects for soft edges: these files are our own.
        return read_static_mask(path)[0] if path.is_file() else np.zeros(self.size, np.uint8)

    def _path(self, folder: str, index: int) -> Path:
        return self.folder / folder / self.name / f"{self.names[index]}.png"
