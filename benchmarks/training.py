"""Seconds and memory of a training step by part, for batch sizes, crops, compilation and activation checkpointing.

python benchmarks/training.py --stage 0 3
python benchmarks/training.py --stage 3 --batch 4 8 16 --crop 384 --amp fp16 --device cuda --compile
python benchmarks/training.py --stage 3 --checkpoint_activations

Clips are random: the speed of reading real ones is measured by benchmarks/data.py. Each setting runs in a process of
its own, so that its peak memory is its own. Memory per clip is what the peak grows by with a larger batch; it needs
two batch sizes.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.inference import busy_clock
from inference_memory_bank import make_memory
from model.config import PRESETS, NetworkConfig
from model.losses import compute_losses
from model.network import Network
from util.device import DEVICES, keep_freed_memory, peak_memory, pick_device
from util.errors import exit_on_input_error

PARTS = ("forward", "loss", "backward", "optimizer")


def measure(args: argparse.Namespace, stage: int, batch: int, crop: int) -> dict:
    """Median seconds of each part of a step, and peak GiB (on the GPU, else resident) after and before the steps."""
    device = pick_device(args.device)
    keep_freed_memory(device)
    torch.manual_seed(0)
    network = Network(NetworkConfig.preset(args.model, single_object=stage == 0))
    network.to(device, memory_format=torch.channels_last).train()
    network.checkpoint_activations = args.checkpoint_activations
    if args.compile:
        network.compile()
    optimizer = torch.optim.Adam(network.parameters(), 1e-5, weight_decay=1e-7, fused=device.type in ("cuda", "cpu"))
    precision = {"fp16": torch.float16, "bf16": torch.bfloat16, None: None}[args.amp]
    scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)
    objects = 1 if stage == 0 else 2
    frames = torch.rand(batch, 3, 3, crop, crop, device=device)
    masks = torch.zeros(batch, 3, objects, crop, crop, device=device)
    for k in range(objects):
        masks[:, :, k, crop // 4 : crop // 2, (2 * k + 1) * crop // 5 : (2 * k + 2) * crop // 5] = 1
    valid = torch.ones(batch, objects, device=device)
    before = peak_memory(device)
    seconds = []
    for _ in range(args.steps + 1):
        times = [now(device, args.busy)]
        with torch.autocast(device.type, dtype=precision, enabled=precision is not None):
            prediction = network(frames, masks[:, 0], valid, make_memory(network.config))
        times.append(now(device, args.busy))
        loss = sum(compute_losses(prediction, masks[:, 1:], valid, 0.15, 0.05).values())
        times.append(now(device, args.busy))
        scaler.scale(loss).backward()
        times.append(now(device, args.busy))
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        times.append(now(device, args.busy))
        seconds.append([end - start for start, end in zip(times, times[1:], strict=False)])
    parts = {name: statistics.median(part) for name, part in zip(PARTS, zip(*seconds[1:], strict=True), strict=True)}
    return {"stage": stage, "batch": batch, "crop": crop, **parts, "peak_gib": peak_memory(device), "start_gib": before}


def now(device: torch.device, busy: bool) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return busy_clock() if busy else time.perf_counter()


@exit_on_input_error
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], epilog="example: python benchmarks/training.py --stage 0 3 --batch 1 2"
    )
    add = parser.add_argument
    add("--model", choices=sorted(PRESETS), default="gsfm", help="preset (default %(default)s)")
    add("--stage", type=int, nargs="+", default=[0, 3], choices=range(4), help="0: one object, else two (default 0 3)")
    add("--batch", type=int, nargs="+", default=[1], metavar="N", help="clips per step (default 1)")
    add("--crop", type=int, nargs="+", default=[384], metavar="N", help="side in pixels (default 384)")
    add("--steps", type=int, default=3, metavar="N", help="timed steps, after one untimed (default %(default)s)")
    add("--amp", choices=("fp16", "bf16"), help="mixed precision (default: float32)")
    add("--compile", action="store_true", help="torch.compile, as train.py --compile")
    add("--checkpoint_activations", action="store_true", help="as train.py --checkpoint_activations")
    add("--busy", action="store_true", help="processor time per thread, for busy machines (OMP_WAIT_POLICY=passive)")
    add("--device", choices=DEVICES, default="auto")
    add("--json", type=Path, metavar="FILE", help="write all figures here")
    args = parser.parse_args()
    heads = ("stage", "batch", "crop", *PARTS, "seconds/step", "seconds/clip", "peak GiB")
    print("".join(f"{head:>13}" for head in heads))
    rows = []
    context = multiprocessing.get_context("spawn")
    for stage in args.stage:
        for crop in args.crop:
            for batch in args.batch:
                with context.Pool(1) as pool:
                    row = pool.apply(measure, (args, stage, batch, crop))
                rows.append(row)
                total = sum(row[part] for part in PARTS)
                cells = [row[name] for name in PARTS] + [total, total / batch, row["peak_gib"]]
                print(f"{stage:13}{batch:13}{crop:13}" + "".join(f"{cell:13.3f}" for cell in cells), flush=True)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
