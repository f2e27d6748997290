"""The evaluation loop: videos in, mask PNGs out.

Threads decode frames ahead (`datasets.video`) and write results behind (`results.writer`), so neither a whole video
nor its probabilities are ever held in memory.
"""

import sys
import time
from collections import ChainMap
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from adaptation import OnStep
from datasets.images import read_mask, write_mask
from datasets.video import Video
from inference_core import FrameNetwork, InferenceCore
from predictor import segment
from results.overlay import overlay_writer
from results.records import VideoResults, check_inputs_survive
from results.writer import WriteBehind
from util.device import autocast
from util.distributed import as_free, gather, rank, world_size
from util.errors import InputError, describe, is_out_of_memory
from util.files import check_writable
from util.progress import progress_bar

OUT_OF_MEMORY = "out of memory; a smaller --size, a larger --mem_every or --max_memory_frames needs less, --adapt more"
PROGRESS_SECONDS = 30  # between two lines of progress where there is no terminal


class Segmented(NamedTuple):
    """One video that was segmented."""

    frames: int
    seconds: float  # processing time, without reading and writing files


class Outcome(NamedTuple):
    """The result of `evaluate`, over all processes."""

    segmented: dict[str, Segmented]  # by name of the video, like the others
    skipped: list[str]  # finished by an earlier run
    failed: dict[str, str]  # error messages
    seconds: float  # processing time of the process that took longest


def evaluate(
    network: FrameNetwork,
    videos: Sequence[Video],
    output: Path,
    *,
    make_memory: Callable[..., Any],
    device: torch.device,
    adapt: Callable[[Video, OnStep], FrameNetwork] | None = None,
    mem_every: int = 3,
    include_last: bool = False,
    local: bool = False,
    precision: torch.dtype = torch.float32,
    binary: bool = False,
    overlay: bool = False,
    fps: Fraction | None = None,
    overwrite: bool = False,
    overwrite_changed: bool = False,
    subfolder: str = "",
    settings: dict[str, Any],
    inputs: Iterable[Path] = (),
) -> Outcome:
    """Segment every video; write ``output/subfolder/<video>/<frame>.png`` for each frame that is needed.

    Under a process group each process takes the longest video that is left, and all of them return the same.

    Args:
        network: in eval mode, on ``device``.
        make_memory: returns an empty memory, with room for ``reserve`` frames (`inference_memory_bank.make_memory`).
        adapt: returns the network for a video, in place of ``network``.
        mem_every, include_last, local: see `InferenceCore`.
        precision: see `util.device.autocast`.
        binary: write grey 0/255 PNGs instead of palette PNGs of object ids.
        overlay: also write ``output/overlay/<video>.mp4`` and ``.png`` (contact sheet).
        fps: frame rate of the overlay (default: the video's, 24 for a folder of frames).
        overwrite: segment finished videos and frames again instead of skipping them.
        overwrite_changed: do so where they were made with other settings, frames or masks, which else is an error.
        settings: JSON values on which the results depend besides these arguments, the frames and the masks.
        inputs: files and folders of masks that must not be replaced, besides those of the videos.

    Raises `InputError` before the first frame if the output cannot be written, would replace an input, or contains
    finished videos made with other settings. A video that fails later (damaged frame, disk full, out of memory) is
    listed in ``failed``, does not count as finished, and does not affect the other videos.
    """
    settings = settings | {"mem_every": mem_every, "include_last": include_last, "local": local, "binary": binary}
    settings["precision"] = str(precision).removeprefix("torch.")
    segmented: dict[str, Segmented] = {}
    failed: dict[str, str] = {}
    results = []
    for video in videos:
        try:
            of_overlay = {"fps": str(fps or video.fps)} if overlay else {}
            results.append(VideoResults(video, output, subfolder, settings | of_overlay, overlay))
        except InputError as error:
            failed[video.name] = str(error)
    check_inputs_survive(results, inputs)
    check_writable(output, output)
    candidates = [] if overwrite else results
    finished = [result.video.name for result in candidates if result.are_finished(overwrite_changed)]
    finished = gather(finished)[0]  # all processes must agree

    remaining = [result for result in results if result.video.name not in finished]
    progress = _Progress([result.video for result in remaining])
    if world_size() > 1:  # a long video at the end would keep all but one process waiting
        remaining.sort(key=lambda result: -result.video.num_frames)

    def new_core(video: Video) -> InferenceCore:
        own = network if adapt is None else adapt(video, partial(progress.adapting, video))
        memory = partial(make_memory, reserve=video.num_frames // mem_every + 2)  # allocated once
        return InferenceCore(own, memory, mem_every, include_last, local)

    with progress.bar:
        for place, result in as_free(list(enumerate(remaining, start=1))):
            video = result.video
            try:
                # Around all frames, because autocast caches the weights that it has cast.
                with autocast(device, precision):
                    kept = result.begin(overwrite)
                    segmented[video.name] = _segment_to_files(
                        new_core(video), result, device, binary, fps, kept, progress
                    )
            except InputError as error:
                failed[video.name] = str(error)
            except Exception as error:
                if is_out_of_memory(error):
                    failed[video.name] = OUT_OF_MEMORY
                elif isinstance(error, OSError):
                    failed[video.name] = describe(error)
                else:
                    raise
            progress.end(video, segmented.get(video.name), len(remaining) - place)
    seconds = max(gather(sum(video.seconds for video in segmented.values())))
    return Outcome(dict(ChainMap(*gather(segmented))), finished, dict(ChainMap(*gather(failed))), seconds)


def _segment_to_files(
    core: InferenceCore,
    results: VideoResults,
    device: torch.device,
    binary: bool,
    fps: Fraction | None,
    kept: set[str],
    progress: "_Progress",
) -> Segmented:
    """Segment one video, except for the frames that an earlier run has ``kept``.

    Raises `InputError` for a damaged frame and for files that cannot be written.
    """
    video = results.video
    frames, seconds, written = 0, 0.0, []

    def write(name: str, ids: np.ndarray) -> None:
        write_mask(results.png(name), ids, binary)
        results.add(name)

    with ExitStack() as stack:
        draw = stack.enter_context(overlay_writer(*results.overlay, fps or video.fps)) if results.overlay else None
        writer = stack.enter_context(WriteBehind())
        segmented = stack.enter_context(closing(segment(core, video, device, draw is not None, skip=kept)))
        for frame, ids, duration, _ in segmented:
            frames += 1
            seconds += duration
            if frame.name in kept:
                ids = read_mask(results.png(frame.name), check=False) if draw is not None else None
                written.append(frame.name)
            elif ids is not None and frame.needed:
                writer.put(write, frame.name, ids)
                written.append(frame.name)
            if ids is not None and draw is not None:
                if binary or 1 not in core.object_ids:  # a single object
                    ids = np.where(ids == 255, np.uint8(1), ids)
                writer.put(draw, frame.name, frame.original, ids)
            progress.frame(video, frames, seconds)
    results.finish(written)
    return Segmented(frames, seconds)


class _Progress:
    """A bar over all frames; without a terminal, a line per finished video and every `PROGRESS_SECONDS`."""

    def __init__(self, videos: Sequence[Video]):
        lengths = [video.num_frames for video in videos]
        before, behind = "{variables.video:12.12} ", " {variables.fps:>6} frames/s"
        total = sum(lengths) if all(lengths) and world_size() == 1 else 0  # other processes segment some of them
        self.bar = progress_bar(total, before, behind, show=rank() == 0, video="", fps="")
        self.print_lines = not sys.stderr.isatty()
        self.frames, self.last_line = 0, time.monotonic()

    def frame(self, video: Video, frames: int, seconds: float) -> None:
        """``frames`` of ``video`` have been processed in ``seconds``."""
        self.frames += 1
        self.bar.update(self.frames, video=video.name, fps=f"{frames / seconds:.2f}")
        if time.monotonic() - self.last_line >= PROGRESS_SECONDS:
            total = f" of {video.num_frames}" if video.num_frames else ""
            self._print(f"{video.name}: {frames}{total} frames so far, {frames / seconds:.2f} frames/s")

    def adapting(self, video: Video, steps: int, total: int) -> None:
        """The network has been fitted to the masks of ``video`` for ``steps`` of ``total``."""
        self.bar.update(self.frames, video=f"fit {steps}/{total}")
        if steps == total or time.monotonic() - self.last_line >= PROGRESS_SECONDS:
            self._print(f"{video.name}: fitted to its masks, {steps} of {total} steps")

    def end(self, video: Video, segmented: Segmented | None, left: int) -> None:
        """``video`` is complete, or has failed (None); ``left`` videos had not been begun when it was."""
        text = (
            f"{segmented.frames} frames, {segmented.frames / segmented.seconds:.2f} frames/s" if segmented else "failed"
        )
        self._print(f"{video.name}: {text} ({left} to go)")

    def _print(self, line: str) -> None:
        if self.print_lines:
            print(line, flush=True)
        self.last_line = time.monotonic()
