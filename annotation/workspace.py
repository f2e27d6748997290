"""The files of one video that is being annotated: its frames, the user's masks, and the results.

They have the layout of ``eval_generic.py`` (FRAME is the name of a frame)::

    Annotations/VIDEO/FRAME.png  the user's masks             VIDEO.json  names of objects, confidences
    results/VIDEO/FRAME.png      what was made of them        before/VIDEO/FRAME.png  results before the latest ones
    exports/VIDEO/               see `annotation.export`      mattes/ID/VIDEO/FRAME.png  probabilities
"""

import hashlib
import json
import threading
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from datasets.access import load_mask, open_frames
from datasets.frames import list_frames
from datasets.images import mask_ids, read_static_mask, write_mask
from datasets.video import with_given
from util.errors import InputError
from util.files import check_is_file, check_output, write_bytes

ANOTHER = "expected another --workspace"
ENDS = 2**20  # bytes at the beginning and end of files by which a video is known again


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

    Raises `InputError` for a video or masks that cannot be read, for a workspace of another video of this name (told by
    its place, size, length and ends), and if files of other programs would be replaced.
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
        for name in (self.name, *self.files):
            if name.encode(errors="ignore").decode() != name:
                raise InputError(
                    f"{self.source}: holds the name {name}; expected UTF-8, as the page and exports need it"
                )
        self.names = [Path(file).stem for file in self.files]
        self.exports = folder / "exports" / self.name
        self.objects: dict[int, str] = {}
        # frames with a mask of the user's → whether it is complete (`Session.annotate`)
        self.users: dict[int, bool] = {}
        self.confidence: dict[int, float] = {}  # of the frames with a result
        self.stale: set[int] = set()  # results that are out of date
        self.stale_is_known = True  # False: a mask or the network has changed since ``stale`` was determined
        self._made_with: dict[str, str | int] = {}
        self._fingerprint = self._make_fingerprint()
        self.lock = threading.RLock()
        self._reader = threading.Lock()
        self._record = folder / f"{self.name}.json"
        self.notes: list[str] = []  # what was left out
        check_output(self._record, [self.source], b'"source"')
        if self._record.is_file():
            self._load()
            if masks:
                self.notes.append(f"--mask is ignored: {self._record} holds the masks of this video already.")
            return
        folders = [folder / name for name in ("Annotations", "results", "before", "exports")]
        for path in (parent / self.name for parent in (*folders, *(folder / "mattes").glob("*"))):
            if path.is_dir() and any(path.iterdir()):
                raise InputError(f"{path}: contains files of other programs; {ANOTHER}")
        given = {}
        for index, path in (self._found_masks() if masks is None else masks).items():
            if index >= self.length:
                raise InputError(f"--mask {index}:{path}: {self.source} ends with frame {self.length - 1}")
            try:
                given[index] = read_user_mask(path, self.size)
            except InputError as error:
                if masks is not None:
                    raise
                self.notes.append(str(error))
        self.save()  # before the first mask, which is then known to be our own
        for index, ids in given.items():
            self.put_user_mask(index, ids, complete=False)

    def _found_masks(self) -> dict[int, Path]:
        if not self.source.is_dir() or self.source.parent.name != "JPEGImages":
            return {}
        folder = self.source.parents[1] / "Annotations" / self.source.name
        root = folder.parents[1].resolve()  # links that lead out of it are left out
        paths = {index: folder / f"{name}.png" for index, name in enumerate(self.names)}
        return {i: path for i, path in paths.items() if path.is_file() and path.resolve().is_relative_to(root)}

    def image(self, index: int) -> np.ndarray:
        """H×W×3 uint8 RGB, read again each time. Raises `InputError` for a damaged frame."""
        with self._reader:
            return self._frames.read(index)

    def mask(self, index: int, of: str = "") -> np.ndarray:
        """H×W uint8 ids: the user's word, and the result for objects that it does not hold; else background.

        ``of``: "user" or "result" for one of them alone, "before" for what the latest result has replaced.
        """
        with self.lock:
            nothing = np.zeros(self.size, np.uint8)
            given = self._read("Annotations", index) if index in self.users and of in ("", "user") else nothing
            if of == "user" or not of and self.users.get(index):
                return given
            folder = "before" if of == "before" and self._path(of, index).is_file() else "results"
            result = self._read(folder, index) if index in self.confidence else nothing
            return with_given(given, result)

    def mattes(self, index: int) -> dict[int, np.ndarray]:
        """Object id → H×W uint8 probability, 255 for 1. The user's own masks are certain."""
        with self.lock:
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
            was_known, self.stale_is_known = self.stale_is_known, False
            path = self._path("Annotations", index)
            if ids is None:
                self.users.pop(index, None)
                self.save()
                path.unlink(missing_ok=True)
                return
            unnamed = sorted(mask_ids(ids) - self.objects.keys())
            self.objects |= {object_id: f"object {object_id}" for object_id in unnamed}
            if was_known or unnamed:
                # Before the mask, so that a kill leaves no result that seems to be made from it, and no unnamed object.
                self.save()
            write_mask(path, ids)
            self.users[index] = complete
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
            if stale and index in self.confidence.keys() - self.stale:
                self.stale.add(index)
                self.save()  # before the result, so that a kill leaves none that seems to be up to date
            path = self._path("results", index)
            if keep and path.is_file():
                write_bytes(self._path("before", index), path.read_bytes())
            write_mask(path, ids)
            for object_id in self.objects.keys() | mattes.keys():
                path = self._path(f"mattes/{object_id}", index)
                if object_id in mattes:
                    write_bytes(path, cv2.imencode(".png", mattes[object_id])[1].tobytes())
                else:
                    path.unlink(missing_ok=True)
            self.confidence[index] = confidence
            (self.stale.add if stale else self.stale.discard)(index)
            self.save()

    def set_made_with(self, made_with: dict[str, str | int]) -> None:
        """Say what results depend on from now on; what was made with anything else is out of date."""
        with self.lock:
            if self._made_with not in ({}, made_with):  # nothing: earlier versions did not note it
                self.stale_is_known = False
            self._made_with = made_with

    def remove_object(self, object_id: int) -> None:
        """Remove an object from all masks and results."""
        with self.lock:
            for index, complete in list(self.users.items()):
                ids = self._read("Annotations", index)
                if (ids == object_id).any():
                    rest = np.where(ids == object_id, np.uint8(0), ids)
                    self.put_user_mask(index, rest if complete or rest.any() else None, complete)
            for index in self.confidence:
                self._path(f"mattes/{object_id}", index).unlink(missing_ok=True)
                ids = self._read("results", index)
                if (ids == object_id).any():
                    write_mask(self._path("results", index), np.where(ids == object_id, np.uint8(0), ids))
            self.objects.pop(object_id, None)  # last: after a kill it is there to be removed again
            self.save()

    def save(self) -> None:
        """Write everything that is not a picture. Raises `InputError`."""
        stale = self.stale if self.stale_is_known else self.confidence.keys()  # on the safe side after a crash
        content = {
            "source": str(self.source),
            "size": [self.length, *self.size],
            "fingerprint": self._fingerprint,
            "made_with": self._made_with,
            "objects": self.objects,
            "complete": {self.names[i]: complete for i, complete in sorted(self.users.items())},
            "confidence": {self.names[i]: value for i, value in sorted(self.confidence.items())},
            "stale": [self.names[i] for i in sorted(stale)],
        }
        write_bytes(self._record, json.dumps(content, indent=1).encode())

    def _load(self) -> None:
        index = {name: i for i, name in enumerate(self.names)}
        try:
            saved = json.loads(self._record.read_bytes())
            source, size = saved["source"], saved["size"]
            if source == str(self.source) and size == [self.length, *self.size]:
                self.objects = {int(i): str(name) for i, name in saved["objects"].items()}
                self.users = {index[name]: bool(complete) for name, complete in saved["complete"].items()}
                self.confidence = {index[name]: float(value) for name, value in saved["confidence"].items()}
                self.stale = {index[name] for name in saved["stale"]}
                self._made_with = dict(saved.get("made_with", {}))
                fingerprint = saved.get("fingerprint", self._fingerprint)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{self._record}: damaged, or the video has changed; {ANOTHER}") from error
        if source != str(self.source):
            raise InputError(f"{self._record}: belongs to {source}; {ANOTHER} for {self.source}")
        if size != [self.length, *self.size]:
            raise InputError(f"{self._record}: {self.source} had another size or length then; {ANOTHER}")
        if fingerprint != self._fingerprint:
            raise InputError(f"{self._record}: {self.source} had other frames then; {ANOTHER}")
        for frame in list(self.users):
            try:
                self._read("Annotations", frame)
            except InputError as error:
                self.notes.append(f"{error}; left out")
                del self.users[frame]
                self.stale_is_known = False

    def _make_fingerprint(self) -> str:
        """Of the files of the first and the last frame, or of the video file."""
        files = [self.source / self.files[i] for i in (0, -1)] if self.source.is_dir() else [self.source]
        digest = hashlib.sha256()
        for path in files:
            check_is_file(path, "a frame or a video")
            try:
                with path.open("rb") as file:
                    digest.update(file.read(ENDS))
                    file.seek(max(0, path.stat().st_size - ENDS))
                    digest.update(file.read())
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({error.strerror}); expected a frame or a video") from error
        return digest.hexdigest()

    def _read(self, folder: str, index: int) -> np.ndarray:
        path = self._path(folder, index)
        # Not `read_mask`, which refuses thin strokes of several objects for soft edges: these files are our own.
        ids = read_static_mask(path)[0]
        if ids.shape != self.size:
            raise InputError(f"{path}: is {ids.shape[1]}×{ids.shape[0]} pixels; expected the size of the video")
        return ids

    def _path(self, folder: str, index: int) -> Path:
        return self.folder / folder / self.name / f"{self.names[index]}.png"
