"""Annotate a video in the browser, also offline: paint objects on some frames, propagate, correct and export.

    python annotate.py --video clip.mp4
    python annotate.py --video clip.mp4 --mask first.png 30:later.png     # with masks that exist already
    python annotate.py --root my_videos                                   # choose a video in the page

--video is a video file or a folder of frames. --root holds video files and folders of frames, also in the layout of
eval_generic.py, whose Annotations are taken in. docs/ANNOTATE.md shows how to go from a clip to masks.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # which `python -P` leaves out

import util.interrupt  # noqa: F401

# isort: split
import argparse
import os
import secrets
import socket
import threading
import webbrowser
from functools import cache
from typing import TYPE_CHECKING, Any, get_args

import uvicorn

from annotation.guard import Guard
from annotation.project import OpenSession
from annotation.server import Annotator, make_app
from datasets.frames import check_folder, frame_files
from datasets.listing import parse_masks
from datasets.video import is_enlarged
from util.errors import InputError, Parser, exit_on_input_error, one_line
from util.files import sha256_of
from util.settings import DeviceName

if TYPE_CHECKING:
    from predictor import VideoPredictor
    from session import Session

ROOT = Path(__file__).resolve().parent
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".gif")


def list_videos(root: Path) -> dict[str, Path]:
    """Video files and folders of frames directly in ``root`` and in ``root/JPEGImages``, by path from ``root``.

    Those that lead out of ``root`` by a link are left out. Raises `InputError` if there is nothing to annotate.
    """
    root = root.resolve()
    check_folder(root, "a folder of videos for --root")
    candidates = [
        path for folder in (root, root / "JPEGImages") if folder.is_dir() for path in sorted(folder.iterdir())
    ]
    videos = {}
    for path in candidates:
        if not path.name.startswith(".") and _is_video(path) and _is_inside(root, path):
            videos[one_line(path.relative_to(root).as_posix())] = path  # to be shown, also what is not UTF-8
    if not videos:
        raise InputError(f"{root}: holds no videos; expected video files or folders of frames")
    return videos


def _is_video(path: Path) -> bool:
    try:
        return path.suffix.lower() in VIDEO_SUFFIXES if path.is_file() else bool(frame_files(path))
    except InputError:  # a folder with a fault: the page says which when it is opened
        return True
    except OSError:  # one that may not be read
        return False


def _is_inside(root: Path, video: Path) -> bool:
    """Whether no link leads from a video file, a folder, or its frames out of ``root``."""
    links = [video, *(path for path in video.iterdir() if path.is_symlink())] if video.is_dir() else [video]
    return all(Path(os.path.realpath(link)).is_relative_to(root) for link in links)


def session_opener(model: Path, device: str, amp: bool = True, **settings: int) -> OpenSession:
    """A function that opens the session of a video, see `OpenSession`, and that loads the network when called first.

    ``settings``: see `VideoPredictor`.
    """

    @cache
    def load() -> "tuple[VideoPredictor, dict[str, str | int]]":
        # Here, because importing PyTorch takes seconds; the page shows the video meanwhile.
        from model.weights import weights_file
        from predictor import VideoPredictor
        from util.device import keep_freed_memory

        file = weights_file(model)
        predictor = VideoPredictor.load(file, device, amp=amp, **settings)
        keep_freed_memory(predictor.device)
        return predictor, {"model": sha256_of(file), **settings}

    def open_session(source: Path) -> "tuple[Session, dict[str, str | int]]":
        predictor, made_with = load()
        session = predictor.session(source)
        # Only what was not always so: results of earlier versions stay as they are.
        if (precision := str(predictor.precision)) != "torch.float32":
            made_with = made_with | {"precision": precision}
        if is_enlarged(session.frames.size, predictor.size):
            made_with = made_with | {"enlarged": 1}
        return session, made_with

    return open_session


def make_server(guard: Guard) -> uvicorn.Server:
    """A server that can be given sockets."""
    # Not uvicorn's logging: configuring it shuts down all handlers, and fails at one that another thread, which imports
    # PyTorch, has only half made.
    options: dict[str, Any] = {"log_config": None, "log_level": "warning", "server_header": False}
    # No WebSockets: the guard sees HTTP only.
    return uvicorn.Server(uvicorn.Config(guard, ws="none", timeout_graceful_shutdown=3, **options))


def parse_args(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--video", type=Path, metavar="PATH", help="video file or folder of frames to open")
    add("--root", type=Path, metavar="FOLDER", help="the page offers the videos in this folder and no others")
    add("--mask", nargs="+", metavar="FILE", help="masks of --video: of frame 0, or N:FILE for frame N")
    workspace_help = "where masks, results and settings are kept (default: %(default)s)"
    add("--workspace", type=Path, default=Path("output/annotate"), metavar="FOLDER", help=workspace_help)
    model_help = "weights, as for eval_generic.py (default: saves/gsfm-small.pth)"
    add("--model", type=Path, default=ROOT / "saves/gsfm-small.pth", metavar="FILE", help=model_help)
    device_help = "auto: CUDA, else Apple's MPS, else the CPU"
    add("--device", choices=get_args(DeviceName), default="auto", help=device_help)
    amp_help = "half precision where it is faster, on GPUs and recent CPUs (default: yes)"
    add("--amp", action=argparse.BooleanOptionalAction, default=True, help=amp_help)
    size_help = "shorter side at inference; small videos are enlarged at most twice, to no more pixels than 1920×1080"
    size_help += " (default: %(default)s; 240 is faster)"
    add("--size", type=int, default=480, metavar="N", help=size_help)
    bound_help = "limit the memory to your frames and the latest of every third frame, N in all (default: %(default)s)"
    add("--max_memory_frames", type=int, default=100, metavar="N", help=bound_help)
    host_help = "address to listen on (default: %(default)s, which only this machine reaches)"
    add("--host", default="127.0.0.1", metavar="ADDRESS", help=host_help)
    add("--port", type=int, default=8765, help="port to listen on (default: %(default)s; 0: any free one)")
    add("--no_browser", action="store_true", help="print the address without opening it")
    args = parser.parse_args(arguments)
    if not (args.video or args.root):
        parser.error("expected --video PATH or --root FOLDER")
    if args.mask and not args.video:
        parser.error("--mask belongs to --video")
    return args


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    if args.model.suffix and not args.model.is_file():  # without suffix: the name of published weights
        raise InputError(f"{args.model}: no such file; expected weights for --model")
    videos = list_videos(args.root) if args.root else {}
    masks = {}
    name = next(iter(videos), "")
    if args.video:
        name = next((name for name, path in videos.items() if path.resolve() == args.video.resolve()), args.video.name)
        videos[name] = args.video
        if args.mask:
            masks[name] = parse_masks(args.mask)
    try:
        listening = socket.create_server(
            (args.host, args.port), family=socket.AF_INET6 if ":" in args.host else socket.AF_INET
        )
    except (OSError, OverflowError, TypeError, UnicodeError) as error:  # the latter: no address, or no port
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"--host {args.host} --port {args.port}: cannot listen there ({reason})") from error
    settings = {"size": args.size, "max_memory_frames": args.max_memory_frames}
    annotator = Annotator(videos, masks, args.workspace, session_opener(args.model, args.device, args.amp, **settings))
    annotator.open(name)
    port, token = listening.getsockname()[1], secrets.token_urlsafe(24)
    guard = Guard(make_app(annotator), token, args.host, port)
    if guard.is_open:
        print(f"warning: --host {args.host}: others can reach this server; keep the token secret", file=sys.stderr)
    shown = socket.gethostname() if args.host in ("0.0.0.0", "::") else args.host  # those are no place to go to
    shown = f"[{shown}]" if ":" in shown else shown
    address = f"http://{shown}:{port}/?token={token}"
    print(f"annotate {name} at\n  {address}\n(Ctrl-C stops; everything is kept in {args.workspace})", flush=True)
    if not args.no_browser:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    server = make_server(guard)
    annotator.is_closing = lambda: server.should_exit
    try:
        server.run(sockets=[listening])
    finally:
        annotator.close()


if __name__ == "__main__":
    main()
