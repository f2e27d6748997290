"""Draw the picture of README.md: what the shipped network makes of the demo's clip and of the clips of the next seeds.

python scripts/demo_picture.py docs/images/demo.jpg

A row for each clip, with its J&F: the first frame with the given masks, one from the middle and the last one.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import util.interrupt  # noqa: F401

# isort: split

import cv2
import numpy as np
from PIL import Image, ImageDraw

from datasets.images import draw_masks, read_image, read_mask, write_image
from scoring.folders import score_folders
from scripts import demo
from util.errors import Parser, exit_on_input_error
from util.files import check_output

SEEDS = range(demo.SEED, demo.SEED + 3)
THUMB = (426, 240)  # width and height of a frame in the picture


def row(seed: int, output: Path, model: Path) -> np.ndarray:
    """Run the demo with ``seed`` and draw three of its frames side by side, H×W×3 uint8, with J&F in a corner."""
    demo.main(["--seed", str(seed), "--output", str(output), "--model", str(model)])
    name = f"synthetic-{seed:04d}"
    masks = sorted((output / "masks" / name).glob("*.png"))
    thumbs = []
    for path in (masks[0], masks[len(masks) // 2], masks[-1]):
        frame = read_image(output / "clip/JPEGImages" / name / f"{path.stem}.jpg")
        thumbs.append(cv2.resize(draw_masks(frame, read_mask(path)), THUMB, interpolation=cv2.INTER_AREA))
    scores = score_folders(output / "clip/GroundTruth", output / "masks", [name])
    picture = Image.fromarray(np.concatenate(thumbs, axis=1))
    text = f"seed {seed}: J&F {100 * scores.summary().jf:.1f}"
    ImageDraw.Draw(picture).text((8, 6), text, fill=(255, 255, 255), stroke_width=2, stroke_fill=(0, 0, 0))
    return np.array(picture)


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("picture", type=Path, help="new JPEG or PNG")
    parser.add_argument("--model", type=Path, default=demo.SHIPPED, help="weights (default: the shipped ones)")
    parser.add_argument("--output", type=Path, default="output/demo_picture", help="working folder")
    args = parser.parse_args(arguments)
    check_output(args.picture, [])
    write_image(args.picture, np.concatenate([row(seed, args.output, args.model) for seed in SEEDS]))


if __name__ == "__main__":
    main()
