"""Images and masks on disk: strict reading, atomic writing, the DAVIS palette, overlays.

``H×W×3`` images are RGB uint8; ``H×W`` masks hold raw object ids in uint8, 0 is background. Everything is turned
upright as its EXIF data say.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image

from util.errors import InputError
from util.files import write_bytes

# A mask with at least SEVERAL_IDS ids that are mostly outlines may have soft edges; with more than MANY_IDS, it has.
SEVERAL_IDS, MANY_IDS = 4, 20
EXPECTED_IDS = "expected one value per object, from 1 to 254, or 0/255 for a single object"
ADVICE = "scripts/check_masks.py finds and repairs such masks"

_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
SHRINKS = tuple(_REDUCED)  # factors by which `read_image` can reduce an image


def _davis_palette() -> np.ndarray:
    """256×3 uint8: the bits of an id, lowest first, go to R, G and B in turn, each filled from its highest bit."""
    ids = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= ((ids >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return palette


PALETTE = _davis_palette()


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    """Open an image without decoding it. Errors of Pillow, also in the ``with`` block, become `InputError`."""
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file; expected an image")
        with Image.open(path) as image:
            yield image
    except InputError:
        raise
    except Exception as error:  # Pillow raises many types for damaged files
        lines = str(error).replace(f"'{path}'", "file").splitlines() or [type(error).__name__]
        raise InputError(
            f"{path}: truncated, damaged or not an image ({lines[0]}); expected a whole JPEG or PNG"
        ) from error


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8, from the header alone; 1 where there is none or it cannot be read."""
    try:
        # Not the method of PNG images: it decodes all pixels to look for EXIF data behind them.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # a photo with damaged EXIF data is still a photo
        return 1
    return value if value in range(1, 9) else 1


def _size(image: Image.Image) -> tuple[int, int]:
    """(H, W) once upright."""
    return (image.width, image.height) if _orientation(image) >= 5 else (image.height, image.width)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) from the header, without decoding. Raises `InputError`."""
    with _open(path) as image:
        return _size(image)


def check_mask_size(image: Path, mask: Path) -> None:
    """Raise `InputError` if the mask is missing or of another size than the image; reads the headers only."""
    if not mask.is_file():
        raise InputError(f"{image}: has no mask; expected {mask}")
    (height, width), (mask_height, mask_width) = image_size(image), image_size(mask)
    if (height, width) != (mask_height, mask_width):
        raise InputError(
            f"{mask}: is {mask_width}×{mask_height} pixels, its image {image.name} {width}×{height};"
            " expected a mask of the image's size"
        )


def read_image(path: Path, shrink: int = 1, size: tuple[int, int] | None = None) -> np.ndarray:
    """⌈H/shrink⌉×⌈W/shrink⌉×3 uint8 RGB.

    ``shrink``: 1, 2, 4 or 8; JPEG files are decoded at the reduced size, which is much faster. ``size``: the (H, W)
    that the whole image must have. Raises `InputError` if the file is missing, damaged, of another size, or has more
    than 8 bits per channel.
    """
    with _open(path) as image:
        if image.mode.startswith(("I", "F")):
            raise InputError(f"{path}: has more than 8 bits per channel; expected an 8-bit image")
        height, width = _size(image)
        if size is not None and size != (height, width):
            raise InputError(f"{path}: is {width}×{height} pixels; expected {size[1]}×{size[0]}, the size of its mask")
        orientation = _orientation(image)
        # The reduced size is rounded up at the right and the bottom, which turning may move to another side.
        divisible = image.width % shrink == image.height % shrink == 0
        if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
            decoded = shrink if orientation == 1 or divisible else 1
            pixels = _decode_jpeg(path, decoded)
        else:
            decoded = 1
            pixels = np.array(image.convert("RGB"))
        return _reduce(_upright(pixels, orientation), shrink // decoded)


def _decode_jpeg(path: Path, shrink: int) -> np.ndarray:
    """As stored, at the reduced size. OpenCV does this in half of Pillow's time, to the same pixels."""
    data = path.read_bytes()
    # OpenCV 4 decodes truncated files to grey: the end marker must be there (embedded thumbnails have one, too).
    whole = data.rfind(b"\xff\xd9") > len(data) // 2
    flags = _REDUCED[shrink] | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if whole else None
    if pixels is None:
        raise InputError(f"{path}: truncated or damaged; expected a whole JPEG")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)


def _reduce(pixels: np.ndarray, shrink: int) -> np.ndarray:
    if shrink == 1:
        return pixels
    bottom, right = (-side % shrink for side in pixels.shape[:2])
    pixels = cv2.copyMakeBorder(pixels, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
    return cv2.resize(pixels, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)


def read_mask(path: Path) -> np.ndarray:
    """H×W uint8 object ids as stored (palette index or grey level); a 0/255 mask keeps its 255.

    Raises `InputError` for what cannot be a mask of object ids: colour images, more than 8 bits, anti-aliased
    edges (255 beside other ids, or several ids most of which are only outlines).
    """
    with _open(path) as image:
        if image.mode not in ("P", "L", "1"):
            raise InputError(
                f"{path}: is a {image.mode} image; expected a mask, that is an 8-bit palette or grey PNG"
                f" whose values are object ids; {ADVICE}"
            )
        ids = _upright(np.array(image).astype(np.uint8, copy=False), _orientation(image))
    found = np.flatnonzero(_areas(ids)[1:]) + 1
    shown = ", ".join(map(str, found)) if len(found) <= 6 else f"{found[0]}, {found[1]}, … {found[-1]}"
    if len(found) > 1 and 255 in found:
        raise InputError(
            f"{path}: {len(found)} different ids found ({shown}), 255 among them, which is a void label or comes from"
            f" soft (anti-aliased) edges; {EXPECTED_IDS}; {ADVICE}"
        )
    if len(found) >= SEVERAL_IDS and _are_soft_edges(ids, found):
        raise InputError(
            f"{path}: {len(found)} different ids found ({shown}), which looks like soft (anti-aliased) edges;"
            f" {EXPECTED_IDS}; {ADVICE}"
        )
    return ids


def _areas(ids: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """256 pixel counts of the values in H×W uint8 ``ids``, or only of those where ``where`` (H×W uint8) is not 0.

    Ten times faster than `numpy.bincount`.
    """
    return cv2.calcHist([ids], [0], where, [256], [0, 256]).ravel().astype(np.int64)


def _are_soft_edges(ids: np.ndarray, found: np.ndarray) -> bool:
    """Whether most ids are only outlines, and there are very many of them or they surround the others."""
    window = np.ones((3, 3), np.uint8)
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
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    outline = (solid > 0) & (cv2.erode(solid, cross) == 0)
    bare = outline & (cv2.dilate((ids == 0).astype(np.uint8), cross) > 0)
    return bool(found[-1] > MANY_IDS or bare.sum() < 0.5 * outline.sum())


def read_static_mask(path: Path) -> tuple[np.ndarray, bool]:
    """H×W uint8 values of a mask of a still image, and whether they are object ids.

    They are in a PNG with a colour palette, and in a grey one with no value above 127, which is not a binary mask.
    Raises `InputError` for a damaged file or a colour picture.
    """
    with _open(path) as image:
        palette = np.array(image.getpalette() or [0, 0, 0]).reshape(-1, 3)
        has_palette = image.mode == "P" and bool((palette != palette[:, :1]).any())
        values = np.array(image if has_palette else image.convert("L"))
        if image.mode.startswith("RGB") and np.ptp(np.asarray(image)[..., :3], axis=2).max() > 64:
            raise InputError(f"{path}: is a colour picture; expected a mask, grey or with a palette; {ADVICE}")
        values = _upright(values, _orientation(image))
    return values, has_palette or values.max() <= 127


def write_mask(path: Path, ids: np.ndarray, binary: bool = False) -> None:
    """Write H×W uint8 ids as a PNG with the DAVIS palette, or, if ``binary``, as grey 0/255. Atomic.

    Raises `InputError` if the file cannot be written.
    """
    if binary:
        image = Image.fromarray((ids > 0).astype(np.uint8) * np.uint8(255))
    else:
        image = Image.fromarray(np.ascontiguousarray(ids, np.uint8))
        image.putpalette(PALETTE.tobytes())
    _write(path, image, format="PNG")


def write_image(path: Path, image: np.ndarray) -> None:
    """Write H×W×3 uint8 RGB as JPEG (.jpg, .jpeg: quality 95) or PNG. Atomic.

    Raises `InputError` if the file cannot be written.
    """
    if path.suffix.lower() in (".jpg", ".jpeg"):
        _write(path, Image.fromarray(image), format="JPEG", quality=95)
    else:
        _write(path, Image.fromarray(image), format="PNG")


def _write(path: Path, image: Image.Image, **options) -> None:
    encoded = io.BytesIO()
    image.save(encoded, **options)
    write_bytes(path, encoded.getvalue())


def draw_masks(image: np.ndarray, ids: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """H×W×3 uint8: the image with each object tinted in its palette colour and outlined in it.

    ``image`` H×W×3 uint8, ``ids`` H×W uint8, ``alpha`` in [0, 1]: opacity of the tint.
    """
    inside = ids > 0
    tinted = cv2.addWeighted(image, 1 - alpha, PALETTE[ids], alpha, 0)
    drawn = np.where(inside[..., None], tinted, image)
    window = np.ones((3, 3), np.uint8)
    outline = inside & (cv2.erode(ids, window) != cv2.dilate(ids, window))
    drawn[outline] = PALETTE[ids[outline]]
    return drawn
