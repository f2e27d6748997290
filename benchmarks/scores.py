"""How much faster the scores are than their definition, with equal numbers.

python benchmarks/scores.py
python benchmarks/scores.py --truth data/DAVIS/2016/Annotations/480p --prediction output/davis16

Without folders, five videos of 80 frames of 854×480 with one object are generated.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.images import read_mask, write_mask
from eval_flags import at_least
from scoring.folders import score_folders
from util.errors import InputError, Parser, exit_on_input_error
from util.parallel import cpu_count


def naive_j(truth: np.ndarray, prediction: np.ndarray) -> float:
    """J of two H×W bool masks by its definition."""
    union = (truth | prediction).sum()
    return (truth & prediction).sum() / union if union else 1.0


def naive_boundary(mask: np.ndarray) -> np.ndarray:
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


def naive_f(truth: np.ndarray, prediction: np.ndarray) -> float:
    """F of two H×W bool masks by its definition: full frames, dilation by a disk of 0.8 % of the diagonal."""
    radius = int(np.ceil(0.008 * np.hypot(*truth.shape)))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.uint8)
    truth, prediction = naive_boundary(truth), naive_boundary(prediction)
    near_truth, near_prediction = (cv2.dilate(b.astype(np.uint8), disk) > 0 for b in (truth, prediction))
    precision = (prediction & near_truth).sum() / prediction.sum() if prediction.any() else 1.0
    recall = (truth & near_prediction).sum() / truth.sum() if truth.any() else 1.0
    if truth.any() != prediction.any():
        return 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def naive_folders(files: Iterable[Mapping[str, tuple[Path, Path]]]) -> tuple[float, float]:
    """Mean J and F over the objects of all videos; ids from the first frame, which is left out."""
    j_means, f_means = [], []
    for frames in files:
        masks = [[read_mask(path) for path in pair] for pair in frames.values()]
        for object_id in np.unique(masks[0][0])[1:]:
            pairs = [(a == object_id, b == object_id) for a, b in masks[1:]]
            j_means.append(np.mean([naive_j(*pair) for pair in pairs]))
            f_means.append(np.mean([naive_f(*pair) for pair in pairs]))
    return float(np.mean(j_means)), float(np.mean(f_means))


def draw_folders(root: Path, videos: int = 5, frames: int = 80, size: tuple[int, int] = (480, 854)) -> None:
    """Write ``root/truth``, a drifting blob with a ragged outline, and ``root/prediction``, a coarse copy."""
    height, width = size
    angles = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    for video in range(videos):
        rng = np.random.default_rng(video)
        waves = list(zip(rng.uniform(0, 12, 6), rng.uniform(0, 6.3, 6), strict=True))
        for t in range(frames):
            radius = np.full(400, 120.0 + 8 * video)
            for k, (amplitude, phase) in enumerate(waves):
                radius += amplitude * np.sin((3 * k + 2) * angles + phase + t / 9)
            x = width * (0.35 + 0.3 * t / frames) + radius * np.cos(angles)
            y = height / 2 + radius * np.sin(angles)
            mask = np.zeros(size, np.uint8)
            cv2.fillPoly(mask, [np.stack([x, y], 1).astype(np.int32)], 1)
            small = cv2.resize(mask, (width // 16, height // 16), interpolation=cv2.INTER_AREA)
            coarse = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
            for name, ids in (("truth", mask), ("prediction", coarse)):
                write_mask(root / name / f"video{video}" / f"{t:05d}.png", ids)


def best_time(function: Callable[[], tuple[float, float]], repeats: int) -> tuple[float, tuple[float, float]]:
    """The shortest of several runs in seconds, and the (J, F) that the function returns."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return min(times), result


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--truth", type=Path, help="folder of ground-truth masks: VIDEO/FRAME.png")
    parser.add_argument("--prediction", type=Path, help="folder of predicted masks of the same layout")
    parser.add_argument("--repeats", type=at_least(1), default=3, help="runs, of which the shortest counts")
    args = parser.parse_args(arguments)
    if bool(args.truth) != bool(args.prediction):
        raise InputError("expected both --truth and --prediction, or neither")
    with tempfile.TemporaryDirectory() as scratch:
        truth, prediction = args.truth, args.prediction
        if not truth:
            draw_folders(Path(scratch))
            truth, prediction = Path(scratch) / "truth", Path(scratch) / "prediction"

        files = score_folders(truth, prediction).files.values()  # raises for faulty folders

        def optimized_folders(workers: int) -> tuple[float, float]:
            summary = score_folders(truth, prediction, workers=workers).summary()
            return summary.j.mean, summary.f.mean

        naive_time, expected = best_time(lambda: naive_folders(files), args.repeats)
        rows = {"definition": (naive_time, expected)}
        for workers in sorted({1, cpu_count()}):
            rows[f"scoring, {workers} threads"] = best_time(partial(optimized_folders, workers), args.repeats)
        print(f"{'':28}{'seconds':>9}{'speed':>9}{'J mean':>12}{'F mean':>12}")
        for name, (seconds, (j, f)) in rows.items():
            print(f"{name:28}{seconds:9.2f}{naive_time / seconds:8.1f}×{j:12.8f}{f:12.8f}")
            assert np.allclose((j, f), expected, atol=1e-9, rtol=0), f"{name}: different numbers"


if __name__ == "__main__":
    main()
