"""The evaluation loop: videos in, mask PNGs out.

    [Video] → per frame InferenceCore.step → masks at the video's own size → PNGs, overlays, frames/s

Frames are decoded ahead by threads (`datasets.video`) and results are written by one more thread (`results.writer`),
so neither a whole video nor its probabilities are ever held in memory. A video counts as finished once its record is
complete (`results.records`): a run that was killed continues with its first unfinished video.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from datasets.images import write_mask
from datasets.video import Video
from inference_core import FrameNetwork, InferenceCore
from results.overlay import overlay_writer
from results.records import VideoResults, check_inputs_survive
from results.writer import WriteBehind
from util.device import is_out_of_memory
from util.distributed import gather, rank, world_size
from util.errors import InputError

OUT_OF_MEMORY = "out of memory; a smaller --size, a larger --mem_every or --max_memory_frames needs less"


class Segmented(NamedTuple):
    """One video that was segmented."""

    frames: int
    objects: int
    seconds: float  # processing time, without reading and writing files


@dataclass(frozen=True)
class Outcome:
    """The result of `evaluate`, over all processes."""

    segmented: dict[str, Segmented]  # by name of the video, like the others
    skipped: list[str]  # finished by an earlier run
    failed: dict[str, str]  # error messages
    seconds: float  # processing time of the process that took longest

    @property
    def frames(self) -> int:
        """Number of frames of all segmented videos."""
        return sum(video.frames for video in self.segmented.values())

    @property
    def fps(self) -> float:
        """Throughput in frames per second; 0 if nothing was segmented."""
        return self.frames / self.seconds if self.seconds else 0.0


class Progress:
    """Receives the progress of `evaluate`. This base class ignores it."""

    def start(self, videos: Sequence[Video]) -> None:
        """``videos`` are those that this process will segment."""

    def frame(self, video: Video, frames: int, seconds: float) -> None:
        """``frames`` of ``video`` have been processed in ``seconds``."""

    def end(self, video: Video, segmented: Segmented | None) -> None:
        """``video`` is complete, or has failed (None)."""


def evaluate(
    network: FrameNetwork,
    videos: Sequence[Video],
    output: Path,
    *,
    make_memory: Callable[..., Any],
    device: torch.device,
    mem_every: int = 3,
    include_last: bool = False,
    precision: torch.dtype = torch.float32,
    binary: bool = False,
    overlay: bool = False,
    overwrite: bool = False,
    subfolder: str = "",
    settings: dict[str, Any] | None = None,
    inputs: Iterable[Path] = (),
    progress: Progress | None = None,
) -> Outcome:
    """Segment every video; write ``output/subfolder/<video>/<frame>.png`` for each frame that is needed.

    Under a process group the videos are distributed over the processes, and all of them return the same.

    Args:
        network: in eval mode, on ``device``.
        make_memory: returns an empty memory, with room for ``reserve`` frames (`inference_memory_bank.make_memory`).
        mem_every, include_last: see `InferenceCore`.
        precision: autocast to this type unless it is float32 (`util.device.half_precision`).
        binary: write grey 0/255 PNGs instead of palette PNGs of object ids.
        overlay: also write ``output/overlay/<video>.mp4`` and ``.png`` (contact sheet).
        overwrite: segment finished videos again instead of skipping them.
        settings: JSON values on which the results depend besides these arguments, the frames and the masks.
        inputs: files and folders of masks that must not be replaced, besides those of the videos.

    Raises `InputError` before the first frame if the output cannot be written, would replace an input, or contains
    finished videos made with other settings. A video that fails later (damaged frame, disk full, out of memory) is
    listed in ``failed``, does not count as finished, and does not affect the other videos.
    """
    settings = {
        "mem_every": mem_every,
        "include_last": include_last,
        "precision": str(precision).removeprefix("torch."),
        "binary": binary,
        **(settings or {}),
    }
    segmented: dict[str, Segmented] = {}
    failed: dict[str, str] = {}
    results = []
    for video in videos:
        try:
            results.append(VideoResults(video, output, subfolder, settings, overlay))
        except InputError as error:
            failed[video.name] = str(error)
    check_inputs_survive(results, inputs)
    _check_writable(output)
    finished = [] if overwrite else [result.video.name for result in results if result.are_finished()]
    finished = gather(finished)[0]  # all processes must agree

    progress = progress or Progress()
    remaining = _of_this_process([result for result in results if result.video.name not in finished])
    progress.start([result.video for result in remaining])
    for result in remaining:
        video = result.video
        memory = partial(make_memory, reserve=video.num_frames // mem_every + 2)  # allocated once
        core = InferenceCore(network, memory, mem_every, include_last)
        full = precision is torch.float32
        autocast = nullcontext() if full else torch.autocast(device.type, precision)
        try:
            segmented[video.name] = _segment(core, result, device, autocast, binary, progress)
        except InputError as error:
            failed[video.name] = str(error)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            failed[video.name] = OUT_OF_MEMORY
        except OSError as error:
            failed[video.name] = f"{error.filename}: {error.strerror}"
        progress.end(video, segmented.get(video.name))
    seconds = max(gather(sum(video.seconds for video in segmented.values())))
    segmented = {name: video for own in gather(segmented) for name, video in own.items()}
    failed = {name: message for own in gather(failed) for name, message in own.items()}
    return Outcome(segmented, finished, failed, seconds)


def _segment(
    core: InferenceCore,
    results: VideoResults,
    device: torch.device,
    autocast: AbstractContextManager,
    binary: bool,
    progress: Progress,
) -> Segmented:
    """Segment one video. Raises `InputError` for a damaged frame and for files that cannot be written."""
    video = results.video
    results.begin()
    frames, written = 0, []
    seconds = 0.0
    with ExitStack() as stack:
        draw = stack.enter_context(overlay_writer(*results.overlay, video.fps)) if results.overlay else None
        writer = stack.enter_context(WriteBehind())
        stack.enter_context(torch.inference_mode())
        stack.enter_context(autocast)  # around all frames, because it caches the weights that it has cast
        for frame in stack.enter_context(closing(iter(video))):
            start = _now(device)
            image = torch.from_numpy(frame.image).to(device).permute(2, 0, 1).float() / 255
            mask = None if frame.mask is None else torch.from_numpy(frame.mask).to(device)
            prob = core.step(image, mask, frame.needed or draw is not None)
            ids = None if prob is None else label_map(prob, video.size, core.object_ids).cpu().numpy()
            seconds += _now(device) - start
            frames += 1
            if ids is not None and frame.needed:
                writer.put(write_mask, results.png(frame.name), ids, binary)
                written.append(frame.name)
            if ids is not None and draw is not None:
                if 1 not in core.object_ids:  # 255 is a single object: draw it in the first colour, not the last
                    ids = np.where(ids == 255, np.uint8(1), ids)
                writer.put(draw, frame.name, frame.original, ids)
            progress.frame(video, frames, seconds)
    results.finish(written)
    return Segmented(frames, len(core.object_ids), seconds)


def label_map(prob: torch.Tensor, size: tuple[int, int], object_ids: Sequence[int]) -> torch.Tensor:
    """Object ids H×W uint8 of the most probable channel of ``prob``, after bilinear interpolation to ``size``.

    ``prob``: (K+1)×h×w in [0, 1], background first; ``object_ids``: ids of the K other channels. Works channel by
    channel, so that K+1 maps of the video's own size never exist at once; this is also faster than argmax.
    """

    def at_full_size(channel: torch.Tensor) -> torch.Tensor:
        if channel.shape == size:
            return channel
        return F.interpolate(channel[None, None], size, mode="bilinear", align_corners=False)[0, 0]

    best = at_full_size(prob[0])
    ids = torch.zeros(size, dtype=torch.uint8, device=prob.device)
    for object_id, channel in zip(object_ids, map(at_full_size, prob[1:]), strict=True):
        ids.masked_fill_(channel > best, object_id)
        best = torch.maximum(best, channel)
    return ids


def _now(device: torch.device) -> float:
    """Seconds, once the device has completed everything submitted to it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); expected a writable --output") from error


def _of_this_process(results: list[VideoResults]) -> list[VideoResults]:
    """The videos for this process: longest first, each goes to the process that has the fewest frames so far."""
    frames = [0] * world_size()
    own = []
    for result in sorted(results, key=lambda result: -result.video.num_frames):
        process = frames.index(min(frames))
        frames[process] += result.video.num_frames
        if process == rank():
            own.append(result)
    return [result for result in results if result in own]
