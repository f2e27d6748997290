"""Images and masks on disk: strict reading, atomic writing, the DAVIS palette, overlays.

``H×W×3`` images are RGB uint8; ``H×W`` masks hold raw object ids in uint8, 0 is background.
"""

from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps

from util.errors import InputError
from util.files import atomic_path

# From so many ids on, ids that are mostly outlines are looked at for soft edges, and taken for them.
SEVERAL_IDS, MANY_IDS = 4, 20
EXPECTED_IDS = "expected one value per object, from 1 to 254, or 0/255 for a single object"


def _davis_palette() -> np.ndarray:
    """256×3 uint8: an id's bits, lowest first, are dealt to R, G, B in turn, each filled from its top bit."""
    ids = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= ((ids >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return palette


PALETTE = _davis_palette()


def _open(path: Path) -> Image.Image:
    """Open without decoding. Raises `InputError` for anything that is not an image."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; expected an image")
    try:
        return Image.open(path)
    except Exception as error:  # Pillow raises many types for damaged files
        raise InputError(f"{path}: not a readable image ({_short(error, path)}); expected JPEG or PNG") from error


def _decode(path: Path, image: Image.Image, mode: str | None = None, upright: bool = False) -> np.ndarray:
    try:
        if upright:
            image = ImageOps.exif_transpose(image)
        return np.array(image.convert(mode) if mode else image)
    except Exception as error:
        raise InputError(f"{path}: image is truncated or damaged ({_short(error, path)})") from error


def _short(error: Exception, path: Path) -> str:
    """The first line of a message, without the path that our own line already begins with."""
    lines = str(error).replace(f"'{path}'", "file").splitlines()
    return lines[0] if lines else type(error).__name__


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) from the header, without decoding. Raises `InputError`."""
    with _open(path) as image:
        lying = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # `read_image` turns it upright
        return (image.width, image.height) if lying else (image.height, image.width)


def read_image(path: Path) -> np.ndarray:
    """H×W×3 uint8 RGB, turned upright as its EXIF data say.

    Raises `InputError` if it is missing, truncated, unreadable or not 8 bits deep.
    """
    with _open(path) as image:
        if image.mode.startswith(("I", "F")):
            raise InputError(f"{path}: has more than 8 bits per channel; expected an 8-bit image")
        return _decode(path, image, "RGB", upright=True)


def read_mask(path: Path) -> np.ndarray:
    """H×W uint8 object ids as stored (palette index or grey level); a 0/255 mask keeps its 255.

    Raises `InputError` for what cannot be a mask of object ids: colour images, more than 8 bits, anti-aliased
    edges (255 beside other ids, or many ids most of which are only outlines).
    """
    with _open(path) as image:
        if image.mode not in ("P", "L", "1"):
            raise InputError(
                f"{path}: is a {image.mode} image; expected a mask, that is an 8-bit palette or grey PNG"
                " whose values are object ids"
            )
        ids = _decode(path, image).astype(np.uint8, copy=False)
    if ids.max() <= MANY_IDS:  # the usual mask
        return ids
    found = np.flatnonzero(np.bincount(ids.ravel(), minlength=256)[1:]) + 1
    shown = ", ".join(map(str, found)) if len(found) <= 6 else f"{found[0]}, {found[1]}, … {found[-1]}"
    if 255 in found and len(found) > 1:
        raise InputError(
            f"{path}: {len(found)} different ids found ({shown}), 255 among them, which is a void label or comes from"
            f" soft (anti-aliased) edges; {EXPECTED_IDS}: set void to 0, and save the mask without smoothing"
        )
    if len(found) >= SEVERAL_IDS and _are_soft_edges(ids, found):
        raise InputError(
            f"{path}: {len(found)} different ids found ({shown}), which looks like soft (anti-aliased) edges; "
            f"{EXPECTED_IDS}: save the mask without smoothing and resize it with nearest neighbour"
        )
    return ids


def _are_soft_edges(ids: np.ndarray, found: np.ndarray) -> bool:
    """Most ids are only outlines, and there are very many or they lie around those that are not."""
    window = np.ones((3, 3), np.uint8)
    solid = np.intersect1d(found, ids[cv2.erode(ids, window) == cv2.dilate(ids, window)])
    if len(solid) >= len(found) / 2:
        return False
    beside_solid = cv2.dilate(np.isin(ids, solid).astype(np.uint8), window)
    return len(found) > MANY_IDS or beside_solid[np.isin(ids, np.setdiff1d(found, solid))].mean() > 0.5


def write_mask(path: Path, ids: np.ndarray, binary: bool = False) -> None:
    """Write H×W uint8 ids as a PNG with the DAVIS palette, or, if ``binary``, as grey 0/255. Atomic."""
    if binary:
        image = Image.fromarray((ids > 0).astype(np.uint8) * np.uint8(255))
    else:
        image = Image.fromarray(np.ascontiguousarray(ids, np.uint8))
        image.putpalette(PALETTE.tobytes())
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")


def write_image(path: Path, image: np.ndarray) -> None:
    """Write H×W×3 uint8 RGB as JPEG (.jpg, .jpeg: quality 95) or PNG. Atomic."""
    jpeg = Path(path).suffix.lower() in (".jpg", ".jpeg")
    options = {"format": "JPEG", "quality": 95} if jpeg else {"format": "PNG"}
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, **options)


def draw_masks(image: np.ndarray, ids: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """H×W×3 uint8: the image with each object tinted in its palette colour and outlined in it.

    ``image`` H×W×3 uint8, ``ids`` H×W uint8, ``alpha`` in [0, 1]: how much of the tint covers the image.
    """
    inside = ids > 0
    tinted = cv2.addWeighted(image, 1 - alpha, PALETTE[ids], alpha, 0)
    drawn = np.where(inside[..., None], tinted, image)
    window = np.ones((3, 3), np.uint8)
    outline = inside & (cv2.erode(ids, window) != cv2.dilate(ids, window))
    drawn[outline] = PALETTE[ids[outline]]
    return drawn
