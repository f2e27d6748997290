"""Convert annotations of labelme, CVAT, COCO, YouTube-VIS or BURST to PNGs of object ids, and back.

python scripts/convert_masks.py labelme_folder my_videos/Annotations
python scripts/convert_masks.py annotations.xml my_videos/Annotations             # CVAT for images or for video 1.1
python scripts/convert_masks.py instances.json my_videos/Annotations              # COCO, YouTube-VIS or BURST
python scripts/convert_masks.py VOST/Annotations vost/Annotations --from masks-with-void
python scripts/convert_masks.py output/mine corrected.json --to youtube-vis       # results of eval_generic.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import util.interrupt  # noqa: F401

# isort: split
import base64
import io
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from datasets.images import mask_ids, write_mask
from scripts.mask_formats import FORMATS, Frame, detect, pycocotools_mask, read_frames
from util.errors import InputError, Parser, exit_on_input_error
from util.files import atomic_folder, check_output, write_bytes

EPILOG = """
Masks are written to TARGET/VIDEO/FRAME.png with the names of the annotated images: VIDEO/FRAME.jpg in an XML or JSON
file, VIDEO/FRAME.json in a folder of labelme files. A CVAT video, or a folder with JSON files directly in it, has no
VIDEO: masks are written to TARGET/FRAME.png, so give my_videos/Annotations/VIDEO as the TARGET. Frames of a CVAT video
are numbered from 00000, like those of a video file in eval_generic.py. Every annotated image gets a mask, even without
objects.

Annotations with the same key throughout a video are one object. The key is the label and group_id in labelme; the
track, attribute "id" or else label in CVAT; the track_id in COCO and YouTube-VIS, or else the place among the
annotations of the image or video. Keys that are numbers from 1 to 254 become the ids (track_ids only if every
annotation of the file has one); others are numbered in the order in which they appear, and listed. Where objects
overlap, the later one wins. masks-with-void are masks whose 255 is a void label, which becomes background;
binary-masks are 0/255 or 0/1 images VIDEO/OBJECT/FRAME.png with a number as OBJECT, or VIDEO/FRAME.png.

The other direction writes exact masks (no polygons) with ids as keys.
"""


class IdMask(NamedTuple):
    """The mask of one frame: H×W uint8 ids, 0 for background."""

    video: str
    name: str
    ids: np.ndarray

    @property
    def image(self) -> str:
        """The name of the frame's image."""
        return f"{self.video}/{self.name}.jpg" if self.video else f"{self.name}.jpg"

    def objects(self) -> list[tuple[int, np.ndarray]]:
        """Each id, ascending, and its mask H×W uint8 0/1."""
        return [(i, (self.ids == i).astype(np.uint8)) for i in sorted(mask_ids(self.ids))]


def number_objects(frames: Iterable[Frame], path: Path) -> Iterator[IdMask]:
    """Give the objects of each video their ids, see `EPILOG`. Prints what they stand for, where that is not obvious.

    Raises `InputError` for more than 254 objects and for a video whose keys are numbers and names.
    """
    for video, frames_of_video in groupby(frames, key=lambda frame: frame.video):
        ids: dict[str, int] = {}
        for frame in frames_of_video:
            mask = np.zeros(frame.size, np.uint8)
            for key, inside in frame.objects:
                is_id = key.isdecimal() and len(key) < 10 and 1 <= int(key) <= 254
                object_id = ids.setdefault(key, int(key) if is_id else len(ids) + 1)
                if object_id > 254 or len(set(ids.values())) < len(ids):
                    reason = "over 254 objects" if object_id > 254 else "objects with numbers and others with names"
                    raise InputError(f"{path}: {video or 'the video'} has {reason}; expected ids from 1 to 254")
                mask[inside] = object_id
            yield IdMask(video, frame.name, mask)
        named = [f"{object_id} = {key}" for key, object_id in ids.items() if key != str(object_id)]
        if named:
            print(f"{video or path.stem}: {', '.join(named)}")


def write_masks(target: Path, masks: Iterable[IdMask]) -> None:
    for mask in masks:
        write_mask(target / mask.video / f"{mask.name}.png", mask.ids)


def write_labelme(target: Path, masks: Iterable[IdMask]) -> None:
    """A JSON file for each frame, to be put beside its image."""
    for mask in masks:
        shapes = []
        for object_id, inside in mask.objects():
            left, top, width, height = cv2.boundingRect(inside)
            png = io.BytesIO()
            Image.fromarray(inside[top : top + height, left : left + width]).save(png, "PNG")
            shape: dict[str, Any] = {
                "label": str(object_id),
                "points": [[left, top], [left + width - 1, top + height - 1]],
                "group_id": None,
                "description": "",
                "shape_type": "mask",
                "flags": {},
                "mask": base64.b64encode(png.getvalue()).decode(),
            }
            shapes.append(shape)
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": f"{mask.name}.jpg",
            "imageData": None,
            "imageHeight": mask.ids.shape[0],
            "imageWidth": mask.ids.shape[1],
        }
        _write_json(target / mask.video / f"{mask.name}.json", content)


def write_cvat(target: Path, masks: Iterable[IdMask]) -> None:
    """One XML file, CVAT for images 1.1."""
    root = ET.Element("annotations")
    ET.SubElement(root, "version").text = "1.1"
    for number, mask in enumerate(masks):
        size = {"width": str(mask.ids.shape[1]), "height": str(mask.ids.shape[0])}
        image = ET.SubElement(root, "image", {"id": str(number), "name": mask.image, **size})
        for object_id, inside in mask.objects():
            left, top, width, height = cv2.boundingRect(inside)
            values = inside[top : top + height, left : left + width].ravel()
            edges = np.flatnonzero(np.diff(values, prepend=0, append=2))
            place = {"left": left, "top": top, "width": width, "height": height, "z_order": 0}
            attributes = {"label": str(object_id), "source": "file", "occluded": "0"}
            attributes["rle"] = ", ".join(map(str, np.diff(edges, prepend=0)))
            ET.SubElement(image, "mask", attributes | {name: str(value) for name, value in place.items()})
    ET.indent(root)
    # Not encoded by ElementTree, which turns names that are not UTF-8 into what no reader takes.
    write_bytes(target, b"<?xml version='1.0' encoding='utf-8'?>\n" + ET.tostring(root, "unicode").encode())


def write_coco(target: Path, masks: Iterable[IdMask]) -> None:
    """One JSON file with the compressed run lengths of each object on each image."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for mask in masks:
        height, width = mask.ids.shape
        images.append({"id": len(images) + 1, "file_name": mask.image, "height": height, "width": width})
        for object_id, inside in mask.objects():
            ids = {"id": len(annotations) + 1, "image_id": len(images), "track_id": object_id, "category_id": 1}
            shape = {"segmentation": _run_lengths(inside), "area": int(inside.sum()), "bbox": cv2.boundingRect(inside)}
            annotations.append({**ids, **shape, "iscrowd": 0})
    _write_json(target, {"images": images, "annotations": annotations, "categories": CATEGORIES})


def write_youtube_vis(target: Path, masks: Iterable[IdMask]) -> None:
    """One JSON file with the compressed run lengths of each object of a video on all frames."""
    videos: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for _, group in groupby(masks, key=lambda mask: mask.video):
        frames = list(group)
        height, width = frames[0].ids.shape
        names = [mask.image for mask in frames]
        video = {"id": len(videos) + 1, "width": width, "height": height, "length": len(names), "file_names": names}
        videos.append(video)
        tracks: dict[int, dict[str, list]] = {}
        for t, mask in enumerate(frames):
            for object_id, inside in mask.objects():
                empty = {key: [None] * len(frames) for key in ("segmentations", "areas", "bboxes")}
                track = tracks.setdefault(object_id, empty)
                track["segmentations"][t] = _run_lengths(inside)
                track["areas"][t], track["bboxes"][t] = int(inside.sum()), cv2.boundingRect(inside)
        for object_id, track in sorted(tracks.items()):
            ids = {"id": len(annotations) + 1, "video_id": len(videos), "track_id": object_id, "category_id": 1}
            annotations.append({**ids, "iscrowd": 0, "height": height, "width": width, **track})
    _write_json(target, {"videos": videos, "annotations": annotations, "categories": CATEGORIES})


CATEGORIES = [{"id": 1, "name": "object", "supercategory": "object"}]
WRITERS: dict[str, Callable[[Path, Iterable[IdMask]], None]] = {
    "masks": write_masks,
    "labelme": write_labelme,
    "cvat": write_cvat,
    "coco": write_coco,
    "youtube-vis": write_youtube_vis,
}


def _run_lengths(inside: np.ndarray) -> dict[str, Any]:
    """Compressed run lengths as COCO's JSON files hold them."""
    encoded = pycocotools_mask().encode(np.asfortranarray(inside))
    return {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_bytes(path, json.dumps(content).encode())


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(__doc__, EPILOG)
    parser.add_argument("source", type=Path, help="a folder of masks or labelme files, an XML file or a JSON file")
    parser.add_argument("target", type=Path, help="the folder or file to write; it must not exist")
    parser.add_argument(
        "--from", choices=FORMATS, dest="source_format", help="format of the source (default: detected)"
    )
    parser.add_argument("--to", choices=WRITERS, default="masks", help="format to write (default: %(default)s)")
    args = parser.parse_args(arguments)
    source_format = args.source_format or detect(args.source)
    if source_format == args.to:
        raise InputError(f"{args.source}: is in the format {args.to} already; expected another --to")
    check_output(args.target, [])
    suffix = {"cvat": ".xml", "coco": ".json", "youtube-vis": ".json"}.get(args.to)
    if suffix and args.target.suffix.lower() != suffix:  # by which it is known again
        raise InputError(f"{args.target}: expected a file that ends in {suffix} for --to {args.to}")
    count = 0

    def counted(masks: Iterator[IdMask]) -> Iterator[IdMask]:
        nonlocal count
        for mask in masks:
            count += 1
            yield mask

    with atomic_folder(args.target) as target:
        WRITERS[args.to](target, counted(number_objects(read_frames(args.source, source_format), args.source)))
    print(f"{args.target}: {count} frames as {args.to}")


if __name__ == "__main__":
    main()
