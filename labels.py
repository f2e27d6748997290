"""What goes into the engine and what comes out: images and masks are checked, label maps and confidences are made."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from util.errors import InputError

# Images beyond this are no RGB in [0, 1], even if some resampling overshot: 0–255, or normalised already.
IMAGE_RANGE = (-1.0, 2.0)
BORDER = 2  # pixels on either side of an object's outline, see `confidences`
CELL = 16  # side in pixels of the cells of `strays`: one of the feature map


def check_image(image: torch.Tensor, size: torch.Size | None, values: bool = True) -> None:
    """Raises ValueError unless it is 3×H×W, in the video's ``size`` if that is known, and RGB in [0, 1]."""
    if image.ndim != 3 or image.shape[0] != 3 or not image.numel() or not image.is_floating_point():
        raise ValueError(f"image of {tuple(image.shape)} {image.dtype}: expected 3×H×W of floats in [0, 1]")
    if size is not None and image.shape != size:
        raise ValueError(f"image of {tuple(image.shape)} in a video of {tuple(size)}")
    if values:
        low, high = torch.stack(image.aminmax()).tolist()  # NaN if there is one
        if not (IMAGE_RANGE[0] <= low and high <= IMAGE_RANGE[1]):
            raise ValueError(f"image with values from {low:g} to {high:g}: expected RGB in [0, 1]")


def given_ids(mask: torch.Tensor, image: torch.Tensor) -> list[int]:
    """The ids above 0 in a mask H×W for ``image`` 3×H×W, ascending. Raises ValueError for what is no mask of ids."""
    if mask.shape != image.shape[-2:]:
        raise ValueError(f"mask of {tuple(mask.shape)} for an image of {tuple(image.shape[-2:])} (height, width)")
    if mask.is_floating_point():
        raise ValueError(f"mask of {mask.dtype}: expected integer object ids, 0 for background")
    if mask.device != image.device:
        raise ValueError(f"mask on {mask.device}: expected it on the image's {image.device}")
    ids = [int(i) for i in mask.unique().tolist()]
    if wrong := [i for i in ids if not 0 <= i <= 255]:
        raise ValueError(f"mask with id {wrong[0]}: expected object ids from 1 to 255, 0 for background")
    return [i for i in ids if i > 0]


def label_map(prob: torch.Tensor, size: Sequence[int], object_ids: Sequence[int]) -> torch.Tensor:
    """Object ids H×W uint8 of the most probable channel of ``prob``, after bilinear interpolation to ``size``.

    ``prob``: (K+1)×h×w in [0, 1], background first; ``object_ids``: ids of the K other channels. Works channel by
    channel, so that K+1 maps of the video's own size never exist at once; this is also faster than argmax.
    """

    def at_full_size(channel: torch.Tensor) -> torch.Tensor:
        if channel.shape == tuple(size):
            return channel
        return F.interpolate(channel[None, None], size, mode="bilinear", align_corners=False)[0, 0]

    best = at_full_size(prob[0])
    ids = torch.zeros(size, dtype=torch.uint8, device=prob.device)
    for object_id, channel in zip(object_ids, map(at_full_size, prob[1:]), strict=True):
        ids.masked_fill_(channel > best, object_id)
        best = torch.maximum(best, channel)
    return ids


def object_map(prob: torch.Tensor, size: tuple[int, int], object_ids: Sequence[int], name: str) -> np.ndarray:
    """Object ids, see `label_map`. Raises `InputError`, with the frame's ``name``, if it is not finite."""
    ids = label_map(prob, size, object_ids).cpu().numpy()
    if not prob[0].sum().isfinite():  # a NaN in one channel is one in all
        raise InputError(
            f"{name}: the network's output is not finite; expected weights that fit, and --no-amp (in Python amp=False)"
            " where half precision overflows"
        )
    return ids


def strays(labels: torch.Tensor, before: torch.Tensor, object_ids: Sequence[int]) -> torch.Tensor:
    """The parts of the objects that are not connected to where the objects were in the frame before, K×H×W bool.

    labels, before: H×W ids, now and then; H and W are multiples of 16. Parts are connected through cells of 16×16
    pixels that hold any of the object, from the cells that held it before and those beside them. An object that has
    more cells elsewhere than connected ones has no strays: it is new, has jumped, or had been lost.
    """
    ids = torch.tensor(object_ids, device=labels.device)[:, None, None]
    now, was = (F.max_pool2d((there == ids).float(), CELL) for there in (labels, before))
    reached, grown = now, torch.minimum(F.max_pool2d(was, 3, 1, 1), now)
    while not torch.equal(reached, grown):
        reached, grown = grown, torch.minimum(F.max_pool2d(grown, 3, 1, 1), now)
    stray = (now > reached) & (2 * reached.sum((1, 2)) >= now.sum((1, 2)))[:, None, None]
    return stray.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)


def confidences(prob: torch.Tensor, object_ids: Sequence[int]) -> dict[int, float]:
    """How sure the network is of each object, from 0 to 1: the mean margin of the likeliest channel along its outline.

    prob: (K+1)×h×w. For an object without an outline, because it has no pixel or all of them, it is the least margin by
    which it loses or wins a pixel. Measured against other functions of prob in docs/PREDICTOR.md.
    """
    if not object_ids:
        return {}
    best, labels = prob.max(dim=0)
    margin = best - prob.scatter(0, labels[None], -1).amax(0)
    inside = labels == torch.arange(1, len(prob), device=prob.device)[:, None, None]  # K×h×w
    border = _widened(inside, BORDER) & _widened(~inside, BORDER)
    means = (margin * border).sum((1, 2)) / border.sum((1, 2)).clamp_min(1)
    least = torch.where(inside, margin, best - prob[1:]).amin((1, 2))
    return dict(zip(object_ids, torch.where(border.any(2).any(1), means, least).tolist(), strict=True))


def _widened(where: torch.Tensor, reach: int) -> torch.Tensor:
    """True wherever a K×h×w bool tensor is, and up to ``reach`` rows and columns beside; max pooling takes 50 times as
    long on CPUs.
    """
    for _ in ("columns", "rows"):
        where = where.transpose(1, 2)
        wide = where.clone()
        for shift in range(1, reach + 1):
            wide[:, shift:] |= where[:, :-shift]
            wide[:, :-shift] |= where[:, shift:]
        where = wide
    return where
