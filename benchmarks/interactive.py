"""A robot user: how much each correction improves a video, and which frames are worth correcting.

python benchmarks/interactive.py --model saves/gsfm-small.pth --data_path my_videos --plot interactive.png

my_videos/JPEGImages/VIDEO/ contains the frames and my_videos/GroundTruth/VIDEO/ the true mask of every frame. The robot
gives the first frame's mask, propagates, and then, round after round, gives the complete true mask of one more frame:
the one that the session suggests, the worst one, or one drawn at random. For comparison, the frames of the suggested
ones are also given to the streaming predictor, which only goes forwards.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import write_json
from datasets.frames import check_folder, list_frames, visible_paths
from datasets.images import check_mask_size, image_size, mask_ids, read_image
from eval_flags import at_least, video_names
from predictor import VideoPredictor
from scoring.folders import read_objects
from scoring.metrics import score_masks
from session import Session
from util.device import DEVICES, keep_freed_memory, pick_device
from util.errors import InputError, Parser, exit_on_input_error
from util.files import atomic_path, check_outputs

ROUNDS = 0, 1, 2, 3, 5, 8  # numbers of corrections in the table
FORWARD = "suggested, forwards only"


class Clip(NamedTuple):
    """A video in memory."""

    name: str
    frames: list[np.ndarray]  # H×W×3 uint8
    truth: list[np.ndarray]  # H×W uint8


def read_clip(root: Path, name: str) -> Clip:
    """Raises `InputError` unless there are two frames, every frame has a mask, and the first mask an object."""
    files, masks = list_frames(root / "JPEGImages" / name), root / "GroundTruth" / name
    size, truth = image_size(files[0]), [read_objects(masks / f"{file.stem}.png") for file in files]
    for file, ids in zip(files, truth, strict=True):
        check_mask_size(masks / f"{file.stem}.png", ids.shape, file.name, size)
    if len(files) < 2 or not truth[0].any():
        raise InputError(f"{masks}: expected the masks of two frames or more, and an object in the first")
    return Clip(name, [read_image(file, 1, size) for file in files], truth)


def frame_scores(truth: np.ndarray, ids: np.ndarray, objects: list[int]) -> list[float]:
    """J&F of each of ``objects``; 1 for one that neither mask holds."""
    scores = score_masks(truth, ids)
    return [(scores[i].j + scores[i].f) / 2 if i in scores else 1.0 for i in objects]


def all_scores(clip: Clip, results: list[np.ndarray]) -> np.ndarray:
    """J&F, frames × objects of the truth."""
    objects = sorted(set().union(*map(mask_ids, clip.truth)))
    pairs = zip(clip.truth, results, strict=True)
    return np.array([frame_scores(truth, ids, objects) for truth, ids in pairs])


Choose = Callable[[Session, np.ndarray], int]


def choices(seed: int) -> dict[str, Choose]:
    """What the robot corrects next, given the session and the frames' J&F."""
    random = np.random.default_rng(seed)

    def left(session: Session) -> list[int]:
        return [index for index in range(len(session)) if index not in session.annotated]

    return {
        "suggested": lambda session, _: session.next_frame(),
        "worst": lambda session, scores: min(left(session), key=lambda index: scores[index].mean()),
        "uniform": lambda session, _: int(random.choice(left(session))),
    }


class Round(NamedTuple):
    score: float  # mean J&F over objects and all frames but the first
    seconds: float
    frame: int  # that was corrected before


Pairs = list[tuple[float, float]]


def confidence_pairs(clip: Clip, session: Session) -> Pairs:
    """The confidence and the true J of each object on each frame that has no mask; J is 1 if neither mask holds it."""
    pairs = []
    for index in set(range(len(session))) - set(session.annotated):
        result = session.result(index)
        scores = score_masks(clip.truth[index], result.ids)
        pairs += [(sure, scores[i].j if i in scores else 1.0) for i, sure in result.confidence.items()]
    return pairs


def rank_correlation(pairs: Pairs) -> float:
    """Spearman's; equal values share their mean rank."""

    def ranks(values: np.ndarray) -> np.ndarray:
        _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (counts.cumsum() - counts / 2)[places]

    return float(np.corrcoef([ranks(values) for values in np.transpose(pairs)])[0, 1])


def play(predictor: VideoPredictor, clip: Clip, choose: Choose, rounds: int, pairs: Pairs | None = None) -> list[Round]:
    """Correct a clip ``rounds`` times; the first result has no correction, and gives its confidences to ``pairs``."""
    session, frame, played = predictor.session(clip.frames), 0, []
    for _ in range(min(rounds + 1, len(clip.frames))):
        start = time.perf_counter()
        session.annotate(frame, clip.truth[frame], complete=True)
        session.propagate()
        seconds = time.perf_counter() - start
        scores = all_scores(clip, [session.result(index).ids for index in range(len(session))])
        played.append(Round(float(scores[1:].mean()), seconds, frame))
        if pairs is not None and len(played) == 1:
            pairs += confidence_pairs(clip, session)
        if len(session.annotated) < len(session):
            frame = choose(session, scores)
    return played


def play_forwards(predictor: VideoPredictor, clip: Clip, frames: list[int]) -> list[Round]:
    """The streaming predictor with the masks of the first of ``frames``, of the first two, and so on."""
    played = []
    for count, frame in enumerate(frames, 1):
        start = time.perf_counter()
        masks = {index: clip.truth[index] for index in frames[:count]}
        results = [result.ids for result in predictor.segment(clip.frames, masks, complete=True)]
        played.append(Round(float(all_scores(clip, results)[1:].mean()), time.perf_counter() - start, frame))
    return played


def report(played: dict[str, dict[str, list[Round]]], rounds: int) -> str:
    """A table for each way of choosing frames: mean J&F in percent, area under the curve, seconds per correction."""
    shown = [n for n in ROUNDS if n <= rounds]
    lines = [
        f"| corrected frames | {' | '.join(map(str, shown))} | area | s per round |",
        "|---" * (len(shown) + 3) + "|",
    ]
    for name, clips in played.items():
        curve = np.mean([_curve(rows, rounds) for rows in clips.values()], axis=0)
        seconds = np.mean([row.seconds for rows in clips.values() for row in rows[1:]])
        area = np.mean((curve[1:] + curve[:-1]) / 2)
        cells = [f"{100 * value:.1f}" for value in (*curve[shown], area)]
        lines.append(f"| {name} | {' | '.join(cells)} | {seconds:.1f} |")
    return "\n".join(lines)


def _curve(rows: list[Round], rounds: int) -> np.ndarray:
    """J&F after 0 to ``rounds`` corrections; a clip with fewer frames keeps its last."""
    scores = [row.score for row in rows]
    return np.array(scores + scores[-1:] * (rounds + 1 - len(scores)))


def plot(played: dict[str, dict[str, list[Round]]], rounds: int, path: Path) -> None:
    """Write the mean curves as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="tight")
    for name, clips in played.items():
        axes.plot(100 * np.mean([_curve(rows, rounds) for rows in clips.values()], axis=0), marker=".", label=name)
    axes.set(xlabel="corrected frames", ylabel="J&F")
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    plt.close(figure)


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="FILE", help="weights")
    add("--data_path", type=Path, required=True, metavar="FOLDER", help="contains JPEGImages/ and GroundTruth/")
    add("--videos", type=video_names, metavar="A,B", help="only these videos (default: all)")
    add("--size", type=at_least(1), default=480, metavar="N", help="shorter side at inference (default %(default)s)")
    add("--rounds", type=at_least(1), default=8, metavar="N", help="corrections (default %(default)s)")
    add("--choices", default="suggested,worst,uniform", help="comma-separated (default %(default)s)")
    add("--no-forwards", action="store_true", help="leave out the streaming predictor")
    add("--draws", type=at_least(1), default=1, metavar="N", help="random choices of uniform (default %(default)s)")
    add("--device", choices=DEVICES, default="auto", help="(default %(default)s)")
    add("--plot", type=Path, metavar="FILE", help="PNG to write")
    add("--json", type=Path, metavar="FILE", help="write all rounds of all videos to this file")
    args = parser.parse_args(arguments)
    names = args.choices.split(",")
    if unknown := set(names) - choices(0).keys():
        raise InputError(f"--choices {','.join(unknown)}: expected some of {', '.join(choices(0))}")
    images = args.data_path / "JPEGImages"
    inputs = [args.model, images, args.data_path / "GroundTruth"]
    check_outputs([(args.json, b'"machine"'), (args.plot, b"Matplotlib")], inputs)
    check_folder(images, "JPEGImages/VIDEO and GroundTruth/VIDEO in --data_path")
    videos = args.videos or [path.name for path in visible_paths(images) if path.is_dir()]
    if not videos:
        raise InputError(f"{images}: holds no folders; expected one folder of frames for each video")
    for video in videos:
        read_clip(args.data_path, video)  # raises before hours of work
    keep_freed_memory(pick_device(args.device))
    predictor = VideoPredictor.load(args.model, args.device, size=args.size)
    played: dict[str, dict[str, list[Round]]] = {}
    pairs: dict[str, Pairs] = {video: [] for video in videos}
    video_of: dict[str, str] = {}  # of each row; every draw has one of its own
    for video in videos:
        clip = read_clip(args.data_path, video)
        for name in names:
            for draw in range(args.draws if name == "uniform" else 1):
                first = pairs[video] if name == names[0] and not draw else None
                rows = play(predictor, clip, choices(draw)[name], args.rounds, first)
                row = f"{video} ({draw})" if draw else video
                video_of[row] = video
                played.setdefault(name, {})[row] = rows
            if name == "suggested" and not args.no_forwards:
                played.setdefault(FORWARD, {})[video] = play_forwards(predictor, clip, [row.frame for row in rows])
        cells = [f"{name} {' '.join(f'{100 * row.score:.1f}' for row in rows[video])}" for name, rows in played.items()]
        print(f"{video}: {'; '.join(cells)}", flush=True)
    worst = sorted(videos, key=lambda video: played[names[0]][video][0].score)[:5]
    for title, group in (("all videos", videos), (f"the five worst: {', '.join(worst)}", worst)):
        chosen = {
            name: {row: own for row, own in rows.items() if video_of[row] in group} for name, rows in played.items()
        }
        print(f"\n{title}\n\n{report(chosen, args.rounds)}")
    within = np.mean([rank_correlation(own) for own in pairs.values()])
    print(
        f"\nrank correlation of confidence and J: {rank_correlation(sum(pairs.values(), [])):.2f}, within {within:.2f}"
    )
    if args.plot:
        plot(played, args.rounds, args.plot)
    if args.json:
        write_json(args.json, predictor.device, {"rounds": played})


if __name__ == "__main__":
    main()
