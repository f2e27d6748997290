"""What a long video costs: seconds per frame and per memory read, and bytes held, after 10 to 10 000 memory frames.

python benchmarks/memory_scaling.py --plot output/memory_scaling.png

Memories are filled with random features of one object; then the engine segments a few more frames with a GSFM network
of random weights and memorises each (--mem_every 1). Times are the fastest of up to --repeats calls. 480p is the full
network: a feature map of 30×54 with 64 channels of keys and 512 of values. A space-time memory of 10 000 such frames
takes 35 GiB, so there is a half-size setting with 64 channels of values, too, and what would take more than --max_gib
is left out. It takes four minutes on one CPU core, and 10 GiB of RAM (a memory that grows is copied).
"""

import dataclasses
import platform
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import matplotlib
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import Call, machine, make_clock, make_parser, parse_flags, write_json
from eval_flags import at_least
from inference_core import InferenceCore
from inference_memory_bank import make_memory
from model.config import MemoryName, NetworkConfig
from model.network import Network
from model.optimized import optimized_copy
from util.device import keep_freed_memory, pick_device
from util.errors import exit_on_input_error
from util.files import atomic_path

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FRAMES = (10, 100, 1000, 10_000)
TOP_K = 50
BOUND = 20
MEMORIES: dict[str, tuple[MemoryName, int | None]] = {  # name in the table: setting of the network, bound in frames
    "space-time": ("space_time", None),
    f"space-time, {BOUND} frames": ("space_time", BOUND),
    "global context": ("global_context", None),
}
SETTINGS = {"480p": ((480, 864), 512), "240p": ((240, 432), 64)}  # image H, W; channels of values
COLUMNS = {"frame": "time per frame (s)", "read": "memory read (s)", "mib": "memory held (MiB)"}


@torch.inference_mode()
def measure(
    network: Network, size: tuple[int, int], bound: int | None, frames: int, fastest: Callable[[Call], float]
) -> dict[str, float]:
    """Seconds per frame and per read, and MiB held, after ``frames`` memory frames of the network's memory."""
    config, device = network.config, network.mean.device
    h, w = size[0] // 16, size[1] // 16
    memory = make_memory(config, TOP_K, bound, reserve=frames + 8)  # the engine adds a few while it is timed
    keys = torch.randn(16, config.key_dim, h, w, device=device)
    values = torch.randn(16, 1, config.value_dim, h, w, device=device)
    for t in range(frames):
        memory.add(keys[t % 16, None], values[t % 16, None])
    mib = memory.nbytes / 2**20
    query = torch.randn(1, config.key_dim, h, w, device=device)
    read = fastest(lambda: memory.read(query))

    core = InferenceCore(network, lambda: memory, mem_every=1)
    mask = torch.zeros(size, dtype=torch.uint8, device=device)
    mask[size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = 1
    image = torch.rand(3, *size, device=device)
    core.step(image, mask)
    return {"frame": fastest(lambda: core.step(image)), "read": read, "mib": mib}


def _short(number: float) -> str:
    """Three digits, without an exponent."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}" if number >= 0.01 else f"{number:.5f}"


def plot(rows: list[dict[str, Any]], output: Path) -> None:
    """Three panels over the number of memory frames; solid and dashed lines for the two settings."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for axis, (column, title) in zip(axes, COLUMNS.items(), strict=True):
        for setting, style in zip(SETTINGS, ("-", "--"), strict=True):
            for colour, memory in enumerate(MEMORIES):
                own = [row for row in rows if (row["setting"], row["memory"]) == (setting, memory)]
                x, y = [row["frames"] for row in own], [row[column] for row in own]
                axis.plot(x, y, style, color=f"C{colour}", marker=".", label=f"{memory}, {setting}")
        axis.set(title=title, xlabel="memory frames", xscale="log", yscale="log")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    with atomic_path(output) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__, repeats=5)
    parser.add_argument("--frames", type=at_least(1), nargs="+", default=FRAMES, help="(default: 10 100 1000 10000)")
    parser.add_argument("--max_gib", type=float, default=4, help="leave out larger space-time memories (default: 4)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="PNG to write")
    args = parse_flags(parser, arguments)
    device = pick_device(args.device)
    keep_freed_memory(device)
    clock = make_clock(device, args.busy)

    def fastest(call: Call) -> float:
        """Seconds of the fastest of the calls that begin within eight seconds."""
        times: list[float] = []
        while len(times) < args.repeats and sum(times) < 8:
            start = clock()
            call()
            times.append(clock() - start)
        return min(times)

    versions = f"Python {platform.python_version()}, PyTorch {torch.__version__}"
    print(f"{machine(device)}, {torch.get_num_threads()} threads, {versions}, {date.today()}")
    print(f"\n| size | memory | memory frames | {' | '.join(COLUMNS.values())} |\n|{'---|' * 6}", flush=True)
    rows = []
    for setting, (size, value_dim) in SETTINGS.items():
        torch.manual_seed(0)
        network = optimized_copy(Network(NetworkConfig.preset("gsfm", value_dim=value_dim)).eval().to(device))
        for name, (memory, bound) in MEMORIES.items():
            network.config = dataclasses.replace(network.config, memory=memory)
            frame_gib = 4 * (network.config.key_dim + value_dim) * size[0] * size[1] / 256 / 2**30
            for frames in args.frames:
                cells = [f"over {args.max_gib:g} GiB"] * 3
                if memory != "space_time" or frame_gib * min(frames, bound or frames) <= args.max_gib:
                    row = measure(network, size, bound, frames, fastest)
                    rows.append({"setting": setting, "memory": name, "frames": frames, **row})
                    cells = [_short(row[column]) for column in COLUMNS]
                print(f"| {setting} | {name} | {frames} | {' | '.join(cells)} |", flush=True)
    if args.plot:
        plot(rows, args.plot)
    if args.json:
        write_json(args.json, device, {"rows": rows})


if __name__ == "__main__":
    main()
