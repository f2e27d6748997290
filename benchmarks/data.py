"""Speed of the training data pipeline, in samples (clips of three 384×384 frames) per second.

OMP_NUM_THREADS=1 python benchmarks/data.py --static_root data/static --davis_root data/DAVIS
"""

import sys
import time
from pathlib import Path

import cv2
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.config import DataConfig
from datasets.loader import clip_batches, sample_requests
from datasets.mixture import Mixture, build_dataset
from datasets.sources import StaticClips
from util.errors import Parser, exit_on_input_error


def without_loader(dataset: Mixture, seconds: float) -> float:
    """Samples per second of processor time in this process; other programs do not disturb it much."""
    requests = sample_requests(len(dataset), 0, 10**9)
    for _ in range(8):  # files into the cache, code into memory
        dataset[next(requests)]
    samples, start = 0, time.process_time()
    while (spent := time.process_time() - start) < seconds:
        dataset[next(requests)]
        samples += 1
    return samples / spent


def through_loader(dataset: Mixture, seconds: float, batch_size: int = 8) -> float:
    """Samples per second of wall time from one worker process, batched and unpacked here."""
    batches = clip_batches(dataset, batch_size=batch_size, stop=10**9, num_workers=1)
    for _ in range(3):  # the worker starts, and fills its queue
        next(batches)
    samples, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        next(batches).unpack("cpu")
        samples += batch_size
    return samples / spent


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--static_root", type=Path, help="folder of static image sets, as for train.py")
    parser.add_argument("--davis_root", type=Path, help="DAVIS, as for train.py")
    parser.add_argument("--seconds", type=float, default=10, help="length of each measurement (default: 10)")
    args = parser.parse_args(arguments)
    if not (args.static_root or args.davis_root):
        parser.error("expected --static_root, --davis_root or both")
    if not args.seconds > 0:
        parser.error(f"--seconds {args.seconds}: expected a number above 0")

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    pipelines = {}
    if args.static_root:
        for name, spline in (("static, spline in 1/3 of the frames", 1 / 3), ("static, no spline", 0.0)):
            pipelines[name] = build_dataset(0, DataConfig(static_root=args.static_root))
            for _, clips, _ in pipelines[name].entries:
                if isinstance(clips, StaticClips):
                    clips.spline = spline
    if args.davis_root:
        pipelines["video"] = build_dataset(3, DataConfig(davis_root=args.davis_root))
    print(f"{'samples/s':40}{'no loader':>12}{'1 worker':>12}")
    for name, dataset in pipelines.items():
        core, worker = without_loader(dataset, args.seconds), through_loader(dataset, args.seconds)
        print(f"{name:40}{core:12.1f}{worker:12.1f}", flush=True)


if __name__ == "__main__":
    main()
