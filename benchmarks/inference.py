"""Where the time of a frame goes: seconds per part, frames/s and peak memory, against the obvious computation.

python benchmarks/inference.py --objects 1 3 --json output/inference.json
python benchmarks/inference.py --size 1080 1920 --objects 1 10 --variants fast amp
python benchmarks/inference.py --device cuda --objects 1 3 10 --variants obvious fast amp compiled compiled_amp

Weights are random: they do not change the speed. Every part of the obvious network (`naive`: as the
reference programs compute), of the plain one (as in training and in the checkpoint) and of the one that the eval
scripts use (`model.optimized`) is timed in turn, and the medians are compared.
"whole frame" is the mean over the frames of a memory interval, one of which is memorised. GFLOP count convolutions
and matrix products, 2 per multiply-add; the parts' bound is that count over the peak measured in the same run.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from inference_core import InferenceCore
from inference_memory_bank import make_memory
from model.config import PRESETS, NetworkConfig
from model.network import Network
from model.optimized import optimized_copy
from model.tensor import pad_to_multiple
from tests.naive import DenseMemory, NaiveNetwork, naive_copy
from util.device import DEVICES, half_precision, keep_freed_memory, peak_memory, pick_device
from util.errors import exit_on_input_error

VARIANTS = ("obvious", "plain", "fast", "amp", "compiled", "compiled_amp")
COUNTED = ("obvious", "plain", "fast")  # their operations


def busy_clock() -> float:
    """Processor time of all threads over their number: the wall time of an idle machine, nearly."""
    return time.process_time() / torch.get_num_threads()


def seconds(function: Callable, device: torch.device, clock: Callable = time.perf_counter) -> float:
    """One call, after everything submitted before is done."""
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronize()
    start = clock()
    function()
    synchronize()
    return clock() - start


def measure(calls: dict[str, Callable], device: torch.device, repeats: int, clock: Callable) -> dict[str, float]:
    """Median seconds of each call; the calls take turns, so that a busy machine disturbs all alike."""
    samples = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            spent = seconds(call, device, clock)
            if repeat:  # the first is for caches and compilers
                samples[name].append(spent)
    return {name: statistics.median(values) for name, values in samples.items()}


def convolution_peak(device: torch.device, dtype: torch.dtype, clock: Callable, repeats: int = 7) -> float:
    """The most GFLOP/s that a 3×3 convolution reaches (256 channels, 120×216, channels-last)."""
    conv = torch.nn.Conv2d(256, 256, 3, padding=1).to(device, dtype, memory_format=torch.channels_last)
    x = torch.randn(1, 256, 120, 216, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    conv(x)
    return 2 * 9 * 256 * 256 * 120 * 216 / min(seconds(lambda: conv(x), device, clock) for _ in range(repeats)) / 1e9


def flops(function: Callable) -> float:
    """GFLOP of convolutions and matrix products in a call, as they are carried out (Winograd: half)."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() / 1e9


def variant(plain: Network, name: str) -> Network:
    """The network that computes like one of `VARIANTS`."""
    if name == "plain":
        return plain
    return naive_copy(plain) if name == "obvious" else optimized_copy(plain, compiled=name.startswith("compiled"))


def parts(network: Network, args: argparse.Namespace, objects: int) -> dict[str, Callable]:
    """A call for each part of a step, on inputs as a step has them, and one for whole steps."""
    device, height, width = network.mean.device, *args.size
    frame = torch.rand(3, height, width, device=device)
    ids = torch.arange(width, device=device).expand(height, width) * (objects + 1) // width
    memories = []

    def new_memory():
        obvious = isinstance(network, NaiveNetwork)
        memories.append(DenseMemory(args.top) if obvious else make_memory(network.config, args.top))
        return memories[-1]

    core = InferenceCore(network, new_memory, args.interval)
    core.step(frame, ids.contiguous())
    image, _ = pad_to_multiple(network.normalize(frame)[None], 16)
    masks = torch.rand(1, objects, *image.shape[-2:], device=device) / objects
    features = network.encode_key(image)
    value = network.encode_value(image, features.f16, masks)
    for _ in range(args.memory_frames):
        memories[0].add(features.key + 0.1 * torch.randn_like(features.key), value)
    memory = memories[0]
    readout = memory.read(features.key)
    calls = {"key encoder": lambda: network.encode_key(image)}
    if network.config.lfm:
        calls["  of which LFM"] = lambda: network.lfm(features.f16)
    calls["memory read"] = lambda: memory.read(features.key)
    calls["decoder"] = lambda: network.decode(readout, features)
    if network.config.hfm and objects <= 3:
        x = features.f4.new_empty(objects, network.config.decoder_dim, *features.f4.shape[-2:]).normal_()
        x = x.contiguous(memory_format=torch.channels_last)
        calls["  of which HFM"] = lambda: network.decoder.branch.hfm(x)
    calls["value encoder"] = lambda: network.encode_value(image, features.f16, masks)
    return calls | {"whole frame": engine(core, frame, args.interval)}


def engine(core: InferenceCore, image: torch.Tensor, steps: int) -> Callable:
    """A call that takes steps of the engine, one of which encodes a memory frame; the memory grows by it."""

    def call() -> None:
        for _ in range(steps):
            core.step(image)

    return call


@exit_on_input_error
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="example: python benchmarks/inference.py --objects 1 3 --json output/inference.json",
    )
    add = parser.add_argument
    add("--model", choices=sorted(PRESETS), default="gsfm", help="preset (default %(default)s)")
    add("--spectrum", choices=("half", "hermitian"), default="hermitian", help="as reference weights need: hermitian")
    add("--size", type=int, nargs=2, default=(480, 854), metavar=("H", "W"), help="of the frames (default 480 854)")
    add("--objects", type=int, nargs="+", default=[1], metavar="K", help="numbers of objects (default 1)")
    add("--memory_frames", type=int, default=5, metavar="N", help="in the memory read (default %(default)s)")
    add("--top", type=int, default=50, metavar="K", help="positions each pixel reads (default %(default)s)")
    add("--interval", type=int, default=3, metavar="N", help="every N-th frame becomes memory (default %(default)s)")
    add("--repeats", type=int, default=5, metavar="N", help="timings of each part (default %(default)s)")
    add(
        "--variants",
        nargs="+",
        choices=VARIANTS,
        default=["obvious", "plain", "fast"],
        help="(default obvious plain fast)",
    )
    add("--tf32", action="store_true", help="let CUDA's float32 convolutions and products use TF32")
    add("--busy", action="store_true", help="processor time per thread, for busy machines (OMP_WAIT_POLICY=passive)")
    add("--device", choices=DEVICES, default="auto")
    add("--json", type=Path, metavar="FILE", help="write all figures here")
    args = parser.parse_args()
    if "obvious" in args.variants and args.spectrum != "hermitian":
        parser.error("--variants obvious is for --spectrum hermitian")

    device = pick_device(args.device)
    keep_freed_memory(device)
    clock = busy_clock if args.busy else time.perf_counter
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.tf32
    torch.manual_seed(0)
    config = NetworkConfig.preset(args.model, spectrum=args.spectrum)
    plain = Network(config).to(device).eval()
    variants = {name: (variant(plain, name), name.endswith("amp")) for name in args.variants}
    half = half_precision(device) or torch.bfloat16  # also measured where it does not pay
    with torch.inference_mode():
        peaks = {
            str(dtype).removeprefix("torch."): convolution_peak(device, dtype, clock) for dtype in (torch.float32, half)
        }
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    print(f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}, {args.size[0]}×{args.size[1]}")
    print("peak of 3×3 convolutions: " + ", ".join(f"{value:.0f} GFLOP/s {name}" for name, value in peaks.items()))
    tables = []
    for objects in args.objects:
        table = run(args, variants, objects, device, half, clock)
        tables.append({"objects": objects, "parts": table, "peak_gib": peak_memory(device)})
        show(tables[-1], list(variants), peaks["float32"])
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
        record = {"machine": machine, "threads": torch.get_num_threads(), "torch": torch.__version__, "peaks": peaks}
        args.json.write_text(json.dumps(record | {"settings": settings, "tables": tables}, indent=1))


def run(
    args: argparse.Namespace, variants: dict, objects: int, device: torch.device, half: torch.dtype, clock: Callable
) -> dict:
    """Seconds of every variant, and GFLOP of those in `COUNTED`, for each part."""
    torch.compiler.reset()  # a second number of objects would be compiled for any number
    calls, counts = {}, {}
    with torch.inference_mode():
        for name, (network, amp) in variants.items():
            context = partial(torch.autocast, device.type, half) if amp else nullcontext
            with context():
                for part, call in parts(network, args, objects).items():
                    calls[part, name] = partial(within, context, call)
                    if name in COUNTED and part != "whole frame":
                        counts[part, name] = flops(call)
        times = measure(calls, device, args.repeats, clock)
    table = {}
    for (part, name), spent in times.items():
        row = table.setdefault(part, {"seconds": {}, "gflop": {}})
        row["seconds"][name] = spent / (args.interval if part == "whole frame" else 1)
        if (part, name) in counts:
            row["gflop"][name] = counts[part, name]
    for name in {name for _, name in counts}:
        gflop = {part: row["gflop"].get(name, 0) for part, row in table.items()}
        shares = {"key encoder": 1, "memory read": 1, "decoder": 1, "value encoder": 1 / args.interval}
        table["whole frame"]["gflop"][name] = sum(share * gflop[part] for part, share in shares.items())
    return table


def within(context: Callable, call: Callable) -> None:
    with context():
        call()


def show(result: dict, variants: list[str], peak: float) -> None:
    print(
        f"\n{result['objects']} object{'s' * (result['objects'] > 1)}, peak memory so far {result['peak_gib']:.2f} GiB"
    )
    first = variants[0]
    heads = [f"{name} s" for name in variants] + [f"{first}/{name}" for name in variants[1:]]
    heads += [f"{name} GFLOP" for name in COUNTED if name in variants]
    heads += ["bound s", "fast/bound"] if "fast" in variants else []
    width = max(map(len, heads)) + 2
    print(f"{'':16}" + "".join(f"{head:>{width}}" for head in heads))
    for part, row in result["parts"].items():
        spent = row["seconds"]
        cells = [f"{spent[name]:.3f}" for name in variants]
        cells += [f"{spent[first] / spent[name]:.2f}" for name in variants[1:]]
        cells += [f"{row['gflop'][name]:.1f}" for name in COUNTED if name in row["gflop"]]
        if "fast" in row["gflop"]:
            bound = row["gflop"]["fast"] / peak
            cells += [f"{bound:.3f}", f"{spent['fast'] / bound:.2f}"]
        print(f"{part:16}" + "".join(f"{cell:>{width}}" for cell in cells))
    whole = result["parts"]["whole frame"]["seconds"]
    print("frames/s        " + "".join(f"{1 / whole[name]:>{width}.2f}" for name in variants), flush=True)


def processor() -> str:
    """The processor's name where the system tells."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if (info.is_file())
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
