"""Video files, decoded with FFmpeg (PyAV): as a stream for the engine, or frame by frame."""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from fractions import Fraction
from functools import partial
from itertools import chain, repeat
from pathlib import Path

import av
import numpy as np

from datasets.frames import check_name
from datasets.images import read_mask
from datasets.video import Frames, Video, VideoFrame, check_masks, make_frame
from util.errors import InputError
from util.files import check_is_file

CACHED_FRAMES = 16  # stepping backwards decodes from a key frame once in so many frames
FORWARD_FRAMES = 64  # a video is decoded so far ahead rather than searched for a key frame
SEEKABLE = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # FFmpeg's names of formats with a presentation time per frame


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__


@contextmanager
def _translated(message: Callable[[Exception], str]) -> Iterator[None]:
    """Errors of damaged files become `InputError`: they are of many types, FFmpeg's own MemoryError among them."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if type(error) is MemoryError:
            raise
        raise InputError(message(error)) from error


def upright_rgb(frame: av.VideoFrame) -> np.ndarray:
    """H×W×3 uint8, upright: phones store portrait videos as landscape."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))


def file_video(path: Path, masks: Mapping[int, Path], short_side: int) -> Video:
    """A video file in any format that FFmpeg reads; its results are named 00000, 00001, …

    ``masks``: frame number, from 0 → mask file. Raises `InputError` unless the video opens, its
    first frame decodes and every mask fits it and holds an object.
    """
    check_is_file(path, "a video")
    name = check_name(path.stem, path)
    file = str(path.absolute())  # FFmpeg takes a relative path up to a colon for a protocol

    def no_video(error: Exception) -> str:
        reason = "no video in it" if isinstance(error, IndexError | StopIteration) else _reason(error)
        return f"{path}: cannot be opened as a video ({reason}); expected MP4 or the like"

    with _translated(no_video), av.open(file, metadata_errors="replace") as container:
        if container.format.name.endswith("_pipe") or container.format.name == "image2":
            raise InputError(f"{path}: is a picture; expected a video, or a folder of frames with --data_path")
        stream = container.streams.video[0]
        size = upright_rgb(next(container.decode(stream))).shape[:2]
        fps = stream.average_rate or Fraction(24)
        stated = stream.frames  # 0 where the format does not say
        estimate = stated or round((container.duration or 0) / av.time_base * fps)

    def check_end(length: int) -> None:
        if (last := max(masks, default=0)) >= length:
            raise InputError(f"--mask {last}:{masks[last]}: {path} ends with frame {length - 1}")

    if stated:
        check_end(stated)
    check_masks((read_mask(mask), mask, str(index), size) for index, mask in masks.items())

    def decode() -> Iterator[VideoFrame]:
        index = hidden = 0

        def packets(container: av.container.InputContainer) -> Iterator[av.Packet]:
            nonlocal hidden
            started = False
            for packet in container.demux(video=0):
                started = started or packet.is_keyframe
                hidden += packet.is_discard or not started  # cut off, as in trimmed videos, or not decodable
                yield packet

        def damaged(error: Exception) -> str:
            return f"{path}: frame {index} cannot be decoded ({_reason(error)})"

        with _translated(damaged), av.open(file, metadata_errors="replace") as container:
            container.streams.video[0].thread_type = "AUTO"
            for frame in chain.from_iterable(packet.decode() for packet in packets(container)):
                image = upright_rgb(frame)
                if image.shape[:2] != size:
                    raise InputError(f"{path}: frame {index} has another size than the first; expected one size")
                mask = read_mask(masks[index]) if index in masks else None
                yield make_frame(f"{index:05d}", image, mask, True, short_side)
                index += 1
        check_end(index)
        if index + hidden < 0.95 * stated:  # FFmpeg reports no error for a truncated file; headers may be off by a few
            raise InputError(f"{path}: ends after {index} of {stated} frames; expected a complete file")

    def frames() -> Frames:
        decoder = Decoder(Path(file), size)
        return Frames(name, size, fps, len(decoder.times), decoder.read)

    return Video(
        name=name,
        size=size,
        num_frames=estimate,
        outputs=None,
        fps=fps,
        masks=tuple(masks.values()),
        sources=(path,),
        jobs=lambda: repeat(partial(next, decode(), None)),
        workers=1,  # a decoder returns its frames one after the other
        given=lambda: {index: read_mask(mask) for index, mask in masks.items()},
        frames=frames,
    )


class Decoder:
    """Frames of a video file by number, as the stream of `file_video` counts them.

    In MP4, MOV, Matroska and WebM, decodes on, or from the nearest key frame before. Other formats do not reliably say
    when a frame is shown: all frames are decoded once to count them, and then from the beginning to go back.
    Raises `InputError` for a file that cannot be opened.
    """

    def __init__(self, path: Path, size: tuple[int, int]):
        self.path, self.size = path, size
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._frames: Iterator[av.VideoFrame] = iter(())
        with self._translated("the video"):
            self._open()
            packets = self._container.demux(self._stream)
            first = next(packets)
            shown = (packet for packet in chain([first], packets) if not packet.is_discard and packet.size)
            # Before the first key frame, packets may hold no frame.
            has_times = self._container.format.name in SEEKABLE and first.is_keyframe
            times = [packet.pts for packet in shown] if has_times else []
            self._seekable = bool(times) and None not in times
            self.times = sorted(time for time in times if time is not None)
            if not self._seekable:
                self._open()
                self.times = list(range(sum(1 for _ in self._container.decode(self._stream))))
        self._next = len(self.times)  # number of the frame that the decoder returns next

    def read(self, index: int) -> np.ndarray:
        """H×W×3 uint8 RGB. Raises `InputError` if the frame cannot be decoded."""
        with self._translated(f"frame {index}"):
            ahead = index - self._next
            if index not in self._cache and (ahead < 0 or self._seekable and ahead >= FORWARD_FRAMES):
                self._seek(index)
            while index not in self._cache:
                self._decode_one()
        return self._cache[index]

    def _translated(self, what: str) -> AbstractContextManager[None]:
        fault = f"{self.path}: {what} cannot be decoded"
        return _translated(lambda error: f"{fault} ({_reason(error)}); expected a complete file")

    def _open(self) -> None:
        self._container = av.open(str(self.path), metadata_errors="replace")
        self._stream = self._container.streams.video[0]

    def _seek(self, index: int) -> None:
        if self._seekable:
            self._container.seek(self.times[index], stream=self._stream)
        else:
            self._open()
        self._frames = self._container.decode(self._stream)
        self._next = 0

    def _decode_one(self) -> None:
        number, self._next = self._next, len(self.times)  # after an error or Ctrl-C, read seeks
        frame = next(self._frames)
        index = bisect_left(self.times, frame.pts or 0) if self._seekable else number
        image = upright_rgb(frame)
        if image.shape[:2] != self.size:
            raise InputError(f"{self.path}: frame {index} has another size than the first; expected one size")
        self._cache[index] = image
        self._next = index + 1
        while len(self._cache) > CACHED_FRAMES:
            self._cache.popitem(last=False)
