"""Test-time training: a network is fitted to the masks of one video before it segments that video.

Mask cycle consistency (Bertrand et al., Test-time Training for Matching-based Video Object Segmentation, NeurIPS 2023):
the mask of a user frame is carried to a frame nearby and from there on to a user frame, the same or another, where it
has to equal the mask that the user gave. Each frame is segmented from the one before it alone, so that what arrives has
come all the way.
"""

import copy
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from numbers import Integral

import numpy as np
import torch
from numpy.random import Generator
from torch.utils.data import default_collate

from datasets.access import check_frame_number
from datasets.clip import Clip, PackedClip, pack_clip
from datasets.images import mask_ids
from datasets.video import Frames, fit_mask, inference_size, make_frame
from datasets.warps import video_warps, warp_ids, warp_image
from inference_memory_bank import make_memory
from model.losses import compute_losses
from model.network import Memory, Network, Prediction
from model.optimized import optimized_copy
from propagation import UserFrame
from util.device import autocast
from util.errors import InputError

STEPS = 80  # of one clip each
REACH = 15  # how many frames before and behind a user frame a mask is carried at most
RATE = 5e-5  # of the first step; falls to zero linearly
KEEP = 0.5  # share of the weights as loaded in the result: a mean of both (as WiSE-FT, CVPR 2022) loses less where
# the cycle misleads, for it does not see what a frame in between should look like
CROP, MAX_OBJECTS = 256, 3  # pixels and objects of a clip
TRIES = 100  # crops are drawn until one shows an object
CACHED = 40  # frames at inference size that are kept
HARD = 0.5  # fraction of the pixels, the hardest ones, that enter the cross-entropy

OnStep = Callable[[int, int], object]  # is told after each step how many are done, and of how many


class LatestMemory:
    """A memory that only knows the frame added last; see `model.network.Memory`."""

    def __init__(self, make: Callable[[], Memory]):
        self._make = make

    def add(self, key: torch.Tensor, value: torch.Tensor, temporary: bool = False) -> None:
        self._memory = self._make()
        self._memory.add(key, value)

    def read(self, query: torch.Tensor) -> torch.Tensor:
        return self._memory.read(query)


@torch.inference_mode(False)  # with gradients, whatever the caller's mode is
def adapted_copy(
    network: Network,
    frames: Frames,
    masks: Mapping[int, UserFrame],
    *,
    steps: int = STEPS,
    short_side: int = 480,
    precision: torch.dtype = torch.float32,
    on_step: OnStep = lambda done, total: None,
) -> Network:
    """An optimized copy of a network, fitted to the masks of a video.

    The same network, frames and masks give the same copy on the same CPU.

    Args:
        network: in eval mode, not optimized.
        masks: frame number → what the user gave; at least one holds an object.
        short_side: at inference, see `inference_size`.
        precision: of the copy, see `autocast`, and of training unless it is float16, whose gradients would vanish.

    Raises `InputError` for masks without any object, with objects that are too small or behind the end of the video,
    for a frame that cannot be read, and for a network that is optimized already.
    """
    if not isinstance(steps, Integral) or steps < 1:
        raise InputError(f"steps={steps!r}: expected a whole number from 1")
    if network.optimized is not None:
        raise InputError("an optimized network cannot be trained; expected one that optimized_copy has not changed")
    for index in masks:
        check_frame_number(index, frames.length)
    if not any(user.ids for user in masks.values()):
        raise InputError("no mask holds an object; expected ids from 1")
    size = inference_size(frames.size, short_side)
    masks = {index: user._replace(mask=fit_mask(user.mask, size)) for index, user in sorted(masks.items())}
    image = lru_cache(CACHED)(lambda index: make_frame("", frames.read(index), None, True, short_side).image)
    training = torch.float32 if precision is torch.float16 else precision
    rng = np.random.default_rng(0)
    adapted = copy.deepcopy(network).requires_grad_()
    optimizer = torch.optim.Adam(adapted.parameters(), RATE)
    device = network.mean.device
    with torch.autocast(device.type, enabled=False):  # whatever the caller's is
        for step in range(steps):
            tries = (draw_clip(rng, masks, frames.length, image) for _ in range(TRIES))
            clip = next((clip for clip in tries if clip is not None), None)
            if clip is None:
                raise InputError(f"{frames.name}: the objects are too small to fit the network to them")
            for group in optimizer.param_groups:
                group["lr"] = RATE * (1 - step / steps)
            _learn(adapted, default_collate([clip]).unpack(device), training)
            optimizer.step()
            optimizer.zero_grad()
            on_step(step + 1, steps)
        with torch.no_grad():
            for parameter, loaded in zip(adapted.parameters(), network.parameters(), strict=True):
                parameter.lerp_(loaded, KEEP)
        return optimized_copy(adapted, precision=precision, in_place=True)


def _learn(network: Network, clip: Clip, precision: torch.dtype) -> None:
    """Accumulate the gradients of a clip with B = 1."""
    with autocast(clip.frames.device, precision):
        memory = LatestMemory(partial(make_memory, network.config))
        prediction = network(clip.frames, clip.masks[:, 0], clip.valid, memory)
    boundary = None if prediction.boundary is None else prediction.boundary[:, -1:]
    last = Prediction(prediction.logits[:, -1:], boundary)
    losses = compute_losses(last, clip.masks[:, -1:], clip.valid, HARD, boundary_weight=1)
    torch.stack(list(losses.values())).sum().backward()
    torch.clear_autocast_cache()  # of the weights, which change; within another autocast that does not happen by itself


def draw_clip(
    rng: Generator, masks: Mapping[int, UserFrame], length: int, image: Callable[[int], np.ndarray]
) -> PackedClip | None:
    """Three frames of S×S pixels: a user frame, one nearby, and a user frame, with the masks of the first and last.

    All objects of the clip are in its first mask, and its last mask says where they are, or that they are absent. The
    frame nearby is not before the frames on which they are given first, where they may not be in the picture yet.

    Args:
        masks: h×w, by frame number; at least one holds an object.
        length: of the video.
        image: returns a frame h×w×3 uint8 RGB.

    Returns None if the crop shows no object.
    """
    first = int(rng.choice([index for index, user in masks.items() if user.ids]))
    last = int(rng.choice([index for index, user in masks.items() if user.complete or user.ids & masks[first].ids]))
    decided = masks[first].ids if masks[last].complete else masks[first].ids & masks[last].ids
    known = max(min(index for index, user in masks.items() if i in user.ids) for i in decided)
    reach = {index for end in (first, last) for index in range(max(end - REACH, min(known, end)), end + REACH + 1)}
    between = int(rng.choice(sorted(index for index in reach if index < length)))

    height, width = masks[first].mask.shape
    warps = video_warps(rng, height, width, 3, CROP)
    nothing = np.zeros((CROP, CROP), np.uint8)
    start, end = warp_ids(masks[first].mask, warps[0]), warp_ids(masks[last].mask, warps[2])
    objects = rng.permutation(sorted(decided & mask_ids(start)))[:MAX_OBJECTS]
    if not len(objects):
        return None
    images = [warp_image(image(index), warp) for index, warp in zip((first, between, last), warps, strict=True)]
    return pack_clip(images, np.stack([start, nothing, end]), objects, len(objects), "")
