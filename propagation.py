"""Propagation in both directions: which frames depend on which masks of the user, and how they are segmented.

A *user frame* is one that the user has annotated. Its mask decides the objects that it holds, and all others, too, if
it is complete. User frames that decide every object bound the *spans*: a span is segmented from its two ends. At an end
of the video a span has one bound only, and is segmented from the next user frames behind that, too. Results depend on
these user frames and those in the span, never on the order in which they were given.
"""

import zlib
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from datasets.images import mask_ids
from inference_core import InferenceCore
from labels import confidences

BEYOND = 2  # user frames behind the one bound of a span at an end of the video that it is segmented from, too


class UserFrame(NamedTuple):
    """A mask that the user has given."""

    mask: np.ndarray  # H×W uint8
    ids: frozenset[int]  # that it holds
    complete: bool  # whether all other objects are absent
    version: int = 0  # differs for every annotation of a session

    @classmethod
    def of(cls, mask: np.ndarray, complete: bool, version: int = 0) -> "UserFrame":
        """With the ids of the mask H×W uint8."""
        return cls(mask, frozenset(mask_ids(mask)), complete, version)


def all_ids(user_frames: Mapping[int, UserFrame]) -> list[int]:
    """The ids of all masks, ascending."""
    return sorted(set().union(*(user.ids for user in user_frames.values())))


def decides_all(user: UserFrame, object_ids: Collection[int]) -> bool:
    """Whether the mask says of every object where it is, or that it is absent."""
    return user.complete or user.ids.issuperset(object_ids)


@dataclass(frozen=True)
class Span:
    """Frames between two user frames that decide all objects, or between one and an end of the video."""

    low: int  # the user frame before the span, or −1
    high: int  # the one behind it, or the number of frames
    object_ids: tuple[int, ...]  # of the whole video
    user_frames: dict[int, UserFrame]  # those that it is segmented from

    @property
    def frames(self) -> range:
        """Numbers of the frames in it."""
        return range(self.low + 1, self.high)

    @cached_property
    def made_from(self) -> tuple:
        """What its results depend on."""
        versions = tuple((index, user.version) for index, user in self.user_frames.items())
        return self.low, self.high, self.object_ids, versions

    def held(self, index: int) -> frozenset[int]:
        """The objects in the mask of a frame."""
        return self.user_frames[index].ids if index in self.user_frames else frozenset()

    def passes(self) -> tuple[range, range]:
        """The frames in the order in which they are segmented forwards and backwards.

        A pass begins at the span's end if there are objects, else at the first user frame in the span.
        """
        inside = [index for index in self.user_frames if index in self.frames]
        forwards = range(self.low + 1 if self.held(self.low) else min(inside, default=self.high), self.high)
        backwards = range(self.high - 1 if self.held(self.high) else max(inside, default=self.low), self.low, -1)
        return forwards, backwards


def spans(user_frames: Mapping[int, UserFrame], length: int) -> list[Span]:
    """The spans of a video of ``length`` frames, without empty ones."""
    annotated, ids = sorted(user_frames), all_ids(user_frames)
    bounds = [-1, *(index for index in annotated if decides_all(user_frames[index], ids)), length]
    found = []
    for low, high in zip(bounds, bounds[1:], strict=False):
        before = [index for index in annotated if index < low][-BEYOND:] if high == length else []
        behind = [index for index in annotated if index > high][:BEYOND] if low == -1 else []
        near = [*before, *(index for index in annotated if low <= index <= high), *behind]
        if high - low > 1:
            found.append(Span(low, high, tuple(ids), {index: user_frames[index] for index in near}))
    return found


class Found(NamedTuple):
    """A frame that a pass has segmented."""

    frame: int  # number
    object_ids: list[int]
    prob: torch.Tensor  # (K+1)×h×w, background first
    confidence: dict[int, float]  # of the objects that are not absent by the user's word
    final: bool  # False if the other pass is to come


class _Pass(NamedTuple):
    """What the forward pass found on a frame, until the backward pass comes there."""

    objects: bytes  # compressed K×h×w uint8: 255 times the probabilities
    weights: dict[int, float]  # of the objects that the pass has met: confidence × highest probability


def segment_span(
    span: Span,
    core: InferenceCore,
    image: Callable[[int], torch.Tensor],
    mask: Callable[[int], torch.Tensor | None],
    on_key: Callable[[int, torch.Tensor | None], object],
) -> Generator[Found, None, None]:
    """Segment a span forwards and backwards, and fuse both by distance and confidence.

    Args:
        core: new.
        image: returns the image 3×h×w of a frame.
        mask: returns the user's mask h×w of a frame, if there is one.
        on_key: is called with the number and the key 1×Ck×h'×w' of each frame that was encoded.
    """
    if not span.object_ids:  # all masks are empty
        return
    for index, user in span.user_frames.items():
        given = mask(index)
        assert given is not None
        core.memorise(image(index), given, index, span.object_ids if user.complete else user.ids)
        on_key(index, core.key)
    forwards, backwards = span.passes()
    earlier: dict[int, _Pass] = {}
    for frames, end in ((forwards, span.low), (backwards, span.high)):
        origin = frames.start - frames.step
        absent = set(span.object_ids) - (span.held(end) if origin == end else frozenset())
        core.restart(origin, absent, mask(origin))
        for index in frames:
            prob = core.step(image(index), mask(index), frame=index)
            assert prob is not None
            on_key(index, core.key)
            met = {i: value for i, value in confidences(prob, core.object_ids).items() if i not in core.absent}
            # A pass that does not see an object, however sure of that, has little to say against one that does.
            peaks = zip(core.object_ids, prob[1:].amax((1, 2)).tolist(), strict=True)
            weights = {i: met[i] * peak for i, peak in peaks if i in met}
            waits = frames is forwards and index in backwards
            if waits:
                pixels = (255 * prob[1:]).round().byte().cpu().numpy()
                earlier[index] = _Pass(zlib.compress(pixels.tobytes(), 1), weights)
            elif index in earlier:
                forward = earlier.pop(index)
                prob = _fused(span, index, core.object_ids, forward, weights, prob)
                fused = confidences(prob, core.object_ids)
                met = {i: fused[i] for i in met.keys() | forward.weights.keys()}
            yield Found(index, core.object_ids, prob, met, not waits)


def _fused(
    span: Span, index: int, object_ids: list[int], forward: _Pass, backward: dict[int, float], prob: torch.Tensor
) -> torch.Tensor:
    """The backward pass's prob (K+1)×h×w and weights, averaged with what the forward pass has found."""
    fractions = []
    for i in object_ids:
        before = max((j for j in span.user_frames if j <= index and i in span.held(j)), default=span.low)
        behind = min((j for j in span.user_frames if j >= index and i in span.held(j)), default=span.high)
        one = forward.weights.get(i, 0.0) * (behind - index)
        other = backward.get(i, 0.0) * (index - before)
        fractions.append(one / max(one + other, 1e-6))
    pixels = np.frombuffer(zlib.decompress(forward.objects), np.uint8).reshape(prob[1:].shape)
    weight = prob.new_tensor(fractions)[:, None, None]
    objects = torch.lerp(prob[1:], prob.new_tensor(pixels) / 255, weight)
    return torch.cat([(1 - objects.sum(0, keepdim=True)).clamp_min(0), objects])
