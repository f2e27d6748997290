"""Seconds of each part of a frame, frames/s and peak memory, compared with the naive computation.

python benchmarks/inference.py --objects 1 3 --json output/inference.json
python benchmarks/inference.py --objects 1 3 --variants naive optimized amp --peak
python benchmarks/inference.py --size 1080 1920 --objects 1 10 --variants optimized amp
python benchmarks/inference.py --device cuda --objects 1 3 10 --variants naive optimized amp compiled compiled_amp

Weights are random, which does not change the speed. The variants are the naive network, which computes as the reference
programs do (tests/naive.py), the plain one of training and checkpoints, and the optimized one of the eval scripts
(model/optimized.py), which amp and compiled start from. "whole frame" is the mean over the frames of a memory interval,
one of which is memorised. GFLOP count convolutions and matrix products, 2 per multiply-add, as they are carried out;
the bound is that number over the peak measured in the same run. With --peak, peak memory is measured instead: each
variant loads its weights from a file and segments two memory intervals in a process of its own, as the eval scripts do.
"""

import argparse
import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import Call, machine, make_clock, make_parser, median_seconds, parse_flags, write_json
from eval_flags import at_least
from inference_core import FrameMemory, InferenceCore
from inference_memory_bank import make_memory
from model.config import PRESETS, NetworkConfig
from model.network import Network, load_network, save_network
from model.optimized import optimized_copy
from model.tensor import pad_to_multiple
from tests.naive import DenseMemory, NaiveNetwork, naive_copy
from util.device import autocast, keep_freed_memory, peak_memory, pick_device
from util.errors import exit_on_input_error

VARIANTS = ("naive", "plain", "optimized", "amp", "compiled", "compiled_amp")
COUNTED = ("naive", "plain", "optimized")  # variants whose operations are counted
FRAME_PARTS = ("key encoder", "memory read", "decoder", "value encoder")


def convolution_peak(device: torch.device, dtype: torch.dtype, clock: Callable[[], float]) -> float:
    """The most GFLOP/s that a 3×3 convolution reaches (256 channels, 120×216, channels-last)."""
    layout = torch.channels_last
    x = torch.randn(1, 256, 120, 216, device=device, dtype=dtype).to(memory_format=layout)
    weight = torch.randn(256, 256, 3, 3, device=device, dtype=dtype).to(memory_format=layout)
    times = [
        median_seconds({"conv": partial(torch.conv2d, x, weight, padding=1)}, clock, repeats=1)["conv"]
        for _ in range(7)
    ]
    return 2 * 9 * 256 * 256 * 120 * 216 / min(times) / 1e9


def precision_of(variant: str, device: torch.device) -> torch.dtype:
    """The type that one of `VARIANTS` runs in; half precision is measured even where it does not pay."""
    if not variant.endswith("amp"):
        return torch.float32
    return torch.bfloat16 if device.type == "cpu" else torch.float16


def build(plain: Network, variant: str, in_place: bool = False) -> Network:
    """The network that computes like one of `VARIANTS`."""
    if variant == "plain":
        return plain
    if variant == "naive":
        return naive_copy(plain)
    return optimized_copy(plain, variant.startswith("compiled"), precision_of(variant, plain.mean.device), in_place)


def engine(network: Network, args: argparse.Namespace, objects: int) -> tuple[InferenceCore, FrameMemory, torch.Tensor]:
    """An engine that has segmented the first frame, its memory, and that frame 3×H×W."""
    device, (height, width) = network.mean.device, args.size
    frame = torch.rand(3, height, width, device=device)
    ids = torch.arange(width, device=device).expand(height, width) * (objects + 1) // width
    naive = isinstance(network, NaiveNetwork)
    memory: FrameMemory = DenseMemory(args.top) if naive else make_memory(network.config, args.top)
    core = InferenceCore(network, lambda: memory, args.interval)
    core.step(frame, ids.contiguous())
    return core, memory, frame


def measure_peak(args: argparse.Namespace, weights: Path, variant: str, objects: int) -> float:
    """Peak memory of this process in GiB, after it has built the network from a file and segmented some frames."""
    device = pick_device(args.device)
    network = build(load_network(weights, device), variant, in_place=True)
    keep_freed_memory(device)
    with torch.inference_mode(), autocast(device, precision_of(variant, device)):
        core, _, frame = engine(network, args, objects)
        for _ in range(2 * args.interval):
            core.step(frame)
    return peak_memory(device)


def show_peaks(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure and print the peak memory of each variant in a process of its own."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pth"
        save_network(weights, Network(NetworkConfig.preset(args.model, spectrum=args.spectrum)))
        for objects in args.objects:
            for variant in args.variants:
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    gib = pool.apply(measure_peak, (args, weights, variant, objects))
                rows.append({"objects": objects, "variant": variant, "peak_gib": gib})
                print(f"{args.model}, objects: {objects}, {variant}: {gib * 2**10:.0f} MiB", flush=True)
    return rows


def frame_parts(network: Network, args: argparse.Namespace, objects: int) -> dict[str, Call]:
    """A call for each part of a step, on inputs as a step has them, and one for the steps of a memory interval."""
    core, memory, frame = engine(network, args, objects)
    device = frame.device
    image, _ = pad_to_multiple(network.normalize(frame)[None], 16)
    masks = torch.rand(1, objects, *image.shape[-2:], device=device) / objects
    features = network.encode_key(image)
    value = network.encode_value(image, features.f16, masks)
    for _ in range(args.memory_frames):
        memory.add(features.key + 0.1 * torch.randn_like(features.key), value)
    readout = memory.read(features.key)

    def interval() -> None:
        for _ in range(args.interval):
            core.step(frame)

    calls: dict[str, Call] = {"key encoder": lambda: network.encode_key(image)}
    if network.config.lfm:
        calls["  of which LFM"] = lambda: network.lfm(features.f16)
    calls["memory read"] = lambda: memory.read(features.key)
    calls["decoder"] = lambda: network.decode(readout, features)
    if (branch := network.decoder.branch) is not None and objects <= 3:
        x = torch.randn(objects, network.config.decoder_dim, *features.f4.shape[-2:], device=device)
        calls["  of which HFM"] = partial(branch.hfm, x.to(features.f4.dtype, memory_format=torch.channels_last))
    calls["value encoder"] = lambda: network.encode_value(image, features.f16, masks)
    return calls | {"whole frame": interval}


def measure(
    args: argparse.Namespace, networks: dict[str, Network], objects: int, clock: Callable[[], float]
) -> dict[str, dict[str, dict[str, float]]]:
    """For each part: ``seconds`` of every variant, and ``gflop`` of those in `COUNTED`."""
    torch.compiler.reset()  # otherwise a second number of objects would be compiled for any number
    calls: dict[tuple[str, str], Call] = {}
    counted = {}
    for variant, network in networks.items():
        context = partial(autocast, network.mean.device, precision_of(variant, network.mean.device))
        with context():
            parts = frame_parts(network, args, objects)
        for part, call in parts.items():
            calls[part, variant] = partial(_within, context, call)
            if variant in COUNTED and part != "whole frame":
                with FlopCounterMode(display=False) as counter:
                    call()
                counted[part, variant] = counter.get_total_flops() / 1e9
    table: dict[str, dict[str, dict[str, float]]] = {}
    for (part, variant), seconds in median_seconds(calls, clock, args.repeats).items():
        row = table.setdefault(part, {"seconds": {}, "gflop": {}})
        row["seconds"][variant] = seconds / (args.interval if part == "whole frame" else 1)
        if (part, variant) in counted:
            row["gflop"][variant] = counted[part, variant]
    for variant in [variant for variant in networks if variant in COUNTED]:
        *others, value = [counted[part, variant] for part in FRAME_PARTS]
        table["whole frame"]["gflop"][variant] = sum(others) + value / args.interval
    return table


def _within(context: Callable[[], Any], call: Call) -> None:
    with context():
        call()


def show(table: dict[str, dict[str, dict[str, float]]], variants: list[str], peak: float) -> None:
    """Print seconds, ratios to the first variant, GFLOP and the optimized network's bound."""
    first, *others = variants
    heads = [f"{name} s" for name in variants] + [f"{first}/{name}" for name in others]
    heads += [f"{name} GFLOP" for name in variants if name in COUNTED]
    heads += ["bound s", "optimized/bound"] if "optimized" in variants else []
    width = max(map(len, heads)) + 2
    print(f"{'':16}" + "".join(f"{head:>{width}}" for head in heads))
    for part, row in table.items():
        seconds, gflop = row["seconds"], row["gflop"]
        cells = [f"{seconds[name]:.3f}" for name in variants]
        cells += [f"{seconds[first] / seconds[name]:.2f}" for name in others]
        cells += [f"{gflop[name]:.1f}" for name in variants if name in COUNTED]
        if "optimized" in variants:
            bound = gflop["optimized"] / peak
            cells += [f"{bound:.3f}", f"{seconds['optimized'] / bound:.2f}"]
        print(f"{part:16}" + "".join(f"{cell:>{width}}" for cell in cells))
    whole = table["whole frame"]["seconds"]
    print(f"{'frames/s':16}" + "".join(f"{1 / whole[name]:>{width}.2f}" for name in variants), flush=True)


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__, repeats=5)
    add = parser.add_argument
    default = "(default %(default)s)"
    add("--model", choices=sorted(PRESETS), default="gsfm", help=f"preset {default}")
    add("--spectrum", choices=("half", "hermitian"), default="hermitian", help=f"of the spectral modules {default}")
    add("--size", type=at_least(1), nargs=2, default=(480, 854), metavar=("H", "W"), help="of frames (default 480 854)")
    add("--objects", type=at_least(1), nargs="+", default=[1], metavar="K", help="numbers of objects (default 1)")
    add("--memory_frames", type=at_least(1), default=5, metavar="N", help=f"in the memory read {default}")
    add("--top", type=at_least(1), default=50, metavar="K", help=f"memory positions each pixel reads {default}")
    add("--interval", type=at_least(1), default=3, metavar="N", help=f"every N-th frame becomes memory {default}")
    add("--variants", nargs="+", choices=VARIANTS, default=list(COUNTED), help=f"(default {' '.join(COUNTED)})")
    add("--tf32", action="store_true", help="let CUDA's float32 convolutions and products use TF32")
    add("--peak", action="store_true", help="measure peak memory instead of time")
    args = parse_flags(parser, arguments)
    if "naive" in args.variants and args.spectrum != "hermitian":
        parser.error("--variants naive needs --spectrum hermitian")

    device = pick_device(args.device)
    if args.peak:
        rows = show_peaks(args)
        if args.json:
            write_json(args.json, device, {"settings": vars(args), "peaks": rows})
        return
    keep_freed_memory(device)
    clock = make_clock(device, args.busy)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.tf32
    torch.manual_seed(0)
    plain = Network(NetworkConfig.preset(args.model, spectrum=args.spectrum)).to(device).eval()
    networks = {variant: build(plain, variant) for variant in args.variants}
    height, width = args.size
    print(f"{machine(device)}, {torch.get_num_threads()} threads, torch {torch.__version__}, {height}×{width}")
    with torch.inference_mode():
        peaks = {
            str(dtype): convolution_peak(device, dtype, clock) for dtype in (torch.float32, precision_of("amp", device))
        }
        print("peak of 3×3 convolutions: " + ", ".join(f"{value:.0f} GFLOP/s {name}" for name, value in peaks.items()))
        tables = []
        for objects in args.objects:
            table = measure(args, networks, objects, clock)
            tables.append({"objects": objects, "parts": table, "peak_gib": peak_memory(device)})
            print(f"\nobjects: {objects}, peak memory so far: {tables[-1]['peak_gib']:.2f} GiB")
            show(table, args.variants, peaks["torch.float32"])
    if args.json:
        write_json(args.json, device, {"peaks": peaks, "settings": vars(args), "tables": tables})


if __name__ == "__main__":
    main()
