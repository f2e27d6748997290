"""How much faster the scores are than their plain definition, at equal numbers.

python benchmarks/scores.py
python benchmarks/scores.py --truth data/DAVIS/2016/Annotations/480p --prediction output/davis16

Without folders, it draws five videos of 80 frames, 854×480, one object. If the package vos-benchmark is
installed (``pip install vos-benchmark``; nothing else here needs it), it is timed beside.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.images import write_mask
from scoring.folders import score_folders
from util.errors import exit_on_input_error
from util.parallel import cpu_count


def plain_j(truth: np.ndarray, prediction: np.ndarray) -> float:
    """J of two H×W bool masks, as it is defined."""
    union = (truth | prediction).sum()
    return (truth & prediction).sum() / union if union else 1.0


def plain_boundary(mask: np.ndarray) -> np.ndarray:
    """H×W bool boundary of an H×W bool mask by the rules of the official program."""
    right, below, diagonal = np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask)
    right[:, :-1] = mask[:, 1:]
    below[:-1] = mask[1:]
    diagonal[:-1, :-1] = mask[1:, 1:]
    boundary = (mask ^ right) | (mask ^ below) | (mask ^ diagonal)
    boundary[-1] = mask[-1] ^ right[-1]
    boundary[:, -1] = mask[:, -1] ^ below[:, -1]
    boundary[-1, -1] = False
    return boundary


def plain_f(truth: np.ndarray, prediction: np.ndarray, tolerance: float = 0.008) -> float:
    """F of two H×W bool masks, as it is defined: full frames, dilation by a disk."""
    radius = int(tolerance if tolerance >= 1 else np.ceil(tolerance * np.hypot(*truth.shape)))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.uint8)
    truth, prediction = plain_boundary(truth), plain_boundary(prediction)
    near_truth, near_prediction = (cv2.dilate(b.astype(np.uint8), disk) > 0 for b in (truth, prediction))
    precision = (prediction & near_truth).sum() / prediction.sum() if prediction.any() else 1.0
    recall = (truth & near_prediction).sum() / truth.sum() if truth.any() else 1.0
    if truth.any() != prediction.any():
        return 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def plain_folders(truth: Path, prediction: Path) -> tuple[float, float]:
    """Mean J and F over the objects of all videos; ids from the first frame, first and last frame left out."""
    j_means, f_means = [], []
    for video in sorted(path for path in truth.iterdir() if path.is_dir()):
        paths = sorted(video.glob("*.png"))
        masks = [[np.array(Image.open(p)) for p in (path, prediction / video.name / path.name)] for path in paths]
        for object_id in np.unique(masks[0][0])[1:]:
            pairs = [(a == object_id, b == object_id) for a, b in masks[1:-1]]
            j_means.append(np.mean([plain_j(*pair) for pair in pairs]))
            f_means.append(np.mean([plain_f(*pair) for pair in pairs]))
    return float(np.mean(j_means)), float(np.mean(f_means))


def draw_folders(root: Path, videos: int = 5, frames: int = 80, size: tuple[int, int] = (480, 854)) -> None:
    """Write ``root/truth`` and ``root/prediction``: a drifting blob with a ragged edge, and a coarse copy."""
    height, width = size
    angles = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    for video in range(videos):
        rng = np.random.default_rng(video)
        waves = rng.uniform(0, 12, 6), rng.uniform(0, 6.3, 6)
        for t in range(frames):
            ragged = sum(
                a * np.sin((3 * k + 2) * angles + p + t / 9) for k, (a, p) in enumerate(zip(*waves, strict=True))
            )
            radius = 120 + 8 * video + ragged
            x = width * (0.35 + 0.3 * t / frames) + radius * np.cos(angles)
            y = height / 2 + radius * np.sin(angles)
            mask = np.zeros(size, np.uint8)
            cv2.fillPoly(mask, [np.stack([x, y], 1).astype(np.int32)], 1)
            small = cv2.resize(mask, (width // 16, height // 16), interpolation=cv2.INTER_AREA)
            coarse = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
            for name, ids in (("truth", mask), ("prediction", coarse)):
                write_mask(root / name / f"video{video}" / f"{t:05d}.png", ids)


def best_time(function: Callable, repeats: int) -> tuple[float, tuple[float, float]]:
    """Shortest of several runs in seconds, and the (J, F) that the function returns."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return min(times), result


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], epilog="example: python benchmarks/scores.py --repeats 5"
    )
    parser.add_argument("--truth", type=Path, help="folder of ground-truth masks: <video>/<frame>.png")
    parser.add_argument("--prediction", type=Path, help="folder of predicted masks of the same layout")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each program; the shortest counts")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        truth, prediction = args.truth, args.prediction
        if not (truth and prediction):
            draw_folders(Path(scratch))
            truth, prediction = Path(scratch) / "truth", Path(scratch) / "prediction"

        def ours(workers: int) -> tuple[float, float]:
            summary = score_folders(truth, prediction, workers=workers).summary()
            return summary.j.mean, summary.f.mean

        programs = {"plain definition": lambda: plain_folders(truth, prediction)}
        try:
            from vos_benchmark.benchmark import benchmark
        except ImportError:
            print("vos-benchmark is not installed: left out", file=sys.stderr)
        else:

            def other(processes: int) -> tuple[float, float]:
                _, j, f, _ = benchmark([str(truth)], [str(prediction)], num_processes=processes, verbose=False)
                return float(j[0]) / 100, float(f[0]) / 100

            programs["vos-benchmark, 1 process"] = lambda: other(1)
            programs[f"vos-benchmark, {cpu_count()} processes"] = lambda: other(cpu_count())
        programs["ours, 1 thread"] = lambda: ours(1)
        programs[f"ours, {cpu_count()} threads"] = lambda: ours(cpu_count())

        rows = {name: best_time(program, args.repeats) for name, program in programs.items()}
        plain_time, plain_result = rows["plain definition"]
        print(f"{'':28}{'seconds':>9}{'speed':>9}{'J mean':>12}{'F mean':>12}")
        for name, (seconds, (j, f)) in rows.items():
            print(f"{name:28}{seconds:9.2f}{plain_time / seconds:8.1f}×{j:12.8f}{f:12.8f}")
            assert np.allclose((j, f), plain_result, atol=1e-9, rtol=0), f"{name}: other numbers"


if __name__ == "__main__":
    main()
