"""Seconds to read the space-time memory over 1 to 300 memory frames, compared with the naive dense read.

python benchmarks/memory_read.py --json output/memory_read.json
python benchmarks/memory_read.py --frames 33 --objects 1 3 10 --device cuda

The naive read holds the whole affinity, sets all but the top k weights of each query to zero, and multiplies the dense
matrix with the values of each object, as the GSFM and STCN programs do. Above --naive_limit frames it needs too much
memory and is left out. Maps are 30×54 (480p). "positions off" is the fraction of positions where the readouts differ:
a near-tie of ranks k and k+1 may fall either way. (benchmarks/memory_scaling.py measures whole frames and the bytes of
the three memories.)
"""

import math
import sys
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import Call, make_clock, make_parser, median_seconds, parse_flags, write_json
from eval_flags import at_least
from inference_memory_bank import SpaceTimeMemory
from tests.naive import dense_read
from util.device import keep_freed_memory, pick_device
from util.errors import exit_on_input_error


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__, repeats=3)
    add = parser.add_argument
    add("--frames", type=at_least(1), nargs="+", default=[1, 5, 33, 100, 300], help="(default 1 5 33 100 300)")
    add("--objects", type=at_least(1), nargs="+", default=[1, 3], help="numbers of objects (default 1 3)")
    add("--map", type=at_least(1), nargs=2, default=(30, 54), metavar=("H", "W"), help="of features (default 30 54)")
    add("--top", type=at_least(1), default=50, metavar="K", help="positions each query reads (default %(default)s)")
    add("--naive_limit", type=int, default=100, metavar="N", help="most frames of the naive read (default %(default)s)")
    args = parse_flags(parser, arguments)
    device = pick_device(args.device)
    keep_freed_memory(device)
    clock = make_clock(device, args.busy)
    torch.manual_seed(0)
    heads = ("frames", "objects", "naive s", "read s", "naive/read", "GiB held", "positions off")
    print("".join(f"{head:>14}" for head in heads))
    rows = []
    for objects in args.objects:
        for frames in args.frames:
            with torch.inference_mode():
                memory = SpaceTimeMemory(args.top, reserve=frames)
                keys = torch.randn(64, frames, *args.map, device=device)
                values = torch.randn(objects, 512, frames, *args.map, device=device)
                for t in range(frames):
                    memory.add(keys[None, :, t], values[None, :, :, t])
                query = keys[:, -1] + 0.5 * torch.randn(64, *args.map, device=device)
                calls: dict[str, Call] = {"read": partial(memory.read, query[None])}
                off = math.nan
                if frames <= args.naive_limit:
                    naive = partial(dense_read, keys.flatten(1), values.flatten(2), query.flatten(1), args.top)
                    calls["naive"] = naive
                    difference = (memory.read(query[None])[0].flatten(2) - naive()).abs().amax((0, 1))
                    off = (difference > 1e-4).float().mean().item()
                del keys, values
                seconds = {"naive": math.nan} | median_seconds(calls, clock, args.repeats)
            rows.append({"frames": frames, "objects": objects, **seconds, "off": off})
            naive_s, read_s, gib = seconds["naive"], seconds["read"], memory.nbytes / 2**30
            cells = (frames, objects, f"{naive_s:.3f}", f"{read_s:.3f}", f"{naive_s / read_s:.1f}", f"{gib:.2f}")
            print("".join(f"{cell:>14}" for cell in (*cells, f"{off:.4f}")), flush=True)
    if args.json:
        write_json(args.json, device, {"rows": rows})


if __name__ == "__main__":
    main()
