"""Segment DAVIS 2017 (val, test-dev or train) from the masks of the first frames.

Example, with the data in data/DAVIS/2017 as in data/README.md:

    python eval_davis.py --model saves/gsfm.pth --output output/davis2017-val --split val

Writes OUTPUT/VIDEO/00000.png, …: PNGs with the DAVIS palette and the object ids of the given mask.
If all frames have masks, J and F are printed at the end (scripts/score.py also writes them to files).
Exit code: 0; 1 if some videos failed; 2 for bad input.
"""

from pathlib import Path

from datasets.davis import SPLITS, davis_videos
from eval_program import eval_parser, run
from util.errors import exit_on_input_error


@exit_on_input_error
def main(arguments: list[str] | None = None) -> int:
    parser = eval_parser(__doc__, top_k=50)
    parser.add_argument(
        "--davis_path", type=Path, default="data/DAVIS/2017", metavar="FOLDER",
        help="contains trainval/ and test-dev/ (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--split", choices=SPLITS[2017], default="val", help="set of videos (default %(default)s)")
    args = parser.parse_args(arguments)
    videos = davis_videos(args.davis_path, 2017, args.split, args.size, args.videos)
    return run(args, videos)


if __name__ == "__main__":
    main()
