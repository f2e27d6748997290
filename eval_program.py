"""What the eval scripts share once their flags are parsed: the run itself, and the report at the end."""

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch

from adaptation import OnStep, adapted_copy
from datasets.video import Video
from evaluation import evaluate
from inference_core import FrameNetwork
from inference_memory_bank import make_memory
from model.config import InferenceSettings
from model.network import Network, load_network
from model.optimized import optimized_copy
from model.weights import weights_file
from propagation import UserFrame
from scoring.folders import format_table, score_folders
from util.device import divide_cores, keep_freed_memory, pick_device, shared_precision
from util.distributed import barrier, local_rank, process_group, rank
from util.errors import InputError, print_error
from util.files import check_is_file, sha256_of


def run(
    args: argparse.Namespace, videos: Sequence[Video], *, binary: bool = False, subfolder: str = "", **settings: Any
) -> int:
    """`evaluate_and_report` as the flags of `eval_parser` say.

    ``settings``: values of further flags on which the results depend. Raises `InputError` like `evaluate`.
    """
    if args.adapt and args.compile:
        raise InputError("--adapt and --compile: every video has a network of its own then; expected only one of them")
    args.model = weights_file(args.model)
    check_is_file(args.model, "a file for --model")
    device = pick_device(args.device, local_rank())
    divide_cores(device)
    network = load_network(args.model, device)
    config = network.config = dataclasses.replace(network.config, memory=args.memory or network.config.memory)
    given = InferenceSettings.of(args).given()
    recommended = network.recommended.given() if args.recommended else {}
    inference = args.protocol | recommended | given
    top_k, given_bias = inference.pop("top_k"), inference.pop("given_bias")
    settings |= {"model": sha256_of(args.model), "top_k": top_k, "given_bias": given_bias}
    settings |= {
        "memory": config.memory,
        "max_memory_frames": args.max_memory_frames,
        "size": args.size,
        "adapt": args.adapt,
    }
    with evaluation_group(device):
        precision = shared_precision(device) if args.amp else torch.float32
        adapt = None
        if args.adapt:
            adapt = partial(_adapt, network, args, precision)
        else:
            network = optimized_copy(network, args.compile, precision, in_place=True)
        keep_freed_memory(device)
        if rank() == 0:
            _announce(args, videos, device, precision)
            if used := {name: value for name, value in recommended.items() if name not in given}:
                values = ", ".join(f"{name} {value}" for name, value in used.items())
                print(f"note: the weights recommend {values}; --no-recommended restores the defaults", flush=True)
        return evaluate_and_report(
            network,
            videos,
            args.output,
            adapt=adapt,
            make_memory=partial(make_memory, config, top_k, args.max_memory_frames, given_bias),
            device=device,
            **inference,
            precision=precision,
            binary=binary,
            subfolder=subfolder,
            settings=settings,
            overlay=args.overlay,
            fps=args.fps,
            overwrite=args.overwrite,
            overwrite_changed=args.overwrite_changed,
            inputs=[args.model],
        )


def evaluation_group(device: torch.device) -> AbstractContextManager[None]:
    """The `process_group` of an evaluation, in which one process may finish days before another."""
    return process_group(device, timedelta(days=7))


def _adapt(
    network: Network, args: argparse.Namespace, precision: torch.dtype, video: Video, on_step: OnStep
) -> Network:
    """The network for a video, fitted to the masks that are given."""
    masks = {index: UserFrame.of(ids, complete=False) for index, ids in video.given().items()}
    return adapted_copy(
        network,
        video.frames(),
        masks,
        steps=args.adapt,
        short_side=args.size,
        precision=precision,
        on_step=on_step,
    )


def _announce(args: argparse.Namespace, videos: Sequence[Video], device: torch.device, precision: torch.dtype) -> None:
    name = str(precision).removeprefix("torch.")
    frames = sum(video.num_frames for video in videos)
    why = "because half precision is slower here" if name == "float32" else "which is faster here (else: --no-amp)"
    reason = f", {why}" if args.amp else ""
    print(f"{_count(len(videos), 'video')}, {frames} frames on {device} in {name}{reason}", flush=True)


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
            print_error(f"error: {name}: {message}")
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
        masks = [path for path in (truth / video.name).glob("[!.]*") if path.suffix.lower() == ".png"]
        names = {path.stem for path in masks} & set(video.outputs or ())
        if len(names) > max(2, len(video.masks)):
            frames[video.name] = names
    try:
        if frames:
            print(format_table(score_folders(truth, results, frames, frames=frames)))
    except InputError as error:  # in the ground truth: the results are there all the same
        print(f"no scores: {error}", file=sys.stderr)
