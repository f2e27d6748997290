"""Write generated videos with exact masks, in the folder layout of a benchmark.

python scripts/make_synthetic.py --output output/synthetic --layout davis2017 --num_videos 2
python scripts/make_synthetic.py --layout youtube --output data/YouTube --num_objects 4 --late 2

The second writes ten videos of four objects, two of which enter later, where eval_youtube.py looks for its data.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import util.interrupt  # noqa: F401

# isort: split
import argparse
import json
import re

import numpy as np

from datasets.frames import read_names
from datasets.images import draw_masks, write_image, write_mask
from datasets.listing import read_meta
from datasets.scene import MAX_OBJECTS, PASSAGE, Scene
from util.errors import InputError, Parser, exit_on_input_error
from util.files import check_output, write_bytes
from util.parallel import parallel_map

EPILOG = """
layouts (DIR is --output, SPLIT is --split; a VIDEO is named after its seed, such as synthetic-0001):
  davis2017  DIR/trainval/{JPEGImages,Annotations}/480p/VIDEO and DIR/trainval/ImageSets/2017/SPLIT.txt: masks of all
             frames with the ids 1, 2, …; every object is present from the first frame on
  davis2016  DIR/{JPEGImages,Annotations}/480p/VIDEO and DIR/ImageSets/2016/SPLIT.txt: the same as one 0/255 mask
  youtube    DIR/all_frames/SPLIT_all_frames/{JPEGImages,GroundTruth}/VIDEO; DIR/SPLIT with every fifth frame of both,
             Annotations (each object's first mask) and meta.json
  generic    DIR/JPEGImages/VIDEO, DIR/Annotations/VIDEO (each object's first mask), DIR/GroundTruth/VIDEO

Nothing but the videos and lists of an earlier run is ever replaced: the program stops before it writes anything.
"""

# The list of videos, if any, and the folders that hold a folder for each: JPEGImages its frames, GroundTruth the ids of
# all objects, Annotations the same in DAVIS, otherwise only objects annotated first. SPLIT/ has every fifth frame.
DAVIS = ["JPEGImages/480p", "Annotations/480p"]
LAYOUTS: dict[str, tuple[str | None, list[str]]] = {
    "davis2016": ("ImageSets/2016/SPLIT.txt", DAVIS),
    "davis2017": ("trainval/ImageSets/2017/SPLIT.txt", [f"trainval/{name}" for name in DAVIS]),
    "generic": (None, ["JPEGImages", "GroundTruth", "Annotations"]),
    "youtube": (
        "SPLIT/meta.json",
        [f"all_frames/SPLIT_all_frames/{name}" for name in ("JPEGImages", "GroundTruth")]
        + [f"SPLIT/{name}" for name in ("JPEGImages", "GroundTruth", "Annotations")],
    ),
}
YOUTUBE_STEP = 5
PREFIX = "synthetic-"  # of the videos' names


def write_video(output: Path, name: str, layout: str, split: str, scene: Scene, num_frames: int) -> dict[int, int]:
    """Write one video; return {id: t}, the frame of the first annotation of each object.

    That is frame 0 or, for an object that enters later, the first frame (in youtube, fifth frame) on which its centre
    is in the picture and it covers a thousandth of the picture. Before it, the object is not in the masks.
    """
    step = {"youtube": YOUTUBE_STEP, "generic": 1}.get(layout, num_frames)  # DAVIS: frame 0 only
    first: dict[int, int] = {}
    for t in range(num_frames):
        frame, ids = scene.render(t)
        if t % step == 0:
            area = np.bincount(ids.ravel(), minlength=MAX_OBJECTS + 1)
            candidates = [i for i in scene.present(t) if area[i] >= ids.size / 1000] if t else np.unique(ids[ids > 0])
            first |= {int(i): t for i in candidates if i not in first}
        for folder in LAYOUTS[layout][1]:
            path = output / folder.replace("SPLIT", split) / name / f"{t:05d}"
            only_new = folder.endswith("Annotations")
            shown = [i for i, start in first.items() if start == t or not only_new]
            if folder.startswith("SPLIT/") and t % YOUTUBE_STEP or only_new and not shown:
                continue
            if "JPEGImages" in folder:
                write_image(path.with_suffix(".jpg"), frame)
            else:
                write_mask(path.with_suffix(".png"), np.where(np.isin(ids, shown), ids, 0), layout == "davis2016")
    return first


def write_list(path: Path, videos: dict[str, dict[int, int]], num_frames: int) -> None:
    """List the videos, {name: {id: frame of its first annotation}}, in a meta.json of YouTube-VOS or a text file."""
    text = "".join(f"{name}\n" for name in videos)
    if path.suffix == ".json":
        meta: dict[str, dict] = {name: {"objects": {}} for name in videos}
        for name, first in videos.items():
            for i, start in first.items():
                frames = [f"{t:05d}" for t in range(start, num_frames, YOUTUBE_STEP)]
                meta[name]["objects"][i] = {"category": "figure", "frames": frames}
        text = json.dumps({"videos": meta}, indent=1)
    write_bytes(path, text.encode())


def claim(output: Path, folders: list[Path], listing: Path | None) -> None:
    """Mark ``output`` as written by this program and remove the frames of an earlier run from ``folders``.

    Raises `InputError`, and changes nothing, if any of these exists in an output that is not marked, or if ``listing``
    exists and lists other videos than generated ones.
    """
    marker, text = output / "synthetic.txt", f"The videos {PREFIX}* are written by scripts/make_synthetic.py.\n"
    existing = [path for path in (marker, listing, *folders) if path and path.exists()]
    if existing and not (marker.is_file() and marker.read_text("utf-8", "replace") == text):
        raise InputError(f"{existing[0]}: exists and was not written by this program; choose another --output")
    if listing and listing.exists():
        listed = read_meta(listing) if listing.suffix == ".json" else read_names(listing)
        if not all(name.startswith(PREFIX) for name in listed):
            raise InputError(f"{listing}: lists other videos than generated ones; choose another --output or --split")
    write_bytes(marker, text.encode())
    for folder in folders:
        for stale in folder.glob("[0-9][0-9][0-9][0-9][0-9].*"):
            stale.unlink()


def contact_sheet(scene: Scene, num_frames: int) -> np.ndarray:
    """Three evenly spaced frames above the same frames with their masks drawn in: 2H×3W×3 uint8."""
    rendered = [scene.render(t) for t in (0, num_frames // 2, num_frames - 1)]
    return np.hstack([np.vstack([image, draw_masks(image, ids)]) for image, ids in rendered])


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch("([0-9]{1,4})x([0-9]{1,4})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r}: expected HEIGHTxWIDTH in pixels, as in 480x854; up to 9999")
    return int(match[1]), int(match[2])


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__, EPILOG)
    parser.add_argument("--output", type=Path, help="folder to write to")
    parser.add_argument("--layout", choices=LAYOUTS, default="davis2017")
    parser.add_argument("--split", help="name of the list or folder of the videos (default: val; youtube: valid)")
    parser.add_argument("--num_videos", type=int, default=10, help="number of videos (default: 10)")
    parser.add_argument("--num_frames", type=int, default=60, help="frames per video (default: 60)")
    parser.add_argument("--size", type=_size, default=(480, 854), help="HEIGHTxWIDTH in pixels (default: 480x854)")
    parser.add_argument("--num_objects", type=int, default=3, help=f"per video, 1 to {MAX_OBJECTS} (default: 3)")
    parser.add_argument("--late", type=int, default=0, help="how many of them enter after frame 0 (default: 0)")
    parser.add_argument("--leaving", type=int, default=0, help="how many of the others leave for a while (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="of the first video, then + 1 each (default: 0)")
    parser.add_argument("--contact_sheet", type=Path, metavar="FILE", help="show the first video in a new JPEG or PNG")
    args = parser.parse_args(argv)
    args.split = args.split or ("valid" if args.layout == "youtube" else "val")
    if args.output is None and args.contact_sheet is None:
        parser.error("expected --output FOLDER or --contact_sheet FILE")
    if not re.fullmatch(r"[\w-]+", args.split):
        parser.error(f"--split {args.split}: expected a name of letters, digits, _ and -")
    if args.layout.startswith("davis") and args.late and args.output:
        parser.error("--late: in DAVIS every object is there from frame 0 on; use --layout youtube or generic")
    if args.late and args.num_frames <= (least := PASSAGE * (args.late + 3) // 3):
        parser.error(f"--late {args.late}: the last one would not come in; expected --num_frames above {least}")
    if args.contact_sheet:
        check_output(args.contact_sheet, [])
    if not (1 <= args.num_videos <= 10**6 and 2 <= args.num_frames <= 10**6 and args.seed >= 0):
        parser.error("expected --num_videos from 1 and --num_frames from 2 to a million, and --seed at least 0")
    return args


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    names = {f"{PREFIX}{seed:04d}": seed for seed in range(args.seed, args.seed + args.num_videos)}

    def scene(name: str) -> Scene:
        return Scene(names[name], args.num_frames, args.size, args.num_objects, args.late, args.leaving)

    def write(name: str) -> dict[int, int]:
        return write_video(args.output, name, args.layout, args.split, scene(name), args.num_frames)

    first_scene = scene(next(iter(names)))  # raises for bad settings before anything is written
    if args.output:
        listed, folders = LAYOUTS[args.layout]
        listing = args.output / listed.replace("SPLIT", args.split) if listed else None
        roots = [args.output / folder.replace("SPLIT", args.split) for folder in folders]
        claim(args.output, [root / name for root in roots for name in names], listing)
        first = parallel_map(write, names, "videos")
        if listing:  # last, so that the videos it lists are complete
            write_list(listing, dict(zip(names, first, strict=True)), args.num_frames)
        print(f"{args.num_videos} video{'s' * (args.num_videos > 1)} of {args.num_frames} frames: {args.output}")
    if args.contact_sheet:
        write_image(args.contact_sheet, contact_sheet(first_scene, args.num_frames))
        print(f"frames, and below them their masks: {args.contact_sheet}")


if __name__ == "__main__":
    main()
