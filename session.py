"""A video that a user corrects: masks on any frames, propagated in both directions, redone only where they change."""

import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from datasets.access import MaskSource, check_frame_number, load_mask
from datasets.images import check_ids
from datasets.video import Frames, fit_mask, inference_size, make_frame, with_given
from inference_core import InferenceCore
from labels import object_map
from propagation import Span, UserFrame, all_ids, decides_all, segment_span, spans
from util.device import autocast
from util.errors import InputError

LOOK_CELLS = 4, 4  # rows and columns, see `Session._look`
TIE = 1e-9  # what a frame that is sure or looks like a user frame has to say in `Session.next_frame`


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
    probabilities: dict[int, torch.Tensor]  # id of each object that may be there → h×w in [0, 1], at inference size


class _Result(NamedTuple):
    ids: bytes  # compressed H×W uint8
    confidence: dict[int, float]
    made_from: tuple | None  # `Span.made_from`; None while the backward pass is to come


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
        precision: torch.dtype,
    ):
        self.frames, self.device, self.short_side, self.precision = frames, device, short_side, precision
        self._make_core = make_core
        self._user_frames: dict[int, UserFrame] = {}
        self._known_spans: list[Span] | None = None  # of these; None: they have changed since
        self._results: dict[int, _Result] = {}
        self._looks: dict[int, torch.Tensor] = {}  # of each frame that was segmented, see `_look`
        self._version = 0

    def __len__(self) -> int:
        """Number of frames."""
        return self.frames.length

    @property
    def object_ids(self) -> list[int]:
        """All ids that the user has given, ascending."""
        return all_ids(self._user_frames)

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
        index = check_frame_number(index, len(self))
        ids = load_mask(mask, f"mask of frame {index}", self.frames.size)
        user = UserFrame.of(ids, complete, self._version + 1)
        if not user.ids and not complete:
            raise InputError(f"the mask of frame {index} holds no object; expected one, or complete=True")
        others = (other.ids for number, other in self._user_frames.items() if number != index)
        check_ids(user.ids.union(*others), f"mask of frame {index}")
        self._version = user.version
        self._user_frames[index], self._known_spans = user, None

    def forget(self, index: int) -> None:
        """Take back the mask of frame ``index``. Raises `InputError` if there is none."""
        if index not in self._user_frames:
            raise InputError(f"frame {index!r} has no mask; expected one of {self.annotated}")
        del self._user_frames[index]
        self._known_spans = None

    def remove(self, object_id: int) -> None:
        """Remove an object from all masks and results. Raises `InputError` for an unknown id."""
        if object_id not in self.object_ids:
            raise InputError(f"there is no object {object_id!r}; expected one of {self.object_ids}")
        for index, user in list(self._user_frames.items()):
            if object_id in user.ids:
                self.forget(index)
                if user.complete or len(user.ids) > 1:
                    self.annotate(index, np.where(user.mask == object_id, 0, user.mask), user.complete)
        for index, result in self._results.items():
            ids = self._unpacked(result.ids)
            ids[ids == object_id] = 0
            self._keep(index, ids, {i: value for i, value in result.confidence.items() if i != object_id}, None)

    def result(self, index: int) -> FrameResult:
        """The latest result of a frame, which may be out of date (see `is_current`); before any, background."""
        index = check_frame_number(index, len(self))
        user = self._user_frames.get(index)
        if user is not None and decides_all(user, self.object_ids):
            return FrameResult(index, user.mask.copy(), dict.fromkeys(self.object_ids, 1.0))
        ids, confidence = np.zeros(self.frames.size, np.uint8), {}
        if index in self._results:
            ids, confidence = self._unpacked(self._results[index].ids), dict(self._results[index].confidence)
        return FrameResult(index, ids if user is None else with_given(user.mask, ids), confidence)

    def is_current(self, index: int) -> bool:
        """Whether the frame's result is made from all masks that concern it."""
        index = check_frame_number(index, len(self))
        span = self._span_of(index)
        return span is None or self._is_current(index, span)

    def restore(self, index: int, ids: np.ndarray, confidence: float) -> None:
        """Take over a result H×W uint8 that an earlier session made from the masks that this one has now."""
        if (span := self._span_of(index)) is not None:
            self._keep(index, ids, dict.fromkeys(self.object_ids, confidence), span.made_from)

    def propagate(
        self, around: int | None = None, on_frame: Callable[[Progress], object] | None = None, direction: str = "both"
    ) -> bool:
        """Segment every frame whose result is out of date; returns whether all are done.

        It is segmented in spans, see `propagation.Span`.

        Args:
            around: only the spans that touch this frame, or, with ``direction`` forward or backward, all that reach
                beyond it in that direction.
            on_frame: called after each frame; if it returns False or changes a mask, propagation stops. All results so
                far stay.
        Raises `InputError` without any mask, for a direction that is none or has no frame to begin at, for a frame that
        cannot be read, and for output that is not finite.
        """
        if not self._user_frames:
            raise InputError("no frame has a mask; expected annotate() before propagate()")
        directions: dict[str, Callable[[Span, int], bool]] = {
            "both": lambda span, frame: span.low <= frame <= span.high,
            "forward": lambda span, frame: frame < span.high,
            "backward": lambda span, frame: span.low < frame,
        }
        if direction not in directions or around is None and direction != "both":
            expected = f"one of {', '.join(directions)}, and around= for all but both"
            raise InputError(f"direction={direction!r}, around={around!r}: expected {expected}")
        chosen = known = self._spans()
        if around is not None:
            frame = check_frame_number(around, len(self))
            chosen = [span for span in known if directions[direction](span, frame)]
        stale = [span for span in chosen if not all(self._is_current(i, span) for i in span.frames)]
        total = sum(len(frames) for span in stale for frames in span.passes())
        frames = chain.from_iterable(map(self._segment, stale))
        for done, (index, probabilities) in enumerate(frames, start=1):
            go_on = None if on_frame is None else on_frame(Progress(index, done, total, probabilities))
            if isinstance(go_on, bool | np.bool_) and not go_on or self._known_spans is not known:
                return False
        return True

    def next_frame(self) -> int:
        """The frame whose mask is expected to help most, from how uncertain, new and far from any mask the frames are.

        Each frame without a mask votes for those that are nearer to it than any mask, by as much as they are nearer,
        times the mean doubt of its objects, times how unlike the user frames it looks. Raises `InputError` if there is
        no frame left on which an object may be, or no result yet.
        """
        left = [index for index in self._results if index not in self._user_frames and index in self._looks]
        known = [index for index in self._user_frames if index in self._looks]
        if not left or not known:
            raise InputError("no frame to suggest; expected a propagated video with frames that have no mask")
        looks, given = (torch.stack([self._looks[index] for index in indices]) for indices in (left, known))
        votes = np.zeros(len(self))
        for index, novelty in zip(left, torch.cdist(looks, given).amin(1).tolist(), strict=True):
            doubt = 1 - np.mean(list(self._results[index].confidence.values()) or [0.0])
            distance = min(abs(index - user) for user in self._user_frames)
            near = np.arange(max(0, index - distance + 1), min(len(self), index + distance))
            votes[near] += (doubt * novelty + TIE) * (distance - abs(near - index))
        return max(left, key=lambda index: votes[index])

    def _spans(self) -> list[Span]:
        if self._known_spans is None:
            self._known_spans = spans(self._user_frames, len(self))
        return self._known_spans

    def _span_of(self, index: int) -> Span | None:
        """The span of a frame; None for one whose mask decides every object."""
        return next((span for span in self._spans() if index in span.frames), None)

    def _is_current(self, index: int, span: Span) -> bool:
        return index in self._results and self._results[index].made_from == span.made_from

    def _keep(self, index: int, ids: np.ndarray, confidence: dict[int, float], made_from: tuple | None) -> None:
        self._results[index] = _Result(zlib.compress(ids.tobytes(), 1), confidence, made_from)

    def _segment(self, span: Span) -> Iterator[tuple[int, dict[int, torch.Tensor]]]:
        """Segment a span; yields the number of each frame that has a new result, and the objects' probabilities."""
        segmented = segment_span(span, self._make_core(), self._image, partial(self._small_mask, span), self._look)
        with closing(segmented):
            while True:
                # Not around the whole loop, because the caller's code runs in between.
                with torch.inference_mode(), autocast(self.device, self.precision):
                    found = next(segmented, None)
                    if found is None:
                        break
                    ids = object_map(found.prob, self.frames.size, found.object_ids, f"frame {found.frame}")
                sure = dict.fromkeys(span.object_ids, 1.0) | found.confidence
                self._keep(found.frame, ids, sure, span.made_from if found.final else None)
                # Copies, for the caller may write into them, and the frame is memorised later.
                channels = zip(found.object_ids, found.prob[1:].clone(), strict=True)
                yield found.frame, {i: channel for i, channel in channels if i in found.confidence}
        reached = set().union(*span.passes())
        for index in set(span.frames) - reached:  # all are absent by the user's word
            self._keep(index, np.zeros(self.frames.size, np.uint8), dict.fromkeys(span.object_ids, 1.0), span.made_from)
            self._looks.pop(index, None)  # of an earlier result: `next_frame` is to answer as in a fresh session

    def _image(self, index: int) -> torch.Tensor:
        """3×h×w RGB in [0, 1] on the device, at inference size."""
        image = make_frame("", self.frames.read(index), None, True, self.short_side).image
        return torch.from_numpy(image).to(self.device).permute(2, 0, 1).float() / 255

    def _small_mask(self, span: Span, index: int) -> torch.Tensor | None:
        """The mask of a frame from which a span is segmented, h×w on the device, if there is one."""
        if index not in span.user_frames:
            return None
        size = inference_size(self.frames.size, self.short_side)
        return torch.from_numpy(fit_mask(span.user_frames[index].mask, size)).to(self.device)

    def _look(self, index: int, key: torch.Tensor | None) -> None:
        """Note what a frame looks like: its key features, averaged over a grid of cells."""
        if key is not None:
            self._looks[index] = F.adaptive_avg_pool2d(key[0].float(), LOOK_CELLS).flatten().cpu()

    def _unpacked(self, packed: bytes) -> np.ndarray:
        return np.frombuffer(zlib.decompress(packed), np.uint8).reshape(self.frames.size).copy()
