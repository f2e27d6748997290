"""Check the masks of your own videos before eval_generic.py reads them, and write a corrected copy.

python scripts/check_masks.py my_videos
python scripts/check_masks.py my_videos --fix my_videos_fixed
python scripts/check_masks.py --video clip.mp4 --mask first.png 30:later.png --fix masks_fixed
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import util.interrupt  # noqa: F401

# isort: split
import itertools
import re
import shutil
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from datasets.frames import list_frames
from datasets.images import PALETTE, image_size, read_mask, write_mask
from datasets.video_file import file_video
from util.errors import InputError, Parser, exit_on_input_error
from util.files import check_output
from util.parallel import parallel_map

EPILOG = """
my_videos contains JPEGImages/VIDEO/FRAME.jpg and Annotations/VIDEO/FRAME.png, as for eval_generic.py. --fix leaves the
input alone and writes all usable masks to a new folder. It corrects only what is certain: which colour is the
background, or which object a white mask shows beside numbered ones, is for you to decide.
Exit code: 0 if nothing is wrong (or, with --fix, left wrong); 1 if something is; 2 if the input cannot be checked.
"""
COLOUR = 1 << 24  # label of a colour: COLOUR | 0xRRGGBB
PALETTE_IDS = {COLOUR | r << 16 | g << 8 | b: i for i, (r, g, b) in enumerate(PALETTE[:255].tolist()) if i}


class Fault(NamedTuple):
    """One line of the report."""

    path: Path
    what: str
    fix: str | None = None  # what --fix does about it; None: only the user can


def read(path: Path, size: tuple[int, int]) -> tuple[np.ndarray | None, list[Fault]]:
    """H×W int32 labels of a mask whose frame has the ``size`` (H, W), None if they are uncertain; and its faults.

    Labels: 0 is background, others are ids as stored or ``COLOUR | 0xRRGGBB``.
    """
    if not path.is_file() or path.suffix.lower() != ".png":
        return None, [Fault(path, "is not a PNG file")]
    faults = []
    try:
        labels = read_mask(path).astype(np.int32)
    except InputError as refusal:
        what = str(refusal).removeprefix(f"{path}: ").partition("; ")[0]
        try:
            labels, fix = repair(decode(path))
        except InputError as reason:
            return None, [Fault(path, f"{what}; {reason}")]
        faults.append(Fault(path, what, fix))
    (height, width), (frame_height, frame_width) = labels.shape, size
    if labels.shape != size:
        what = f"is {width}×{height}, but its frame is {frame_width}×{frame_height}"
        if abs(width * frame_height / height - frame_width) > 2:  # pixels, once the heights are equal
            return None, [*faults, Fault(path, what)]
        faults.append(Fault(path, what, "resized (nearest neighbour)"))
        labels = np.array(Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST))
    return labels, faults


def decode(path: Path) -> np.ndarray:
    """H×W int32: grey values or labels of colours, with black and transparent pixels as 0. Raises `InputError`."""
    try:
        with Image.open(path) as image:
            if image.mode in ("P", "L") or image.mode.startswith("I"):
                return np.array(image).astype(np.int32)
            pixels = np.array(image.convert("RGBA")).astype(np.int32)
    except Exception as error:  # Pillow raises many types for damaged files
        raise InputError("expected an 8-bit PNG") from error
    opaque = pixels[..., 3] >= 128
    red, green, blue = np.moveaxis(pixels[..., :3] * opaque[..., None], -1, 0)
    coloured = (red | green | blue) > 0
    if not opaque.all() and (opaque & ~coloured).any():
        if coloured.any():
            raise InputError("only you know whether black is an object here or background, like transparent pixels")
        return opaque * np.int32(255)  # black on transparent: the shape is in the alpha channel alone
    if (red == green).all() and (red == blue).all():
        return red
    return np.where(coloured, COLOUR | red << 16 | green << 8 | blue, 0)


def repair(labels: np.ndarray) -> tuple[np.ndarray, str]:
    """The labels (H×W int32) without the mixed values of smoothed edges, and what was done.

    A value is solid if it fills areas, and not only outlines. Raises `InputError`, with the reason alone, if it is
    uncertain what the labels mean.
    """
    found, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    index = index.reshape(labels.shape)
    window = np.ones((3, 3), np.uint8)
    flat = cv2.erode(index.astype(np.float32), window) == cv2.dilate(index.astype(np.float32), window)
    if flat.mean() < 0.7:  # masks smoothed over 12 pixels have 0.78, nearly all photos less than 0.7
        raise InputError("it looks like a photo")
    top = int(found[-1])
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    if top >= 255 and (border == 0).mean() < 0.1:
        raise InputError("its border is not black; expected a black or transparent background")
    solid_counts = np.bincount(index[flat], minlength=len(found))
    solid = solid_counts > counts / 10
    if top >= COLOUR:
        return labels if solid.all() else sharpen(index, found, counts, solid_counts * solid), "ids by colour"
    low, high = (0.2 * top, 0.8 * top) if len(found) > max(20, 0.4 * top) else (0, top)  # wide edges have flat ends
    if not solid[(low < found) & (found < high)].any():
        return np.where(labels > top / 2, top, 0).astype(np.int32), "one object with sharp edges"
    if 255 in found or not solid.all():
        raise InputError("only you know which values are objects, and which are void or smoothed edges")
    return labels, "saved with 8 bits"


def sharpen(index: np.ndarray, colours: np.ndarray, counts: np.ndarray, solid_counts: np.ndarray) -> np.ndarray:
    """H×W int32: each mixed pixel gets the colour of the nearest pixel that is not mixed.

    ``index`` (H×W) of each pixel in the K ``colours``, the pixels that have each colour, and those that are amid an
    area of it. Mixed are the colours on a line between two solid ones. Raises `InputError`, with the reason alone, if
    many colours are neither.
    """
    channels = np.stack([colours >> bits & 255 for bits in (0, 8, 16)], axis=-1).astype(np.float32)
    kept: list[int] = []  # solid colours; those that hardly differ from a larger one are the ends of an edge
    for i in np.argsort(-solid_counts)[: np.count_nonzero(solid_counts)].tolist():
        if all(np.abs(channels[i] - channels[j]).max() > 24 for j in kept):
            kept.append(i)
    first, second, colour = channels[kept, None], channels[kept], channels[:, None, None]
    line = second - first  # n×n×3, the others broadcast to K×n×n×3
    along = ((colour - first) * line).sum(-1) / np.maximum((line**2).sum(-1), 1)
    nearest_mix = first + np.clip(along, -0.2, 1.2)[..., None] * line  # sharpening filters overshoot
    odd = np.abs(nearest_mix - colour).max(axis=-1).min(axis=(1, 2)) > 8
    thin = odd & (counts >= 20)  # thin objects; other odd colours are where three objects meet
    if len(kept) > 16 or thin.sum() > 3 or counts[odd & ~thin].sum() > 0.1 * counts[solid_counts == 0].sum():
        raise InputError("it is uncertain which colours are objects and which are smoothed edges")
    mixed = ~np.isin(index, [*kept, *np.flatnonzero(thin)])
    label_type = cv2.DIST_LABEL_PIXEL
    _, nearest = cv2.distanceTransformWithLabels(mixed.astype(np.uint8), cv2.DIST_L2, 5, labelType=label_type)
    table = np.zeros(nearest.max() + 1, np.int32)
    table[nearest[~mixed]] = colours[index[~mixed]]
    return table[nearest]


def name_objects(labels: list[int]) -> dict[int, int]:
    """{label: id} for the labels of a video's masks, in order of appearance; uncertain ones are left out.

    Ids stay, and so does white if there is nothing else. Colours of the DAVIS palette get its ids. Other colours are
    numbered from 1, unless there are ids or white as well.
    """
    if set(labels) <= PALETTE_IDS.keys() | set(range(255)) or labels == [255]:
        return {label: PALETTE_IDS.get(label, label) for label in labels}
    if min(labels) > 255 and len(labels) < 255:
        return {label: i for i, label in enumerate(labels, 1)}
    return {label: label for label in labels if label < 255}


def check(name: Path, masks: dict[Path, tuple[int, int]], target: Path | None) -> list[Fault]:
    """The faults of a video's masks, each with the (H, W) of its frame; usable masks are written to ``target``."""
    faults: list[Fault] = []
    held = {}
    for path, size in masks.items():
        labels, found = read(path, size)
        faults += found
        if labels is not None:
            held[path] = [label for label in np.unique(labels).tolist() if label]
    if not any(held.values()):
        faults.append(Fault(name, "has no usable mask with an object"))
    table = name_objects(list(dict.fromkeys(itertools.chain.from_iterable(held.values()))))
    others = {f"#{n - COLOUR:06x}" if n >= COLOUR else str(n): i for n, i in table.items() if n != i}
    if others:
        fix = ", ".join(f"{label} is {i}" for label, i in others.items())
        faults.append(Fault(name, "has colours or numbers above 255 instead of ids", fix))
    for path, present in held.items():
        if not table.keys() >= set(present):
            faults.append(Fault(path, "holds white or colours, other masks ids; only you know which ids these are"))
        elif target and (file := target / f"{path.stem}.png").exists():
            faults.append(Fault(path, f"is left out, as another mask is {file}; expected masks of different names"))
        elif target:
            labels, _ = read(path, masks[path])  # again: all masks of a long video may not fit into memory
            ids = np.vectorize({0: 0, **table}.get, otypes=[np.uint8])(labels)
            write_mask(file, ids)
    return faults


def check_folder(root: Path, name: str, fixed: Path | None) -> list[Fault]:
    """The faults of one video of a folder of videos."""
    images, annotations = root / "JPEGImages" / name, root / "Annotations" / name
    try:
        frames = {path.stem: path for path in list_frames(images)}
        paths = sorted(path for path in annotations.glob("[!.]*") if not path.is_dir())
        masks = {path: image_size(frames[path.stem]) for path in paths if path.stem in frames}
    except InputError as error:
        return [Fault(images, str(error).removeprefix(f"{images}: "))]
    faults = [Fault(path, f"has no frame of the same name in {images}") for path in paths if path not in masks]
    return faults + check(annotations, masks, fixed and fixed / "Annotations" / name)


@exit_on_input_error
def main(arguments: list[str] | None = None) -> int:
    parser = Parser(__doc__, EPILOG)
    parser.add_argument("folder", type=Path, nargs="?", help="contains JPEGImages/VIDEO and Annotations/VIDEO")
    parser.add_argument("--video", type=Path, metavar="FILE", help="check the masks of one video file instead")
    parser.add_argument("--mask", nargs="+", default=[], metavar="FILE", help="the masks of --video")
    parser.add_argument("--fix", type=Path, metavar="FOLDER", help="new folder for the corrected masks")
    args = parser.parse_args(arguments)
    if bool(args.folder) == bool(args.video) or bool(args.video) != bool(args.mask):
        parser.error("expected either a folder, or --video and --mask")
    if args.fix:
        check_output(args.fix, [args.folder or args.video])
    if args.video:
        size = file_video(args.video, {}, sys.maxsize).size
        masks = {Path(re.sub("^[0-9]+:", "", mask)): size for mask in args.mask}
        faults = check(args.video, masks, args.fix)
    else:
        folders = [path for kind in ("JPEGImages", "Annotations") for path in (args.folder / kind).glob("[!.]*")]
        names = sorted({path.name for path in folders if path.is_dir()})
        if not names:
            raise InputError(f"{args.folder}: expected a folder that contains JPEGImages/VIDEO and Annotations/VIDEO")
        checked = parallel_map(lambda name: check_folder(args.folder, name, args.fix), names, "Checking")
        faults = list(itertools.chain.from_iterable(checked))
        if args.fix:
            args.fix.mkdir(parents=True, exist_ok=True)
            try:
                (args.fix / "JPEGImages").symlink_to((args.folder / "JPEGImages").resolve(), target_is_directory=True)
            except OSError:  # Windows without developer mode
                shutil.copytree(args.folder / "JPEGImages", args.fix / "JPEGImages")
    for fault in faults:
        fix = f"{'fixed' if args.fix else '--fix'}: {fault.fix}" if fault.fix else "fix by hand"
        print(f"{fault.path}: {fault.what}; {fix}")
    print(f"{len(faults)} faults, {sum(bool(fault.fix) for fault in faults)} of which --fix corrects")
    return int(any(not (args.fix and fault.fix) for fault in faults))


if __name__ == "__main__":
    main()
