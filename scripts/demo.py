"""A demonstration in one command: segment a generated clip, score the masks and draw them over the frames.

make demo
make demo VIDEO=clip.mp4 MASK=first.png
python scripts/demo.py
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.errors import exit_on_input_error

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "saves" / "gsfm-small.pth"
SEED = 1  # chosen before any score of the clip was known
CLIP = f"synthetic-{SEED:04d}"
CLIP_OPTIONS = f"--layout generic --num_videos 1 --num_frames 28 --size 480x854 --late 1 --seed {SEED}".split()

EPILOG = """
examples:
  python scripts/demo.py
  python scripts/demo.py --video clip.mp4 --mask first.png          # your own clip and the mask of its first frame
  python scripts/demo.py --video clip.mp4 --mask a.png 30:b.png     # and of its frame 30, counted from 0

A mask is a palette or grey PNG of the video's size whose values are object ids (0 is the background), or 0/255.
"""


def short(path: Path) -> Path:
    """The path relative to the current folder, if it is inside it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def run(script: str, *options: str | Path) -> None:
    """Print a command line and run it with this Python interpreter; if it fails, exit with its code."""
    words = [str(short(ROOT / script)), *map(str, options)]
    print(f"\n$ python {shlex.join(words)}", flush=True)
    code = subprocess.run([sys.executable, *words], check=False).returncode
    if code:
        sys.exit(code)


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Segment a generated clip and score the result, or segment a clip of your own.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--video", type=Path, help="a clip of your own, in any format that FFmpeg reads; needs --mask")
    parser.add_argument("--mask", nargs="+", help="mask of its first frame, or 30:FILE for frame 30, or several")
    parser.add_argument("--model", type=Path, default=SHIPPED, help="weights (default: saves/gsfm-small.pth)")
    parser.add_argument("--size", default="480", help="shorter side at inference; 240 is faster (default: 480)")
    parser.add_argument("--output", type=Path, default=ROOT / "output/demo", help="folder (default: output/demo)")
    args = parser.parse_args(argv)
    if bool(args.video) != bool(args.mask):
        parser.error("--video and --mask belong together: a clip of your own and the mask of its first frame")

    output = short(args.output)
    clip, masks, plot = output / "clip", output / "masks", output / "scores.png"
    segment = (
        "eval_generic.py",
        "--model",
        short(args.model),
        "--output",
        masks,
        "--overlay",
        "--overwrite",
        "--size",
        args.size,
    )
    if args.video:
        run(*segment, "--video", args.video, "--mask", *args.mask)
        name = args.video.stem
    else:
        name = CLIP
        run("scripts/make_synthetic.py", "--output", clip, *CLIP_OPTIONS)
        run(*segment, "--data_path", clip)
        truth = clip / "GroundTruth" / CLIP
        run("scripts/score.py", truth, masks / CLIP, "--images", clip / "JPEGImages", "--plot", plot)

    print("\nResults:")
    print(f"  {masks / 'overlay' / name}.mp4: the video with its masks")
    print(f"  {masks / 'overlay' / name}.png: some of its frames on a contact sheet")
    print(f"  {masks / name}: a mask for each frame, a PNG of object ids")
    if not args.video:
        print(f"  {plot}: J and F over time, the best and the worst frame")


if __name__ == "__main__":
    main()
