"""Videos in, mask PNGs out: the one evaluation loop, and the flags and messages that the eval scripts share.

    [Video] → per frame InferenceCore.step → masks at the video's own size → PNGs, overlays, frames/s

Frames are decoded ahead by threads (`datasets.video`) and results are written behind by one thread, so that
neither a whole video nor a volume of probabilities is ever held. A video counts as finished once its record is
written, after its last file: a run that was killed goes on with the first unfinished video.
"""

import argparse
import dataclasses
import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path

import progressbar
import torch
import torch.nn.functional as F

from datasets.images import write_mask
from datasets.video import Video
from inference_core import InferenceCore
from inference_memory_bank import make_memory
from model.config import MEMORIES
from model.network import load_network
from model.optimized import optimized_copy
from results.overlay import overlay_writer
from results.records import VideoResults, WriteBehind
from scoring.folders import format_table, score_folders
from util.device import DEVICES, half_precision, keep_freed_memory, pick_device
from util.distributed import gather, local_rank, process_group, rank, world_size
from util.errors import InputError


def evaluate(
    network: torch.nn.Module,
    videos: Sequence[Video],
    output: Path,
    *,
    make_memory: Callable,
    device: torch.device,
    mem_every: int = 3,
    include_last: bool = False,
    amp: bool = False,
    binary: bool = False,
    overlay: bool = False,
    overwrite: bool = False,
    subfolder: str = "",
    settings: dict | None = None,
) -> dict:
    """Segment every video; write ``output/subfolder/<video>/<frame>.png`` for each frame that is needed.

    Args:
        network: in eval mode, on ``device``.
        make_memory: makes an empty memory, with room for ``reserve`` frames (`inference_memory_bank.make_memory`).
        mem_every, include_last: see `InferenceCore`.
        amp: autocast to half precision (`util.device.half_precision`).
        binary: PNGs are grey 0/255 instead of palette PNGs with the objects' ids.
        overlay: also write ``output/overlay/<video>.mp4`` and ``.png`` (contact sheet).
        overwrite: segment finished videos again instead of skipping them.
        settings: what the results depend on besides these arguments and the masks, as JSON values.
    Returns:
        ``{"videos": {name: {"frames", "objects", "seconds"}}, "skipped": [names], "failed": {name: message},
        "frames", "seconds", "fps"}`` over all processes; seconds of processing, without reading and writing.

    Raises `InputError` before the first frame if the output cannot be written, is the input, or holds finished
    videos made with other settings. A video that fails later (damaged frame, disk full) ends up in ``failed``, is
    not finished whatever was written of it, and leaves the others alone.
    """
    settings = {"mem_every": mem_every, "include_last": include_last, "amp": amp, "binary": binary, **(settings or {})}
    results = [VideoResults(video, output, subfolder, settings, overlay) for video in videos]
    _check_writable(output)
    finished = [] if overwrite else [result.video.name for result in results if result.are_finished()]
    finished = gather(finished)[0]  # one answer for all

    done, failed = {}, {}
    share = _share([result for result in results if result.video.name not in finished])
    with _Progress([result.video for result in share]) as progress:
        for result in share:
            video = result.video
            memory = partial(make_memory, reserve=video.num_frames // mem_every + 2)  # allocated once
            core = InferenceCore(network, memory, mem_every, include_last)
            autocast = torch.autocast(device.type, half_precision(device)) if amp else nullcontext()
            try:
                done[video.name] = _segment(video, core, result, device, autocast, binary, progress)
            except InputError as error:
                failed[video.name] = str(error)
            except torch.cuda.OutOfMemoryError:
                failed[video.name] = "out of GPU memory; a smaller --size or a larger --mem_every needs less"
            progress.end(video.name, done.get(video.name))
    done, failed = ({k: v for part in gather(mine) for k, v in part.items()} for mine in (done, failed))
    frames, seconds = (sum(video[key] for video in done.values()) for key in ("frames", "seconds"))
    summary = {"frames": frames, "seconds": seconds, "fps": frames / seconds if frames else 0.0}
    return {"videos": done, "skipped": finished, "failed": failed, **summary}


def _segment(
    video: Video,
    core: InferenceCore,
    results: VideoResults,
    device: torch.device,
    autocast: AbstractContextManager,
    binary: bool,
    progress: "_Progress",
) -> dict:
    """One video through the engine. Raises `InputError` for a damaged frame and for what cannot be written."""
    results.begin()
    frames = written = 0
    seconds = 0.0
    with ExitStack() as stack:
        draw = stack.enter_context(overlay_writer(*results.overlay, video.fps)) if results.overlay else None
        writer = stack.enter_context(WriteBehind())
        stack.enter_context(torch.inference_mode())
        stack.enter_context(autocast)  # around all frames: it caches the weights that it has cast
        for frame in stack.enter_context(closing(iter(video))):
            start = _now(device)
            image = torch.from_numpy(frame.image).to(device).permute(2, 0, 1).float() / 255
            mask = None if frame.mask is None else torch.from_numpy(frame.mask).to(device)
            prob = core.step(image, mask, frame.needed or draw is not None)
            ids = None if prob is None else label_map(prob, video.size, core.object_ids).cpu().numpy()
            seconds += _now(device) - start
            frames += 1
            if frame.needed:
                writer.put(write_mask, results.png(frame.name), ids, binary)
                written += 1
            if draw is not None:
                writer.put(draw, frame.name, frame.original, ids)
            progress.step(video.name, frames / seconds)
    results.finish(written)
    return {"frames": frames, "objects": len(core.object_ids), "seconds": seconds}


def label_map(prob: torch.Tensor, size: tuple[int, int], object_ids: Sequence[int]) -> torch.Tensor:
    """prob (K+1)×h×w, background first → H×W uint8 raw ids: bilinear to ``size``, then the most probable.

    Channel by channel, so that K+1 maps of the video's own size never exist at once; faster than argmax, too.
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
    """Seconds, after everything submitted to the device is done."""
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


class _Progress:
    """On a terminal a bar over all frames; otherwise one line for each video that is done."""

    def __init__(self, videos: Sequence[Video]):
        self.left, self.frames, self.bar = len(videos), 0, None
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

    def __enter__(self) -> "_Progress":
        return self

    def step(self, name: str, fps: float) -> None:
        self.frames += 1
        if self.bar is not None:
            self.bar.update(self.frames, video=name, fps=f"{fps:.2f}")

    def end(self, name: str, result: dict | None) -> None:
        """``result`` is None for a video that failed."""
        self.left -= 1
        if self.bar is None:
            text = "failed"
            if result:
                text = f"{result['frames']} frames, {result['frames'] / result['seconds']:.2f} frames/s"
            print(f"{name}: {text} ({self.left} to go)", flush=True)

    def __exit__(self, kind, *_) -> None:
        if self.bar is not None:
            self.bar.finish(dirty=kind is not None)


def _share(results: list[VideoResults]) -> list[VideoResults]:
    """This process's part of the videos: longest first, each to the process that has the fewest frames so far."""
    frames = [0] * world_size()
    mine = []
    for result in sorted(results, key=lambda result: -result.video.num_frames):
        least = frames.index(min(frames))
        frames[least] += result.video.num_frames
        if least == rank():
            mine.append(result)
    return [result for result in results if result in mine]


def eval_parser(doc: str, top: int) -> argparse.ArgumentParser:
    """A parser with the flags that all eval scripts share; ``top`` is the benchmark's default.

    ``doc``: the script's docstring, whose first paragraph becomes the description and the rest the examples.
    """
    description, _, examples = doc.partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    default = "(default %(default)s)"
    add("--model", type=Path, required=True, metavar="FILE", help="weights: own, or of the GSFM or STCN programs")
    add("--output", type=Path, required=True, metavar="FOLDER", help="results; finished videos in it are skipped")
    add("--top", type=_at_least(1), default=top, metavar="K", help=f"memory positions each pixel reads {default}")
    add("--mem_every", type=_at_least(1), default=3, metavar="N", help=f"every N-th frame becomes memory {default}")
    add("--include_last", action="store_true", help="the previous frame is memory, too")
    memory_help = "kind of memory (default: what the checkpoint was trained with)"
    add("--memory", choices=MEMORIES, help=memory_help)
    bound_help = "bound the space-time memory to the first and the latest N - 1 memory frames (default: all of them)"
    add("--max_memory_frames", type=_at_least(2), metavar="N", help=bound_help)
    size_help = f"short side to process at, in pixels; results are as large as the video, always {default}"
    add("--size", type=_at_least(1), default=480, metavar="N", help=size_help)
    add("--amp", action="store_true", help="half precision: faster on GPUs, and on CPUs that have bf16")
    add("--compile", action="store_true", help="torch.compile the network: minutes at first; no gain on CPUs")
    add("--device", choices=DEVICES, default="auto", help="auto: CUDA, else Apple's MPS, else the CPU")
    add(
        "--videos",
        type=lambda names: [name.strip() for name in names.split(",")],
        metavar="A,B",
        help="only these videos",
    )
    add("--overwrite", action="store_true", help="process finished videos again")
    add("--overlay", action="store_true", help="also draw the masks: FOLDER/overlay/VIDEO.mp4 and .png (some frames)")
    return parser


def _at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from {least} on")
        return int(text)

    return parse


def run(
    args: argparse.Namespace, videos: Sequence[Video], *, binary: bool = False, subfolder: str = "", **settings
) -> dict:
    """`evaluate` with the flags of `eval_parser` and further ``settings``, and its result. Raises `InputError`."""
    device = pick_device(args.device, local_rank())
    keep_freed_memory(device)
    network = optimized_copy(load_network(args.model, device), args.compile)
    config = dataclasses.replace(network.config, memory=args.memory or network.config.memory)
    if rank() == 0:
        precision = f"autocast to {half_precision(device)}".replace("torch.", "") if args.amp else "float32"
        print(
            f"{_count(len(videos), 'video')}, {sum(v.num_frames for v in videos)} frames on {device}, {precision}",
            flush=True,
        )
    with process_group(device, timedelta(days=7)):  # one process may finish days before another
        return evaluate(
            network,
            videos,
            args.output,
            make_memory=partial(make_memory, config, args.top, args.max_memory_frames),
            device=device,
            mem_every=args.mem_every,
            include_last=args.include_last,
            amp=args.amp,
            binary=binary,
            overlay=args.overlay,
            overwrite=args.overwrite,
            subfolder=subfolder,
            settings={
                "model": hashlib.sha256(args.model.read_bytes()).hexdigest(),
                "top": args.top,
                "memory": config.memory,
                "max_memory_frames": args.max_memory_frames,
                "size": args.size,
                **settings,
            },
        )


def report(results: dict, output: Path, videos: Sequence[Video], subfolder: str = "") -> int:
    """Print the outcome of `evaluate`, and J and F where there is ground truth; return the exit code: 0, 1 if some
    videos failed, 2 if all did.
    """
    done, failed, skipped = (results[key] for key in ("videos", "failed", "skipped"))
    if rank() == 0:
        for name, message in failed.items():
            print(f"error: {name}: {message}", file=sys.stderr)
        earlier = f", {len(skipped)} were finished before" if skipped else ""
        names = f": {', '.join(failed)}" if failed else ""
        print(f"{_count(len(done), 'video')} done{earlier}, {len(failed)} failed{names}")
        if done:
            print(f"{results['frames']} frames at {results['fps']:.2f} frames/s (processing, without files): {output}")
        _print_scores([video for video in videos if video.name not in failed], output / subfolder)
    if not failed:
        return 0
    return 1 if done or skipped else 2


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _print_scores(videos: Sequence[Video], results: Path) -> None:
    """J and F of the videos that have more masks than were given: beside those, or in a folder GroundTruth."""
    videos = [video for video in videos if video.outputs]
    if not videos:
        return
    annotations = videos[0].masks[0].parents[1]
    truth = annotations.parent / "GroundTruth"
    truth = truth if truth.is_dir() else annotations
    frames = {}
    for video in videos:
        names = {path.stem for path in (truth / video.name).glob("*.png")} & set(video.outputs)
        if len(names) > max(2, len(video.masks)):
            frames[video.name] = names
    if not frames:
        return
    try:
        print(format_table(score_folders(truth, results, frames, frames=frames)))
    except InputError as error:  # in the ground truth: the results are there all the same
        print(f"no scores: {error}", file=sys.stderr)
