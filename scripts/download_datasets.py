"""Download a data set to the place where train.py and the eval scripts look for it.

python scripts/download_datasets.py                    # list the data sets with their licences and sizes
python scripts/download_datasets.py davis2017
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import util.interrupt  # noqa: F401

# isort: split
import os
import shutil
import zipfile
import zlib
from typing import NamedTuple

from scripts.download import download
from util.errors import InputError, Parser, exit_on_input_error

EPILOG = """
The archives are those that the STCN project shares on Google Drive. Google limits the downloads of a file: if it
refuses one, try again a day later, or open the address in a browser and move the file to ROOT/downloads under the name
below. An interrupted download continues when the program is started again; installed data sets are skipped.
Training reads a smaller copy of youtube2019-train, which scripts/resize_youtube.py makes.

data sets:
"""
STATIC = "FSS-1000, DUTS, ECSSD, BIG and HRSOD have licences of their own, mostly for research only"
DAVIS = "CC BY-NC 4.0 by the terms of use on davischallenge.org"
YOUTUBE = "annotations CC BY 4.0, for non-commercial research only, see youtube-vos.org"


class Archive(NamedTuple):
    """A zip file on Google Drive. A data set consists of all archives with its name."""

    dataset: str
    drive_id: str
    folder: str  # below --root
    licence: str
    size: str = "size shown during the download"
    contents: tuple[str, ...] = ("JPEGImages", "Annotations")  # of the folder; the zip may hold them at any depth

    @property
    def url(self) -> str:
        return f"https://drive.google.com/uc?id={self.drive_id}"

    @property
    def file(self) -> str:
        return f"{self.folder.replace('/', '-')}.zip"

    def __str__(self) -> str:
        return f"  {self.dataset}: {self.file}, {self.size}, {self.url}\n    {self.licence}"


def all_frames(dataset: str, drive_id: str, folder: str) -> Archive:
    """The frames between the annotated ones; they come without masks."""
    return Archive(dataset, drive_id, f"{folder}/all_frames/valid_all_frames", YOUTUBE, contents=("JPEGImages",))


ARCHIVES = [
    Archive("static", "1wUJq3HcLdN-z1t4CsUhjeZ9BVDb9YKLd", "static", STATIC, contents=("fss", "DUTS-TR")),
    Archive("davis2016", "198aRlh5CpAoFz0hfRgYbiNenn_K8DxWD", "DAVIS/2016", DAVIS),
    Archive("davis2017", "1kiaxrX_4GuW6NmiVuKGSGVoKGWjOdp6d", "DAVIS/2017/trainval", DAVIS, "0.8 GB"),
    Archive("davis2017-testdev", "1fmkxU2v9cQwyb62Tj1xFDdh2p4kDsUzD", "DAVIS/2017/test-dev", DAVIS, "0.3 GB"),
    Archive("youtube2019-train", "13Eqw0gVK-AO5B-cqvJ203mZ2vzWck9s4", "YouTube/train", YOUTUBE),
    Archive("youtube2019-valid", "1o586Wjya-f2ohxYf9C1RlRH-gkrzGS8t", "YouTube/valid", YOUTUBE),
    all_frames("youtube2019-valid", "1rWQzZcMskgpEQOZdJPJ7eTmLCBEIIpEN", "YouTube"),
    Archive("youtube2018-valid", "1-QrceIl5sUNTKz7Iq0UsWC6NLZq7girr", "YouTube2018/valid", YOUTUBE),
    all_frames("youtube2018-valid", "1yVoHM6zgdcL348cFpolFcEl4IC1gorbV", "YouTube2018"),
]


def is_installed(folder: Path, contents: tuple[str, ...]) -> bool:
    return all((folder / name).exists() for name in contents)


def unpack(file: Path, target: Path, contents: tuple[str, ...]) -> None:
    """Unpack a zip file beside ``target``, then move what the folder with the ``contents`` holds into ``target``.

    Raises `InputError`, and leaves ``target`` as it was, for a damaged zip (which is deleted), for one of a kind that
    ``zipfile`` cannot unpack, for one without the contents, and if ``target`` already holds something of the same name.
    No entry can leave the staging folder: ``zipfile`` removes drives, leading slashes and ``..`` from names, and writes
    links as plain files.
    """
    target = Path(os.path.realpath(target))  # a link to another disk: unpack there
    staging = target.parent / f".{target.name}.unpacking"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with zipfile.ZipFile(file) as archive:
            archive.extractall(staging)
        folders = [staging, *(path for depth in ("*", "*/*", "*/*/*") for path in sorted(staging.glob(depth)))]
        found = next((folder for folder in folders if is_installed(folder, contents)), None)
        if not found:
            raise InputError(f"{file}: holds no folder with {' and '.join(contents)}; expected the data set")
        if taken := [path.name for path in sorted(found.iterdir()) if (target / path.name).exists()]:
            advice = f"move them away and run again ({file} was kept)"
            raise InputError(f"{target}: already holds {', '.join(taken)}; {advice}")
        target.mkdir(parents=True, exist_ok=True)
        for path in list(found.iterdir()):
            path.rename(target / path.name)
    except RuntimeError as error:  # encrypted, or in a compression that `zipfile` lacks
        advice = f"unpack it to {target} by hand, or delete it and run again"
        raise InputError(f"{file}: cannot be unpacked ({error}); {advice}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        file.unlink()
        raise InputError(f"{file}: was not a complete zip file ({error}) and was deleted; run again") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@exit_on_input_error
def main(arguments: list[str] | None = None) -> None:
    names = dict.fromkeys(archive.dataset for archive in ARCHIVES)
    listing = "\n".join(map(str, ARCHIVES))
    parser = Parser(__doc__, EPILOG + listing)
    parser.add_argument("dataset", nargs="?", choices=names, help="the data set to download (default: list them)")
    parser.add_argument("--root", type=Path, default="data", help="folder of all data sets (default: %(default)s)")
    parser.add_argument("--mirror", metavar="URL", help="download URL/ARCHIVE.zip instead of the file on Google Drive")
    args = parser.parse_args(arguments)
    if args.dataset is None:
        print(listing)
        return
    for archive in [archive for archive in ARCHIVES if archive.dataset == args.dataset]:
        print(archive, flush=True)
        target, file = args.root / archive.folder, args.root / "downloads" / archive.file
        if not is_installed(target, archive.contents):
            download(f"{args.mirror.rstrip('/')}/{archive.file}" if args.mirror else archive.url, file)
            unpack(file, target, archive.contents)
            file.unlink()
        print(f"{target}: complete", flush=True)


if __name__ == "__main__":
    main()
