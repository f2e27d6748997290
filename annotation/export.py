"""The masks in the formats of other programs, each a single file."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from annotation.polygons import polygons
from annotation.workspace import Workspace
from datasets.images import mask_ids, write_mask
from results.overlay import overlay_writer
from util.archive import zip_entry
from util.files import atomic_path, write_bytes


@contextmanager
def _archive(target: Path) -> Iterator[ZipFile]:
    with atomic_path(target) as temporary, ZipFile(temporary, "w") as archive:
        yield archive


def _add(archive: ZipFile, name: str, content: str | bytes | Path) -> None:
    """Add a text, bytes or what a file holds."""
    entry = zip_entry(name, ZIP_DEFLATED)
    if not isinstance(content, Path):
        archive.writestr(entry, content)
        return
    entry.file_size = content.stat().st_size  # beyond 2 GiB the entry has another form
    with content.open("rb") as source, archive.open(entry, "w") as target:
        shutil.copyfileobj(source, target)


def _masks(workspace: Workspace, target: Path) -> None:
    """Palette PNGs of object ids, as `eval_generic.py` writes them."""
    with _archive(target) as archive, tempfile.TemporaryDirectory() as folder:
        for index in workspace.frames_with_masks():
            path = Path(folder) / "mask.png"
            write_mask(path, workspace.mask(index))
            _add(archive, f"{workspace.name}/{workspace.names[index]}.png", path)


def _overlay(workspace: Workspace, target: Path) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        overlay_writer(target, Path(folder) / "sheet.png", workspace.fps) as add,
    ):
        for index in workspace.frames_with_masks():
            add(workspace.names[index], workspace.image(index), workspace.mask(index))


def _coco(workspace: Workspace, target: Path) -> None:
    """Instances in COCO's format, masks as the compressed run lengths of pycocotools."""
    height, width = workspace.size
    images: list[dict] = []
    annotations: list[dict] = []
    for index in workspace.frames_with_masks():
        images.append({"id": index, "file_name": workspace.files[index], "height": height, "width": width})
        ids = workspace.mask(index)
        for object_id in sorted(mask_ids(ids)):
            mask = (ids == object_id).astype(np.uint8)
            counts = coco_mask.encode(np.asfortranarray(mask))["counts"]
            annotation: dict[str, Any] = {"id": len(annotations) + 1, "image_id": index, "category_id": object_id}
            annotation |= {"iscrowd": 0, "area": int(mask.sum()), "bbox": cv2.boundingRect(mask)}
            counts = counts if isinstance(counts, str) else counts.decode()
            annotations.append(annotation | {"segmentation": {"size": [height, width], "counts": counts}})
    categories = [{"id": number, "name": name} for number, name in workspace.objects.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_bytes(target, json.dumps(content).encode())


def _yolo(workspace: Workspace, target: Path) -> None:
    """A text file per frame: a line ``class x1 y1 x2 y2 …`` per connected region, coordinates from 0 to 1."""
    height, width = workspace.size
    classes = {object_id: number for number, object_id in enumerate(workspace.objects)}
    names = "".join(f"  {classes[i]}: {json.dumps(name)}\n" for i, name in workspace.objects.items())
    with _archive(target) as archive:
        _add(archive, "data.yaml", f"names:\n{names}")
        for index in workspace.frames_with_masks():
            ids, lines = workspace.mask(index), []
            for object_id in sorted(mask_ids(ids)):
                for polygon in polygons(ids == object_id):
                    numbers = (polygon / (width, height)).ravel()
                    lines.append(" ".join([str(classes[object_id]), *(f"{number:.6f}" for number in numbers)]))
            _add(archive, f"labels/{workspace.names[index]}.txt", "\n".join(lines))


def _matte(workspace: Workspace, target: Path) -> None:
    """Grey PNGs of each object's probability, 255 for 1, in a folder per object."""
    with _archive(target) as archive:
        for index in workspace.frames_with_masks():
            for object_id, alpha in workspace.mattes(index).items():
                _add(archive, f"{object_id:03d}/{workspace.names[index]}.png", cv2.imencode(".png", alpha)[1].tobytes())


def _all(workspace: Workspace, target: Path) -> None:
    with _archive(target) as archive:
        for name in EXPORTS:
            if name != target.name:
                _add(archive, name, export(workspace, name, target.parent))


EXPORTS: dict[str, Callable[[Workspace, Path], None]] = {
    "masks.zip": _masks,
    "overlay.mp4": _overlay,
    "coco.json": _coco,
    "yolo.zip": _yolo,
    "matte.zip": _matte,
    "all.zip": _all,
}


def export(workspace: Workspace, name: str, folder: Path) -> Path:
    """Write ``folder/name``, one of `EXPORTS`, from the masks that the workspace has now; returns its path.

    Raises `InputError` if it cannot be written or a frame of the video is damaged.
    """
    EXPORTS[name](workspace, folder / name)
    return folder / name
