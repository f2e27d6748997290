"""Segment your own videos: a folder of frames and masks, or a video file and its masks.

Examples:

    python eval_generic.py --model saves/gsfm.pth --output output/mine --data_path my_videos
    python eval_generic.py --model saves/gsfm.pth --output output/clip --video clip.mp4 --mask first.png --overlay
    python eval_generic.py --model saves/gsfm.pth --output output/clip --video clip.mp4 --mask first.png 30:later.png

my_videos/JPEGImages/VIDEO/ holds the frames (.jpg or .png), my_videos/Annotations/VIDEO/ a mask with the name of the
frame for each frame on which objects first appear. A mask is as large as its frame: a palette or grey PNG whose values
are object ids, 1 to 254, and 0 for the background (or 0/255 for a single object). For a video file, 30:later.png is the
mask of frame 30, counted from 0.

Writes OUTPUT/VIDEO/FRAME.png with the DAVIS palette and the ids of the masks, as large as the video.
Where there is a folder my_videos/GroundTruth with masks of all frames, J and F are printed at the end.
Exit code: 0; 1 if some videos failed; 2 for bad input.
"""

from pathlib import Path

from datasets.folder import folder_videos, video_with_masks
from evaluation import eval_parser, report, run
from util.errors import exit_on_input_error


@exit_on_input_error
def main(arguments: list[str] | None = None) -> int:
    parser = eval_parser(__doc__, top=50)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data_path", type=Path, metavar="FOLDER", help="holds JPEGImages/ and Annotations/")
    source.add_argument("--video", type=Path, metavar="FILE", help="any video that FFmpeg reads; needs --mask")
    mask_help = "mask of the first frame, or 30:FILE for frame 30; several may be given"
    parser.add_argument("--mask", nargs="+", action="extend", metavar="FILE", help=mask_help)
    args = parser.parse_args(arguments)
    if bool(args.video) != bool(args.mask):
        parser.error("--video and --mask belong together")
    if args.video and args.videos:
        parser.error("--videos chooses from --data_path, not with --video")
    if args.video:
        videos = video_with_masks(args.video, args.mask, args.size)
    else:
        videos = folder_videos(args.data_path, args.size, args.videos)
    return report(run(args, videos), args.output, videos)


if __name__ == "__main__":
    main()
