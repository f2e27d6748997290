"""Read annotations of labelme, CVAT, COCO and YouTube-VIS, and masks of ids: one mask for each object of each frame."""

import base64
import io
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from datasets.frames import check_name, natural_order
from datasets.images import read_mask
from util.errors import InputError

Format = Literal["masks", "labelme", "cvat", "coco", "youtube-vis", "burst", "masks-with-void", "binary-masks"]
FORMATS: tuple[Format, ...] = get_args(Format)


class Frame(NamedTuple):
    """The objects of one frame, lowest first: a later one covers the earlier ones."""

    video: str  # "" if the annotations do not name one
    name: str  # without suffix
    size: tuple[int, int]  # H, W
    objects: list[tuple[str, np.ndarray]]  # key of the object in its video, mask H×W bool


def detect(path: Path) -> Format:
    """The format of a file or folder. Raises `InputError` if it is none of `FORMATS`."""
    if path.is_dir():
        for source in ("labelme", "masks"):
            if next(path.rglob(f"*.{READERS[source].suffix}"), None):
                return source
    elif path.suffix.lower() == ".xml":
        return "cvat"
    elif path.suffix.lower() == ".json":
        content = _read_json(path)
        if isinstance(content, dict) and "sequences" in content:
            return "burst"
        if isinstance(content, dict) and "annotations" in content:
            return "youtube-vis" if "videos" in content else "coco"
    raise InputError(
        f"{path}: expected a folder of masks (.png) or labelme files (.json), an XML file of CVAT,"
        " or a JSON file of COCO, YouTube-VIS or BURST"
    )


def read_frames(path: Path, source: Format) -> Iterator[Frame]:
    """The annotated frames of a file or folder. Raises `InputError` that names the file for whatever it cannot read."""
    reader = READERS[source]
    files = list(path.rglob(f"*.{reader.suffix}")) if reader.in_folder else [path]
    files.sort(key=lambda file: natural_order(file.relative_to(path).as_posix()))
    for file in files:
        video = "" if file.parent == path or file == path else file.parent.relative_to(path).as_posix()
        try:
            yield from reader.read(file, video)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OSError, ET.ParseError) as error:
            raise InputError(f"{file}: cannot be read as {source} ({type(error).__name__}: {error})") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())  # in UTF-8, perhaps with a byte order mark
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from error


def _split(file_name: str, path: Path) -> tuple[str, str]:
    """Video and frame of a file name such as ``video/00000.jpg`` in ``path``."""
    parts = PurePosixPath(file_name.replace("\\", "/")).parts
    for part in parts:
        check_name(part, path)
    return "/".join(parts[:-1]), PurePosixPath(parts[-1]).stem


def _polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    """H×W bool: the union of polygons x, y, x, y, … as COCO's tools fill them."""
    if not polygons or any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
        raise ValueError("a polygon has fewer than three points")
    return _run_lengths([list(map(float, polygon)) for polygon in polygons], size)


def _run_lengths(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """H×W bool of checked polygons, or of run lengths ``{"size", "counts"}`` as COCO stores them."""
    coco = pycocotools_mask()
    if isinstance(segmentation, dict):
        if tuple(segmentation["size"]) != size:
            raise ValueError(f"a mask is {segmentation['size']} large, its image {list(size)} (height, width)")
        if isinstance(segmentation["counts"], list):
            segmentation = coco.frPyObjects(segmentation, *size)
    else:
        segmentation = coco.merge(coco.frPyObjects(segmentation, *size))
    return coco.decode(segmentation).astype(bool)


def pycocotools_mask() -> Any:
    """The module ``pycocotools.mask``. Raises `InputError` if it is not installed."""
    try:
        from pycocotools import mask  # type: ignore[import-untyped]  # it has no stubs
    except ImportError as error:
        raise InputError("polygons and COCO's masks need pycocotools: pip install pycocotools") from error
    return mask


def _read_png(path: Path, video: str) -> Iterator[Frame]:
    ids = read_mask(path)
    found = [int(i) for i in np.unique(ids) if i]
    if found == [255]:
        ids, found = ids // 255, [1]
    yield Frame(video, path.stem, (ids.shape[0], ids.shape[1]), [(str(i), ids == i) for i in found])


def _read_void_png(path: Path, video: str) -> Iterator[Frame]:
    """Masks in which 255 is a void label: it becomes background."""
    ids = np.array(Image.open(path))
    if ids.ndim != 2:
        raise ValueError("is a colour image; expected a mask of ids")
    yield Frame(video, path.stem, ids.shape, [(str(i), ids == i) for i in np.unique(ids) if i not in (0, 255)])


def _read_binary(folder: Path, _: str) -> Iterator[Frame]:
    """A 0/255 image for each object and frame: video/object/frame.png with a number as object, or video/frame.png."""
    frames: dict[tuple[str, str], list[tuple[str, Path]]] = {}
    files = [path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".bmp")]
    for path in sorted(files, key=lambda path: natural_order(path.relative_to(folder).as_posix())):
        parts = path.relative_to(folder).parts[:-1]
        key = parts[-1] if parts and parts[-1].isdecimal() else "1"
        video = "/".join(parts[:-1] if parts and parts[-1].isdecimal() else parts)
        frames.setdefault((video, path.stem), []).append((key, path))
    for (video, name), objects in sorted(frames.items(), key=lambda frame: (frame[0][0], natural_order(frame[0][1]))):
        masks = [(key, np.array(Image.open(path).convert("L")) > 127) for key, path in objects]
        yield Frame(video, name, masks[0][1].shape, masks)


def _read_labelme(path: Path, video: str) -> Iterator[Frame]:
    content = _read_json(path)
    size = int(content["imageHeight"]), int(content["imageWidth"])
    objects = []
    for shape in content["shapes"]:
        group = shape.get("group_id")
        key = shape["label"] if group is None else f"{shape['label']} {group}"
        objects.append((key, _labelme_mask(shape, size)))
    yield Frame(video, path.stem, size, objects)


def _labelme_mask(shape: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    points = np.array(shape["points"], dtype=float)
    kind = shape.get("shape_type", "polygon")
    if kind == "polygon":
        return _polygons([points.ravel().tolist()], size)
    (x0, y0), (x1, y1) = points
    if kind == "rectangle":
        return _polygons([[x0, y0, x1, y0, x1, y1, x0, y1]], size)
    if kind == "circle":  # centre and a point of the edge
        y, x = np.ogrid[: size[0], : size[1]]
        return (x - x0) ** 2 + (y - y0) ** 2 <= (x1 - x0) ** 2 + (y1 - y0) ** 2
    if kind == "mask":
        inside = np.array(Image.open(io.BytesIO(base64.b64decode(shape["mask"])))) > 0
        return _place(inside, round(x0), round(y0), size)
    raise ValueError(f"a shape is a {kind}; expected a polygon, rectangle, circle or mask")


def _place(inside: np.ndarray, left: int, top: int, size: tuple[int, int]) -> np.ndarray:
    """H×W bool with the smaller mask h×w at this place."""
    mask = np.zeros(size, bool)
    mask[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return mask


def _read_cvat(path: Path, _: str) -> Iterator[Frame]:
    """CVAT for images 1.1 (``<image>``) or CVAT for video 1.1 (``<track>``)."""
    root = ET.parse(path).getroot()
    for image in sorted(root.iter("image"), key=lambda image: natural_order(image.attrib["name"])):
        size = int(image.attrib["height"]), int(image.attrib["width"])
        shapes = sorted(image, key=lambda shape: int(shape.get("z_order", 0)))
        objects = [(_cvat_key(shape), _cvat_mask(shape, size)) for shape in shapes if shape.tag != "tag"]
        yield Frame(*_split(image.attrib["name"], path), size, objects)
    frames: dict[int, list[tuple[str, ET.Element]]] = {}
    for track in root.iter("track"):
        for shape in track:
            visible = [(f"track {track.attrib['id']}", shape)] if shape.get("outside") != "1" else []
            frames.setdefault(int(shape.attrib["frame"]), []).extend(visible)
    for number, tracks in sorted(frames.items()):
        original = root.find(".//original_size")
        if original is None:
            raise ValueError("no original_size; expected the size of the video")
        size = int(original.findtext("height", "")), int(original.findtext("width", ""))
        tracks.sort(key=lambda track: int(track[1].get("z_order", 0)))
        yield Frame("", f"{number:05d}", size, [(key, _cvat_mask(shape, size)) for key, shape in tracks])


def _cvat_key(shape: ET.Element) -> str:
    """The attribute ``id`` of an object, if it has one, else its label."""
    ids = [child.text for child in shape.iter("attribute") if child.get("name") == "id" and child.text]
    return ids[0] if ids else shape.attrib["label"]


def _cvat_mask(shape: ET.Element, size: tuple[int, int]) -> np.ndarray:
    at = shape.attrib
    if shape.tag == "polygon":
        return _polygons([[float(number) for point in at["points"].split(";") for number in point.split(",")]], size)
    if shape.tag == "box":
        x0, y0, x1, y1 = (float(at[name]) for name in ("xtl", "ytl", "xbr", "ybr"))
        return _polygons([[x0, y0, x1, y0, x1, y1, x0, y1]], size)
    if shape.tag == "mask":
        counts = [int(count) for count in at["rle"].split(",")]  # row by row, background first
        values = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
        return _place(values.reshape(int(at["height"]), int(at["width"])), int(at["left"]), int(at["top"]), size)
    raise ValueError(f"a shape is a {shape.tag}; expected a polygon, box or mask")


def _read_coco(path: Path, _: str) -> Iterator[Frame]:
    """Objects have no identity across images unless annotations have a ``track_id``; else they are numbered."""
    content = _read_json(path)
    by_image: dict[int, list[dict[str, Any]]] = {}
    for annotation in content["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    for image in sorted(content["images"], key=lambda image: natural_order(image["file_name"])):
        size = image["height"], image["width"]
        objects = [
            (_coco_key(annotation, number), _coco_mask(annotation["segmentation"], size))
            for number, annotation in enumerate(by_image.get(image["id"], []), 1)
        ]
        yield Frame(*_split(image["file_name"], path), size, objects)


def _coco_key(annotation: dict[str, Any], number: int) -> str:
    attributes = annotation.get("attributes") or {}
    return str(annotation.get("track_id", attributes.get("track_id", number)))


def _coco_mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    return _run_lengths(segmentation, size) if isinstance(segmentation, dict) else _polygons(segmentation, size)


def _read_youtube_vis(path: Path, _: str) -> Iterator[Frame]:
    content = _read_json(path)
    for video in content["videos"]:
        size = video["height"], video["width"]
        annotations = [entry for entry in content["annotations"] if entry["video_id"] == video["id"]]
        for t, file_name in enumerate(video["file_names"]):
            objects = [
                (_coco_key(annotation, number), _coco_mask(annotation["segmentations"][t], size))
                for number, annotation in enumerate(annotations, 1)
                if annotation["segmentations"][t]
            ]
            yield Frame(*_split(file_name, path), size, objects)


def _read_burst(path: Path, _: str) -> Iterator[Frame]:
    for sequence in _read_json(path)["sequences"]:
        video = "/".join(check_name(sequence[key], path) for key in ("dataset", "seq_name"))
        size = sequence["height"], sequence["width"]
        for file_name, tracks in zip(sequence["annotated_image_paths"], sequence["segmentations"], strict=True):
            objects = [
                (track, _run_lengths({"size": list(size), "counts": entry["rle"]}, size))
                for track, entry in tracks.items()
            ]
            yield Frame(video, _split(file_name, path)[1], size, objects)


class Reader(NamedTuple):
    read: Callable[[Path, str], Iterator[Frame]]
    suffix: str
    in_folder: bool


READERS: dict[Format, Reader] = {
    "masks": Reader(_read_png, "png", True),
    "labelme": Reader(_read_labelme, "json", True),
    "cvat": Reader(_read_cvat, "xml", False),
    "coco": Reader(_read_coco, "json", False),
    "youtube-vis": Reader(_read_youtube_vis, "json", False),
    "burst": Reader(_read_burst, "json", False),
    "masks-with-void": Reader(_read_void_png, "png", True),
    "binary-masks": Reader(_read_binary, "", False),
}
