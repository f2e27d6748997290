r"""Score predicted masks against ground truth: J, F and J&F as DAVIS and YouTube-VOS define them.

python scripts/score.py my/truth my/masks
python scripts/score.py data/DAVIS/2016/Annotations/480p output/davis16 --videos datasets/lists/davis2016_val.txt \
    --csv scores.csv --json scores.json --plot scores.png --images data/DAVIS/2016/JPEGImages/480p
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import util.interrupt  # noqa: F401

# isort: split
import csv
import io
import json
from collections.abc import Mapping
from typing import Any

from datasets.frames import check_folder, read_names
from eval_flags import video_names
from scoring.folders import ObjectScore, Scores, format_table, score_folders
from scoring.metrics import Summary, mean_summary
from util.errors import InputError, Parser, exit_on_input_error
from util.files import check_outputs, read_json, write_bytes

EPILOG = """
Both folders contain VIDEO/FRAME.png, or the frames of one video: palette or grey PNGs whose values are object ids, or
0/255 for a single object. An object is scored from the frame after its first one in the ground truth to the last but
one of the video: the first mask is given to the program, and the official protocol skips the last frame.
"""


def seen_and_unseen(scores: Scores, listed: set[str], meta: Path | None) -> dict[str, Summary]:
    """Scores of the seen objects, of the others, and the mean of the two, which is YouTube-VOS's overall score.

    ``listed`` names the seen objects by video, by 'video id' or by their category in ``meta``. Raises `InputError` if
    one of the groups is empty, and for an object that ``meta`` does not have.
    """
    categories = read_categories(meta) if meta else {}

    def is_seen(score: ObjectScore) -> bool:
        key = f"{score.video} {score.id}"
        if meta and key not in categories:
            raise InputError(f"{meta}: has no object {score.id} of video {score.video}; expected every scored one")
        return not listed.isdisjoint({score.video, key, categories.get(key)})

    groups = {}
    for name, keep in (("seen", is_seen), ("unseen", lambda score: not is_seen(score))):
        if not any(map(keep, scores.objects)):
            raise InputError(f"--seen: no object is {name}; expected a video, 'video id' or category on each line")
        groups[name] = scores.summary(keep)
    return groups | {"seen and unseen": mean_summary(groups.values())}


def read_categories(meta: Path) -> dict[str, str]:
    """{'video id': category} from a YouTube-VOS meta.json. Raises `InputError`."""
    try:
        videos = read_json(meta, "YouTube-VOS's meta.json with a category for each object")["videos"]
        return {
            f"{video} {object_id}": str(entry["category"])
            for video, content in videos.items()
            for object_id, entry in content["objects"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{meta}: expected YouTube-VOS's meta.json with a category for each object") from error


def columns(summary: Summary) -> dict[str, float]:
    """One row of the results; fractions, not percentages."""
    row = {"J&F": summary.jf}
    for name, statistics in (("J", summary.j), ("F", summary.f)):
        row |= {f"{name}_{key}": value for key, value in statistics._asdict().items()}
    return row


def write_csv(path: Path, scores: Scores, groups: Mapping[str, Summary]) -> None:
    """A row for all objects together, and one for each group, video and object. Raises `InputError`."""
    summaries = {"global": scores.summary(), **groups}
    rows: list[dict[str, Any]] = [{"level": name, **columns(summary)} for name, summary in summaries.items()]
    rows += [{"level": "video", "video": name, **columns(summary)} for name, summary in scores.videos().items()]
    for score in scores.objects:
        names = {"level": "object", "video": score.video, "object": score.id, "frames": len(score.frames)}
        rows.append(names | columns(score.summary))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["level", "video", "object", "frames", *columns(scores.summary())])
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def write_json(path: Path, scores: Scores, groups: Mapping[str, Summary]) -> None:
    """The same, with J and F of every frame. Raises `InputError`."""
    content: dict[str, Any] = {"global": columns(scores.summary())}
    content |= {name: columns(summary) for name, summary in groups.items()}
    content["videos"] = {name: columns(summary) for name, summary in scores.videos().items()}
    content["objects"] = []
    for score in scores.objects:
        frames = {"frames": score.frames, "J": score.j.tolist(), "F": score.f.tolist()}
        content["objects"].append({"video": score.video, "id": score.id, **columns(score.summary), **frames})
    content["notes"] = scores.notes
    write_bytes(path, json.dumps(content, indent=1).encode())


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(__doc__, EPILOG)
    add = parser.add_argument
    add("truth", type=Path, help="folder of ground-truth masks")
    add("prediction", type=Path, help="folder of predicted masks")
    videos_help = "names separated by commas, or a text file with a name on each line (default: all with ground truth)"
    add("--videos", type=video_names, metavar="A,B", help=f"videos to score: {videos_help}")
    all_help = "also score the first and last frame of each video and the first of each object"
    add("--all_frames", action="store_true", help=all_help)
    seen_help = (
        "also score seen and unseen objects separately: a text file that names a seen one on each line, by video,"
        " by video and id ('003234408d 2') or, with --meta, by category ('person'); all others are unseen"
    )
    add("--seen", type=Path, metavar="LIST", help=seen_help)
    add("--meta", type=Path, help="YouTube-VOS's meta.json, which has the categories for --seen")
    add("--csv", type=Path, help="write the scores to this file, as fractions")
    add("--json", type=Path, help="write the scores, and J and F of every frame, to this file")
    add("--plot", type=Path, help="draw curves over time and the best and worst frame of each video into this PNG")
    add("--images", type=Path, help="folder with VIDEO/FRAME.jpg, to draw the masks of --plot on")
    add("--workers", type=int, help="threads (default: one for each core)")
    args = parser.parse_args(arguments)
    if args.meta and not args.seen:
        raise InputError("--meta: has the categories for --seen, which is not given")

    listed = set(read_names(args.seen)) if args.seen else set()
    outputs = [(args.csv, b"J&F"), (args.json, b"J&F"), (args.plot, b"Matplotlib")]
    check_outputs(outputs, [args.truth, args.prediction])
    if args.images:
        check_folder(args.images, "VIDEO/FRAME.jpg for --images")
    scores = score_folders(args.truth, args.prediction, args.videos, args.all_frames, args.workers)
    groups = seen_and_unseen(scores, listed, args.meta) if args.seen else {}
    print(format_table(scores, groups))
    for note in scores.notes:
        print(f"note: {note}", file=sys.stderr)
    if args.csv:
        write_csv(args.csv, scores, groups)
    if args.json:
        write_json(args.json, scores, groups)
    if args.plot:
        from scripts.plot_scores import plot_scores  # matplotlib takes longer to import than scores take to compute

        plot_scores(scores, args.plot, args.images)


if __name__ == "__main__":
    main()
