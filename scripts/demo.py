"""A demonstration in one command: segment a clip, score the masks and draw them over the frames.

make demo
make demo CLIP=chair
make demo VIDEO=clip.mp4 MASK=first.png
python scripts/demo.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import util.interrupt  # noqa: F401

# isort: split
import shlex
import shutil
import subprocess

from scripts.download import download_listed
from util.errors import InputError, Parser, exit_on_input_error

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "saves" / "gsfm-small.pth"
SEED = 1  # chosen before any score of the clip was known
CLIP = f"synthetic-{SEED:04d}"
CLIP_OPTIONS = ["--layout", "generic", "--num_videos", "1", "--num_frames", "28", "--size", "480x854", "--late", "1"]

CHECKSUMS = ROOT / "scripts" / "puma_chair.sha256"
CHAIR_URL = (
    "https://raw.githubusercontent.com/mbzuai-metaverse/XMem2/"
    "9c5693bd52cd25b9b6168592d111df6ca29d2c55/example_videos/chair"
)
CHAIR_CREDIT = "chair: from PUMaVOS (M. Bekuzarov, A. Bermudez, J.-Y. Lee, H. Li: XMem++, ICCV 2023), CC BY 4.0"

EPILOG = """
examples:
  python scripts/demo.py
  python scripts/demo.py --clip chair                               # a real clip of 60 frames; downloads 0.4 MB once
  python scripts/demo.py --video clip.mp4 --mask first.png          # your own clip and the mask of its first frame
  python scripts/demo.py --video clip.mp4 --mask a.png 30:b.png     # the same, and the mask of frame 30, from 0

A mask is a palette or grey PNG of the video's size whose values are object ids (0 is the background), or 0/255.
"""


def short(path: Path) -> Path:
    """The path relative to the current folder, if it is inside it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def run(script: str, *options: str | Path) -> None:
    """Print a command line and run it with this Python interpreter; if it fails, exit with its code.

    One that is killed, as when memory runs out, has left no message itself.
    """
    words = [str(short(ROOT / script)), *map(str, options)]
    print(f"\n$ python {shlex.join(words)}", flush=True)
    code = subprocess.run([sys.executable, *words], check=False).returncode
    if code:
        sys.exit(code if code > 0 else f"error: {script} was killed by signal {-code}")


def fetch_chair(url: str, folder: Path) -> bool:
    """Download the clip and its masks to ``folder``, unless they are there. If that fails, say so and return False."""
    print(f"{CHAIR_CREDIT}\n{short(folder)}: downloading what is missing from {url}", flush=True)
    try:
        download_listed(CHECKSUMS, url, folder)
    except InputError as error:
        print(f"note: segmenting a generated clip instead, because the clip is not available: {error}", flush=True)
        return False
    return True


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    parser = Parser(
        "Segment a generated clip or a real one and score the result, or segment a clip of your own.", EPILOG
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--video", type=Path, help="your own clip, in any format that FFmpeg can read; needs --mask")
    chair_help = "download a real clip; without a connection, the generated clip is segmented"
    source.add_argument("--clip", choices=["chair"], help=chair_help)
    parser.add_argument("--mask", nargs="+", help="masks of --video: of frame 0, or 30:FILE for frame 30")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the generated clip (default: %(default)s)")
    parser.add_argument("--model", type=Path, default=SHIPPED, help="weights (default: saves/gsfm-small.pth)")
    parser.add_argument("--size", default="480", help="shorter side at inference; 240 is faster (default: 480)")
    parser.add_argument("--output", type=Path, default=ROOT / "output/demo", help="results (default: output/demo)")
    parser.add_argument("--data", type=Path, default=ROOT / "data/PUMaVOS", help="where to keep the real clip")
    parser.add_argument("--mirror", metavar="URL", default=CHAIR_URL, help="where to download the real clip from")
    args = parser.parse_args(argv)
    if bool(args.video) != bool(args.mask):
        parser.error("--video and --mask belong together: a clip of your own and the mask of its first frame")

    output = short(args.output)
    clip, masks, plot = output / "clip", output / "masks", output / "scores.png"
    common = ["--output", masks, "--overlay", "--overwrite_changed", "--size", args.size]
    segment = ["eval_generic.py", "--model", short(args.model), *common]
    chair = short(args.data) / "chair"
    if args.video:
        run(*segment, "--video", args.video, "--mask", *args.mask)
        name = args.video.stem
    elif args.clip and fetch_chair(args.mirror, chair):
        name = "chair"
        run(*segment, "--video", chair / "chair.mp4", "--mask", chair / "Annotations/frame_000000.png")
        truth = output / "truth" / name
        truth.mkdir(parents=True, exist_ok=True)
        for path in (chair / "Annotations").glob("frame_*.png"):  # named like the frames of a video file
            shutil.copyfile(path, truth / f"{int(path.stem.removeprefix('frame_')):05d}.png")
        run("scripts/score.py", truth, masks / name, "--plot", plot)
    else:
        name = f"synthetic-{args.seed:04d}"
        run("scripts/make_synthetic.py", "--output", clip, *CLIP_OPTIONS, "--seed", str(args.seed))
        run(*segment, "--data_path", clip, "--videos", name)
        truth = clip / "GroundTruth" / name
        run("scripts/score.py", truth, masks / name, "--images", clip / "JPEGImages", "--plot", plot)

    print("\nResults:")
    print(f"  {masks / 'overlay' / name}.mp4: the video with its masks")
    print(f"  {masks / 'overlay' / name}.png: some of its frames on a contact sheet")
    print(f"  {masks / name}: a mask for each frame, a PNG of object ids")
    if not args.video:
        print(f"  {plot}: J and F over time, the best and the worst frame")


if __name__ == "__main__":
    main()
