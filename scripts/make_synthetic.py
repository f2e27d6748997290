"""Write generated videos with known masks, in the folder layout of a benchmark.

python scripts/make_synthetic.py --output output/synthetic --layout davis2017 --num_videos 2
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.images import draw_masks, write_image, write_mask
from datasets.scene import MAX_OBJECTS, Scene
from util.errors import exit_on_input_error
from util.files import atomic_path
from util.parallel import parallel_map

EPILOG = """
layouts (DIR is --output, SPLIT is --split; the name of a VIDEO holds its seed):
  davis2017  DIR/trainval/{JPEGImages,Annotations}/480p/VIDEO and DIR/trainval/ImageSets/2017/SPLIT.txt: masks of all
             frames with the ids 1, 2, …; every object is there from the first frame on
  davis2016  DIR/{JPEGImages,Annotations}/480p/VIDEO and DIR/ImageSets/2016/SPLIT.txt: the same as one 0/255 mask
  youtube    DIR/all_frames/SPLIT_all_frames/{JPEGImages,GroundTruth}/VIDEO, and DIR/SPLIT: the same of every fifth
             frame, Annotations (new objects where they first appear) and meta.json
  generic    DIR/JPEGImages/VIDEO, DIR/Annotations/VIDEO (new objects where they first appear), DIR/GroundTruth/VIDEO

examples:
  # ten videos of four objects, two of which come in later, where eval_youtube.py looks for its data
  python scripts/make_synthetic.py --layout youtube --output data/YouTube --num_objects 4 --late 2
  # one picture of the demo's clip and its true masks
  python scripts/make_synthetic.py --contact_sheet output/clip.jpg --size 216x384 --num_frames 28 --late 1 \\
      --seed 34
"""

YOUTUBE_STEP = 5  # every fifth frame of a YouTube-VOS video is annotated

Annotated = Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]


def annotate(scene: Scene, num_frames: int, step: int = 1) -> Annotated:
    """Yield (t, image H×W×3, ids H×W, new H×W), all uint8: what an annotator would write down.

    An object counts, and is in ``ids``, from its first mask on; ``new`` holds the objects whose first mask this is.
    That is frame 0 or, for one that comes in later, the first ``step``-th frame on which its centre is in the picture
    and it covers a thousandth of the picture.
    """
    known: list[int] = []
    for t in range(num_frames):
        image, ids = scene.render(t)
        new = []
        if t % step == 0:
            area = np.bincount(ids.ravel(), minlength=MAX_OBJECTS + 1)
            least = ids.size / 1000 if t else 1
            new = [i for i in scene.present(t) if i not in known and area[i] >= least]
            known += new
        yield t, image, np.where(np.isin(ids, known), ids, 0), np.where(np.isin(ids, new), ids, 0)


def write_davis(root: Path, name: str, frames: Annotated, binary: bool) -> None:
    """A video as DAVIS has it: a JPEG and a mask of every frame under ``root``/{JPEGImages,Annotations}/480p."""
    for t, image, ids, _ in frames:
        write_image(root / "JPEGImages/480p" / name / f"{t:05d}.jpg", image)
        write_mask(root / "Annotations/480p" / name / f"{t:05d}.png", ids, binary=binary)


def write_generic(root: Path, name: str, frames: Annotated) -> None:
    """A video as `eval_generic.py` wants it, and the masks of all frames in ``root``/GroundTruth."""
    for t, image, ids, new in frames:
        write_image(root / "JPEGImages" / name / f"{t:05d}.jpg", image)
        write_mask(root / "GroundTruth" / name / f"{t:05d}.png", ids)
        if new.any():
            write_mask(root / "Annotations" / name / f"{t:05d}.png", new)


def write_youtube(root: Path, split: str, name: str, frames: Annotated) -> dict:
    """A video as YouTube-VOS has it, and the true masks in GroundTruth folders. Returns its entry of meta.json."""
    all_frames, sparse = root / f"all_frames/{split}_all_frames", root / split
    first, annotated = {}, []
    for t, image, ids, new in frames:
        if t % YOUTUBE_STEP == 0:
            annotated.append(t)
        for folder in (all_frames, sparse) if t in annotated else (all_frames,):
            write_image(folder / "JPEGImages" / name / f"{t:05d}.jpg", image)
            write_mask(folder / "GroundTruth" / name / f"{t:05d}.png", ids)
        if new.any():
            write_mask(sparse / "Annotations" / name / f"{t:05d}.png", new)
            first |= dict.fromkeys(np.unique(new[new > 0]).tolist(), t)
    return {
        "objects": {
            str(i): {"category": "figure", "frames": [f"{t:05d}" for t in annotated if t >= start]}
            for i, start in first.items()
        }
    }


def contact_sheet(scene: Scene, num_frames: int, columns: int = 3) -> np.ndarray:
    """Evenly spaced frames above the same frames with the true masks drawn in: 2H×(columns·W)×3 uint8."""
    rendered = [scene.render(round(i * (num_frames - 1) / (columns - 1))) for i in range(columns)]
    plain = np.hstack([image for image, _ in rendered])
    return np.vstack([plain, np.hstack([draw_masks(image, ids) for image, ids in rendered])])


def _write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match or min(map(int, match.groups())) < 16:
        raise argparse.ArgumentTypeError(f"{text!r}: expected HEIGHTxWIDTH in pixels, at least 16x16, as in 480x854")
    return int(match[1]), int(match[2])


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Write generated videos with known masks, in the folder layout of a benchmark.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, help="folder to write to")
    parser.add_argument("--layout", choices=("davis2017", "davis2016", "youtube", "generic"), default="davis2017")
    parser.add_argument("--split", help="name of the list or folder of the videos (val; for youtube: valid)")
    parser.add_argument("--num_videos", type=int, default=10, help="(10)")
    parser.add_argument("--num_frames", type=int, default=60, help="frames per video (60)")
    parser.add_argument("--size", type=_size, default=(480, 854), help="HEIGHTxWIDTH in pixels (480x854)")
    parser.add_argument("--num_objects", type=int, default=3, help=f"objects per video, 1 to {MAX_OBJECTS} (3)")
    parser.add_argument("--late", type=int, default=0, help="how many of them come in after the first frame (0)")
    parser.add_argument("--leaving", type=int, default=0, help="how many of the others go out for a while (0)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first video; the next has the next one (0)")
    parser.add_argument("--contact_sheet", type=Path, help="write one picture of the first video here, .jpg or .png")
    args = parser.parse_args(argv)
    args.split = args.split or ("valid" if args.layout == "youtube" else "val")
    if args.output is None and args.contact_sheet is None:
        parser.error("give --output FOLDER, or --contact_sheet FILE")
    if args.layout.startswith("davis") and args.late and args.output:
        parser.error("--late: in DAVIS every object is there from the first frame on; use --layout youtube or generic")
    if args.num_videos < 1 or args.num_frames < 2 or args.seed < 0:
        parser.error("--num_videos must be at least 1, --num_frames at least 2 and --seed not negative")
    try:
        Scene.check(args.num_frames, args.size, args.num_objects, args.late, args.leaving)
    except ValueError as error:
        parser.error(str(error))
    return args


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)

    def scene(seed: int) -> Scene:
        return Scene(seed, args.num_frames, args.size, args.num_objects, args.late, args.leaving)

    def write(seed: int) -> dict | None:
        name = f"synthetic-{seed:04d}"
        step = {"youtube": YOUTUBE_STEP, "generic": 1}.get(args.layout, args.num_frames)  # DAVIS: frame 0 alone
        frames = annotate(scene(seed), args.num_frames, step)
        if args.layout == "youtube":
            return write_youtube(args.output, args.split, name, frames)
        if args.layout == "generic":
            return write_generic(args.output, name, frames)
        return write_davis(davis_root, name, frames, binary=args.layout == "davis2016")

    if args.output:
        seeds = range(args.seed, args.seed + args.num_videos)
        names = [f"synthetic-{seed:04d}" for seed in seeds]
        davis_root = args.output / "trainval" if args.layout == "davis2017" else args.output
        entries = parallel_map(write, seeds, "videos")
        # The lists come last: what they name is complete.
        if args.layout == "youtube":
            meta = {"videos": dict(zip(names, entries, strict=True))}
            _write_text(args.output / args.split / "meta.json", json.dumps(meta, indent=1))
        elif args.layout != "generic":
            year = args.layout[len("davis") :]
            _write_text(davis_root / "ImageSets" / year / f"{args.split}.txt", "\n".join(names) + "\n")
        print(f"{args.num_videos} video{'s' * (args.num_videos > 1)} of {args.num_frames} frames: {args.output}")
    if args.contact_sheet:
        write_image(args.contact_sheet, contact_sheet(scene(args.seed), args.num_frames))
        print(f"frames, and below them the generated truth: {args.contact_sheet}")


if __name__ == "__main__":
    main()
