"""What the eval scripts share: their flags, the run itself, progress, and the report at the end."""

import argparse
import dataclasses
import hashlib
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

import progressbar
import torch

from datasets.video import Video
from evaluation import Outcome, Progress, Segmented, evaluate
from inference_core import FrameNetwork
from inference_memory_bank import make_memory
from model.config import MEMORIES
from model.network import load_network
from model.optimized import optimized_copy
from scoring.folders import format_table, score_folders
from util.device import DEVICES, half_precision, keep_freed_memory, pick_device
from util.distributed import barrier, gather, local_rank, process_group, rank
from util.errors import InputError

PROGRESS_SECONDS = 30  # between two lines of progress where there is no terminal


def eval_parser(doc: str | None, top_k: int) -> argparse.ArgumentParser:
    """A parser with the flags that all eval scripts share; ``top_k`` is the benchmark's default for ``--top``.

    ``doc``: the script's docstring. Its first paragraph becomes the description, the rest the epilog.
    """
    description, _, examples = (doc or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    default = "(default %(default)s)"
    model_help = "weights: a file of this project or of the GSFM or STCN reference programs"
    add("--model", type=Path, required=True, metavar="FILE", help=model_help)
    output_help = "where to write the results; finished videos in it are skipped"
    add("--output", type=Path, required=True, metavar="FOLDER", help=output_help)
    top_help = f"number of memory positions that each pixel reads {default}"
    add("--top", type=_at_least(1), default=top_k, dest="top_k", metavar="K", help=top_help)
    add("--mem_every", type=_at_least(1), default=3, metavar="N", help=f"memorise every N-th frame {default}")
    add("--include_last", action="store_true", help="also read the previous frame as temporary memory")
    add("--memory", choices=MEMORIES, help="type of memory (default: the one the network was trained with)")
    bound_help = "limit the space-time memory to the first and the latest N - 1 memory frames (default: no limit)"
    add("--max_memory_frames", type=_at_least(2), metavar="N", help=bound_help)
    size_help = f"shorter side at inference {default}; smaller videos keep their size; masks have the video's size"
    add("--size", type=_at_least(1), default=480, metavar="N", help=size_help)
    amp_help = "half precision: faster on GPUs and on CPUs with bfloat16 instructions, ignored on other CPUs"
    add("--amp", action="store_true", help=amp_help)
    add("--compile", action="store_true", help="torch.compile the network: takes minutes; not faster on CPUs")
    add("--device", choices=DEVICES, default="auto", help="auto: CUDA, else Apple's MPS, else the CPU")
    add(
        "--videos",
        type=lambda names: [name.strip() for name in names.split(",")],
        metavar="A,B",
        help="segment only these videos",
    )
    add("--overwrite", action="store_true", help="segment finished videos again")
    overlay_help = (
        "also write the video with the masks drawn in: FOLDER/overlay/VIDEO.mp4 (24 frames/s for folders of frames)"
        " and VIDEO.png (a contact sheet)"
    )
    add("--overlay", action="store_true", help=overlay_help)
    return parser


def _at_least(minimum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least {minimum}")
        return int(text)

    return parse


def check_is_file(path: Path, flag: str) -> None:
    """Raise `InputError` for a folder, pipe or device; a missing file is reported by whatever reads it."""
    if path.exists() and not path.is_file():
        found = "a folder" if path.is_dir() else "not a regular file"
        raise InputError(f"{path}: is {found}; expected a file for {flag}")


def run(
    args: argparse.Namespace, videos: Sequence[Video], *, binary: bool = False, subfolder: str = "", **settings
) -> int:
    """Segment the videos as the flags of `eval_parser` say, and report; returns the exit code (see `report`).

    ``settings``: values of further flags on which the results depend. Raises `InputError` like `evaluate`.
    """
    check_is_file(args.model, "--model")
    device = pick_device(args.device, local_rank())
    keep_freed_memory(device)
    network = optimized_copy(load_network(args.model, device), args.compile)
    config = dataclasses.replace(network.config, memory=args.memory or network.config.memory)
    with process_group(device, timedelta(days=7)):  # one process may finish days before another
        half = half_precision(device) if args.amp else None
        precision = gather(half or torch.float32)[0]  # all processes must agree
        if rank() == 0:
            _announce(args, videos, device, precision)
        outcome = segment(
            network,
            videos,
            args.output,
            make_memory=partial(make_memory, config, args.top_k, args.max_memory_frames),
            device=device,
            mem_every=args.mem_every,
            include_last=args.include_last,
            precision=precision,
            binary=binary,
            overlay=args.overlay,
            overwrite=args.overwrite,
            subfolder=subfolder,
            settings={
                "model": hashlib.sha256(args.model.read_bytes()).hexdigest(),
                "top_k": args.top_k,
                "memory": config.memory,
                "max_memory_frames": args.max_memory_frames,
                "size": args.size,
                **settings,
            },
            inputs=[args.model],
        )
        return report(outcome, args.output, videos, subfolder)


def _announce(args: argparse.Namespace, videos: Sequence[Video], device: torch.device, precision: torch.dtype) -> None:
    name = str(precision).removeprefix("torch.")
    frames = sum(video.num_frames for video in videos)
    print(f"{_count(len(videos), 'video')}, {frames} frames on {device} in {name}", flush=True)
    if args.amp and precision is torch.float32:
        print("note: --amp is ignored, because half precision is slower than float32 on this processor", flush=True)
    small = sum(min(video.size) < args.size for video in videos)
    if small:
        exceeded = _count(small, "video")
        print(f"note: --size {args.size} exceeds the size of {exceeded}; videos are not enlarged", flush=True)


def segment(
    network: FrameNetwork, videos: Sequence[Video], output: Path, *, inputs: Iterable[Path] = (), **options
) -> Outcome:
    """`evaluate` with progress on the terminal; the videos' ground truth is not replaced either."""
    truth = [folder / video.name for folder in _truth_folders(videos) for video in videos]
    with TerminalProgress() as progress:
        return evaluate(network, videos, output, inputs=[*inputs, *truth], progress=progress, **options)


class TerminalProgress(Progress):
    """A progress bar over all frames; without a terminal, a line per finished video and every `PROGRESS_SECONDS`."""

    bar: progressbar.ProgressBar | None = None

    def __enter__(self) -> "TerminalProgress":
        return self

    def start(self, videos: Sequence[Video]) -> None:
        self.videos_left, self.frames, self.last_line = len(videos), 0, time.monotonic()
        if not (videos and sys.stderr.isatty()):
            return
        total = sum(video.num_frames for video in videos)
        known = total > 0 and all(video.num_frames for video in videos)
        name = progressbar.Variable("video", "{formatted_value}", width=12, precision=12)
        fps = progressbar.Variable("fps", "{formatted_value}", width=6, precision=6)
        bar = progressbar.ProgressBar if rank() == 0 else progressbar.NullBar
        self.bar = bar(
            max_value=total if known else progressbar.UnknownLength,
            max_error=False,  # lengths of video files are estimates
            widgets=[
                *(name, " ", progressbar.SimpleProgress(), progressbar.Bar()),
                *(fps, " frames/s ", progressbar.ETA() if known else progressbar.Timer()),
            ],
        )

    def frame(self, video: Video, frames: int, seconds: float) -> None:
        self.frames += 1
        if self.bar is not None:
            self.bar.update(self.frames, video=video.name, fps=f"{frames / seconds:.2f}")
        elif time.monotonic() - self.last_line >= PROGRESS_SECONDS:
            total = f" of {video.num_frames}" if video.num_frames else ""
            self._print(f"{video.name}: {frames}{total} frames so far, {frames / seconds:.2f} frames/s")

    def end(self, video: Video, segmented: Segmented | None) -> None:
        self.videos_left -= 1
        if self.bar is None:
            text = "failed"
            if segmented:
                text = f"{segmented.frames} frames, {segmented.frames / segmented.seconds:.2f} frames/s"
            self._print(f"{video.name}: {text} ({self.videos_left} to go)")

    def _print(self, line: str) -> None:
        print(line, flush=True)
        self.last_line = time.monotonic()

    def __exit__(self, exc_type: type[BaseException] | None, *_) -> None:
        if self.bar is not None:
            self.bar.finish(dirty=exc_type is not None)


def report(outcome: Outcome, output: Path, videos: Sequence[Video], subfolder: str = "") -> int:
    """Print an `Outcome`, and J and F where there is ground truth.

    Returns the exit code: 0, 1 if some videos failed, 2 if all did.
    """
    segmented, failed, skipped = outcome.segmented, outcome.failed, outcome.skipped
    if rank() == 0:
        for name, message in failed.items():
            print(f"error: {name}: {message}", file=sys.stderr)
        earlier = f", {len(skipped)} already finished" if skipped else ""
        names = f": {', '.join(failed)}" if failed else ""
        print(f"{_count(len(segmented), 'video')} segmented{earlier}, {len(failed)} failed{names}")
        if segmented:
            speed = f"{outcome.fps:.2f} frames/s (without reading and writing files)"
            print(f"{outcome.frames} frames at {speed}: {output}")
        _print_scores([video for video in videos if video.name not in failed], output / subfolder)
        sys.stdout.flush()
    barrier()  # a launcher ends all processes as soon as one exits with a code other than 0
    if not failed:
        return 0
    return 1 if segmented or skipped else 2


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _truth_folders(videos: Sequence[Video]) -> list[Path]:
    """Where ground truth may be: in a folder GroundTruth beside that of the given masks, else among those."""
    videos = [video for video in videos if video.outputs]
    if not videos:
        return []
    annotations = videos[0].masks[0].parents[1]
    return [annotations.parent / "GroundTruth", annotations]


def _print_scores(videos: Sequence[Video], results: Path) -> None:
    """J and F of the videos that have more masks than were given."""
    folders = [folder for folder in _truth_folders(videos) if folder.is_dir()]
    frames = {}
    for video in videos if folders else ():
        names = {path.stem for path in (folders[0] / video.name).glob("*.png")} & set(video.outputs or ())
        if len(names) > max(2, len(video.masks)):
            frames[video.name] = names
    if not frames:
        return
    try:
        print(format_table(score_folders(folders[0], results, frames, frames=frames)))
    except InputError as error:  # in the ground truth: the results are there all the same
        print(f"no scores: {error}", file=sys.stderr)
