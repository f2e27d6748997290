"""A plot of the scores of many videos: curves over time, and the best and the worst frame of each."""

import io
from pathlib import Path

import cv2
import matplotlib
import numpy as np

from datasets.frames import FRAME_SUFFIXES, natural_order
from datasets.images import PALETTE, draw_masks, read_image
from scoring.folders import ObjectScore, Scores, read_objects
from util.files import write_bytes

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (after the choice of backend)

plt.rcParams["text.parse_math"] = False  # a name may hold dollars
MAX_ROWS = 60  # more take long to draw, and eventually exceed matplotlib's largest figure
GREY = 90  # background of the thumbnails without images


def plot_scores(scores: Scores, path: Path, images: Path | None = None) -> None:
    """Write a PNG with one row per video, ordered by J&F, best first.

    A row shows J (solid) and F (dashed) of each object over the scored frames in the object's colour, and the best and
    the worst frame by mean J&F over its objects, with the prediction as a tint and the outline of the ground truth in
    white. ``images``: folder of ``<video>/<frame>.jpg`` to show beneath the masks. Raises `InputError` if the file
    cannot be written.
    """
    videos = sorted(scores.videos().items(), key=lambda item: -item[1].jf)
    title = ""
    if len(videos) > MAX_ROWS:
        title = f"   (the best and the worst of {len(videos)} videos)"
        videos = videos[: MAX_ROWS // 2] + videos[-MAX_ROWS // 2 :]
    figure, rows = plt.subplots(
        len(videos), 3, figsize=(14, 2.3 * len(videos) + 0.6), width_ratios=(5, 2.7, 2.7), squeeze=False, layout="tight"
    )
    total = scores.summary()
    figure.suptitle(f"J&F {100 * total.jf:.1f}   J {100 * total.j.mean:.1f}   F {100 * total.f.mean:.1f}{title}")
    for (name, summary), (curves, *thumbnails) in zip(videos, rows, strict=True):
        objects = [score for score in scores.objects if score.video == name]
        _draw_curves(curves, objects)
        curves.set_title(f"{name}   J&F {100 * summary.jf:.1f}", loc="left", fontsize=10)
        values: dict[str, list[float]] = {}
        for score in objects:
            for frame, j, f in zip(score.frames, score.j, score.f, strict=True):
                values.setdefault(frame, []).append((j + f) / 2)
        means = {frame: float(np.mean(jf)) for frame, jf in values.items()}
        means = {frame: jf for frame, jf in means.items() if jf < 1} or means  # at 1 there is often nothing to see
        for axes, choose, word in zip(thumbnails, (max, min), ("best", "worst"), strict=True):
            frame = choose(means, key=means.__getitem__)
            axes.imshow(_thumbnail(*scores.files[name][frame], images and images / name))
            axes.set_title(f"{word}: {frame}   J&F {100 * means[frame]:.1f}", loc="left", fontsize=9)
            axes.axis("off")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=80)
    write_bytes(path, png.getvalue())
    plt.close(figure)


def _draw_curves(axes: plt.Axes, objects: list[ObjectScore]) -> None:
    order = sorted({frame for score in objects for frame in score.frames}, key=natural_order)
    position = {frame: index for index, frame in enumerate(order)}
    for score in objects:
        colour = PALETTE[score.id] / 255
        x = [position[frame] for frame in score.frames]
        axes.plot(x, score.j, color=colour, label=f"{score.id}")
        axes.plot(x, score.f, color=colour, linestyle="--", linewidth=1)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlim(0, max(len(order) - 1, 1))
    ticks = sorted({0, len(order) // 2, len(order) - 1})
    axes.set_xticks(ticks, [order[tick] for tick in ticks])
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", fontsize=7, ncols=10, title="J —   F - -   of object", title_fontsize=7)


def _thumbnail(truth: Path, prediction: Path, images: Path | None) -> np.ndarray:
    """H×W×3 uint8, at most 400 pixels wide. ``images``: folder of the video's frames."""
    true_ids, predicted_ids = read_objects(truth), read_objects(prediction)
    height, width = true_ids.shape
    size = min(width, 400), max(1, round(height * min(width, 400) / width))
    true_ids, predicted_ids = (
        cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST) for ids in (true_ids, predicted_ids)
    )
    image = np.full((*true_ids.shape, 3), GREY, np.uint8)
    suffixes = *FRAME_SUFFIXES, *map(str.upper, FRAME_SUFFIXES)
    frames = [images / f"{truth.stem}{suffix}" for suffix in suffixes] if images else []
    for frame in [frame for frame in frames if frame.is_file()][:1]:
        image = cv2.resize(read_image(frame), size, interpolation=cv2.INTER_AREA)
    image = draw_masks(image, predicted_ids)
    window = np.ones((2, 2), np.uint8)
    image[cv2.erode(true_ids, window) != cv2.dilate(true_ids, window)] = 255
    return image
