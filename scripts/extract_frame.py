"""Save a frame of a video as a PNG, to paint its mask on.

python scripts/extract_frame.py clip.mp4 first.png
python scripts/extract_frame.py clip.mp4 later.png --frame 30
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import util.interrupt  # noqa: F401

# isort: split
from itertools import islice

from datasets.images import write_image
from datasets.video_file import file_video
from util.errors import InputError, Parser, exit_on_input_error
from util.files import check_output


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("video", type=Path, help="any video that FFmpeg can read")
    parser.add_argument("output", type=Path, help="new PNG; the mask must have its size")
    parser.add_argument("--frame", type=int, default=0, metavar="N", help="number of the frame, from 0 (default: 0)")
    args = parser.parse_args(arguments)
    if args.output.suffix.lower() != ".png":
        raise InputError(f"{args.output}: expected the name of a new PNG")
    check_output(args.output, [])
    if not 0 <= args.frame < 10**9:
        raise InputError(f"--frame {args.frame}: expected a number of a frame, from 0")
    frame = next(islice(file_video(args.video, {}, sys.maxsize), args.frame, None), None)
    if frame is None:
        raise InputError(f"{args.video}: ends before frame {args.frame}")
    write_image(args.output, frame.original)
    print(f"{args.output}: frame {args.frame} of {args.video}")


if __name__ == "__main__":
    main()
