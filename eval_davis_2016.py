"""Segment DAVIS 2016 (val or train): one object per video, from the mask of the first frame.

Example, with the data in data/DAVIS/2016 as in data/README.md:

    python eval_davis_2016.py --model saves/gsfm.pth --output output/davis2016-val

Writes OUTPUT/VIDEO/00000.png, …: grey PNGs, 0 background and 255 object.
If all frames have masks, J and F are printed at the end (scripts/score.py also writes them to files).
Exit code: 0; 1 if some videos failed; 2 for bad input.
"""

from pathlib import Path

from datasets.davis import SPLITS, davis_videos
from eval_program import eval_parser, run
from util.errors import exit_on_input_error


@exit_on_input_error
def main(arguments: list[str] | None = None) -> int:
    parser = eval_parser(__doc__, top_k=20)
    parser.add_argument(
        "--davis_path", type=Path, default="data/DAVIS/2016", metavar="FOLDER",
        help="contains JPEGImages/480p/ and Annotations/480p/ (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--split", choices=SPLITS[2016], default="val", help="set of videos (default %(default)s)")
    args = parser.parse_args(arguments)
    videos = davis_videos(args.davis_path, 2016, args.split, args.size, args.videos)
    return run(args, videos, binary=True)


if __name__ == "__main__":
    main()
