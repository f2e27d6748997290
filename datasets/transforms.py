"""Augmentation of training clips with drawn parameters: one sampling per frame, then one colour matrix.

All geometric steps of a frame (flip, scale, affine, crop, resize, thin-plate spline) are composed into a `Warp`, a map
from output to source pixels, so that an image and its mask are each sampled once, from the same places. Brightness,
contrast, saturation and greyscale are one affine colour map: they commute (up to clipping), so their order is fixed.

Letters: H×W source, S×S output, T frames. Coordinates are (x, y) in pixels, pixel (0, 0) covering [0, 1)×[0, 1).
"""

import math
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from datasets.tps import random_spline
from util.errors import InputError

FILL = (124, 116, 104)  # mean colour of ImageNet, around images; masks are 0 there
_GREY = np.array([0.299, 0.587, 0.114])  # luma of ITU-R 601
_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


class Warp(NamedTuple):
    """Where the pixels of an S×S output come from."""

    matrix: np.ndarray  # 2×3 float64: output (x, y, 1) → source (x, y)
    window: tuple[float, float, float, float]  # left, top, right, bottom: outside of it, the source is fill
    size: int  # S
    bend: np.ndarray | None = None  # 2×S×S float32 pixel indices that each output pixel shows, before `matrix`

    def spacing(self) -> np.ndarray:
        """How many source pixels apart neighbouring output pixels are, along the source's x and y."""
        return np.hypot(self.matrix[:, 0], self.matrix[:, 1])

    def shrink(self) -> int:
        """1, 2, 4 or 8: by how much the source may be reduced beforehand without any loss in the output."""
        return max(factor for factor in _REDUCED if factor <= max(1, self.spacing().min()))


def static_warps(
    rng: np.random.Generator, height: int, width: int, num_frames: int, size: int, spline: float = 1 / 3
) -> list[Warp]:
    """Stage 0: a clip from one H×W image. Flip and scale for the clip; affine, crop and spline for each frame.

    ``spline`` is the probability of a thin-plate spline in a frame.
    """
    scale, flip = rng.uniform(0.8, 1.5), rng.random() < 0.5
    centre = np.array([width / 2, height / 2])
    to_source = about(centre, np.diag([-1 / scale if flip else 1 / scale, 1 / scale]))
    visible = centre / max(scale, 1)
    window = (*(centre - visible), *(centre + visible))
    shorter = min(height, width)
    resized = np.array([size * width // shorter, size * height // shorter])
    warps = []
    for _ in range(num_frames):
        affine = about(centre, np.linalg.inv(draw_affine(rng, degrees=20, shear=10, zoom=(0.9, 1.1))))
        resize = np.diag([width / resized[0], height / resized[1], 1])
        matrix = to_source @ affine @ resize @ translation(rng.integers(0, resized - size, endpoint=True))
        bend = random_spline(rng, size) if rng.random() < spline else None
        warps.append(Warp(matrix[:2], window, size, bend))
    return warps


def video_warps(
    rng: np.random.Generator, height: int, width: int, num_frames: int, size: int, min_area: float = 0.36
) -> list[Warp]:
    """Video stages: flip and random resized crop (``min_area`` to 1 of H×W) for the clip, an affine per frame."""
    left, top, crop_width, crop_height = _draw_crop(rng, height, width, min_area)
    flip = rng.random() < 0.5
    centre = np.array([size / 2, size / 2])
    to_source = translation((left, top)) @ np.diag([crop_width / size, crop_height / size, 1])
    if flip:
        to_source = to_source @ about(centre, np.diag([-1, 1]))
    window = (left, top, left + crop_width, top + crop_height)
    affines = (np.linalg.inv(draw_affine(rng, degrees=15, shear=10)) for _ in range(num_frames))
    return [Warp((to_source @ about(centre, affine))[:2], window, size) for affine in affines]


def translation(offset) -> np.ndarray:
    """3×3: a shift by ``offset`` (x, y) in pixels."""
    matrix = np.eye(3)
    matrix[:2, 2] = offset
    return matrix


def about(centre: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """3×3: the 2×2 ``linear`` map around a fixed ``centre``."""
    matrix = translation(centre - linear @ centre)
    matrix[:2, :2] = linear
    return matrix


def draw_affine(rng: np.random.Generator, degrees: float, shear: float, zoom=(1.0, 1.0)) -> np.ndarray:
    """2×2: shear along x, then zoom and rotation; both angles are uniform in ± their bound, in degrees."""
    angle, slant = np.radians(rng.uniform(-degrees, degrees)), np.radians(rng.uniform(-shear, shear))
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return rng.uniform(*zoom) * rotation @ [[1, -math.tan(slant)], [0, 1]]


def _draw_crop(rng: np.random.Generator, height: int, width: int, min_area: float) -> tuple[int, int, int, int]:
    """Left, top, width, height of a crop: area uniform in min_area…1, aspect log-uniform in 3/4…4/3."""
    for _ in range(10):
        area = height * width * rng.uniform(min_area, 1)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h
    # a very long or very high image: as much of its middle as the aspect allows
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return (width - w) // 2, (height - h) // 2, w, h


def read_reduced(path: Path, size: tuple[int, int], shrink: int) -> np.ndarray:
    """Decode an image of ``size`` (H, W) at 1/``shrink`` (1, 2, 4, 8): ⌈H/shrink⌉×⌈W/shrink⌉×3 uint8 RGB.

    JPEG files are decoded at the reduced size, which is much faster. The orientation in EXIF is ignored, as masks are
    drawn on the stored pixels. Raises `InputError` for files that are damaged or of another size.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected an image") from error
    jpeg = data[:2] == b"\xff\xd8"
    # OpenCV 4 decodes truncated JPEGs to grey: the end marker must be there (an embedded thumbnail has one, too)
    whole = not jpeg or data.rfind(b"\xff\xd9") > len(data) // 2
    flags = _REDUCED[shrink if jpeg else 1] | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if whole else None
    if image is None:
        raise InputError(f"{path}: truncated, damaged or not an image; expected a whole JPEG or PNG")
    if not jpeg and shrink > 1 and image.shape[:2] == size:
        image = cv2.copyMakeBorder(image, 0, -size[0] % shrink, 0, -size[1] % shrink, cv2.BORDER_REPLICATE)
        image = cv2.resize(image, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)
    if image.shape[:2] != (-(-size[0] // shrink), -(-size[1] // shrink)):
        raise InputError(f"{path}: is not {size[1]}×{size[0]} pixels as its mask is; expected the same size")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def warp_image(image: np.ndarray, warp: Warp, shrink: int = 1) -> np.ndarray:
    """Sample a source reduced by ``shrink`` (H×W×3 uint8), bicubic, filled with `FILL`: S×S×3 uint8."""
    # what is left of the reduction (a factor of at most about 2) is smoothed away, or it would alias
    sigma = 0.5 * np.sqrt(np.maximum((warp.spacing() / shrink) ** 2 - 1, 1e-4))
    smooth = (sigma.max() > 0.3) and tuple(sigma)
    return _sample(image, warp, shrink, cv2.INTER_CUBIC, FILL, smooth)


def warp_ids(ids: np.ndarray, warp: Warp) -> np.ndarray:
    """Sample H×W uint8 object ids, nearest neighbour, filled with 0: S×S uint8."""
    return _sample(ids, warp, 1, cv2.INTER_NEAREST)


def warp_binary(mask: np.ndarray, warp: Warp) -> np.ndarray:
    """Sample an H×W uint8 mask of 0 and 255, bicubic, and cut at one half: S×S bool."""
    return _sample(mask, warp, 1, cv2.INTER_CUBIC) > 127


def warp_alpha(mask: np.ndarray, warp: Warp) -> np.ndarray:
    """Sample an H×W uint8 mask of 0 and 255 as the opacity of what is cut out with it, edges smoothed: S×S float32."""
    return cv2.GaussianBlur(_sample(mask, warp, 1, cv2.INTER_LINEAR), (3, 3), 0) * np.float32(1 / 255)


def _sample(source, warp: Warp, shrink: int, interpolation: int, fill=0, smooth=None) -> np.ndarray:
    left, top, right, bottom = (round(edge / shrink) for edge in warp.window)
    source = source[top:bottom, left:right]
    if smooth:
        source = cv2.GaussianBlur(source, (3, 3), *smooth)
    matrix = warp.matrix / shrink
    # OpenCV counts from pixel centres, and from the window's corner
    matrix[:, 2] += matrix[:, :2].sum(1) / 2 - 0.5 - (left, top)
    border = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": fill}
    if warp.bend is None:
        flags = interpolation | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(source, matrix, (warp.size, warp.size), flags=flags, **border)
    matrix = matrix.astype(np.float32)
    x, y = (row[0] * warp.bend[0] + row[1] * warp.bend[1] + row[2] for row in matrix)
    return cv2.remap(source, x, y, interpolation, **border)


class Jitter(NamedTuple):
    """Factors by which brightness, contrast and saturation change; 1 changes nothing."""

    brightness: float
    contrast: float
    saturation: float


def draw_jitter(
    rng: np.random.Generator, brightness: float, contrast: float, saturation: float, grey: float = 0.0
) -> Jitter:
    """Factors uniform in 1 ± their bound; with probability ``grey`` the image becomes greyscale."""
    factors = Jitter(*(rng.uniform(1 - bound, 1 + bound) for bound in (brightness, contrast, saturation)))
    return factors._replace(saturation=0.0) if rng.random() < grey else factors


def shift_hue(image: np.ndarray, turn: float) -> np.ndarray:
    """Turn the hue of an H×W×3 uint8 RGB image by ``turn`` of the full circle."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hue, saturation, value = cv2.split(hsv)
    hue += np.uint8(round(turn * 256) % 256)
    return cv2.cvtColor(cv2.merge((hue, saturation, value)), cv2.COLOR_HSV2RGB_FULL)


def colour(image: np.ndarray, jitters: tuple[Jitter, ...], out: np.ndarray) -> None:
    """Apply the jitters one after the other to H×W×3 uint8 RGB; write 3×H×W float32 in [0, 1] to ``out``."""
    matrix, offset = np.eye(3), 0.0
    grey_mean = _GREY @ cv2.mean(image)[:3]  # contrast turns around it; saturation does not change it
    for brightness, contrast, saturation in jitters:
        saturate = saturation * np.eye(3) + (1 - saturation) * _GREY
        matrix = brightness * contrast * saturate @ matrix
        offset = brightness * (contrast * offset + (1 - contrast) * grey_mean)
        grey_mean *= brightness
    image = cv2.transform(image, np.column_stack((matrix, [offset] * 3)))
    np.multiply(image.transpose(2, 0, 1), np.float32(1 / 255), out=out)
