"""What the benchmarks of the network share: flags, a clock, medians, the machine's name and the JSON file."""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from eval_flags import at_least
from util.device import DEVICES
from util.errors import Parser
from util.files import check_outputs, write_bytes

Call = Callable[[], object]
Name = TypeVar("Name", bound=Hashable)


def make_parser(doc: str, repeats: int) -> argparse.ArgumentParser:
    """A parser with the shared flags; ``doc``: see `Parser`."""
    parser = Parser(doc)
    add = parser.add_argument
    add("--repeats", type=at_least(1), default=repeats, metavar="N", help="after an untimed one (default %(default)s)")
    add("--busy", action="store_true", help="processor time per thread, for busy machines (OMP_WAIT_POLICY=passive)")
    add("--device", choices=DEVICES, default="auto", help="(default %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write all figures to this file")
    return parser


def parse_flags(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """The values of the flags. Raises `InputError`, before hours of work, for files that cannot be written."""
    args = parser.parse_args(arguments)
    check_outputs([(args.json, b'"machine"'), (vars(args).get("plot"), b"Matplotlib")])
    return args


def make_clock(device: torch.device, busy: bool) -> Callable[[], float]:
    """A clock in seconds that waits for everything submitted to ``device``.

    ``busy``: processor time of all threads divided by their number, which is about the wall time of an idle machine.
    """

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()
        return time.process_time() / torch.get_num_threads() if busy else time.perf_counter()

    return clock


def median_seconds(calls: Mapping[Name, Call], clock: Callable[[], float], repeats: int) -> dict[Name, float]:
    """Median time of each call. The calls take turns, so a busy machine disturbs all of them alike."""
    samples: dict[Name, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if repeat:  # the first call fills caches and compiles
                samples[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in samples.items()}


def machine(device: torch.device) -> str:
    """Name of the GPU, or of the processor as far as the system tells."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def write_json(path: Path, device: torch.device, figures: dict[str, Any]) -> None:
    """Write the figures and what they were measured on."""
    setup = {"machine": machine(device), "threads": torch.get_num_threads(), "torch": torch.__version__}
    write_bytes(path, json.dumps(setup | figures, indent=1, default=str).encode())
