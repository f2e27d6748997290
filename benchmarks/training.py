"""Seconds and memory of a training step by phase, for batch sizes, crops, compilation and activation checkpointing.

python benchmarks/training.py --stage 0 3
python benchmarks/training.py --stage 3 --batch 4 8 16 --crop 384 --amp fp16 --device cuda --compile
python benchmarks/training.py --stage 3 --checkpoint_activations

Clips are random; benchmarks/data.py measures how fast real ones are read. Each setting runs in a process of its own, so
that the peak memory is its own.
"""

import argparse
import itertools
import multiprocessing
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import make_clock, make_parser, parse_flags, write_json
from datasets.config import DataConfig
from eval_flags import at_least
from inference_memory_bank import make_memory
from model.config import PRESETS, NetworkConfig
from model.losses import compute_losses
from model.network import Network
from util.device import autocast, keep_freed_memory, peak_memory, pick_device
from util.errors import exit_on_input_error

PHASES = ("forward", "loss", "backward", "optimizer")
PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16, None: torch.float32}


def measure(args: argparse.Namespace, stage: int, crop: int, batch: int) -> dict[str, Any]:
    """Median seconds of each phase of a step, and peak GiB (GPU memory, else resident) before and after the steps."""
    device = pick_device(args.device)
    keep_freed_memory(device)
    clock = make_clock(device, args.busy)
    torch.manual_seed(0)
    network = Network(NetworkConfig.preset(args.model, single_object=stage == 0)).train()
    network.to(device).to(memory_format=torch.channels_last)
    network.checkpoint_activations = args.checkpoint_activations
    if args.compile:
        network.compile()
    optimizer = torch.optim.Adam(network.parameters(), 1e-5, weight_decay=1e-7, fused=device.type in ("cuda", "cpu"))
    precision = PRECISIONS[args.amp]
    scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)
    objects = 1 if stage == 0 else 2
    frames = torch.rand(batch, 3, 3, crop, crop, device=device)
    masks = torch.zeros(batch, 3, objects, crop, crop, device=device)
    for k in range(objects):
        masks[:, :, k, crop // 4 : crop // 2, (2 * k + 1) * crop // 5 : (2 * k + 2) * crop // 5] = 1
    valid = torch.ones(batch, objects, device=device)
    start_gib = peak_memory(device)
    steps = []
    for _ in range(args.repeats + 1):
        times = [clock()]
        with autocast(device, precision):
            prediction = network(frames, masks[:, 0], valid, make_memory(network.config))
        times.append(clock())
        losses = compute_losses(prediction, masks[:, 1:], valid, 0.15, 0.05)
        loss = torch.stack(list(losses.values())).sum()
        times.append(clock())
        scaler.scale(loss).backward()
        times.append(clock())
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        times.append(clock())
        steps.append([end - start for start, end in itertools.pairwise(times)])
    medians = map(statistics.median, zip(*steps[1:], strict=True))
    seconds = dict(zip(PHASES, medians, strict=True))
    memory = {"peak_gib": peak_memory(device), "start_gib": start_gib}
    return {"stage": stage, "crop": crop, "batch": batch, **seconds, **memory}


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__, repeats=3)
    add = parser.add_argument
    add("--model", choices=sorted(PRESETS), default="gsfm", help="preset (default %(default)s)")
    add("--stage", type=int, nargs="+", default=[0, 3], choices=range(4), help="0: one object, else two (default 0 3)")
    add("--batch", type=at_least(1), nargs="+", default=[1], metavar="N", help="clips per step (default 1)")
    add("--crop", type=int, nargs="+", default=[384], metavar="N", help="side in pixels (default 384)")
    add("--amp", choices=("fp16", "bf16"), help="mixed precision (default: float32)")
    add("--compile", action="store_true", help="torch.compile, as train.py --compile")
    add("--checkpoint_activations", action="store_true", help="as train.py --checkpoint_activations")
    args = parse_flags(parser, arguments)
    for crop in args.crop:
        DataConfig(crop=crop).check(args.stage[0])
    heads = ("stage", "crop", "batch", *PHASES, "seconds/step", "seconds/clip", "peak GiB")
    print("".join(f"{head:>13}" for head in heads))
    rows = []
    for stage, crop, batch in itertools.product(args.stage, args.crop, args.batch):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            row = pool.apply(measure, (args, stage, crop, batch))
        rows.append(row)
        total = sum(row[phase] for phase in PHASES)
        cells = [*(row[phase] for phase in PHASES), total, total / batch, row["peak_gib"]]
        print(f"{stage:13}{crop:13}{batch:13}" + "".join(f"{cell:13.3f}" for cell in cells), flush=True)
    if args.json:
        write_json(args.json, pick_device(args.device), {"settings": vars(args), "rows": rows})


if __name__ == "__main__":
    main()
