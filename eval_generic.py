"""Segment your own videos: a folder of frames and masks, or a video file and its masks.

Examples:

    python eval_generic.py --model saves/gsfm.pth --output output/mine --data_path my_videos
    python eval_generic.py --model saves/gsfm.pth --output output/clip --video clip.mp4 --mask first.png --overlay
    python eval_generic.py --model saves/gsfm.pth --output output/clip --video clip.mp4 --mask first.png 30:later.png

my_videos/JPEGImages/VIDEO/ contains the frames (.jpg or .png), my_videos/Annotations/VIDEO/ a mask for each frame on
which objects first appear, with the name of the frame. A mask has the size of its frame: a palette or grey PNG whose
values are object ids, 1 to 254, and 0 for the background (or 0/255 for a single object). scripts/extract_frame.py saves
a frame of a video file to paint its mask on. If every frame has a mask, as in many data sets, use --first_masks: each
object is then given once, and the other masks are the ground truth.

Writes OUTPUT/VIDEO/FRAME.png with the DAVIS palette, the ids of the masks and the size of the video.
For scores, masks of all frames are expected in my_videos/GroundTruth.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # which `python -P` leaves out

import util.interrupt  # noqa: F401

# isort: split
import re

from datasets.listing import folder_videos, video_with_masks
from eval_flags import eval_parser
from util.errors import InputError, exit_on_input_error
from util.files import check_is_file


@exit_on_input_error
def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = eval_parser(__doc__, top_k=50, for_users=True)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data_path", type=Path, metavar="FOLDER", help="contains JPEGImages/ and Annotations/")
    source.add_argument("--video", type=Path, metavar="FILE", help="any video that FFmpeg can read; needs --mask")
    mask_help = "mask of the first frame, or 30:FILE for frame 30, counted from 0; several can be given"
    parser.add_argument("--mask", nargs="+", action="extend", metavar="FILE", help=mask_help)
    first_help = "use only the masks on which objects first appear; without it, later masks are corrections"
    parser.add_argument("--first_masks", action="store_true", help=first_help)
    if negative := [word for word in arguments if re.match("(--mask=)?-[0-9]+:", word)]:
        # argparse would take it for a flag, and complain of a missing mask.
        raise InputError(f"--mask {negative[0]}: expected FILE or N:FILE with a frame number N from 0")
    args = parser.parse_args(arguments)
    if bool(args.video) != bool(args.mask):
        parser.error("--video and --mask must be given together")
    if args.video and args.videos:
        parser.error("--videos selects from --data_path and cannot be used with --video")
    if args.video and args.first_masks:
        parser.error("--first_masks is for --data_path and cannot be used with --video")
    if args.data_path:
        videos = folder_videos(args.data_path, args.size, args.videos, args.first_masks)
    else:
        check_is_file(args.video, "a file for --video (--data_path is for folders of frames)")
        for mask in args.mask:
            check_is_file(Path(re.sub("^[0-9]+:", "", mask)), "a file for --mask")
        videos = video_with_masks(args.video, args.mask, args.size)
    from eval_program import run  # late: PyTorch takes seconds to import

    return run(args, videos)


if __name__ == "__main__":
    main()
