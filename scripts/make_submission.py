"""Pack results into the zip of a benchmark server, after checking that they are complete and in the right form.

python scripts/make_submission.py youtube2019 output/youtube2019-valid --output youtube2019.zip
python scripts/make_submission.py davis2017-testdev testdev.zip                  # only check a folder or a zip

CodaLab, which ran the servers of DAVIS and YouTube-VOS, has accepted no submissions since the end of 2025. Only the
organisers can move a benchmark to its successor Codabench, and no such move is known for these. Score your results
locally instead, where ground truth is public (DAVIS 2016 and 2017 train and val, and your own held-out videos):

python scripts/score.py data/DAVIS/2017/trainval/Annotations/480p output/davis2017-val
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import util.interrupt  # noqa: F401

# isort: split
import io
import itertools
import posixpath
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from datasets.images import read_mask
from datasets.listing import davis_videos, youtube_videos
from util.archive import zip_entry
from util.errors import InputError, Parser, exit_on_input_error
from util.files import atomic_path, check_is_file, check_output, files_below, read_bytes
from util.parallel import parallel_map

EPILOG = """
Which masks are expected comes from the data set (--data), which needs no ground truth:
  davis2016           VIDEO/00000.png, … at the root of the zip, every frame of every video; 0 and 255
  davis2017-testdev   the same with object ids
  youtube2018, 2019   Annotations/VIDEO/FRAME.png for the frames that meta.json lists; object ids
Masks are indexed or 8-bit grey PNGs of the size of the given masks, without ids that the given masks do not have.
Exit code: 0 for a valid submission; 1 if it has faults, one line each; 2 if it or the data set cannot be read.
"""
DATA = {
    "davis2016": Path("data/DAVIS/2016"),
    "davis2017-testdev": Path("data/DAVIS/2017"),
    "youtube2018": Path("data/YouTube2018"),
    "youtube2019": Path("data/YouTube"),
}


class Expected(NamedTuple):
    """What one mask has to be."""

    size: tuple[int, int]  # H, W
    ids: set[int]  # allowed values


def expected_masks(dataset: str, root: Path, split: str) -> dict[str, Expected]:
    """{name in the zip: mask} of a data set, in order. Raises `InputError` if it is incomplete."""
    if dataset.startswith("davis"):
        year, split = (2016, "val") if dataset == "davis2016" else (2017, "testdev")
        videos, prefix = davis_videos(root, year, split, 480), ""
    else:
        six_fps = (root / split / "JPEGImages").is_dir()  # the other frames are not needed here
        videos, prefix = youtube_videos(root, split, 480, six_fps=six_fps), "Annotations/"
    expected: dict[str, Expected] = {}
    for video in videos:
        ids = {0}.union(*(np.unique(read_mask(path)).tolist() for path in video.masks))
        expected |= {f"{prefix}{video.name}/{frame}.png": Expected(video.size, ids) for frame in video.outputs or ()}
    if not expected:
        raise InputError(f"{root}: asks for no mask; expected the videos of {dataset}")
    return expected


def open_submission(path: Path) -> tuple[list[str], Callable[[str], bytes]]:
    """Names of the files in a folder or zip, with '/' between folders, and a function that reads one."""
    if path.is_dir():
        names = [file.relative_to(path).as_posix() for file in files_below(path) if file.suffix]
        return names, lambda name: read_bytes(path / name, "a mask")
    check_is_file(path, "a folder or a zip of masks")
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read ({error}); expected a folder or a zip of masks") from error
    return [entry.filename for entry in archive.infolist() if not entry.is_dir()], archive.read


def name_faults(names: list[str], expected: dict[str, Expected]) -> Iterator[str]:
    """What is wrong with the names of the files, one line for each folder."""
    if expected.keys().isdisjoint(names):
        yield f"holds no expected mask, but {(names or ['nothing'])[0]}; expected names like {next(iter(expected))}"
        return
    repeated = [name for name, count in Counter(names).items() if count > 1]
    missing, unexpected = expected.keys() - set(names), set(names) - expected.keys()
    for what, found in (("missing", missing), ("not expected", unexpected), ("listed twice", repeated)):
        for _, group in itertools.groupby(sorted(found), posixpath.dirname):
            first, *others = group
            yield f"{first}{f' and {len(others)} more' if others else ''}: {what}"


def content_faults(name: str, read: Callable[[str], bytes], expected: Expected) -> Iterator[str]:
    """What is wrong with a mask file: at most one line."""
    try:
        with Image.open(io.BytesIO(read(name))) as image:
            ids = np.array(image)
    except Exception as error:  # Pillow and zipfile raise many types for damaged files
        yield f"{name}: cannot be decoded ({error}); expected a PNG"
        return
    if image.format != "PNG" or image.mode not in ("P", "L"):
        yield f"{name}: is a {image.mode} {image.format} image; expected an indexed or 8-bit grey PNG"
    elif ids.shape != expected.size:
        yield f"{name}: is {ids.shape[1]}×{ids.shape[0]}; expected {expected.size[1]}×{expected.size[0]}"
    elif unknown := set(np.unique(ids).tolist()) - expected.ids:
        yield f"{name}: holds the ids {sorted(unknown)}; expected {sorted(expected.ids)}"


def write_zip(output: Path, names: Iterable[str], read: Callable[[str], bytes]) -> None:
    """The same masks give the same zip, byte for byte. They are stored as they are: PNGs cannot be compressed."""
    with atomic_path(output) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in sorted(names):
            archive.writestr(zip_entry(name), read(name))


@exit_on_input_error
def main(arguments: list[str] | None = None) -> int:
    parser = Parser(__doc__, EPILOG)
    parser.add_argument("dataset", choices=DATA)
    parser.add_argument("masks", type=Path, help="the --output of eval_davis.py or eval_youtube.py, or a zip")
    parser.add_argument("--output", type=Path, metavar="ZIP", help="zip to write; unexpected files are left out")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="the data set (default: its folder in data/)")
    parser.add_argument("--split", choices=("valid", "test"), default="valid", help="of YouTube-VOS (default: valid)")
    args = parser.parse_args(arguments)

    if args.output:
        check_output(args.output, [args.masks], b".png")
    expected = expected_masks(args.dataset, args.data or DATA[args.dataset], args.split)
    names, read = open_submission(args.masks)
    present = sorted(expected.keys() & set(names))
    faults = list(name_faults(present if args.output and present else names, expected))
    for found in parallel_map(lambda name: list(content_faults(name, read, expected[name])), present, "Checking"):
        faults += found
    for fault in faults:
        print(f"{args.masks}: {fault}")
    if args.output and not faults:
        write_zip(args.output, expected, read)
    print(f"{args.masks}: {len(present)} of {len(expected)} masks, {len(faults)} faults")
    return int(bool(faults))


if __name__ == "__main__":
    main()
