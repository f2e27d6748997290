"""Images (H×W×3 uint8 RGB) and masks (H×W uint8 object ids, 0: background) on disk, turned upright as EXIF says."""

import io
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image

from util.errors import InputError, is_out_of_memory
from util.files import check_is_file, write_bytes

# A mask with at least SEVERAL_IDS ids that are mostly outlines may have soft edges; with more than MANY_IDS, it has.
SEVERAL_IDS, MANY_IDS = 4, 20
ADVICE = "scripts/check_masks.py finds and repairs such masks"

# Factors by which `read_image` can reduce an image, with OpenCV's flag for each.
SHRINKS = {1: cv2.IMREAD_COLOR} | {n: getattr(cv2, f"IMREAD_REDUCED_COLOR_{n}") for n in (2, 4, 8)}

# The DAVIS palette, 256×3 uint8: the bits of an id, lowest first, go to R, G and B in turn, highest bit first.
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, count=9, bitorder="little")
PALETTE = np.packbits(_BITS.reshape(256, 3, 3), axis=1)[:, 0]


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    """Open an image without decoding it. Pillow's errors, also in the ``with`` block, become `InputError`."""
    check_is_file(path, "an image")
    try:
        with Image.open(path) as image:
            yield image
    except InputError:
        raise
    except Exception as error:  # Pillow raises many types for damaged files
        if is_out_of_memory(error):
            raise
        reason = str(error).replace(f"'{path}'", "file").partition("\n")[0] or type(error).__name__
        raise InputError(
            f"{path}: truncated, damaged or not an image ({reason}); expected a whole JPEG or PNG"
        ) from error


def exif_orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8, from the header alone; 1 where there is none or it cannot be read."""
    try:
        # Not the method of PNG images: it decodes all pixels to look for EXIF data behind them.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # a photo with damaged EXIF data is still a photo
        return 1
    return value if value in range(1, 9) else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _size(image: Image.Image) -> tuple[int, int]:
    return (image.width, image.height) if exif_orientation(image) >= 5 else (image.height, image.width)


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) from the header, without decoding. Raises `InputError`."""
    with _open(path) as image:
        return _size(image)


def check_mask_size(mask: Path, size: tuple[int, ...], frame: str, frame_size: tuple[int, int]) -> None:
    """Raise `InputError` if the (H, W) of a mask file and of the frame or image that it belongs to differ."""
    if size != frame_size:
        (height, width), (frame_height, frame_width) = size, frame_size
        raise InputError(
            f"{mask}: the mask is {width}×{height} pixels, but its frame {frame} is {frame_width}×{frame_height};"
            f" expected equal sizes; {ADVICE}"
        )


def mask_ids(mask: np.ndarray) -> set[int]:
    """The ids above 0 in a mask H×W uint8."""
    return set((np.flatnonzero(_areas(mask)[1:]) + 1).tolist())


def check_ids(ids: Collection[int], name: object) -> None:
    """Raise `InputError`, with the ``name`` of a mask, if the ``ids`` of a video hold 255 beside others."""
    if 255 in ids and len(ids) > 1:
        others = ", ".join(str(i) for i in sorted(ids) if i != 255)
        raise InputError(
            f"{name}: the masks hold 255 beside {others}; expected ids from 1 to 254, or 0/255 for a single object"
            f" in every mask; {ADVICE}"
        )


def read_image(path: Path, shrink: int = 1, size: tuple[int, int] | None = None) -> np.ndarray:
    """⌈H/shrink⌉×⌈W/shrink⌉×3 uint8 RGB.

    ``shrink``: 1, 2, 4 or 8; JPEG files are decoded at the reduced size, which is much faster. Raises `InputError` if
    the file is missing, damaged, not of (H, W) = ``size``, or has more than 8 bits per channel.
    """
    with _open(path) as image:
        if image.mode.startswith(("I", "F")):
            raise InputError(f"{path}: has more than 8 bits per channel; expected an 8-bit image")
        height, width = _size(image)
        if size and size != (height, width):
            raise InputError(
                f"{path}: is {width}×{height} pixels; expected {size[1]}×{size[0]}, like its mask and video"
            )
        orientation, decoded = exif_orientation(image), 1
        if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
            # The reduced size is rounded up at the right and the bottom, which turning may move to another side.
            if orientation == 1 or image.width % shrink == image.height % shrink == 0:
                decoded = shrink
            pixels = _decode_jpeg(path, decoded)
        else:
            pixels = np.array(image.convert("RGB"))
    pixels = _upright(pixels, orientation)
    if decoded == shrink:
        return pixels
    pixels = cv2.copyMakeBorder(pixels, 0, -height % shrink, 0, -width % shrink, cv2.BORDER_REPLICATE)
    return cv2.resize(pixels, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)


def _decode_jpeg(path: Path, shrink: int) -> np.ndarray:
    # In half of Pillow's time, to the same pixels.
    data = path.read_bytes()
    # OpenCV 4 decodes truncated files to grey: the end marker must be there (embedded thumbnails have one, too).
    whole = data.rfind(b"\xff\xd9") > len(data) // 2
    flags = SHRINKS[shrink] | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if whole else None
    if pixels is None:
        raise InputError(f"{path}: truncated or damaged; expected a whole JPEG")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)


def read_mask(path: Path, check: bool = True) -> np.ndarray:
    """H×W uint8 object ids as stored (palette index or grey level); a 0/255 mask keeps its 255.

    Raises `InputError` for what cannot be object ids: colours, more than 8 bits and, with ``check``, anti-aliased edges
    (255 beside other ids, or several ids most of which are only outlines).
    """
    with _open(path) as image:
        if image.mode not in ("P", "L", "1"):
            raise InputError(
                f"{path}: is a {image.mode} image; expected a mask, an 8-bit palette or grey PNG; {ADVICE}"
            )
        ids = _upright(np.array(image).astype(np.uint8), exif_orientation(image))
    if not check:
        return ids
    found = sorted(mask_ids(ids))
    if len(found) > 1 and 255 in found or len(found) >= SEVERAL_IDS and _are_soft_edges(ids, found):
        shown = ", ".join(map(str, found)) if len(found) <= 6 else f"{found[0]}, {found[1]}, … {found[-1]}"
        raise InputError(
            f"{path}: {len(found)} different ids found ({shown}), as with soft (anti-aliased) edges or a void label;"
            f" expected one value per object, from 1 to 254, or 0/255 for a single object; {ADVICE}"
        )
    return ids


def _areas(ids: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    # 256 pixel counts of H×W uint8 ids, optionally only where an H×W uint8 is not 0: 10 times as fast as bincount.
    return cv2.calcHist([ids], [0], where, [256], [0, 256]).ravel()


def _are_soft_edges(ids: np.ndarray, found: list[int]) -> bool:
    """Whether most ids are only outlines, and there are very many of them or they surround the others."""
    window, cross = np.ones((3, 3), np.uint8), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inner = (cv2.erode(ids, window) == cv2.dilate(ids, window)).astype(np.uint8)
    is_solid = _areas(ids, inner) > 0
    is_solid[0] = False
    if is_solid.sum() >= len(found) / 2:
        return False
    if len(found) > MANY_IDS:
        return True
    solid = is_solid[ids].astype(np.uint8)
    thin = (ids > 0) & (solid == 0)
    if cv2.dilate(solid, window)[thin].mean() <= 0.5:  # thin objects that lie elsewhere
        return False
    # Ids up to MANY_IDS are usual for real objects: thin ones beside a solid one leave most of its outline to the
    # background, mixed values do not.
    outline = (solid > 0) & (cv2.erode(solid, cross) == 0)
    bare = outline & (cv2.dilate((ids == 0).astype(np.uint8), cross) > 0)
    return bool(found[-1] > MANY_IDS or bare.sum() < 0.5 * outline.sum())


def read_static_mask(path: Path) -> tuple[np.ndarray, bool]:
    """The H×W uint8 values of a still image's mask, and whether they are object ids.

    Values of a PNG with a colour palette are ids, and so are grey values if none is above 127, as in binary masks.
    Raises `InputError` for a damaged file, a colour picture, or one whose transparency may be the mask.
    """
    with _open(path) as image:
        palette = np.array(image.getpalette() or [0, 0, 0]).reshape(-1, 3)
        has_palette = image.mode == "P" and bool((palette != palette[:, :1]).any())
        if image.mode.startswith("RGB") and np.ptp(np.asarray(image)[..., :3], axis=2).max() > 64:
            raise InputError(f"{path}: is a colour picture; expected a mask, grey or with a palette; {ADVICE}")
        values = np.array(image if has_palette else image.convert("L"))
        if "A" in image.getbands():
            transparent = np.asarray(image.getchannel("A")) == 0
            has_shape = transparent.any() and not transparent.all()
            if has_shape and ((values[transparent] > 0).mean() > 0.5 or not values.any()):
                raise InputError(f"{path}: may be a mask by its transparency; expected black and white; {ADVICE}")
        values = _upright(values, exif_orientation(image))
    return values, has_palette or values.max() <= 127


def write_mask(path: Path, ids: np.ndarray, binary: bool = False) -> None:
    """Write H×W uint8 ids as a PNG with the DAVIS palette, or, if ``binary``, as grey 0/255. Raises `InputError`."""
    image = Image.fromarray((ids > 0) * np.uint8(255) if binary else ids.astype(np.uint8))
    if not binary:
        image.putpalette(PALETTE.tobytes())
    _write(path, image)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write H×W×3 uint8 RGB as JPEG (.jpg, .jpeg: quality 95) or PNG. Raises `InputError`."""
    _write(path, Image.fromarray(image))


def _write(path: Path, image: Image.Image) -> None:
    encoded = io.BytesIO()
    image.save(encoded, "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG", quality=95)
    write_bytes(path, encoded.getvalue())


def draw_masks(image: np.ndarray, ids: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """The image (H×W×3 uint8) with each object of ``ids`` (H×W uint8) outlined and, with opacity ``alpha``, tinted."""
    inside = ids > 0
    tinted = cv2.addWeighted(image, 1 - alpha, PALETTE[ids], alpha, 0)
    drawn = np.where(inside[..., None], tinted, image)
    window = np.ones((3, 3), np.uint8)
    outline = inside & (cv2.erode(ids, window) != cv2.dilate(ids, window))
    drawn[outline] = PALETTE[ids[outline]]
    return drawn
