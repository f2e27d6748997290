"""Scores of folders of masks: which frames and objects count, means over them, and a table."""

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.frames import check_folder, natural_order
from datasets.images import read_mask
from scoring.metrics import FrameScore, Summary, mean_summary, score_masks, statistics
from util.errors import InputError
from util.files import visible
from util.parallel import parallel_map

ABSENT = FrameScore(1.0, 1.0, False)  # of an object in neither mask


@dataclass(frozen=True)
class ObjectScore:
    """One object of one video. ``j`` and ``f``: float64 in [0, 1], one value per scored frame."""

    video: str
    id: int
    frames: list[str]  # names of the scored frames, without suffix
    j: np.ndarray
    f: np.ndarray

    @property
    def summary(self) -> Summary:
        return Summary(statistics(self.j), statistics(self.f))


@dataclass(frozen=True)
class Scores:
    """The result of `score_folders`."""

    objects: list[ObjectScore]  # ordered by video and id
    notes: list[str]  # what was ignored
    files: dict[str, dict[str, tuple[Path, Path]]]  # video → frame → ground truth and prediction

    def summary(self, keep: Callable[[ObjectScore], bool] = lambda score: True) -> Summary:
        """Means over the objects that ``keep`` selects (default: all). Each object has the same weight."""
        return mean_summary(score.summary for score in self.objects if keep(score))

    def videos(self) -> dict[str, Summary]:
        """Means over the objects of each video."""
        groups = itertools.groupby(self.objects, lambda score: score.video)
        return {name: mean_summary(score.summary for score in scores) for name, scores in groups}


def score_folders(
    truth: Path,
    prediction: Path,
    videos: Iterable[str] | None = None,
    all_frames: bool = False,
    workers: int | None = None,
    frames: Mapping[str, Collection[str]] | None = None,
) -> Scores:
    """Score a folder of masks against the ground truth: ``<video>/<frame>.png``, or the frames of one video.

    An object is scored from the frame after its first, whose mask a semi-supervised program is given, to the last but
    one of the video (in `natural_order`), or on all frames with ``all_frames``. Ids may have gaps; in a mask that
    contains only 0 and 255, 255 is object 1. Predictions without ground truth are ignored with a note.

    Args:
        videos: names of the videos to score (default: all that have ground truth).
        workers: number of threads (default: one per core).
        frames: video → names of its frames; ground truth of other frames is ignored (default: all are used).

    Raises `InputError` for missing videos and frames before any mask is read, and later for unreadable masks and masks
    of different sizes.
    """
    truth_masks, predicted_masks = (_list_masks(folder, truth.name) for folder in (truth, prediction))
    for video, kept in (frames or {}).items():
        truth_masks[video] = {name: path for name, path in truth_masks.get(video, {}).items() if name in kept}
    files = {}
    for video in truth_masks if videos is None else videos:
        if not truth_masks.get(video):
            raise InputError(f"{truth / video}: no ground truth; expected a folder of PNG masks")
        if video not in predicted_masks:
            raise InputError(f"{prediction / video}: no prediction; expected a folder of PNG masks")
        files[video] = _pair(truth_masks[video], predicted_masks[video], all_frames, prediction / video)

    jobs = [pair for pairs in files.values() for pair in pairs.values()]
    results = iter(parallel_map(_score_files, jobs, "Scoring", workers))
    objects, notes = [], []
    for video, pairs in files.items():
        found, ignored = object_scores(video, list(pairs), list(itertools.islice(results, len(pairs))), all_frames)
        objects += found
        notes += ignored
    if not objects:
        raise InputError(f"{truth}: nothing to score; expected masks with objects (ids above 0)")
    if extra_videos := [name for name in predicted_masks if name not in truth_masks]:
        notes.append(f"ignored videos without ground truth: {_enumerate(extra_videos)}")
    if extra_frames := sum(len(predicted_masks[video].keys() - truth_masks[video].keys()) for video in files):
        notes.append(f"ignored {extra_frames} predicted masks of frames without ground truth")
    return Scores(objects, notes, files)


def format_table(scores: Scores, groups: Mapping[str, Summary] | None = None) -> str:
    """Scores in percent as lines of text: global, per video and, for videos with several objects, per object.

    ``groups``: further lines below the global one.
    """
    rows = [("global", scores.summary()), *(groups or {}).items()]
    for video, summary in scores.videos().items():
        rows.append((video, summary))
        objects = [score for score in scores.objects if score.video == video]
        if len(objects) > 1:
            rows += [(f"{video} {score.id:>3}", score.summary) for score in objects]
    width = max(len(name) for name, _ in rows)
    heads = ("J&F", "J mean", "J recall", "J decay", "F mean", "F recall", "F decay")
    lines = [" " * width + "".join(f"{head:>10}" for head in heads)]
    for name, summary in rows:
        percents = [round(100 * value, 1) + 0.0 for value in (summary.jf, *summary.j, *summary.f)]  # -0.0 becomes 0.0
        lines.append(f"{name:<{width}}" + "".join(f"{percent:10.1f}" for percent in percents))
    return "\n".join(lines)


def _list_masks(folder: Path, name: str) -> dict[str, dict[str, Path]]:
    """Video → frame name → path, in order, for a folder of video folders or of the masks of one video.

    ``name``: the video's name in the latter case.
    """
    check_folder(folder, "<video>/<frame>.png in it")

    def entries(folder: Path) -> list[Path]:  # not `glob`, which takes a folder that cannot be read for an empty one
        return [folder / name for name in visible([path.name for path in folder.iterdir()])]

    masks = {}
    for path in (*sorted(path for path in entries(folder) if path.is_dir()), folder):
        if paths := [file for file in entries(path) if file.suffix.lower() == ".png"]:
            masks[path] = {path.stem: path for path in sorted(paths, key=lambda path: natural_order(path.stem))}
    if not masks:
        raise InputError(f"{folder}: no masks in it; expected <video>/<frame>.png")
    own = masks.pop(folder, {})
    return {path.name: found for path, found in masks.items()} or {name: own}


def _pair(
    truth: dict[str, Path], prediction: dict[str, Path], all_frames: bool, folder: Path
) -> dict[str, tuple[Path, Path]]:
    """Ground truth and prediction of each frame to read, in order; ``folder`` holds the video's predictions.

    Without ``all_frames`` the last frame is left out, and the first is paired with itself: it is read only for the
    objects that it introduces.
    """
    first, *others = truth
    scored = list(truth) if all_frames else others[:-1]
    if not scored:
        raise InputError(
            f"{truth[first].parent}: {len(truth)} masks are too few to score without the first and the last; expected"
            " at least 3, or ask for all frames to be scored"
        )
    if missing := [name for name in scored if name not in prediction]:
        raise InputError(
            f"{folder / missing[0]}.png: no such prediction ({len(missing)} of {len(scored)} are missing);"
            f" expected one for {truth[missing[0]]}"
        )
    return {first: (truth[first], truth[first]), **{name: (truth[name], prediction[name]) for name in scored}}


def _score_files(pair: tuple[Path, Path]) -> dict[int, FrameScore]:
    truth, prediction = map(read_objects, pair)
    if prediction.shape != truth.shape:
        found, expected = (f"{width}×{height}" for height, width in (prediction.shape, truth.shape))
        raise InputError(f"{pair[1]}: is {found} pixels; expected {expected}, the size of {pair[0]}")
    return score_masks(truth, prediction)


def read_objects(path: Path) -> np.ndarray:
    """H×W uint8 ids of a mask file; a 0/255 mask becomes object 1. Raises `InputError` like `read_mask`."""
    ids = read_mask(path)
    return (ids == 255).view(np.uint8) if ids.max(initial=0) == 255 else ids


def object_scores(
    video: str, names: list[str], frames: list[dict[int, FrameScore]], all_frames: bool = False
) -> tuple[list[ObjectScore], list[str]]:
    """The scores of one video per object, and notes on what was ignored; ``names`` are those of the ``frames``."""
    first: dict[int, int] = {}  # id → index of the frame on which it first appears
    for index, frame in enumerate(frames):
        for object_id in [object_id for object_id, score in frame.items() if score.in_truth]:
            first.setdefault(object_id, index)
    objects, notes = [], []
    for object_id in sorted(first):
        start = 0 if all_frames else first[object_id] + 1
        scores = [frame.get(object_id, ABSENT) for frame in frames[start:]]
        if scores:
            j, f, _ = np.array(scores).T
            objects.append(ObjectScore(video, object_id, names[start:], j, f))
        else:
            notes.append(f"ignored object {object_id} of {video}: no frame to score after its first")
    if unknown := sorted({object_id for frame in frames for object_id in frame} - first.keys()):
        notes.append(f"ignored predicted ids that {video} does not have: {_enumerate(unknown)}")
    return objects, notes


def _enumerate(items: list) -> str:
    shown = ", ".join(map(str, items[:5]))
    return shown if len(items) <= 5 else f"{shown} and {len(items) - 5} more"
