"""Find, and mend in a copy, what is often wrong with the masks of one's own videos.

python scripts/check_masks.py my_videos
python scripts/check_masks.py my_videos --fix my_videos_mended
"""

import argparse
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.frames import list_frames, natural_order
from datasets.images import PALETTE, image_size, write_mask
from util.errors import InputError, exit_on_input_error
from util.parallel import parallel_map

EPILOG = """
example:
  python scripts/check_masks.py my_videos --fix my_videos_mended
  python eval_generic.py --data_path my_videos_mended --model saves/gsfm.pth --output output/mine

my_videos holds JPEGImages/VIDEO/FRAME.jpg and Annotations/VIDEO/FRAME.png, as eval_generic.py reads them. Each fault is
one line. A copy made with --fix has corrected masks, and a link to the frames; my_videos itself is never changed.
Exit code: 0 if nothing is (or with --fix, stays) wrong, 1 if something is, 2 if the folder cannot be checked.
"""
MASK_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
COLOUR = 1 << 24  # added to 0xRRGGBB, so that colours and ids can be told apart
WINDOW = np.ones((3, 3), np.uint8)
NEAR = np.ones((11, 11), np.uint8)  # the objects beside a pixel

LUMINANCE = PALETTE[:16] @ [0.299, 0.587, 0.114]  # of the palette's colours; ambiguous from 16 on
PALETTE_CODES = {COLOUR | r << 16 | g << 8 | b: i for i, (r, g, b) in enumerate(PALETTE[:255].tolist()) if i}


class Fault(NamedTuple):
    """One line of the report."""

    path: Path
    what: str
    cure: str | None = None  # what --fix does about it; None: nothing can be done here

    def line(self, fixed: bool) -> str:
        cure = (
            "to be mended by hand" if self.cure is None else f"fixed: {self.cure}" if fixed else f"--fix: {self.cure}"
        )
        return f"{self.path}: {self.what}; {cure}"


@dataclass
class Mask:
    """A mask file as it is meant, as far as that can be told from the file alone."""

    path: Path
    codes: np.ndarray | None = None  # H×W int32: 0 background, an id, or COLOUR | 0xRRGGBB; None: cannot be used
    found: list[int] = field(default_factory=list)  # the codes in it, without background
    faults: list[Fault] = field(default_factory=list)

    def report(self, what: str, cure: str | None = None) -> None:
        self.faults.append(Fault(self.path, what, cure))


def read(path: Path, size: tuple[int, int]) -> Mask:
    """``size``: (H, W) of its frame."""
    mask = Mask(path)
    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:  # Pillow raises many types for damaged files
        mask.report(f"cannot be read ({str(error).splitlines()[0]})")
        return mask
    lossy = image.format in ("JPEG", "WEBP")
    if path.suffix.lower() != ".png" or image.format != "PNG":
        mask.report(f"is a {image.format} file; expected a PNG", "saved as PNG")
    codes = decode(image, lossy, mask)
    codes = sharpen(codes, mask)
    if codes is None:
        return mask
    codes = name_objects(codes, mask)
    if codes.shape != size:
        mask.report(
            f"is {codes.shape[1]}×{codes.shape[0]}, but its frame is {size[1]}×{size[0]}", "resized (nearest neighbour)"
        )
        codes = np.array(Image.fromarray(codes).resize(size[::-1], Image.Resampling.NEAREST))
    mask.codes, mask.found = codes, np.unique(codes[codes > 0]).tolist()
    return mask


def decode(image: Image.Image, lossy: bool, mask: Mask) -> np.ndarray:
    """H×W int32 codes, as stored."""
    if image.mode == "P":
        ids = np.array(image)
        palette = np.zeros((256, 3), np.uint8)
        stored = np.reshape(image.getpalette("RGB"), (-1, 3))
        palette[: len(stored)] = stored
        used = np.unique(ids)
        if (palette[used] == PALETTE[used]).all():
            return ids.astype(np.int32)
        colours = encode(palette[ids])
        codes, _, outline, _ = areas(colours)
        if set(codes[~outline].tolist()) <= {0, *PALETTE_CODES}:
            mask.report("has the palette's colours in another order", "ids by colour")
            return colours
        mask.report("has another palette than DAVIS", "the stored values taken as ids, the palette replaced")
        return ids.astype(np.int32)
    if image.mode in ("L", "1"):
        values = np.array(image).astype(np.uint8)
        return (quantise(values) if lossy else values).astype(np.int32)
    if image.mode.startswith("I"):
        codes = np.array(image).astype(np.int32)
        if codes.max() > 255:
            mask.report(f"has ids above 255 (up to {codes.max()})", "renumbered, alike in all masks of the video")
        else:
            mask.report("has 16 bits; expected 8", "saved with 8")
        return codes
    colours = np.array(image.convert("RGB"))
    mask.report(f"is a colour image ({image.mode}); expected ids", "ids by colour, alike in all masks of the video")
    if (colours == colours[..., :1]).all():  # grey after all
        colours = colours[..., 0]
        return (quantise(colours) if lossy else colours).astype(np.int32)
    return encode(quantise(colours) if lossy else colours)


def quantise(values: np.ndarray) -> np.ndarray:
    """Undo the noise of lossy formats: the palette's low ids have multiples of 64."""
    return np.minimum((values.astype(int) + 16) // 32 * 32, 255).astype(np.uint8)


def encode(colours: np.ndarray) -> np.ndarray:
    """H×W×3 uint8 → H×W int32 codes; black is background."""
    red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
    codes = red << 16 | green << 8 | blue
    return np.where(codes > 0, codes | COLOUR, 0).astype(np.int32)


def channels(codes: np.ndarray) -> np.ndarray:
    """codes … → …×3 float32: numbers whose differences tell how alike they look."""
    grey = codes < COLOUR
    return np.stack([np.where(grey, codes, codes >> bits & 255) for bits in (16, 8, 0)], axis=-1).astype(np.float32)


def areas(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """The K different codes, and for each: its inner area (pixels amid 3×3 of it), and whether it is but an outline
    (hardly a 2×2 block of it). And the share of the picture that is inner area.
    """
    found, index = np.unique(codes, return_inverse=True)
    index = index.reshape(codes.shape).astype(np.float32)
    inner = cv2.erode(index, WINDOW) == cv2.dilate(index, WINDOW)
    corner = np.zeros(codes.shape, np.uint8)  # upper left pixel of a 2×2 block
    first = index[:-1, :-1]
    corner[:-1, :-1] = (first == index[1:, :-1]) & (first == index[:-1, 1:]) & (first == index[1:, 1:])
    block = cv2.dilate(corner, np.ones((2, 2), np.uint8), anchor=(1, 1)) > 0
    index = index.astype(int)
    inner_area, in_blocks, area = (
        np.bincount(index[where], minlength=len(found)) for where in (inner, block, np.ones_like(inner))
    )
    return found, inner_area, in_blocks < area / 10, float(inner.mean())


def sharpen(codes: np.ndarray, mask: Mask) -> np.ndarray | None:
    """Give the mixed values of soft edges to the likest object beside them; None for a photo."""
    found, inner, outline, share = areas(codes)
    if share < 0.7:  # masks smoothed over 12 pixels still have 0.78, nearly all photos less than 0.7
        mask.report("looks like a photo and not like a mask")
        return None
    thin = np.isin(codes, found[outline])
    values = channels(codes)
    low = cv2.erode(np.where(thin[..., None], 1e9, values), NEAR)
    high = cv2.dilate(np.where(thin[..., None], -1e9, values), NEAR)
    mixed = thin & ((low <= values) & (values <= high)).all(axis=-1) & (low < high).any(axis=-1)
    solid = found[~outline]
    if 255 in solid:  # one object with an edge of any width, whose faint ends fill areas, too
        mixed = thin
        solid = found[inner >= inner[found > 0].max() / 50]
    if mixed.sum() < 20:  # specks
        return codes
    mask.report(
        f"has soft (anti-aliased) edges: {len(np.unique(codes[mixed]))} mixed values beside {len(solid)} solid ones",
        "each mixed pixel given to the likest object beside it",
    )
    rest = ~np.isin(codes, solid)
    far = np.stack([cv2.dilate((codes == code).astype(np.uint8), NEAR)[rest] == 0 for code in solid])
    distance = np.abs(values[rest] - channels(solid)[:, None]).sum(axis=-1)
    sharp = codes.copy()
    sharp[rest] = solid[np.argmin(distance + 1000 * far, axis=0)]
    return sharp


def name_objects(codes: np.ndarray, mask: Mask) -> np.ndarray:
    """Replace what stands for ids of the palette by them."""
    found = set(np.unique(codes).tolist()) - {0}
    for code in found & PALETTE_CODES.keys():
        codes = np.where(codes == code, PALETTE_CODES[code], codes)
    if 255 in found and len(found) > 1:
        mask.report("holds 255 beside other ids (void?)", "255 made background")
        codes = np.where(codes == 255, 0, codes)
    by_grey = {code: int(np.abs(LUMINANCE - code).argmin()) for code in found}
    if found and max(found) > 30 and all(i and abs(LUMINANCE[i] - code) <= 1 for code, i in by_grey.items()):
        ids = _enumerate(sorted(by_grey.values()))
        mask.report(f"lost its palette: its grey levels are those of the colours of ids {ids}", "ids by grey level")
        codes = np.select([codes == code for code in by_grey], list(by_grey.values()))
    return codes.astype(np.int32)


def number(masks: list[Mask]) -> dict[int, int]:
    """{code: id} for a video: ids from 1 to 254 stay, others get the lowest free ones in order of appearance.

    A mask of 0 and 255 beside masks with other ids is reported: one object, but which?
    """
    found = list(dict.fromkeys(code for mask in masks for code in mask.found))
    if found == [255]:  # the usual single object
        return {255: 255}
    table = {code: code for code in found if code < 255}
    free = (i for i in range(1, 255) if i not in table)
    table |= {code: next(free, 0) for code in found if code not in table}
    for mask in masks:
        if mask.found == [255]:
            ids = _enumerate(sorted(set(table.values()) - {table[255]}))
            mask.report(f"holds 0 and 255, other masks of the video ids {ids}", f"255 made object {table[255]}")
        if 0 in (table[code] for code in mask.found):
            mask.report("is in a video with more than 254 objects")
    return table


def check_video(images: Path, annotations: Path, fixed: Path | None) -> list[Fault]:
    """The faults of one video's masks; with ``fixed``, its corrected masks are written there."""
    if not images.is_dir():
        return [Fault(annotations, f"has no frames; expected them in {images}")]
    frames = {path.stem: path for path in list_frames(images)}
    paths = [p for p in annotations.glob("[!.]*") if p.suffix.lower() in MASK_SUFFIXES]
    paths.sort(key=lambda path: (natural_order(path.stem), path.suffix))
    faults, masks, sizes = [], [], {}
    for path in paths:
        if path.stem not in frames:
            faults.append(Fault(path, f"has no frame of its name in {images}"))
            continue
        try:
            sizes[path] = image_size(frames[path.stem])
        except InputError as error:
            faults.append(Fault(frames[path.stem], str(error).partition(": ")[2]))
            continue
        masks.append(read(path, sizes[path]))
        masks[-1].codes = None  # a video may have thousands; they are read again when they are written
    table = number(masks)
    for mask in masks:
        faults += mask.faults
        if fixed and mask.found:
            target = fixed / f"{mask.path.stem}.png"
            if mask.faults or any(table[code] != code for code in mask.found):
                codes = read(mask.path, sizes[mask.path]).codes
                write_mask(target, np.vectorize({0: 0, **table}.get, otypes=[np.uint8])(codes))
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(mask.path, target)
    with_objects = [mask.path for mask in masks if mask.found]
    if not with_objects:
        return [*faults, Fault(annotations, "has no mask with an object: nothing to follow")]
    early = list(frames).index(with_objects[0].stem)
    if early:
        faults.append(Fault(with_objects[0], f"is the first mask, but {early} frames come before it: they stay empty"))
    return faults


def _enumerate(ids: list[int]) -> str:
    shown = ", ".join(map(str, ids[:8]))
    return shown if len(ids) <= 8 else f"{shown}, … ({len(ids)} in all)"


@exit_on_input_error
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="holds JPEGImages/VIDEO and Annotations/VIDEO")
    parser.add_argument("--fix", type=Path, metavar="COPY", help="new folder for a corrected copy")
    args = parser.parse_args(arguments)
    images, annotations = args.folder / "JPEGImages", args.folder / "Annotations"
    for folder in (images, annotations):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; expected {args.folder} to hold JPEGImages and Annotations")
    if args.fix and args.fix.exists():
        raise InputError(f"{args.fix}: exists; expected the name of a new folder for --fix")
    names = sorted({p.name for root in (images, annotations) for p in root.glob("[!.]*") if p.is_dir()})
    if not names:
        raise InputError(f"{annotations}: holds no folders; expected one folder of masks for each video")

    def check(name: str) -> list[Fault]:
        return check_video(images / name, annotations / name, args.fix and args.fix / "Annotations" / name)

    faults = [fault for found in parallel_map(check, names, "Checking") for fault in found]
    if args.fix:
        args.fix.mkdir(parents=True, exist_ok=True)
        try:
            (args.fix / "JPEGImages").symlink_to(images.resolve(), target_is_directory=True)
        except OSError:  # file systems without links
            shutil.copytree(images, args.fix / "JPEGImages")
    for fault in faults:
        print(fault.line(fixed=bool(args.fix)))
    left = [fault for fault in faults if fault.cure is None] if args.fix else faults
    curable = sum(fault.cure is not None for fault in faults)
    print(f"{len(names)} videos, {len(faults)} faults" + (f", {curable} of them --fix can mend" if curable else ""))
    return 1 if left else 0


if __name__ == "__main__":
    main()
