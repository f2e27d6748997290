"""What a long video costs: time per frame, time of the memory's read and bytes held, after 10 to 10 000 memory frames.

python benchmarks/memory_scaling.py --plot output/memory_scaling.png

Memories are filled with random features of one object; then the engine segments a few more frames with a GSFM network
of random weights, memorising each (--mem_every 1). Times are of the fastest of up to five calls. 480p is the full
network: a feature map of 30×54 with 64 channels of keys and 512 of values. Because a space-time memory of 10 000 such
frames takes 35 GiB, there is a half-size setting with 64 channels of values as well, and what would take more than
--max_gib is left out. Four minutes on one CPU core, and 10 GiB of RAM (a copy is made when a memory grows).
"""

import argparse
import dataclasses
import platform
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import matplotlib
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from inference_core import InferenceCore
from inference_memory_bank import make_memory
from model.config import NetworkConfig
from model.network import Network
from model.optimized import optimized_copy
from util.device import DEVICES, keep_freed_memory, pick_device
from util.errors import exit_on_input_error
from util.files import atomic_path
from util.parallel import cpu_count

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FRAMES = (10, 100, 1000, 10_000)
TOP = 50
BOUND = 20
KINDS = {
    "space-time": ("space_time", None),
    f"space-time, {BOUND} frames": ("space_time", BOUND),
    "global context": ("global_context", None),
}
SETTINGS = {"480p": ((480, 864), 512), "240p": ((240, 432), 64)}  # image H, W; channels of values
COLUMNS = {"frame": "time per frame (s)", "read": "memory read (s)", "mib": "memory held (MiB)"}


def timed(function: Callable, device: torch.device, seconds: float = 8, most: int = 5) -> float:
    """Seconds of the fastest of ``most`` calls, or of those begun before ``seconds`` have passed."""
    times = []
    while len(times) < most and sum(times) < seconds:
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


@torch.inference_mode()
def measure(
    network: Network, size: tuple[int, int], kind: str, bound: int | None, frames: int, max_gib: float
) -> dict[str, float] | None:
    """Seconds per frame and per read, and MiB held, after ``frames`` memory frames; None above ``max_gib``."""
    config, device = dataclasses.replace(network.config, memory=kind), network.mean.device
    h, w = size[0] // 16, size[1] // 16
    extra = 8  # frames that are added while the engine is timed
    frame_gib = 4 * (config.key_dim + config.value_dim) * h * w / 2**30
    if kind == "space_time" and frame_gib * min(frames, bound or frames) > max_gib:
        return None
    memory = make_memory(config, TOP, bound, reserve=frames + extra)
    keys = torch.randn(16, config.key_dim, h, w, device=device)
    values = torch.randn(16, 1, config.value_dim, h, w, device=device)
    for t in range(frames):
        memory.add(keys[t % 16, None], values[t % 16, None])
    held = memory.nbytes
    query = torch.randn(1, config.key_dim, h, w, device=device)
    read = timed(lambda: memory.read(query), device)

    core = InferenceCore(network, lambda: memory, mem_every=1)
    mask = torch.zeros(size, dtype=torch.uint8, device=device)
    mask[size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = 1
    image = torch.rand(3, *size, device=device)
    core.step(image, mask)
    return {"frame": timed(lambda: core.step(image), device), "read": read, "mib": held / 2**20}


def _short(number: float) -> str:
    """Three digits, without an exponent."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}" if number >= 0.01 else f"{number:.5f}"


def plot(rows: list[dict], output: Path) -> None:
    """Three panels over the number of memory frames; solid and dashed for the two settings."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for axis, (column, title) in zip(axes, COLUMNS.items(), strict=True):
        for setting, style in zip(SETTINGS, ("-", "--"), strict=True):
            for colour, kind in enumerate(KINDS):
                own = [row for row in rows if (row["setting"], row["kind"]) == (setting, kind)]
                x, y = [row["frames"] for row in own], [row[column] for row in own]
                axis.plot(x, y, style, color=f"C{colour}", marker=".", label=f"{kind}, {setting}")
        axis.set(title=title, xlabel="memory frames", xscale="log", yscale="log")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    with atomic_path(output) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=FRAMES, help="(default: 10 100 1000 10000)")
    parser.add_argument("--max_gib", type=float, default=4, help="leave out larger space-time memories (default: 4)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="(default: auto)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="PNG to write")
    args = parser.parse_args(arguments)
    device = pick_device(args.device)
    keep_freed_memory(device)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{cpu_count()} CPU cores"
    versions = f"Python {platform.python_version()}, PyTorch {torch.__version__}"
    print(f"{machine}, {torch.get_num_threads()} threads, {versions}, {date.today()}")
    print(f"\n| size | memory | memory frames | {' | '.join(COLUMNS.values())} |\n|{'---|' * 6}", flush=True)
    rows = []
    for setting, (size, value_dim) in SETTINGS.items():
        torch.manual_seed(0)
        network = optimized_copy(Network(NetworkConfig.preset("gsfm", value_dim=value_dim)).eval().to(device))
        for kind, (memory, bound) in KINDS.items():
            for frames in args.frames:
                row = measure(network, size, memory, bound, frames, args.max_gib)
                if row is not None:
                    rows.append({"setting": setting, "kind": kind, "frames": frames, **row})
                cells = [_short(row[column]) for column in COLUMNS] if row else [f"over {args.max_gib:g} GiB"] * 3
                print(f"| {setting} | {kind} | {frames} | {' | '.join(cells)} |", flush=True)
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
