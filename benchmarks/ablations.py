r"""Train variants of the network on equal budgets with several seeds each, and compare them on validation videos.

python benchmarks/ablations.py --variants gsfm stcn --seeds 1 2 3 --davis_path data/DAVIS/2016 -- \
    --stage 3 --model gsfm-small --davis_root data/DAVIS -i 2000
"""

import argparse
import itertools
import json
import os
import shlex
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.listing import SPLITS, davis_names, davis_videos
from eval_flags import at_least
from scoring.folders import Scores, score_folders
from training.config import TrainConfig, parse_config
from util.errors import InputError, Parser, exit_on_input_error
from util.files import check_output, write_bytes
from util.parallel import cpu_count

ROOT = Path(__file__).resolve().parents[1]
TRUTH = Path("Annotations/480p")  # in --davis_path
VARIANTS = {
    "gsfm": [],
    "stcn": ["--no-lfm", "--no-hfm"],
    "no-lfm": ["--no-lfm"],
    "no-hfm": ["--no-hfm"],
    "global-context": ["--memory", "global_context"],
    "hermitian": ["--spectrum", "hermitian"],
    "relative": ["--filter", "relative"],
}
EPILOG = """
Everything after -- is passed to train.py, in every run. A run is saved in SAVES/<prefix>-<variant>-<seed>/. Finished
runs are not repeated, and interrupted ones are resumed. Runs with other flags need another --prefix. {variant} and
{seed} in the flags are replaced by those of the run, so that one stage can start from another:

python benchmarks/ablations.py --prefix s3 --davis_path data/DAVIS/2016 -- \\
    --stage 3 --load_network saves/s0-{variant}-{seed}/s0-{variant}-{seed}_2000.pth --davis_root data/DAVIS -i 2000
"""


def call(log: Path, script: str, *options: str | Path, threads: int | None) -> None:
    """Run a program of this project and append its output to ``log``. Raises `InputError` if it fails."""
    command = [sys.executable, str(ROOT / script), *map(str, options)]
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {shlex.join(command)}\n")
        file.flush()
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False).returncode
    if code:
        raise InputError(f"{script} failed with exit code {code}; see {log}")


def train_and_score(flags: list[str], config: TrainConfig, args: argparse.Namespace) -> dict[str, float]:
    """J&F, J and F of one run and J&F of each video, in percent."""
    name = config.id
    weights, checkpoint = files(config)
    folder = weights.parent
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "output.txt"
    threads = max(1, cpu_count() // args.jobs) if args.jobs > 1 else None
    record = folder / "flags.txt"
    if begun(config) and record.is_file() and record.read_text(encoding="utf-8") != shlex.join(flags):
        raise InputError(f"{folder}: contains a run with other flags ({record.name}); expected another --prefix")
    write_bytes(record, shlex.join(flags).encode())
    if not weights.is_file():
        resume = ["--load_model", checkpoint, *without(flags, "--load_network")]
        start = resume if begun(config) else ["--overwrite", *flags]
        call(log, "train.py", "--id", name, *start, threads=threads)
    if not weights.is_file():
        raise InputError(f"{name}: the training was interrupted; repeat the command to resume it")
    output = args.output / name
    data = ["--davis_path", args.davis_path, "--split", args.split, "--size", str(args.size)]
    call(log, "eval_davis_2016.py", "--model", weights, "--output", output, *data, threads=threads)
    scores = score(output, args)
    whole = scores.summary()
    result = {"J&F": whole.jf, "J": whole.j.mean, "F": whole.f.mean}
    result |= {video: summary.jf for video, summary in scores.videos().items()}
    return {key: 100 * value for key, value in result.items()}


def score(masks: Path, args: argparse.Namespace) -> Scores:
    return score_folders(args.davis_path / TRUTH, masks, davis_names(args.davis_path, 2016, args.split))


def check_videos(args: argparse.Namespace) -> None:
    """Raise `InputError`, before hours of training, for videos that could not be segmented or scored."""
    for video in davis_videos(args.davis_path, 2016, args.split, args.size):
        video.given()
    score(args.davis_path / TRUTH, args)


def flags_of(variant: str, seed: int, training: list[str]) -> list[str]:
    """The flags of train.py for one run, with ``{variant}`` and ``{seed}`` filled in."""
    filled = [flag.replace("{variant}", variant).replace("{seed}", str(seed)) for flag in training]
    return [*filled, *VARIANTS[variant], "--seed", str(seed)]


def without(flags: list[str], name: str) -> list[str]:
    """The flags without one that takes a value, as ``name value`` or ``name=value``."""
    return [
        flag
        for before, flag in zip(["", *flags], flags, strict=False)
        if name not in (before, flag) and not flag.startswith(f"{name}=")
    ]


def files(config: TrainConfig) -> tuple[Path, Path]:
    """The final weights and the checkpoint of a run."""
    folder = config.saves / config.id
    return folder / f"{config.id}_{config.recipe.iterations}.pth", folder / f"{config.id}_checkpoint.pth"


def begun(config: TrainConfig) -> bool:
    """Whether a run has saved anything."""
    return any(path.is_file() for path in files(config))


def settings(name: str, flags: list[str]) -> TrainConfig:
    """The settings that train.py will use. Raises `InputError`, before hours of work, for inconsistent flags."""
    config = parse_config(["--id", name, *without(flags, "--load_network")])
    return config if begun(config) else parse_config(["--id", name, *flags])


def table(results: dict[str, dict[int, dict[str, float]]]) -> str:
    """A Markdown row per variant: mean ± standard deviation over seeds, and the paired difference from the first."""
    base = next(iter(results.values()))
    lines = ["| variant | seeds | J&F | J | F | against the first |", "|---|---|---|---|---|---|"]
    for variant, runs in results.items():
        columns = [spread([run[key] for run in runs.values()]) for key in ("J&F", "J", "F")]
        differences = [run["J&F"] - base[seed]["J&F"] for seed, run in runs.items() if seed in base]
        against = spread(differences, sign="+") if runs is not base and differences else "–"
        lines.append(f"| {' | '.join([variant, str(len(runs)), *columns, against])} |")
    return "\n".join(lines)


def spread(values: list[float], sign: str = "") -> str:
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.1f}{deviation}"


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(__doc__, EPILOG)
    add = parser.add_argument
    add("--variants", nargs="+", choices=VARIANTS, default=["gsfm", "stcn"], help="the first is the baseline")
    add("--seeds", type=int, nargs="+", default=[1], metavar="N", help="seeds of weights and data (default 1)")
    add("--prefix", default="ablation", help="prefix of the runs' names (default %(default)s)")
    add("--davis_path", type=Path, default="data/DAVIS/2016", help="DAVIS 2016 layout (default %(default)s)")
    add("--split", choices=SPLITS[2016], default="val", help="validation videos (default %(default)s)")
    add("--size", type=at_least(1), default=480, help="shorter side at inference (default %(default)s)")
    add("--output", type=Path, default="output/ablations", help="masks and tables (default %(default)s)")
    add("--jobs", type=at_least(1), default=1, help="concurrent runs, which divide the cores (default %(default)s)")
    add("training", nargs="+", help="flags of train.py, after --")
    args = parser.parse_args(arguments)
    if own := {"--id", "--load_model", "--seed"}.intersection(args.training):
        parser.error(f"{own.pop()}: is set by this program and cannot be given for train.py")
    runs = {}
    for seed, variant in itertools.product(args.seeds, args.variants):
        flags = flags_of(variant, seed, args.training)
        # Here and not in the threads below, because tyro works in one thread at a time only.
        runs[variant, seed] = flags, settings(f"{args.prefix}-{variant}-{seed}", flags)
    check_videos(args)
    table_file = args.output / f"{args.prefix}.json"
    check_output(table_file, [], b'"training"')
    results: dict[str, dict[int, dict[str, float]]] = {variant: {} for variant in args.variants}
    with ThreadPoolExecutor(args.jobs) as pool:
        scores = pool.map(lambda run: train_and_score(run[0], run[1], args), runs.values())
        for (variant, seed), result in zip(runs, scores, strict=True):
            results[variant][seed] = result
            print(f"{variant}, seed {seed}: J&F {result['J&F']:.1f}", flush=True)
            content = {"training": args.training, "size": args.size} | results
            write_bytes(table_file, json.dumps(content, indent=1).encode())
    print(table(results))


if __name__ == "__main__":
    main()
