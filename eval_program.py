"""What the eval scripts share: their flags, the run itself, and the report at the end."""

import argparse
import dataclasses
import hashlib
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch

from datasets.frames import read_names
from datasets.listing import SPLITS, davis_videos
from datasets.video import Video
from evaluation import evaluate
from inference_core import FrameNetwork
from inference_memory_bank import make_memory
from model.config import MEMORIES, InferenceSettings
from model.network import load_network
from model.optimized import optimized_copy
from model.weights import weights_file
from scoring.folders import format_table, score_folders
from util.device import DEVICES, half_precision, keep_freed_memory, pick_device
from util.distributed import barrier, gather, local_rank, process_group, rank
from util.errors import InputError

EPILOG = """
If all frames have masks, J and F are printed at the end (scripts/score.py also writes them to files).
Exit code: 0; 1 if some videos failed; 2 for bad input.
"""


def eval_parser(doc: str | None, top_k: int, recommended: bool = False) -> argparse.ArgumentParser:
    """A parser with the flags that all eval scripts share.

    ``top_k`` is the benchmark's default for ``--top``; ``recommended`` the default for ``--recommended``.
    ``doc``: the script's docstring. Its first paragraph becomes the description, the rest the epilog.
    """
    description, _, examples = (doc or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=examples + EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    default = "(default %(default)s)"
    model_help = "weights: a file of this project or of the GSFM or STCN reference programs, or the name of published"
    model_help += " weights, such as stcn, that scripts/download_weights.py has downloaded"
    add("--model", type=Path, required=True, metavar="FILE", help=model_help)
    output_help = "where to write the results; finished videos in it are skipped"
    add("--output", type=Path, required=True, metavar="FOLDER", help=output_help)
    parser.set_defaults(protocol={"top_k": top_k, "mem_every": 3, "include_last": False})
    top_help = f"number of memory positions that each pixel reads (default {top_k})"
    add("--top", type=_at_least(1), dest="top_k", metavar="K", help=top_help)
    add("--mem_every", type=_at_least(1), metavar="N", help="memorise every N-th frame (default 3)")
    last_help = "also read the previous frame as temporary memory (default: no)"
    add("--include_last", action=argparse.BooleanOptionalAction, help=last_help)
    recommended_help = (
        "replace the three defaults above by what the weights recommend, if they do"
        f" (default: {'yes' if recommended else 'no, as the published results were measured'})"
    )
    add("--recommended", action=argparse.BooleanOptionalAction, default=recommended, help=recommended_help)
    add("--memory", choices=MEMORIES, help="type of memory (default: the one the network was trained with)")
    bound_help = "limit the space-time memory to the first and the latest N - 1 memory frames (default: no limit)"
    add("--max_memory_frames", type=_at_least(2), metavar="N", help=bound_help)
    size_help = f"shorter side at inference {default}; smaller videos keep their size; masks have the video's size"
    add("--size", type=_at_least(1), default=480, metavar="N", help=size_help)
    amp_help = "half precision: faster on GPUs and on CPUs with bfloat16 instructions, ignored on other CPUs"
    add("--amp", action="store_true", help=amp_help)
    add("--compile", action="store_true", help="torch.compile the network: takes minutes; not faster on CPUs")
    add("--device", choices=DEVICES, default="auto", help="auto: CUDA, else Apple's MPS, else the CPU")
    videos_help = "segment only these videos: names separated by commas, or a text file with a name on each line"
    add("--videos", type=_names, metavar="A,B", help=videos_help)
    add("--overwrite", action="store_true", help="segment finished videos again")
    overlay_help = "also draw the masks into OUTPUT/overlay/VIDEO.mp4 (24 frames/s for folders of frames) and a contact"
    add("--overlay", action="store_true", help=f"{overlay_help} sheet, VIDEO.png")
    return parser


def _names(text: str) -> list[str]:
    if not Path(text).is_file():
        return [name.strip() for name in text.split(",")]
    try:
        return read_names(Path(text))
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _at_least(minimum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least {minimum}")
        return int(text)

    return parse


def run_davis(doc: str | None, year: int, top_k: int, arguments: list[str] | None) -> int:
    """An eval script for DAVIS 2016 or 2017, see `eval_parser`; returns its exit code."""
    parser = eval_parser(doc, top_k)
    folders = {2016: "JPEGImages/480p/ and Annotations/480p/", 2017: "trainval/ and test-dev/"}[year]
    path_help = f"contains {folders} (default %(default)s)"
    parser.add_argument("--davis_path", type=Path, default=f"data/DAVIS/{year}", metavar="FOLDER", help=path_help)
    parser.add_argument("--split", choices=SPLITS[year], default="val", help="set of videos (default %(default)s)")
    args = parser.parse_args(arguments)
    return run(args, davis_videos(args.davis_path, year, args.split, args.size, args.videos), binary=year == 2016)


def check_is_file(path: Path, flag: str) -> None:
    """Raise `InputError` for a folder, pipe or device; a missing file is reported by whatever reads it."""
    if path.exists() and not path.is_file():
        found = "a folder" if path.is_dir() else "not a regular file"
        raise InputError(f"{path}: is {found}; expected a file for {flag}")


def run(
    args: argparse.Namespace, videos: Sequence[Video], *, binary: bool = False, subfolder: str = "", **settings: Any
) -> int:
    """`evaluate_and_report` as the flags of `eval_parser` say.

    ``settings``: values of further flags on which the results depend. Raises `InputError` like `evaluate`.
    """
    args.model = weights_file(args.model)
    check_is_file(args.model, "--model")
    device = pick_device(args.device, local_rank())
    keep_freed_memory(device)
    network = optimized_copy(load_network(args.model, device), args.compile)
    config = dataclasses.replace(network.config, memory=args.memory or network.config.memory)
    given = InferenceSettings(args.top_k, args.mem_every, args.include_last).given()
    recommended = network.recommended.given() if args.recommended else {}
    inference = args.protocol | recommended | given
    settings |= {"model": hashlib.sha256(args.model.read_bytes()).hexdigest(), "top_k": inference["top_k"]}
    settings |= {"memory": config.memory, "max_memory_frames": args.max_memory_frames, "size": args.size}
    with process_group(device, timedelta(days=7)):  # one process may finish days before another
        half = half_precision(device) if args.amp else None
        precision = gather(half or torch.float32)[0]  # all processes must agree
        if rank() == 0:
            _announce(args, videos, device, precision)
            if used := {name: value for name, value in recommended.items() if name not in given}:
                values = ", ".join(f"{name} {value}" for name, value in used.items())
                print(f"note: the weights recommend {values}; --no-recommended restores the defaults", flush=True)
        return evaluate_and_report(
            network,
            videos,
            args.output,
            make_memory=partial(make_memory, config, inference["top_k"], args.max_memory_frames),
            device=device,
            mem_every=inference["mem_every"],
            include_last=inference["include_last"],
            precision=precision,
            binary=binary,
            subfolder=subfolder,
            settings=settings,
            overlay=args.overlay,
            overwrite=args.overwrite,
            inputs=[args.model],
        )


def _announce(args: argparse.Namespace, videos: Sequence[Video], device: torch.device, precision: torch.dtype) -> None:
    name = str(precision).removeprefix("torch.")
    frames = sum(video.num_frames for video in videos)
    print(f"{_count(len(videos), 'video')}, {frames} frames on {device} in {name}", flush=True)
    if args.amp and precision is torch.float32:
        print("note: --amp is ignored, because half precision is slower than float32 on this processor", flush=True)
    if small := sum(min(video.size) < args.size for video in videos):
        exceeded = _count(small, "video")
        print(f"note: --size {args.size} exceeds the size of {exceeded}; videos are not enlarged", flush=True)


def evaluate_and_report(
    network: FrameNetwork,
    videos: Sequence[Video],
    output: Path,
    *,
    subfolder: str = "",
    inputs: Iterable[Path] = (),
    **options: Any,
) -> int:
    """`evaluate` (see there), then print what came of it, and J and F where there is ground truth.

    Returns the exit code: 0, 1 if some videos failed, 2 if all did. The ground truth is not replaced.
    """
    # Ground truth may be in a folder GroundTruth beside that of the given masks, else among those.
    annotations = {video.masks[0].parents[1] for video in videos if video.outputs}
    folders = [truth for folder in annotations for truth in (folder.parent / "GroundTruth", folder)]
    inputs = [*inputs, *(folder / video.name for folder in folders for video in videos)]
    segmented, skipped, failed, seconds = evaluate(
        network, videos, output, subfolder=subfolder, inputs=inputs, **options
    )
    if rank() == 0:
        for name, message in failed.items():
            print(f"error: {name}: {message}", file=sys.stderr)
        earlier = f", {len(skipped)} already finished" if skipped else ""
        names = f": {', '.join(failed)}" if failed else ""
        print(f"{_count(len(segmented), 'video')} segmented{earlier}, {len(failed)} failed{names}")
        if segmented:
            frames = sum(video.frames for video in segmented.values())
            print(f"{frames} frames at {frames / seconds:.2f} frames/s (without reading and writing files): {output}")
        if truth := next((folder for folder in folders if folder.is_dir()), None):
            _print_scores([video for video in videos if video.name not in failed], truth, output / subfolder)
        sys.stdout.flush()
    barrier()  # a launcher ends all processes as soon as one exits with a code other than 0
    if not failed:
        return 0
    return 1 if segmented or skipped else 2


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _print_scores(videos: Sequence[Video], truth: Path, results: Path) -> None:
    """J and F of the videos that have more masks in ``truth`` than were given."""
    frames = {}
    for video in videos:
        names = {path.stem for path in (truth / video.name).glob("*.png")} & set(video.outputs or ())
        if len(names) > max(2, len(video.masks)):
            frames[video.name] = names
    try:
        if frames:
            print(format_table(score_folders(truth, results, frames, frames=frames)))
    except InputError as error:  # in the ground truth: the results are there all the same
        print(f"no scores: {error}", file=sys.stderr)
