"""Segment YouTube-VOS 2018 or 2019 (valid or test), where each object's mask is given on its first frame.

Examples, with the data in data/YouTube (2019) and data/YouTube2018 as in data/README.md:

    python eval_youtube.py --model saves/gsfm.pth --output output/youtube2019-valid
    python eval_youtube.py --model saves/gsfm.pth --output output/youtube2018-valid --yv_path data/YouTube2018

Writes OUTPUT/Annotations/VIDEO/FRAME.png for the frames listed in meta.json, with the DAVIS palette, the object ids of
the given masks and the size of the video. scripts/make_submission.py checks and packs them.
For scores, masks of all frames are expected in valid/GroundTruth.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # which `python -P` leaves out

import util.interrupt  # noqa: F401

# isort: split

from datasets.listing import youtube_videos
from eval_flags import eval_parser
from util.errors import exit_on_input_error


@exit_on_input_error
def main(arguments: list[str] | None = None) -> int:
    parser = eval_parser(__doc__, top_k=50)
    add = parser.add_argument
    path_help = "contains valid/ (or test/) and all_frames/ (default %(default)s)"
    add("--yv_path", type=Path, default="data/YouTube", metavar="FOLDER", help=path_help)
    add("--split", choices=("valid", "test"), default="valid", help="set of videos (default %(default)s)")
    add("--six_fps", action="store_true", help="read only the annotated frames (six per second) instead of all_frames/")
    add("--output_all", action="store_true", help="write the masks of all frames instead of those listed in meta.json")
    args = parser.parse_args(arguments)
    from eval_program import run  # late: PyTorch takes seconds to import

    options = {"six_fps": args.six_fps, "output_all": args.output_all}
    videos = youtube_videos(args.yv_path, args.split, args.size, **options, wanted=args.videos)
    return run(args, videos, subfolder="Annotations", **options)


if __name__ == "__main__":
    main()
