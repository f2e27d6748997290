"""Download a data set to where train.py and the eval scripts look for it.

python scripts/download_datasets.py                    # list the data sets, with licences and sizes
python scripts/download_datasets.py davis2017
"""

import argparse
import shutil
import stat
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import progressbar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.errors import InputError, exit_on_input_error

EPILOG = """
examples:
  python scripts/download_datasets.py davis2017 --dry-run       # what would happen
  python scripts/download_datasets.py davis2017
  python scripts/download_datasets.py youtube2019-train --root /big/disk/data

The archives are the ones that the STCN project shares on Google Drive, which counts the downloads of a file: when it
refuses one, try again a day later, or open the address in a browser and put the file into ROOT/downloads. A download
that broke off goes on where it stopped; what is there already is left alone.
"""


@dataclass(frozen=True)
class Archive:
    """A zip on Google Drive."""

    file: str
    drive_id: str
    target: str  # below --root
    holds: tuple[str, ...]  # what the folder has to hold, wherever in the zip it stands
    size: str = "size shown when the download begins"

    @property
    def url(self) -> str:
        return f"https://drive.google.com/uc?id={self.drive_id}"


@dataclass(frozen=True)
class DataSet:
    """Archives that belong together, and the terms they come under."""

    what: str
    licence: str
    archives: tuple[Archive, ...]
    afterwards: str = ""


DAVIS = "CC BY 4.0 by its README; see davischallenge.org"
YOUTUBE = "annotations CC BY 4.0, for non-commercial research only; see youtube-vos.org"
VIDEOS = ("JPEGImages", "Annotations")
VIDEOS_480P = ("JPEGImages/480p", "Annotations/480p")
VALID = (*VIDEOS, "meta.json")
DATASETS = {
    "static": DataSet(
        "static images with masks for stage 0: FSS-1000, DUTS, ECSSD, BIG, HRSOD",
        "each its own, research only for most; see the sets' pages",
        (Archive("static_data.zip", "1wUJq3HcLdN-z1t4CsUhjeZ9BVDb9YKLd", "static", ("fss", "DUTS-TR")),),
    ),
    "davis2016": DataSet(
        "DAVIS 2016, one object a video",
        DAVIS,
        (Archive("DAVIS-2016.zip", "198aRlh5CpAoFz0hfRgYbiNenn_K8DxWD", "DAVIS/2016", VIDEOS_480P),),
    ),
    "davis2017": DataSet(
        "DAVIS 2017 train and val, 480p",
        DAVIS,
        (
            Archive(
                "DAVIS-2017-trainval-480p.zip",
                "1kiaxrX_4GuW6NmiVuKGSGVoKGWjOdp6d",
                "DAVIS/2017/trainval",
                VIDEOS_480P,
                "about 0.8 GB",
            ),
        ),
    ),
    "davis2017-testdev": DataSet(
        "DAVIS 2017 test-dev, 480p",
        DAVIS,
        (
            Archive(
                "DAVIS-2017-test-dev-480p.zip",
                "1fmkxU2v9cQwyb62Tj1xFDdh2p4kDsUzD",
                "DAVIS/2017/test-dev",
                VIDEOS_480P,
                "about 0.3 GB",
            ),
        ),
    ),
    "youtube2019-train": DataSet(
        "YouTube-VOS 2019, training set",
        YOUTUBE,
        (Archive("youtube2019-train.zip", "13Eqw0gVK-AO5B-cqvJ203mZ2vzWck9s4", "YouTube/train", VIDEOS),),
        "training reads a smaller copy; make it with\n"
        "  python scripts/resize_youtube.py {root}/YouTube/train {root}/YouTube/train_480p",
    ),
    "youtube2019-valid": DataSet(
        "YouTube-VOS 2019, validation set with all frames",
        YOUTUBE,
        (
            Archive("youtube2019-valid.zip", "1o586Wjya-f2ohxYf9C1RlRH-gkrzGS8t", "YouTube/valid", VALID),
            Archive(
                "youtube2019-valid_all_frames.zip",
                "1rWQzZcMskgpEQOZdJPJ7eTmLCBEIIpEN",
                "YouTube/all_frames/valid_all_frames",
                ("JPEGImages",),
            ),
        ),
    ),
    "youtube2018-valid": DataSet(
        "YouTube-VOS 2018, validation set with all frames",
        YOUTUBE,
        (
            Archive("youtube2018-valid.zip", "1-QrceIl5sUNTKz7Iq0UsWC6NLZq7girr", "YouTube2018/valid", VALID),
            Archive(
                "youtube2018-valid_all_frames.zip",
                "1yVoHM6zgdcL348cFpolFcEl4IC1gorbV",
                "YouTube2018/all_frames/valid_all_frames",
                ("JPEGImages",),
            ),
        ),
    ),
}


def is_there(archive: Archive, root: Path) -> bool:
    return all((root / archive.target / part).exists() for part in archive.holds)


def fetch(archive: Archive, root: Path, url: str) -> None:
    """Download, check and unpack one archive. Raises `InputError`; what was downloaded so far is kept then."""
    file = root / "downloads" / archive.file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        download(url, file)
        unpack(file, root / archive.target, archive.holds)
        file.unlink()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or error}; expected a place with room for the data") from error


def download(url: str, file: Path) -> None:
    """Fetch ``url``, going on where an earlier try stopped. Raises `InputError`."""
    import gdown  # only here: the list and the dry run need nothing but Python

    try:
        done = gdown.download(url, str(file), resume=True, use_cookies=False)
    except Exception as error:  # its own, those of requests, of urllib3, …
        reason = " ".join(str(error).split())
        raise InputError(f"{url}: download failed ({reason}); start again later, it goes on from there") from error
    if not done or not file.is_file():
        raise InputError(f"{url}: nothing was downloaded; expected {file.name}")


def unpack(file: Path, target: Path, holds: tuple[str, ...]) -> None:
    """Unpack a zip beside ``target`` and, once all of it is there, move the folder that ``holds`` into its place.

    What ``target`` already has is left alone. Raises `InputError`, before anything is written, for a file that is no
    zip, has not enough room or has entries that are no plain files inside it; and later for a damaged one. A file that
    is no whole zip is deleted, so that the next run fetches it again.
    """
    staging = target.parent / f".{target.name}.unpacking"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            for entry in entries:
                if reason := unsafe(entry):
                    raise InputError(f"{file}: entry {entry.filename!r} {reason}; nothing was unpacked")
            needed = sum(entry.file_size for entry in entries)
            free = shutil.disk_usage(file.parent).free
            if needed > free:
                raise InputError(f"{file}: needs {needed / 1e9:.1f} GB unpacked, {free / 1e9:.1f} GB are free")
            for entry in progressbar.progressbar(entries, prefix="Unpacking: ") if sys.stderr.isatty() else entries:
                path = staging / entry.filename
                if entry.is_dir():
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, path.open("xb") as copy:
                    shutil.copyfileobj(source, copy, 1 << 20)  # checks the entry's length and checksum, too
        move(find(staging, holds, file), target)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        file.unlink()
        raise InputError(
            f"{file}: is no whole zip ({error}) and was deleted; Google Drive may have sent a page instead: start again"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def unsafe(entry: zipfile.ZipInfo) -> str | None:
    """Why an entry is not to be unpacked: it could end up outside of the target folder."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    name = entry.filename
    if name.startswith("/") or "\\" in name or ":" in name.split("/")[0]:
        return "has an absolute path"
    if ".." in name.split("/"):
        return "leads out of its folder"
    return None


def find(staging: Path, holds: tuple[str, ...], file: Path) -> Path:
    """The outermost folder in ``staging`` that holds these things."""
    folders = [staging]
    while folders:
        for folder in folders:
            if all((folder / part).exists() for part in holds):
                return folder
        folders = [path for folder in folders for path in sorted(folder.iterdir()) if path.is_dir()]
    raise InputError(f"{file}: nothing in it holds {' and '.join(holds)}; expected the data set")


def move(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if not (target / path.name).exists():
            path.rename(target / path.name)


def describe(name: str, root: Path) -> str:
    dataset = DATASETS[name]
    lines = [f"{name}: {dataset.what}", f"  licence: {dataset.licence}"]
    for archive in dataset.archives:
        state = " (is there)" if is_there(archive, root) else ""
        lines.append(f"  {archive.file}, {archive.size}: {archive.url} → {root / archive.target}{state}")
    return "\n".join(lines)


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", choices=DATASETS, help="the data set; without one, all are listed")
    parser.add_argument("--root", type=Path, default="data", help="folder for all data sets (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--mirror", metavar="URL", help="fetch URL/ARCHIVE from your own server, not from Google Drive")
    args = parser.parse_args(arguments)
    if args.name is None:
        print("\n".join(describe(name, args.root) for name in DATASETS))
        return
    print(describe(args.name, args.root), flush=True)
    if args.dry_run:
        return
    for archive in DATASETS[args.name].archives:
        if not is_there(archive, args.root):
            fetch(archive, args.root, f"{args.mirror.rstrip('/')}/{archive.file}" if args.mirror else archive.url)
            print(f"done: {args.root / archive.target}", flush=True)
    print(DATASETS[args.name].afterwards.format(root=args.root), end="\n" if DATASETS[args.name].afterwards else "")


if __name__ == "__main__":
    main()
