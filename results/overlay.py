"""A video with its masks drawn in: an H.264 MP4 and a contact sheet, written frame by frame."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from datasets.images import draw_masks, write_image
from util.errors import InputError
from util.files import atomic_path

SHEET_FRAMES, SHEET_COLUMNS = 8, 4
SHEET_POOL = 64  # thumbnails in memory, from which those of the sheet are chosen
THUMB = 320  # longer side of a thumbnail in pixels
CAPTION = 16  # height of a caption in pixels

AddFrame = Callable[[str, np.ndarray, np.ndarray], None]


@contextmanager
def overlay_writer(video: Path, sheet: Path, fps: Fraction) -> Iterator[AddFrame]:
    """Yield ``add(name, image H×W×3 uint8, ids H×W uint8)``, to be called for each frame in order.

    At the end, ``video`` (yuv420p; the last row or column of odd sizes is repeated) and ``sheet`` (PNG of evenly spaced
    frames) appear together; after an exception, neither does. Raises `InputError` if a file cannot be written.
    """
    import av  # here, because it takes 0.2 s and most runs draw nothing

    thumbs: list[tuple[str, Image.Image]] = []
    every, seen = 1, 0
    with atomic_path(video) as temporary:
        try:
            # Absolute, because FFmpeg takes a relative path up to a colon for a protocol.
            with av.open(str(temporary.absolute()), "w", format="mp4") as container:
                # Without x264's macroblock tree, whose decisions are not the same bit for bit in every run.
                options = {"crf": "20", "x264-params": "mbtree=0"}
                stream = container.add_stream("libx264", rate=fps.limit_denominator(1001), options=options)
                stream.pix_fmt = "yuv420p"

                def add(name: str, image: np.ndarray, ids: np.ndarray) -> None:
                    nonlocal thumbs, every, seen
                    drawn = draw_masks(image, ids)
                    height, width = drawn.shape[:2]
                    even = np.pad(drawn, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
                    if seen == 0:
                        stream.height, stream.width = even.shape[:2]
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
                    if seen % every == 0:
                        thumb = Image.fromarray(drawn)
                        thumb.thumbnail((THUMB, THUMB))
                        thumbs.append((name, thumb))
                    if len(thumbs) == SHEET_POOL:  # of unknown length: keep every second from now on
                        thumbs, every = thumbs[::2], 2 * every
                    seen += 1

                yield add
                container.mux(stream.encode(None))
        except av.FFmpegError as error:
            raise InputError(f"{video}: cannot be written ({error.strerror})") from error
        chosen = np.linspace(0, len(thumbs) - 1, min(SHEET_FRAMES, len(thumbs))).round().astype(int)
        write_image(sheet, contact_sheet([thumbs[i] for i in chosen]))


def contact_sheet(thumbs: list[tuple[str, Image.Image]]) -> np.ndarray:
    """H×W×3 uint8: captioned images of equal size in rows of four."""
    columns = min(SHEET_COLUMNS, len(thumbs))
    rows = -(-len(thumbs) // columns)
    width = max(thumbs[0][1].width, 80) + 4
    height = thumbs[0][1].height + CAPTION
    sheet = Image.new("RGB", (columns * width, rows * height), (32, 32, 32))
    draw = ImageDraw.Draw(sheet)
    for i, (name, thumb) in enumerate(thumbs):
        x, y = i % columns * width, i // columns * height
        sheet.paste(thumb, (x + 2, y))
        draw.text((x + 4, y + height - CAPTION + 2), name, fill=(255, 255, 255))
    return np.array(sheet)
