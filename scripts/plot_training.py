"""Draw the curves of one or more training runs into one PNG.

python scripts/plot_training.py saves/s0-GSFM
python scripts/plot_training.py saves/gsfm saves/gc --output curves.png --smooth 10
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import util.interrupt  # noqa: F401

# isort: split
import io
import math

import numpy as np

from util.errors import InputError, Parser, exit_on_input_error
from util.files import check_output, write_bytes

MAX_VALUE = 1e38  # of float32, in which training computes; matplotlib fails near the limit of float64
CURVES = {
    "loss": "loss",
    "iou": "IoU on the training clips",
    "val_jf": "J&F on the validation videos",
    "lr": "learning rate",
    "seconds": "seconds per iteration",
}


def read_curves(run: Path) -> dict[str, dict[int, float]]:
    """{name of a curve: {iteration: value}} from the ``*_log.jsonl`` of a run (its folder, or the file itself).

    Entries without an iteration, such as the configuration, are skipped. Raises `InputError` for a folder without a log
    and for values that are not numbers.
    """
    from training.logger import read_log  # late: PyTorch takes seconds to import

    logs = sorted(run.glob("*_log.jsonl")) if run.is_dir() else [run] if run.is_file() else []
    if len(logs) != 1:
        raise InputError(f"{run}: expected the folder of one training run, with its <id>_log.jsonl")
    curves: dict[str, dict[int, float]] = {name: {} for name in CURVES}
    entries = read_log(logs[0])
    try:
        for entry in entries:
            if "iteration" in entry:
                for name in CURVES.keys() & entry.keys():
                    value = curves[name][entry["iteration"]] = float(entry[name])
                    if MAX_VALUE < abs(value) < math.inf:  # infinity and NaN are gaps in a curve
                        raise ValueError(f"{name} {value:g}")
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{logs[0]}: is not a training log ({error}); expected lines of names and numbers") from error
    if not any(curves.values()):
        raise InputError(f"{logs[0]}: no entries yet")
    return {name: dict(sorted(values.items())) for name, values in curves.items()}


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of training runs, such as saves/s0-GSFM")
    parser.add_argument("--output", type=Path, help="PNG to write (default: curves.png beside the first run's log)")
    parser.add_argument("--smooth", type=int, default=1, help="running mean over this many entries (default: 1)")
    args = parser.parse_args(arguments)
    if args.smooth < 1:
        raise InputError(f"--smooth {args.smooth}: expected at least one entry")
    runs = {str(run): read_curves(run) for run in args.runs}
    first = args.runs[0]
    output = args.output or (first if first.is_dir() else first.parent) / "curves.png"
    check_output(output, [], b"Matplotlib")
    import matplotlib  # late: it takes long to import, and may complain on stderr

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams["text.parse_math"] = False  # a name may hold dollars
    figure, axes = plt.subplots(1, len(CURVES), figsize=(5 * len(CURVES), 4), layout="constrained")
    for axis, (name, title) in zip(axes.flat, CURVES.items(), strict=True):
        for run, curves in runs.items():
            if not curves[name]:
                continue
            values = np.array(list(curves[name].values()))
            width = min(args.smooth, len(values))
            smooth = np.convolve(values, np.ones(width) / width, mode="valid")
            axis.plot(list(curves[name])[width - 1 :], smooth, label=run, marker="." if len(smooth) < 20 else None)
        axis.set(title=title, xlabel="iteration")
        axis.grid(alpha=0.3)
    axes[0].legend()
    png = io.BytesIO()
    figure.savefig(png, dpi=110, format="png")
    write_bytes(output, png.getvalue())
    last = {run: max(max(values, default=0) for values in curves.values()) for run, curves in runs.items()}
    print(f"{output}: {', '.join(f'{run} to iteration {iteration}' for run, iteration in last.items())}")


if __name__ == "__main__":
    main()
