"""Read annotations of labelme, CVAT, COCO and YouTube-VIS, and masks of ids: one mask for each object of each frame."""

import base64
import cmath
import io
import math
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from datasets.frames import check_name, natural_order
from datasets.images import mask_ids, read_static_mask
from scoring.folders import read_objects
from util.errors import InputError, is_out_of_memory
from util.files import files_below, read_bytes, read_json

Format = Literal["masks", "labelme", "cvat", "coco", "youtube-vis", "burst", "masks-with-void", "binary-masks"]
FORMATS: tuple[Format, ...] = get_args(Format)
MAX_SIDE = 1 << 15  # of an image, in pixels; C code reads the masks and checks no limits


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
            if _files(path, READERS[source].suffix):
                return source
    elif path.suffix.lower() == ".xml":
        return "cvat"
    elif path.suffix.lower() == ".json":
        content = read_json(path, "annotations")
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
    seen: set[tuple[str, str]] = set()
    for file in _files(path, reader.suffix) if reader.suffix else [path]:
        video = "" if file.parent == path or file == path else file.parent.relative_to(path).as_posix()
        try:
            for frame in reader.read(file, video):
                if any(mask.shape != frame.size for _, mask in frame.objects):
                    raise ValueError(f"the masks of frame {frame.name} differ in size")
                if (frame.video, frame.name) in seen:
                    where = f" of {frame.video}" if frame.video else ""
                    fault = f"frame {frame.name}{where} occurs twice"
                    raise InputError(f"{file}: {fault}; expected names that differ in more than the suffix")
                seen.add((frame.video, frame.name))
                yield frame
        except InputError:
            raise
        except Exception as error:  # XML, JSON of other contents, Pillow and COCO's tools raise many types
            if is_out_of_memory(error):
                raise
            raise InputError(f"{file}: cannot be read as {source} ({type(error).__name__}: {error})") from error
    if not seen:
        raise InputError(f"{path}: holds no annotated frame; expected {source}")


def _files(folder: Path, *suffixes: str) -> list[Path]:
    """The files below a folder that have one of the ``suffixes``, in order, those of each folder in succession."""
    files = [file for file in files_below(folder) if file.suffix.lower() in suffixes]
    return sorted(files, key=lambda file: (natural_order(file.parent.as_posix()), natural_order(file.stem)))


def _split(file_name: str, path: Path) -> tuple[str, str]:
    """Video and frame of a file name such as ``video/00000.jpg`` in ``path``."""
    parts = PurePosixPath(file_name.replace("\\", "/")).parts
    for part in parts:
        check_name(part, path)
    return "/".join(parts[:-1]), PurePosixPath(parts[-1]).stem


def _order(file_name: str, path: Path) -> list:
    """Sort key of a file name in ``path``: frames of a video in succession, also where there are ``v1`` and ``v01``."""
    return [natural_order(name) for name in _split(file_name, path)]


def _size(height: Any, width: Any) -> tuple[int, int]:
    """(H, W) of an image. Raises ValueError for what cannot be one."""
    size = int(height), int(width)
    if not all(1 <= side <= MAX_SIDE for side in size):
        raise ValueError(f"an image is {width!s:.20}×{height!s:.20} pixels")
    return size


def _polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    """H×W bool: the union of polygons x, y, x, y, … as COCO's tools fill them."""
    if not polygons or any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
        raise ValueError("a polygon has fewer than three points")
    if not all(abs(float(number)) <= 2 * MAX_SIDE for polygon in polygons for number in polygon):  # nor NaN
        raise ValueError("a polygon is far outside the picture")
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
    ids = read_objects(path)
    yield Frame(video, path.stem, ids.shape, [(str(i), ids == i) for i in sorted(mask_ids(ids))])


def _open(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(read_bytes(path, "a mask")))


def _read_void_png(path: Path, video: str) -> Iterator[Frame]:
    """Masks in which 255 is a void label: it becomes background."""
    ids = np.array(_open(path))
    if ids.ndim != 2:
        raise ValueError("is a colour image; expected a mask of ids")
    yield Frame(video, path.stem, ids.shape, [(str(i), ids == i) for i in np.unique(ids) if i not in (0, 255)])


def _read_binary(folder: Path, _: str) -> Iterator[Frame]:
    """A 0/255 image for each object and frame: video/object/frame.png with a number as object, or video/frame.png."""
    frames: dict[tuple[str, str], list[tuple[str, Path]]] = {}
    for path in _files(folder, ".png", ".bmp"):
        parts = path.relative_to(folder).parts[:-1]
        has_objects = len(parts) > 1 and parts[-1].isdecimal()
        key = parts[-1] if has_objects else "1"
        video = "/".join(parts[:-1] if has_objects else parts)
        frames.setdefault((video, path.stem), []).append((key, path))
    for (video, name), objects in sorted(frames.items(), key=lambda frame: (frame[0][0], natural_order(frame[0][1]))):
        masks = [(key, _binary(path)) for key, path in objects]
        yield Frame(video, name, masks[0][1].shape, masks)


def _binary(path: Path) -> np.ndarray:
    values, are_ids = read_static_mask(path)  # also of 0/1 masks, and with a palette
    return values > (0 if are_ids else 127)


def _read_labelme(path: Path, video: str) -> Iterator[Frame]:
    content = read_json(path, "annotations of labelme")
    size = _size(content["imageHeight"], content["imageWidth"])
    objects = []
    for shape in content["shapes"]:
        group = shape.get("group_id")
        key = str(shape["label"]) if group is None else f"{shape['label']} {group}"
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
    root = ET.fromstring(read_bytes(path, "annotations of CVAT"))
    for image in sorted(root.iter("image"), key=lambda image: _order(image.attrib["name"], path)):
        size = _size(image.attrib["height"], image.attrib["width"])
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
        size = _size(original.findtext("height"), original.findtext("width"))
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
        turn = cmath.rect(1, math.radians(float(at.get("rotation", 0))))  # clockwise around the centre
        centre = complex(x0 + x1, y0 + y1) / 2
        corners = [centre + (complex(x, y) - centre) * turn for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
        # Without errors of rounding, which may move the outline where it is exactly between two pixels.
        return _polygons([[round(number, 6) for corner in corners for number in (corner.real, corner.imag)]], size)
    if shape.tag == "mask":
        counts = [int(count) for count in at["rle"].split(",")]  # row by row, background first
        if sum(counts) != int(at["height"]) * int(at["width"]):
            raise ValueError("the run lengths of a mask do not add up to its size")
        values = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
        return _place(values.reshape(int(at["height"]), int(at["width"])), int(at["left"]), int(at["top"]), size)
    raise ValueError(f"a shape is a {shape.tag}; expected a polygon, box or mask")


def _read_coco(path: Path, _: str) -> Iterator[Frame]:
    """Objects have no identity across images unless annotations have a ``track_id``; else they are numbered."""
    content = read_json(path, "annotations in the format of COCO")
    _note_left_out(content, "image", path)
    key = _coco_keys(content["annotations"])
    by_image: dict[int, list[dict[str, Any]]] = {}
    for annotation in content["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    for image in sorted(content["images"], key=lambda image: _order(image["file_name"], path)):
        size = _size(image["height"], image["width"])
        objects = [
            (key(annotation, number), _coco_mask(annotation["segmentation"], size))
            for number, annotation in enumerate(by_image.get(image["id"], []), 1)
        ]
        yield Frame(*_split(image["file_name"], path), size, objects)


def _note_left_out(content: dict[str, Any], kind: Literal["image", "video"], path: Path) -> None:
    """Print how many annotations belong to no image or video of the file, as where one id is a number, one text."""
    listed = {entry["id"] for entry in content[f"{kind}s"]}
    if count := sum(annotation[f"{kind}_id"] not in listed for annotation in content["annotations"]):
        print(f"{path}: {count} annotations are left out, as their {kind}_id is the id of no {kind} in it")


def _coco_keys(annotations: Sequence[dict[str, Any]]) -> Callable[[dict[str, Any], int], str]:
    """A function that gives an annotation of a file, and its place in its image or video, its key.

    That is the track id or, if there is none, the place. Where both occur, or track ids that cannot be ids of objects,
    keys are names that tell them apart.
    """

    def track_id(annotation: dict[str, Any]) -> Any:
        own = annotation.get("track_id")
        return own if own is not None else (annotation.get("attributes") or {}).get("track_id")

    def key(annotation: dict[str, Any], number: int) -> str:
        track = track_id(annotation)
        if are_ids:
            return str(number if track is None else track)
        return f"annotation {number}" if track is None else f"track {track}"

    found = {str(track_id(annotation)) for annotation in annotations}
    are_ids = found == {"None"} or found <= {str(i) for i in range(1, 255)}
    return key


def _coco_mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    return _run_lengths(segmentation, size) if isinstance(segmentation, dict) else _polygons(segmentation, size)


def _read_youtube_vis(path: Path, _: str) -> Iterator[Frame]:
    content = read_json(path, "annotations in the format of YouTube-VIS")
    _note_left_out(content, "video", path)
    key = _coco_keys(content["annotations"])
    for video in content["videos"]:
        size = _size(video["height"], video["width"])
        annotations = [entry for entry in content["annotations"] if entry["video_id"] == video["id"]]
        for t, file_name in enumerate(video["file_names"]):
            objects = [
                (key(annotation, number), _coco_mask(annotation["segmentations"][t], size))
                for number, annotation in enumerate(annotations, 1)
                if annotation["segmentations"][t]
            ]
            yield Frame(*_split(file_name, path), size, objects)


def _read_burst(path: Path, _: str) -> Iterator[Frame]:
    for sequence in read_json(path, "annotations in the format of BURST")["sequences"]:
        video = "/".join(check_name(sequence[key], path) for key in ("dataset", "seq_name"))
        size = _size(sequence["height"], sequence["width"])
        for file_name, tracks in zip(sequence["annotated_image_paths"], sequence["segmentations"], strict=True):
            objects = [
                (track, _run_lengths({"size": list(size), "counts": entry["rle"]}, size))
                for track, entry in tracks.items()
            ]
            yield Frame(video, _split(file_name, path)[1], size, objects)


class Reader(NamedTuple):
    read: Callable[[Path, str], Iterator[Frame]]
    suffix: str = ""  # of the files of a folder that it reads one by one


READERS: dict[Format, Reader] = {
    "masks": Reader(_read_png, ".png"),
    "labelme": Reader(_read_labelme, ".json"),
    "cvat": Reader(_read_cvat),
    "coco": Reader(_read_coco),
    "youtube-vis": Reader(_read_youtube_vis),
    "burst": Reader(_read_burst),
    "masks-with-void": Reader(_read_void_png, ".png"),
    "binary-masks": Reader(_read_binary),
}
