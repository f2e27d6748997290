"""A video that a user corrects: masks on any frames, propagated in both directions, redone only where they change.

A *user frame* is one that the user has annotated. Its mask decides the objects that it holds, and all others, too, if
it is complete. User frames that decide every object bound the *spans*: a span is segmented from its two ends, and what
is segmented depends on the user frames in and next to it, never on the order in which they were given.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from datasets.access import Frames, MaskSource, load_mask
from datasets.video import fit_mask, inference_size, make_frame
from inference_core import InferenceCore
from labels import confidences, label_map
from util.errors import InputError

LOOK_CELLS = 4, 4  # rows and columns, see `Session._look`


@dataclass(frozen=True, eq=False)
class FrameResult:
    """The objects of one frame."""

    index: int  # number of the frame, from 0
    ids: np.ndarray  # H×W uint8 object ids at the video's own size, 0 for background
    confidence: dict[int, float]  # id of each known object → 0 to 1, see `labels.confidences`


class Progress(NamedTuple):
    """What `Session.propagate` reports after each frame."""

    frame: int  # number of the frame that has a new result
    done: int  # frames so far, counting one that is segmented in both directions twice
    total: int
    probabilities: dict[int, torch.Tensor]  # id of each object → h×w in [0, 1], at inference size


class _UserFrame(NamedTuple):
    mask: np.ndarray  # H×W uint8
    ids: frozenset[int]
    complete: bool
    version: int  # differs for every annotation of a session


class _Span(NamedTuple):
    """Frames between two user frames that decide all objects, or between one and an end of the video."""

    low: int  # the user frame before the span, or −1
    high: int  # the one behind it, or the number of frames
    user_frames: tuple[int, ...]  # those in the span, and these two
    made_from: tuple  # what its results depend on


class _Pass(NamedTuple):
    """What the forward pass found on a frame, until the backward pass comes there."""

    objects: bytes  # compressed K×h×w uint8: 255 times the probabilities
    confidence: dict[int, float]  # of the objects that the pass has met


class _Result(NamedTuple):
    ids: bytes  # compressed H×W uint8
    confidence: dict[int, float]
    made_from: tuple | None  # `_Span.made_from`; None while the backward pass is to come


class Session:
    """Made by `predictor.VideoPredictor.session`.

    Frames are read again whenever they are needed; results are kept compressed.
    """

    def __init__(
        self,
        frames: Frames,
        make_core: Callable[[], InferenceCore],
        device: torch.device,
        short_side: int,
        precision: torch.dtype | None,
    ):
        self.frames, self.device, self.short_side, self.precision = frames, device, short_side, precision
        self._make_core = make_core
        self._user_frames: dict[int, _UserFrame] = {}
        self._results: dict[int, _Result] = {}
        self._looks: dict[int, torch.Tensor] = {}  # of each frame that was segmented, see `_look`
        self._version = 0

    def __len__(self) -> int:
        """Number of frames."""
        return self.frames.length

    @property
    def object_ids(self) -> list[int]:
        """All ids that the user has given, ascending."""
        return sorted(set().union(*(frame.ids for frame in self._user_frames.values())))

    @property
    def annotated(self) -> list[int]:
        """Numbers of the user frames, ascending."""
        return sorted(self._user_frames)

    def annotate(self, index: int, mask: MaskSource, complete: bool = False) -> None:
        """Give the mask of frame ``index``, in place of an earlier one: a file, or H×W integer ids.

        ``complete``: all objects that the mask does not hold are absent on this frame, and until a frame holds them
        again. Otherwise, only the objects in the mask are known to be there, and only there.
        Raises `InputError` for a frame or mask that does not fit the video.
        """
        self._check_index(index)
        ids = load_mask(mask, f"mask of frame {index}", self.frames.size)
        held = frozenset(int(i) for i in np.unique(ids) if i)
        if not held and not complete:
            raise InputError(f"the mask of frame {index} holds no object; expected one, or complete=True")
        self._version += 1
        self._user_frames[index] = _UserFrame(ids, held, complete, self._version)

    def forget(self, index: int) -> None:
        """Take back the mask of frame ``index``. Raises `InputError` if there is none."""
        if index not in self._user_frames:
            raise InputError(f"frame {index} has no mask; expected one of {self.annotated}")
        del self._user_frames[index]

    def remove(self, object_id: int) -> None:
        """Remove an object from all masks and results. Raises `InputError` for an unknown id."""
        if object_id not in self.object_ids:
            raise InputError(f"there is no object {object_id}; expected one of {self.object_ids}")
        for index, user in list(self._user_frames.items()):
            if object_id in user.ids:
                del self._user_frames[index]
                if user.complete or len(user.ids) > 1:
                    self.annotate(index, np.where(user.mask == object_id, 0, user.mask), user.complete)
        for index, result in self._results.items():
            ids = self._unpacked(result.ids)
            ids[ids == object_id] = 0
            confidence = {i: value for i, value in result.confidence.items() if i != object_id}
            self._results[index] = _Result(zlib.compress(ids.tobytes(), 1), confidence, None)

    def result(self, index: int) -> FrameResult:
        """The latest result of a frame, which may be out of date (see `is_current`); before any, background.

        Raises `InputError` for a frame that the video does not have.
        """
        self._check_index(index)
        if index in self._user_frames and self._decides_all(index):
            return FrameResult(index, self._user_frames[index].mask.copy(), dict.fromkeys(self.object_ids, 1.0))
        ids, confidence = np.zeros(self.frames.size, np.uint8), {}
        if index in self._results:
            ids, confidence = self._unpacked(self._results[index].ids), dict(self._results[index].confidence)
        if index in self._user_frames:
            mask = self._user_frames[index].mask
            ids = np.where(mask > 0, mask, ids)
        return FrameResult(index, ids, confidence)

    def is_current(self, index: int) -> bool:
        """Whether the frame's result is made from all masks that concern it."""
        self._check_index(index)
        span = next((span for span in self._spans() if span.low < index < span.high), None)
        return span is None or self._is_current(index, span)

    def restore(self, index: int, ids: np.ndarray, confidence: float) -> None:
        """Take over a result H×W uint8 that an earlier session made from the masks that this one has now."""
        span = next((span for span in self._spans() if span.low < index < span.high), None)
        if span is not None:
            packed = zlib.compress(ids.tobytes(), 1)
            self._results[index] = _Result(packed, dict.fromkeys(self.object_ids, confidence), span.made_from)

    def propagate(
        self,
        around: int | None = None,
        on_frame: Callable[[Progress], object] | None = None,
        direction: str = "both",
    ) -> bool:
        """Segment every frame whose result is out of date; returns whether all are done.

        Each span (see above) is segmented forwards and backwards, and fused by distance and confidence.

        Args:
            around: only the spans that touch this frame, or, with ``direction`` forward or backward, all that reach
                beyond it in that direction.
            on_frame: called after each frame; if it returns False, propagation stops. All results so far stay.
        Raises `InputError` without any mask, and for a frame that cannot be read.
        """
        if not self._user_frames:
            raise InputError("no frame has a mask; expected annotate() before propagate()")
        spans = self._spans()
        if around is not None:
            is_chosen = {
                "both": lambda span: span.low <= around <= span.high,
                "forward": lambda span: around < span.high,
                "backward": lambda span: span.low < around,
            }[direction]
            spans = list(filter(is_chosen, spans))
        stale = [s for s in spans if not all(self._is_current(i, s) for i in range(s.low + 1, s.high))]
        total = sum(len(frames) for span in stale for frames in self._passes(span))
        done = 0
        for span in stale:
            for index, probabilities in self._segment(span):
                done += 1
                if on_frame is not None and on_frame(Progress(index, done, total, probabilities)) is False:
                    return False
        return True

    def next_frame(self) -> int:
        """The frame that is most worth a mask: of low confidence, unlike the user frames and far from them.

        Raises `InputError` if there is none left, or no result yet.
        """
        left = [index for index in self._results if index not in self._user_frames and index in self._looks]
        known = [index for index in self._user_frames if index in self._looks]
        if not left or not known:
            raise InputError("no frame to suggest; expected a propagated video with frames that have no mask")
        looks, given = (torch.stack([self._looks[index] for index in indices]) for indices in (left, known))
        novelty = torch.cdist(looks, given).amin(1).tolist()
        doubt = [1 - min(self._results[index].confidence.values(), default=0.0) for index in left]
        distance = [min(abs(index - given) for given in self._user_frames) for index in left]
        worth = [d * n * frames for d, n, frames in zip(doubt, novelty, distance, strict=True)]
        return left[worth.index(max(worth))]

    # Spans and what they are made from.

    def _held(self, index: int) -> frozenset[int]:
        """The objects in the mask of a frame."""
        return self._user_frames[index].ids if index in self._user_frames else frozenset()

    def _decides_all(self, index: int) -> bool:
        user = self._user_frames[index]
        return user.complete or user.ids.issuperset(self.object_ids)

    def _spans(self) -> list[_Span]:
        annotated, ids = self.annotated, tuple(self.object_ids)
        bounds = [-1, *filter(self._decides_all, annotated), len(self)]
        spans = []
        for low, high in zip(bounds, bounds[1:], strict=False):
            near = tuple(index for index in annotated if low <= index <= high)
            made_from = low, high, ids, tuple((index, self._user_frames[index].version) for index in near)
            spans.append(_Span(low, high, near, made_from))
        return [span for span in spans if span.high - span.low > 1]

    def _is_current(self, index: int, span: _Span) -> bool:
        return index in self._results and self._results[index].made_from == span.made_from

    def _passes(self, span: _Span) -> tuple[range, range]:
        """The frames of a span in the order in which they are segmented forwards and backwards.

        A pass begins at the span's end if there are objects, else at the first user frame in the span.
        """
        inside = [index for index in span.user_frames if span.low < index < span.high]
        forwards = range(span.low + 1 if self._held(span.low) else min(inside, default=span.high), span.high)
        backwards = range(span.high - 1 if self._held(span.high) else max(inside, default=span.low), span.low, -1)
        return forwards, backwards

    # Segmentation.

    @torch.inference_mode()
    def _segment(self, span: _Span) -> Iterator[tuple[int, dict[int, torch.Tensor]]]:
        """Segment a span; yields the number of each frame that has a new result, and the objects' probabilities."""
        core, every = self._make_core(), self.object_ids
        for index in span.user_frames:
            user = self._user_frames[index]
            mask = self._small_mask(index)
            assert mask is not None
            with self._autocast():
                core.memorise(self._image(index), mask, index, every if user.complete else user.ids)
            self._look(index, core)
        forwards, backwards = self._passes(span)
        earlier: dict[int, _Pass] = {}
        for frames, end in ((forwards, span.low), (backwards, span.high)):
            origin = frames.start - frames.step
            core.restart(origin, set(every) - (self._held(end) if origin == end else frozenset()))
            for index in frames:
                with self._autocast():
                    prob = core.step(self._image(index), self._small_mask(index), frame=index)
                assert prob is not None
                self._look(index, core)
                met = {i: value for i, value in confidences(prob, core.object_ids).items() if i not in core.absent}
                waits = frames is forwards and index in backwards
                if waits:
                    pixels = (255 * prob[1:]).round().byte().cpu().numpy()
                    earlier[index] = _Pass(zlib.compress(pixels.tobytes(), 1), met)
                elif index in earlier:
                    forward = earlier.pop(index)
                    prob = self._fused(index, core.object_ids, forward, met, prob)
                    fused = confidences(prob, core.object_ids)
                    met = {i: fused[i] for i in met.keys() | forward.confidence.keys()}
                ids = label_map(prob, self.frames.size, core.object_ids).cpu().numpy()
                # What no pass has met is absent by the user's word.
                confidence = dict.fromkeys(every, 1.0) | met
                made_from = None if waits else span.made_from
                self._results[index] = _Result(zlib.compress(ids.tobytes(), 1), confidence, made_from)
                yield index, dict(zip(core.object_ids, prob[1:], strict=True))
        nothing = zlib.compress(bytes(self.frames.size[0] * self.frames.size[1]), 1)
        for index in range(span.low + 1, span.high):
            if index not in forwards and index not in backwards:  # all are absent by the user's word
                self._results[index] = _Result(nothing, dict.fromkeys(every, 1.0), span.made_from)

    def _fused(
        self, index: int, object_ids: list[int], forward: _Pass, confidence: dict[int, float], prob: torch.Tensor
    ) -> torch.Tensor:
        """The backward pass's prob (K+1)×h×w and ``confidence``, averaged with what the forward pass has found."""
        weights = []
        for i in object_ids:
            before = max((j for j in self._user_frames if j <= index and i in self._held(j)), default=-1)
            behind = min((j for j in self._user_frames if j >= index and i in self._held(j)), default=len(self))
            one = forward.confidence.get(i, 0.0) * (behind - index)
            other = confidence.get(i, 0.0) * (index - before)
            weights.append(one / max(one + other, 1e-6))
        pixels = np.frombuffer(zlib.decompress(forward.objects), np.uint8).reshape(prob[1:].shape)
        weight = torch.tensor(weights, device=self.device)[:, None, None]
        objects = torch.lerp(prob[1:], torch.tensor(pixels, device=self.device) / 255, weight)
        return torch.cat([(1 - objects.sum(0, keepdim=True)).clamp_min(0), objects])

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.precision or torch.float32, enabled=self.precision is not None)

    def _image(self, index: int) -> torch.Tensor:
        """3×h×w RGB in [0, 1] on the device, at inference size."""
        image = make_frame("", self.frames.read(index), None, True, self.short_side).image
        return torch.from_numpy(image).to(self.device).permute(2, 0, 1).float() / 255

    def _small_mask(self, index: int) -> torch.Tensor | None:
        """The given mask of a frame, h×w on the device, if there is one."""
        if index not in self._user_frames:
            return None
        size = inference_size(self.frames.size, self.short_side)
        return torch.from_numpy(fit_mask(self._user_frames[index].mask, size)).to(self.device)

    def _look(self, index: int, core: InferenceCore) -> None:
        """Note what a frame looks like: its key features, averaged over a grid of cells."""
        if core.key is not None:
            self._looks[index] = F.adaptive_avg_pool2d(core.key[0].float(), LOOK_CELLS).flatten().cpu()

    def _unpacked(self, packed: bytes) -> np.ndarray:
        return np.frombuffer(zlib.decompress(packed), np.uint8).reshape(self.frames.size).copy()

    def _check_index(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise InputError(f"there is no frame {index}; expected 0 to {len(self) - 1}")
