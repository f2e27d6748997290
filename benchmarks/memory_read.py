"""Seconds to read the space-time memory, against the plain dense read, over 1 to 300 memory frames.

python benchmarks/memory_read.py --json output/memory_read.json
python benchmarks/memory_read.py --frames 33 --objects 1 3 10 --device cuda

The plain read holds the whole affinity, sets all but the top k of each query to zero weight, and multiplies the dense
matrix with the values of each object, as the GSFM and STCN programs do. It is left out above ``--plain_limit`` frames,
where it needs too much memory. Maps are 30×54 (480p); readouts are compared, too. (For the growth of whole frames and
of bytes with the three memories: benchmarks/memory_scaling.py.)
"""

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.inference import busy_clock
from inference_memory_bank import SpaceTimeMemory
from tests.naive import dense_read
from util.device import DEVICES, keep_freed_memory, pick_device
from util.errors import exit_on_input_error


@exit_on_input_error
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], epilog="example: python benchmarks/memory_read.py --frames 33 --objects 1 3"
    )
    add = parser.add_argument
    add("--frames", type=int, nargs="+", default=[1, 5, 33, 100, 300], help="memory frames (default 1 5 33 100 300)")
    add("--objects", type=int, nargs="+", default=[1, 3], help="numbers of objects (default 1 3)")
    add("--map", type=int, nargs=2, default=(30, 54), metavar=("H", "W"), help="of the features (default 30 54)")
    add("--top", type=int, default=50, metavar="K", help="positions each query reads (default %(default)s)")
    add("--repeats", type=int, default=3, help="timings of each (default %(default)s)")
    add("--plain_limit", type=int, default=100, metavar="N", help="most frames of the plain read (default %(default)s)")
    add("--busy", action="store_true", help="processor time per thread, for busy machines (OMP_WAIT_POLICY=passive)")
    add("--device", choices=DEVICES, default="auto")
    add("--json", type=Path, metavar="FILE", help="write all figures here")
    args = parser.parse_args()
    device = pick_device(args.device)
    keep_freed_memory(device)
    clock = busy_clock if args.busy else time.perf_counter

    def seconds(function) -> tuple[float, torch.Tensor]:
        start = clock()
        result = function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock() - start, result

    rows = []
    heads = ("frames", "objects", "plain s", "read s", "plain/read", "GiB held", "positions off")
    print("".join(f"{head:>14}" for head in heads))
    torch.manual_seed(0)
    for objects in args.objects:
        for frames in args.frames:
            with torch.inference_mode():
                memory = SpaceTimeMemory(args.top, reserve=frames)
                shape = (frames, *args.map)
                keys = torch.randn(64, *shape, device=device)
                values = torch.randn(objects, 512, *shape, device=device)
                for t in range(frames):
                    memory.add(keys[None, :, t], values[None, :, :, t])
                query = keys[:, -1] + 0.5 * torch.randn(64, *args.map, device=device)
                keys, values = keys.flatten(1), values.flatten(2)
                compare = frames <= args.plain_limit
                if not compare:
                    del keys, values
                times, plain_times, off = [], [], math.nan
                for repeat in range(args.repeats + 1):
                    spent, ours = seconds(lambda: memory.read(query[None]))  # noqa: B023
                    times += [spent] if repeat else []
                    if compare:
                        spent, plain = seconds(lambda: dense_read(keys, values, query.flatten(1), args.top))  # noqa: B023
                        plain_times += [spent] if repeat else []
                        # A near-tie of ranks k and k+1 may fall either way.
                        wrong = (ours[0].flatten(2) - plain).abs().amax((0, 1)) > 1e-4
                        off = wrong.float().mean().item()
            read, dense = statistics.median(times), statistics.median(plain_times) if compare else math.nan
            rows.append({"frames": frames, "objects": objects, "plain": dense, "read": read, "off": off})
            gib = memory.nbytes / 2**30
            cells = (frames, objects, f"{dense:.3f}", f"{read:.3f}", f"{dense / read:.1f}", f"{gib:.2f}", f"{off:.4f}")
            print("".join(f"{cell:>14}" for cell in cells), flush=True)
            memory = keys = values = None
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"device": str(device), "torch": torch.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
