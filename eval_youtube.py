"""Segment YouTube-VOS 2018 or 2019 (valid or test): objects are given on the frame on which they first appear.

Examples, with the data in data/YouTube (2019) and data/YouTube2018 as in data/README.md:

    python eval_youtube.py --model saves/gsfm.pth --output output/youtube2019-valid
    python eval_youtube.py --model saves/gsfm.pth --output output/youtube2018-valid --yv_path data/YouTube2018

Writes OUTPUT/Annotations/VIDEO/FRAME.png for the frames that meta.json asks for: PNGs with the DAVIS palette, the
object ids of the given masks, as large as the video. scripts/make_submission.py checks them and makes the zip.
Where there is a folder valid/GroundTruth with masks of all frames, J and F are printed at the end.
Exit code: 0; 1 if some videos failed; 2 for bad input.
"""

from pathlib import Path

from datasets.youtube import youtube_videos
from evaluation import eval_parser, report, run
from util.errors import exit_on_input_error


@exit_on_input_error
def main(arguments: list[str] | None = None) -> int:
    parser = eval_parser(__doc__, top=50)
    add = parser.add_argument
    path_help = "holds valid/ (or test/) and all_frames/ (default %(default)s)"
    add("--yv_path", type=Path, default="data/YouTube", metavar="FOLDER", help=path_help)
    add("--split", choices=("valid", "test"), default="valid", help="(default %(default)s)")
    add("--six_fps", action="store_true", help="use only the annotated frames, six a second, and not all_frames/")
    add("--output_all", action="store_true", help="write the masks of all frames, also those not asked for")
    args = parser.parse_args(arguments)
    videos = youtube_videos(
        args.yv_path, args.split, args.size,
        six_fps=args.six_fps, output_all=args.output_all, wanted=args.videos,
    )  # fmt: skip
    results = run(args, videos, subfolder="Annotations", six_fps=args.six_fps)
    return report(results, args.output, videos, subfolder="Annotations")


if __name__ == "__main__":
    main()
