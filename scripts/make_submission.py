"""Check results for DAVIS 2017 test-dev or YouTube-VOS, and pack them into the zip that the server expects.

python scripts/make_submission.py youtube2019 output/youtube2019-valid --output youtube2019.zip
"""

import argparse
import io
import itertools
import posixpath
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.davis import davis_videos
from datasets.images import PALETTE, read_mask
from datasets.video import Video
from datasets.youtube import youtube_videos
from util.errors import InputError, exit_on_input_error
from util.files import atomic_path
from util.parallel import parallel_map

EPILOG = """
examples:
  python scripts/make_submission.py davis2017-testdev output/testdev --output testdev.zip
  python scripts/make_submission.py youtube2018 output/youtube2018-valid --output youtube2018.zip
  python scripts/make_submission.py youtube2019 youtube2019.zip          # only check a zip, or a folder

What is expected comes from the data set's own folder (--data), without the ground truth:
  davis2017-testdev   VIDEO/00000.png, … at the root of the zip, every frame of every video
  youtube2018, 2019   Annotations/VIDEO/FRAME.png, the frames that meta.json asks for
PNGs with the DAVIS palette or grey ones, as large as the given masks, with no ids but those of the given masks.
Exit code: 0 for a right submission, 1 if it has faults (one line each), 2 if it or the data set cannot be read.
"""
LITTER = {"__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini"}  # what file managers leave in folders and zips
OWN_FILES = (".finished", "overlay")  # what evaluation leaves beside the results


class Mask(NamedTuple):
    """What one PNG has to be."""

    size: tuple[int, int]  # H, W
    ids: frozenset[int]  # allowed, with 0


@dataclass(frozen=True)
class Submission:
    """A folder or a zip: the names of its files, with '/' between folders, and what they hold."""

    path: Path
    names: list[str]
    read: Callable[[str], bytes]


def open_submission(path: Path) -> Submission:
    """Raises `InputError` if ``path`` is neither a folder nor a zip that can be read."""
    if path.is_dir():
        names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        names = [name for name in names if name.split("/")[0] not in OWN_FILES]
        return Submission(path, names, lambda name: (path / name).read_bytes())
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file or folder; expected masks, or a zip of them") from None
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as a zip ({error}); expected a zip or a folder of masks") from error
    names = [entry.filename for entry in archive.infolist() if not entry.is_dir() or "__MACOSX" in entry.filename]
    return Submission(path, names, archive.read)


def expected_masks(videos: list[Video], prefix: str) -> dict[str, Mask]:
    """{name in the zip: what it has to be} for every frame that is wanted of the videos."""
    masks = {}
    for video in videos:
        ids = frozenset({0}.union(*(np.unique(read_mask(path)).tolist() for path in video.masks)))
        for frame in video.outputs:
            masks[f"{prefix}{video.name}/{frame}.png"] = Mask(video.size, ids)
    return masks


def misplaced(submission: Submission, expected: dict[str, Mask]) -> list[str]:
    """One line if not a single mask is in its place, that says where they are instead."""
    if not expected.keys().isdisjoint(submission.names):
        return []
    example = next(iter(expected))
    for name in submission.names:
        parts = name.split("/")
        for depth in range(1, len(parts)):
            if "/".join(parts[depth:]) in expected:
                folder = "/".join(parts[:depth])
                return [f"{submission.path}/{folder}: encloses the masks; expected {example} at the root"]
        if f"Annotations/{name}" in expected:
            return [f"{submission.path}/{parts[0]}: lies at the root; expected a folder Annotations, as in {example}"]
    return [f"{submission.path}: holds no mask that is asked for; expected names such as {example}"]


def extra_files(submission: Submission, expected: dict[str, Mask]) -> list[str]:
    """One line for each file, or folder of files, that does not belong there."""
    folders = {posixpath.dirname(name) for name in expected}
    lines, unknown = [], Counter()
    for name, count in Counter(submission.names).items():
        parts = name.split("/")
        where = f"{submission.path}/{name}"
        if parts[0] == "" or ".." in parts or "\\" in name or ":" in parts[0]:
            lines.append(f"{where}: has an unsafe name; expected a path inside the zip, with '/' between folders")
        elif not LITTER.isdisjoint(parts) or parts[-1].startswith("._"):
            lines.append(f"{where}: was left by a file manager; expected masks alone")
        elif count > 1:
            lines.append(f"{where}: stands there {count} times; expected once")
        elif name not in expected and posixpath.dirname(name) in folders:
            lines.append(f"{where}: is not asked for; expected names such as {next(iter(expected))}")
        elif name not in expected:
            unknown[posixpath.dirname(name) or name] += 1
    for name, count in unknown.items():
        lines.append(
            f"{submission.path}/{name}: is no video of the data set ({count} files); expected its videos alone"
        )
    return lines


def missing_files(submission: Submission, expected: dict[str, Mask]) -> list[str]:
    """One line for each mask that is not there, or for each video that has none."""
    there = set(submission.names)
    lines = []
    for folder, names in itertools.groupby(expected, posixpath.dirname):
        names = list(names)
        missing = [name for name in names if name not in there]
        if missing == names:
            lines.append(f"{submission.path}/{folder}: missing video; expected {len(names)} masks in it")
        else:
            lines += [f"{submission.path}/{name}: missing mask" for name in missing]
    return lines


def content_faults(submission: Submission, name: str, mask: Mask) -> list[str]:
    """What is wrong with one PNG, in words."""
    try:
        image = Image.open(io.BytesIO(submission.read(name)))
        ids = np.asarray(image)
    except Exception as error:  # Pillow and zipfile raise many types for damaged files
        return [f"cannot be decoded ({str(error).splitlines()[0]}); expected a PNG"]
    if image.format != "PNG":
        return [f"is a {image.format} file; expected a PNG"]
    if image.mode not in ("P", "L"):
        return [f"has the mode {image.mode}; expected an indexed PNG (P) or an 8-bit grey one (L)"]
    faults = []
    height, width = mask.size
    if image.size != (width, height):
        faults.append(f"is {image.width}×{image.height}; expected {width}×{height}, the size of the given mask")
    found = np.unique(ids)
    if unknown := sorted(set(found.tolist()) - mask.ids):
        faults.append(f"holds the ids {_enumerate(unknown)}; expected no others than {_enumerate(sorted(mask.ids))}")
    elif image.mode == "P":
        palette = np.reshape(image.getpalette(), (-1, 3))
        if found.max() >= len(palette) or (palette[found] != PALETTE[found]).any():
            faults.append("has another palette; expected the DAVIS palette")
    return faults


def _enumerate(ids: list[int]) -> str:
    shown = ", ".join(map(str, ids[:8]))
    return shown if len(ids) <= 8 else f"{shown}, … ({len(ids)} in all)"


def write_zip(output: Path, submission: Submission, names: Iterable[str]) -> None:
    """The same masks give the same zip, byte for byte. Stored, not deflated: PNGs do not get smaller."""
    with atomic_path(output) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(names):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o644 << 16  # as on Unix, wherever this runs
            archive.writestr(entry, submission.read(name))


def expected_of(dataset: str, root: Path, split: str) -> dict[str, Mask]:
    """What the server of ``dataset`` expects, from the data set's folder. Raises `InputError`."""
    if dataset == "davis2017-testdev":
        return expected_masks(davis_videos(root, 2017, "testdev", 480), "")
    six_fps = (root / split / "JPEGImages").is_dir()  # either kind of frames will do
    return expected_masks(youtube_videos(root, split, 480, six_fps=six_fps), "Annotations/")


DATA = {
    "davis2017-testdev": Path("data/DAVIS/2017"),
    "youtube2018": Path("data/YouTube2018"),
    "youtube2019": Path("data/YouTube"),
}


@exit_on_input_error
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", choices=DATA)
    parser.add_argument("masks", type=Path, help="what eval_davis.py or eval_youtube.py wrote (its --output), or a zip")
    parser.add_argument("--output", type=Path, metavar="ZIP", help="write the zip, if nothing is wrong")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="the data set (default: data/DAVIS/2017, data/YouTube2018 or data/YouTube)",
    )
    parser.add_argument("--split", choices=("valid", "test"), default="valid", help="of YouTube-VOS (default: valid)")
    args = parser.parse_args(arguments)

    submission = open_submission(args.masks)
    expected = expected_of(args.dataset, args.data or DATA[args.dataset], args.split)
    faults = misplaced(submission, expected)
    if not faults:
        extra = extra_files(submission, expected)
        faults = missing_files(submission, expected)
        if args.output:
            for line in extra:
                print(f"left out: {line}", file=sys.stderr)
        else:
            faults += extra
        there = set(submission.names)
        present = [name for name in expected if name in there]
        found = parallel_map(lambda name: content_faults(submission, name, expected[name]), present, "Checking")
        faults += [
            f"{submission.path}/{name}: {line}" for name, lines in zip(present, found, strict=True) for line in lines
        ]
    for fault in faults:
        print(fault)
    if faults:
        print(f"{len(faults)} faults: {args.masks} is not a submission for {args.dataset}")
        return 1
    if args.output:
        write_zip(args.output, submission, expected)
    print(f"{len(expected)} masks, no faults: {args.output or args.masks}")
    return 0


if __name__ == "__main__":
    main()
