"""Draw the curves of one or several training runs into one PNG.

python scripts/plot_training.py saves/s0-GSFM
python scripts/plot_training.py saves/gsfm saves/gc --output curves.png --smooth 10
"""

import argparse
import sys
from pathlib import Path

import matplotlib
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from training.logger import read_log
from util.errors import InputError, exit_on_input_error
from util.files import atomic_path

matplotlib.use("Agg")
import matplotlib.pyplot as plt

CURVES = {"loss": "loss", "iou": "IoU on the training clips", "lr": "learning rate", "seconds": "seconds per iteration"}


def read_run(run: Path) -> dict[int, dict[str, float]]:
    """iteration → numbers of a run's ``*_log.jsonl``.

    Raises `InputError` for a folder without a log.
    """
    logs = sorted(run.glob("*_log.jsonl")) if run.is_dir() else [run] if run.is_file() else []
    if len(logs) != 1:
        raise InputError(f"{run}: expected the folder of one training run, with its <id>_log.jsonl")
    entries = {entry["iteration"]: entry for entry in read_log(logs[0]) if "iteration" in entry}
    if not entries:
        raise InputError(f"{logs[0]}: no entries yet")
    return dict(sorted(entries.items()))


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of training runs, such as saves/s0-GSFM")
    parser.add_argument("--output", type=Path, help="PNG to write (default: curves.png in the first run's folder)")
    parser.add_argument("--smooth", type=int, default=1, help="running mean over this many entries (default: 1)")
    args = parser.parse_args(arguments)
    logs = {run.name: read_run(run) for run in args.runs}
    figure, axes = plt.subplots(2, 2, figsize=(11, 7), layout="constrained")
    for axis, (name, title) in zip(axes.flat, CURVES.items(), strict=True):
        for run, entries in logs.items():
            values = np.array([entry[name] for entry in entries.values()])
            width = min(args.smooth, len(values))
            smooth = np.convolve(values, np.ones(width) / width, mode="valid")
            axis.plot(list(entries)[width - 1 :], smooth, label=run, marker="." if len(smooth) < 20 else None)
        axis.set(title=title, xlabel="iteration")
        axis.grid(alpha=0.3)
    axes[0, 0].legend()
    output = args.output or args.runs[0] / "curves.png"
    with atomic_path(output) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    print(f"{output}: {', '.join(f'{run} to iteration {max(entries)}' for run, entries in logs.items())}")


if __name__ == "__main__":
    main()
