"""The whole way in one command: a video, its first masks, the segmented video, its scores.

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
SEED = 34  # a clip with look-alikes that are not to be segmented, and an animal that comes in late
CLIP = f"synthetic-{SEED:04d}"
MAKE_CLIP = shlex.split(f"--layout generic --num_videos 1 --num_frames 28 --size 480x854 --late 1 --seed {SEED}")

EPILOG = """
examples:
  python scripts/demo.py
  python scripts/demo.py --video clip.mp4 --mask first.png          # your own clip and the mask of its first frame
  python scripts/demo.py --video clip.mp4 --mask a.png 30:b.png     # and of its frame 30, counted from 0

A mask is a palette or grey PNG, as large as the video, whose values are object ids (0 is background), or 0/255.
"""


def short(path: Path) -> Path:
    """The path as seen from the current folder, if it lies in it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def run(script: str, *options: str | Path) -> None:
    """Show a command line of this project and run it with this Python; on failure exit with its code."""
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
    parser.add_argument("--video", type=Path, help="your own clip: any video file that FFmpeg reads; needs --mask")
    parser.add_argument(
        "--mask", nargs="+", help="mask of its first frame, or 30:FILE for frame 30; several may be given"
    )
    parser.add_argument("--model", type=Path, default=SHIPPED, help="weights (saves/gsfm-small.pth)")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "output" / "demo", help="folder to write to (output/demo)"
    )
    args = parser.parse_args(argv)
    if bool(args.video) != bool(args.mask):
        parser.error("--video and --mask belong together: a clip of your own and the mask of its first frame")

    output = short(args.output)
    clip, masks, plot = output / "clip", output / "masks", output / "scores.png"
    segment = ("eval_generic.py", "--model", short(args.model), "--output", masks, "--overlay", "--overwrite")
    if args.video:
        run(*segment, "--video", args.video, "--mask", *args.mask)
        name = args.video.stem
    else:
        name = CLIP
        run("scripts/make_synthetic.py", "--output", clip, *MAKE_CLIP)
        run(*segment, "--data_path", clip)
        truth = clip / "GroundTruth" / CLIP
        run("scripts/score.py", truth, masks / CLIP, "--images", clip / "JPEGImages", "--plot", plot)

    print("\nThe result:")
    for path, what in (
        (masks / "overlay" / f"{name}.mp4", "the video with the masks drawn in"),
        (masks / "overlay" / f"{name}.png", "some of its frames on one sheet"),
        (masks / name, "a mask for each frame, a PNG of object ids"),
        *([] if args.video else [(plot, "J and F over time, the best and the worst frame")]),
    ):
        print(f"  {path}: {what}")


if __name__ == "__main__":
    main()
