"""The flags that the eval scripts share. Needs no PyTorch, so that ``--help`` and faulty flags are answered at once."""

import argparse
import os
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

from datasets.frames import read_names
from datasets.listing import SPLITS, davis_videos
from model.config import MAX_BIAS, MEMORIES, PROTOCOL, InferenceSettings
from util.errors import InputError, Parser
from util.settings import DeviceName

EPILOG = """
If all frames have masks, J and F are printed at the end (scripts/score.py also writes them to files).
Exit code: 0; 1 if some videos failed; 2 for bad input.
"""


def eval_parser(doc: str | None, top_k: int, for_users: bool = False) -> argparse.ArgumentParser:
    """A parser with the flags that all eval scripts share.

    ``top_k`` is the benchmark's default for ``--top``; ``for_users`` that for ``--recommended`` and ``--amp``.
    ``doc``: the script's docstring, see `Parser`.
    """
    parser = Parser(doc, EPILOG)
    add = parser.add_argument
    default = "(default %(default)s)"
    model_help = "weights: a file of this project or of the GSFM or STCN reference programs, or the name of published"
    model_help += " weights, such as stcn, that scripts/download_weights.py has downloaded"
    add("--model", type=Path, required=True, metavar="FILE", help=model_help)
    output_help = "where to write the results; videos and frames in it that an earlier run has finished are kept"
    add("--output", type=Path, required=True, metavar="FOLDER", help=output_help)
    protocol = {"top_k": top_k, **PROTOCOL}
    parser.set_defaults(protocol=protocol)
    add_inference_flags(parser, protocol)
    recommended_help = (
        "replace the five defaults above with the settings that the weights recommend, if any"
        f" (default: {'yes' if for_users else 'no, as the published results were measured'})"
    )
    add("--recommended", action=argparse.BooleanOptionalAction, default=for_users, help=recommended_help)
    adapt_help = "first fit the network to the masks of each video, in N steps, such as 80; a step takes about a second"
    adapt_help += " on two CPU cores (default: no)"
    add("--adapt", type=at_least(1), metavar="N", help=adapt_help)
    add("--memory", choices=MEMORIES, help="type of memory (default: the one the network was trained with)")
    bound_help = "limit the space-time memory to the frames with a given mask and the latest others, N in all"
    bound_help += " (default: no limit)"
    add("--max_memory_frames", type=at_least(2), metavar="N", help=bound_help)
    size_help = "shorter side at inference; small videos are enlarged at most twice, to no more pixels than 1920×1080"
    size_help += f" {default}; masks have the video's size"
    add("--size", type=at_least(1), default=480, metavar="N", help=size_help)
    amp_help = "half precision where it is faster: on GPUs, and on CPUs with bfloat16 instructions"
    amp_help += f" (default: {'yes' if for_users else 'no'})"
    add("--amp", action=argparse.BooleanOptionalAction, default=for_users, help=amp_help)
    add("--compile", action="store_true", help="use torch.compile, which takes minutes and is not faster on CPUs")
    add("--device", choices=get_args(DeviceName), default="auto", help="auto: CUDA, else Apple's MPS, else the CPU")
    videos_help = "segment only these videos: names separated by commas, or a text file with a name on each line"
    add("--videos", type=video_names, metavar="A,B", help=videos_help)
    add("--overwrite", action="store_true", help="segment finished videos again")
    changed_help = "segment those videos again whose results were made with other settings, frames or masks"
    add("--overwrite_changed", action="store_true", help=changed_help)
    overlay_help = "also draw the masks over the frames, into OUTPUT/overlay/VIDEO.mp4 and a contact sheet, VIDEO.png;"
    overlay_help += " finished videos are segmented again"
    add("--overlay", action="store_true", help=overlay_help)
    fps_help = "frame rate of the overlay (default: the video's; 24 for folders of frames)"
    add("--fps", type=_frame_rate, metavar="N", help=fps_help)
    return parser


def add_inference_flags(parser: argparse._ActionsContainer, defaults: Mapping[str, Any]) -> None:
    """The flags for `InferenceSettings.of`, None unless given; their help names the ``defaults``, if there are any."""
    helps = {
        "top_k": "number of memory positions that each pixel reads",
        "mem_every": "memorise every N-th frame",
        "include_last": "also read the previous frame as temporary memory",
        "local": "drop parts of an object that are not connected to its place in the previous frame",
        "given_bias": "add B to the similarity of memory positions of given masks, which then count e^B times as much",
    }
    for name, default in defaults.items():
        helps[name] += f" (default: {'no' if default is False else default})"
    add = parser.add_argument
    add("--top", type=at_least(1), dest="top_k", metavar="K", help=helps["top_k"])
    add("--mem_every", type=at_least(1), metavar="N", help=helps["mem_every"])
    add("--include_last", action=argparse.BooleanOptionalAction, help=helps["include_last"])
    add("--local", action=argparse.BooleanOptionalAction, help=helps["local"])
    add("--given_bias", type=_bias, metavar="B", help=helps["given_bias"])


def video_names(text: str) -> list[str]:
    """The names in a flag's value, or in the text file that it names. Raises ArgumentTypeError for a faulty file."""
    if not os.path.isfile(text):  # noqa: PTH113  # `Path.is_file` refuses what is longer than a file's name may be
        return [name.strip() for name in text.split(",")]
    try:
        return read_names(Path(text))
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _frame_rate(text: str) -> Fraction:
    number = "[0-9]{1,6}"
    match = re.fullmatch(rf"{number}([.]{number})?|{number}/[1-9][0-9]{{0,5}}", text)
    if not match or not 0.01 <= Fraction(text) <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r}: expected frames per second, such as 25 or 30000/1001")
    return Fraction(text)


def _bias(text: str) -> float:
    try:
        return InferenceSettings(given_bias=float(text)).given_bias or 0.0
    except (ValueError, InputError):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 0 to {MAX_BIAS}") from None


def at_least(minimum: int) -> Callable[[str], int]:
    """The ``type`` of a flag: whole numbers of at least ``minimum``."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least {minimum}")
        return int(text)

    return parse


def run_davis(doc: str | None, year: int, top_k: int, arguments: list[str] | None) -> int:
    """An eval script for DAVIS 2016 or 2017, see `eval_parser`; returns its exit code."""
    parser = eval_parser(doc, top_k)
    folders = {2016: "JPEGImages/480p/ and Annotations/480p/", 2017: "trainval/ and test-dev/"}[year]
    path_help = f"contains {folders} (default %(default)s)"
    parser.add_argument("--davis_path", type=Path, default=f"data/DAVIS/{year}", metavar="FOLDER", help=path_help)
    parser.add_argument("--split", choices=SPLITS[year], default="val", help="set of videos (default %(default)s)")
    args = parser.parse_args(arguments)
    from eval_program import run  # late: PyTorch takes seconds to import

    return run(args, davis_videos(args.davis_path, year, args.split, args.size, args.videos), binary=year == 2016)
