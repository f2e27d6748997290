"""Segment videos from Python: `VideoPredictor.segment` streams, `VideoPredictor.session` is for corrections.

predictor = VideoPredictor.load("saves/gsfm-small.pth")
for frame in predictor.segment("clip.mp4", {0: "first.png"}):
    frame.index, frame.ids, frame.confidence
"""

import copy
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import closing
from functools import partial
from itertools import count
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from adaptation import STEPS, adapted_copy
from datasets.access import MaskSource, Source, check_frame_number, load_mask, open_frames, open_video
from datasets.images import check_ids, mask_ids
from datasets.video import Video, VideoFrame, fit_mask, with_given
from inference_core import InferenceCore
from inference_memory_bank import make_memory
from labels import confidences, object_map
from model.config import PROTOCOL, InferenceSettings, check_whole
from model.network import Network, load_network
from model.optimized import optimized_copy
from model.weights import weights_file
from propagation import UserFrame
from session import FrameResult, Session
from util.device import autocast, fast_precision, pick_device
from util.errors import InputError

# Where neither the caller nor the weights say otherwise.
DEFAULTS: dict[str, Any] = {"top_k": 50, **PROTOCOL}
STREAM_FRAMES = 20  # memory frames for a stream of unknown length


class Segmentation(NamedTuple):
    """A frame that went through the engine."""

    frame: VideoFrame
    ids: np.ndarray | None  # H×W uint8 at the video's size; None for a frame that is not needed
    seconds: float  # without reading the frame
    prob: torch.Tensor | None  # (K+1)×h×w at inference size


@torch.inference_mode()
def segment(
    core: InferenceCore,
    video: Video | Generator[VideoFrame, None, None],
    device: torch.device,
    all_frames: bool = False,
    complete: bool = False,
    skip: Collection[str] = (),
) -> Generator[Segmentation, None, None]:
    """Run a video through the engine, frame by frame; all frames have results if ``all_frames``, else the needed ones.

    Given objects are in the results exactly as they were given, also where the engine saw their mask reduced.
    ``complete``: see `InferenceCore.step`. ``skip``: names of frames whose results are not needed after all; only
    those on which others depend are still segmented, so that the results of the others are the same bit for bit.
    Raises `InputError` for a damaged frame, and for a result that is not finite.
    """
    with closing(iter(video)) as frames:
        for frame in frames:
            start = _now(device)
            image = torch.from_numpy(frame.image).to(device).permute(2, 0, 1).float() / 255
            mask = None if frame.mask is None else torch.from_numpy(frame.mask).to(device)
            needed = (frame.needed or all_frames) and frame.name not in skip
            prob = core.step(image, mask, needed, complete)
            ids = None
            if needed and prob is not None:
                ids = object_map(prob, frame.original.shape[:2], core.object_ids, f"frame {frame.name}")
                ids = ids if frame.given is None else with_given(frame.given, ids)
            yield Segmentation(frame, ids, _now(device) - start, prob)


def _now(device: torch.device) -> float:
    """Seconds, once the device has completed everything submitted to it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def _with_masks(video: Video, masks: Mapping[int, np.ndarray]) -> Generator[VideoFrame, None, None]:
    """The frames with the masks H×W uint8. Raises `InputError` if a mask's frame does not come."""
    index = -1
    with closing(iter(video)) as frames:
        for index, frame in enumerate(frames):
            mask = masks.get(index)
            yield frame if mask is None else frame._replace(mask=fit_mask(mask, frame.image.shape[:2]), given=mask)
    for number in masks:
        check_frame_number(number, index + 1)


def _load_masks(masks: Mapping[int, MaskSource], size: tuple[int, int], length: int | None) -> dict[int, np.ndarray]:
    """H×W uint8 ids of each frame. Raises `InputError` unless all fit a video of ``size`` (H, W), and one has ids."""
    if not isinstance(masks, Mapping):
        raise InputError(f"masks: is a {type(masks).__name__}; expected a dict from frame number to mask")
    given, ids = {}, set[int]()
    for index, mask in masks.items():
        given[check_frame_number(index, length)] = load_mask(mask, f"mask of frame {index}", size)
        ids |= mask_ids(given[index])
        check_ids(ids, f"mask of frame {index}")
    if not ids:
        raise InputError("no mask holds an object; expected ids from 1")
    return given


class VideoPredictor:
    """A network and the settings that it segments videos with.

    Args:
        network: in eval mode, on the device to run on.
        size: shorter side at inference; small videos are enlarged at most twice, to no more pixels than 1920×1080;
            results have the video's size.
        top_k, mem_every, include_last, local, given_bias: as in ``eval_generic.py``; by default what the weights
            recommend, else 50, 3, False, False and 0.
        max_memory_frames: bound of the space-time memory, see `SpaceTimeMemory`; by default none, except for streams.
        amp: half precision where it is faster: on GPUs, and on CPUs with bfloat16 instructions. An optimized network
            keeps the precision that it was made for.

    Raises `InputError` for settings out of range, and for ``amp=False`` with a network made for half precision.
    """

    def __init__(
        self,
        network: Network,
        *,
        size: int = 480,
        top_k: int | None = None,
        mem_every: int | None = None,
        include_last: bool | None = None,
        local: bool | None = None,
        given_bias: float | None = None,
        max_memory_frames: int | None = None,
        amp: bool = True,
    ):
        check_whole("size", size, 1)
        check_whole("max_memory_frames", max_memory_frames, 2)
        self.network, self.size, self.max_memory_frames = network, size, max_memory_frames
        self.device = network.mean.device
        given = InferenceSettings(top_k, mem_every, include_last, local, given_bias).given()
        settings = DEFAULTS | network.recommended.given() | given
        self.top_k, self.mem_every, self.include_last, self.local, self.given_bias = settings.values()
        self.precision = network.optimized or (fast_precision(self.device) if amp else torch.float32)
        if not amp and self.precision is not torch.float32:
            raise InputError(f"amp=False: the network was optimized for {self.precision}; expected torch.float32")
        self.trainable: Callable[[], Network] = network.eval  # returns what `adapt` begins with, and can be pickled

    @classmethod
    def load(cls, path: str | PathLike, device: str | torch.device = "auto", **settings: Any) -> "VideoPredictor":
        """A predictor with the optimized network from a file, or of published weights by name; ``settings`` as above.

        ``device``: auto (CUDA, else Apple's MPS, else the CPU), cuda, mps or cpu. Raises `InputError` for a file that
        holds no network, a device that is not there, and bad settings.
        """
        file, place = weights_file(Path(path)).absolute(), pick_device(str(device))
        network, stamp = load_network(file, place), file.stat().st_mtime_ns
        predictor = cls(network, **settings)
        predictor.network = optimized_copy(network, precision=predictor.precision, in_place=True)
        predictor.trainable = partial(_load_again, file, place, stamp)
        return predictor

    def segment(
        self, video: Source, masks: Mapping[int, MaskSource], *, complete: bool = False
    ) -> Iterator[FrameResult]:
        """Segment a video frame by frame: each result comes as soon as its frame has been read.

        Args:
            video: a video file, a folder of images, or an iterable of H×W×3 uint8 RGB arrays. It may be a camera and
                never end: the memory is then bounded.
            masks: frame number, from 0 → mask of the objects that appear there or are corrected: a file or an H×W array
                of ids from 1 (0: background).
            complete: objects that a mask does not hold are absent until a later mask holds them.
        Raises `InputError` at once for bad masks and videos, and later for a damaged frame, or a mask behind the end of
        a stream or a video file.
        """
        opened = open_video(video, self.size)
        given = _load_masks(masks, opened.size, None if opened.outputs is None else opened.num_frames)
        bound = self.max_memory_frames
        if bound is None and not opened.sources and not opened.num_frames:
            bound = STREAM_FRAMES
        return self._results(opened, given, complete, self._make_core(bound, opened.num_frames))

    def _results(
        self, video: Video, masks: dict[int, np.ndarray], complete: bool, core: InferenceCore
    ) -> Iterator[FrameResult]:
        segmented = segment(core, _with_masks(video, masks), self.device, complete=complete)
        with closing(segmented):
            for index in count():
                # Not around the whole loop, because the caller's code runs in between.
                with autocast(self.device, self.precision):
                    result = next(segmented, None)
                if result is None:
                    return
                assert result.ids is not None and result.prob is not None
                confidence = confidences(result.prob, core.object_ids) | dict.fromkeys(core.absent, 1.0)
                yield FrameResult(index, result.ids, confidence)

    def adapt(
        self, video: Source, masks: Mapping[int, MaskSource], *, complete: bool = False, steps: int = STEPS
    ) -> "VideoPredictor":
        """A predictor of the same settings whose network is fitted to the masks of a video, see ``adaptation.py``.

        Args:
            video: a video file, a folder of images, or a list of H×W×3 uint8 RGB arrays.
            masks, complete: as for `segment`.
            steps: of training, which take about a second each on two CPU cores.
        Raises `InputError` as `segment` does, for ``steps`` below 1, and if the network cannot be trained, because
        `optimized_copy` made it or the file that it came from has changed.
        """
        frames = open_frames(video)
        given = _load_masks(masks, frames.size, frames.length)
        user_frames = {index: UserFrame.of(mask, complete) for index, mask in given.items()}
        adapted = copy.copy(self)
        adapted.network = adapted_copy(
            self.trainable(), frames, user_frames, steps=steps, short_side=self.size, precision=self.precision
        )
        return adapted

    def session(self, video: Source) -> Session:
        """Random access to a video, for corrections: a file, a folder, or a list of H×W×3 uint8 RGB arrays."""
        frames = open_frames(video)
        make_core = partial(self._make_core, self.max_memory_frames, 0)
        return Session(frames, make_core, self.device, self.size, self.precision)

    def _make_core(self, max_frames: int | None, length: int) -> InferenceCore:
        reserve = length // self.mem_every + 2
        memory = partial(make_memory, self.network.config, self.top_k, max_frames, self.given_bias, reserve)
        return InferenceCore(self.network, memory, self.mem_every, self.include_last, self.local)


def _load_again(file: Path, place: torch.device, stamp: int) -> Network:
    """The network of a file that was last changed at ``stamp``. Raises `InputError` if it has changed since."""
    if not file.is_file() or file.stat().st_mtime_ns != stamp:
        raise InputError(f"{file}: is not as it was when it was loaded; expected VideoPredictor.load again")
    return load_network(file, place)
