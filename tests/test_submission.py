"""make_submission.py: a right submission passes, and each single fault is told in one line with its path."""

import io
import re
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from datasets.images import PALETTE
from scripts import make_submission
from tests.folders import WANTED, ids_at, make_testdev, make_youtube


def png(ids, mode="P", palette=PALETTE, kind="PNG") -> bytes:
    image = Image.fromarray(ids)
    if mode == "P":
        image.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    (image if mode in ("P", "L") else image.convert(mode)).save(buffer, kind)
    return buffer.getvalue()


def right_files(dataset) -> dict[str, bytes]:
    if dataset == "davis2017-testdev":
        return {f"{v}/{t:05d}.png": png(ids_at(t, 1, 2)) for v in ("aa", "bb") for t in range(4)}
    return {f"Annotations/{v}/{name}.png": png(ids_at(int(name), 2, 3, 9)) for v in ("aa", "bb") for name in WANTED}


@pytest.fixture
def submit(tmp_path, capsys):
    """``submit(dataset, files, *flags)`` packs [(name, bytes)] and returns (exit code, lines on stdout)."""
    make_testdev(tmp_path / "davis2017-testdev")
    make_youtube(tmp_path / "youtube2019")

    def run(dataset, files, *flags, folder=False):
        path = tmp_path / ("given" if folder else "given.zip")
        if folder:
            for name, content in files:
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes(content)
        else:
            with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of names that stand in it twice
                for name, content in files:
                    archive.writestr(name, content)
        code = 0
        try:
            make_submission.main([dataset, str(path), "--data", str(tmp_path / dataset), *map(str, flags)])
        except SystemExit as end:
            code = end.code
        return code, capsys.readouterr().out.splitlines()

    return run


@pytest.mark.parametrize("dataset", ["davis2017-testdev", "youtube2019"])
def test_right_submissions_pass_and_zips_are_the_same_every_time(tmp_path, submit, dataset):
    files = right_files(dataset)
    grey = {name: png(np.asarray(Image.open(io.BytesIO(content))), "L") for name, content in files.items()}
    assert submit(dataset, files.items())[0] == 0
    assert submit(dataset, grey.items())[0] == 0
    beside = {".finished/aa.json": b"{}", "overlay/aa.png": b"", "Annotations/aa/00099.png": b"extra", "notes.txt": b""}
    zips = []
    for order in (1, -1):
        code, lines = submit(
            dataset, [*files.items(), *beside.items()][::order], "--output", tmp_path / "out.zip", folder=True
        )
        assert code == 0 and lines == [f"{len(files)} masks, no faults: {tmp_path / 'out.zip'}"]
        zips.append((tmp_path / "out.zip").read_bytes())
        (tmp_path / "out.zip").unlink()
        for path in sorted((tmp_path / "given").rglob("*.png")):  # other times, same masks
            path.touch()
    assert zips[0] == zips[1]
    with zipfile.ZipFile(io.BytesIO(zips[0])) as archive:
        assert archive.namelist() == sorted(files)
        assert all(archive.read(name) == content for name, content in files.items())


def change(content):
    """The same fault for every data set: the second mask of video bb gets other content."""
    return lambda files: files | {bb(files)[1]: content}


def bb(files):
    return sorted(name for name in files if "bb/" in name)


ids = ids_at(1, 2)
other = PALETTE.copy()
other[2] += 1
FAULTS = {
    "enclosed": (lambda f: {f"out/{k}": v for k, v in f.items()}, r"given.zip/out: encloses the masks; expected "),
    "missing video": (
        lambda f: {k: v for k, v in f.items() if k not in bb(f)},
        r"bb: missing video; expected \d masks",
    ),
    "missing mask": (lambda f: {k: v for k, v in f.items() if k != bb(f)[1]}, "{}: missing mask"),
    "extra video": (lambda f: f | {bb(f)[0].replace("bb", "cc"): png(ids)}, "cc: is no video of the data set"),
    "extra mask": (lambda f: f | {bb(f)[0].replace("0000", "0009"): png(ids)}, "bb/0009[02].png: is not asked for"),
    "extra file": (lambda f: f | {"readme.txt": b""}, "given.zip/readme.txt: is no video"),
    "macOS": (lambda f: f | {"__MACOSX/aa/._00000.png": b""}, "__MACOSX/aa/._00000.png: was left by a file manager"),
    "Finder": (lambda f: f | {bb(f)[0].replace(bb(f)[0][-9:], ".DS_Store"): b""}, "bb/.DS_Store: was left by a file"),
    "outside": (lambda f: f | {"../aa/00000.png": b""}, r"given.zip/../aa/00000.png: has an unsafe name"),
    "absolute": (lambda f: f | {"/aa/00000.png": b""}, "given.zip//aa/00000.png: has an unsafe name"),
    "twice": (lambda f: [*f.items(), (bb(f)[1], f[bb(f)[1]])], "{}: stands there 2 times"),
    "other size": (change(png(np.zeros((36, 51), np.uint8))), "{}: is 51×36; expected 52×36"),
    "colour": (change(png(ids, "RGB")), "{}: has the mode RGB; expected an indexed PNG"),
    "16 bits": (change(png(ids.astype(np.uint16), "L")), "{}: has the mode I;16"),
    "other palette": (change(png(ids, palette=other)), "{}: has another palette"),
    "foreign ids": (change(png(ids * 127)), "{}: holds the ids 254; expected no others than 0, "),
    "JPEG": (change(png(ids, "L", kind="JPEG")), "{}: is a JPEG file; expected a PNG"),
    "truncated": (change(png(ids_at(1, 1, 2))[:60]), "{}: cannot be decoded"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("dataset", ["davis2017-testdev", "youtube2019"])
def test_each_fault_is_one_line_with_its_path(tmp_path, submit, dataset, fault):
    spoil, message = FAULTS[fault]
    files = right_files(dataset)
    name = bb(files)[1]
    spoilt = spoil(files)
    code, lines = submit(dataset, spoilt.items() if isinstance(spoilt, dict) else spoilt)
    assert code == 1 and len(lines) == 2, lines
    assert lines[0].startswith(f"{tmp_path}/given.zip/") and re.search(message.format(name), lines[0]), lines[0]
    assert lines[1] == f"1 faults: {tmp_path}/given.zip is not a submission for {dataset}"


def test_youtube_without_its_folder(tmp_path, submit):
    files = {name.removeprefix("Annotations/"): content for name, content in right_files("youtube2019").items()}
    code, lines = submit("youtube2019", files.items())
    assert code == 1 and "given.zip/aa: lies at the root; expected a folder Annotations" in lines[0]


def test_what_cannot_be_read_at_all(tmp_path, capsys):
    make_testdev(tmp_path / "data")
    (tmp_path / "text.zip").write_text("no zip")
    for name, message in (("text.zip", "cannot be read as a zip"), ("nothing.zip", "no such file or folder")):
        with pytest.raises(SystemExit) as end:
            make_submission.main(["davis2017-testdev", str(tmp_path / name), "--data", str(tmp_path / "data")])
        assert end.value.code == 2 and f"{name}: {message}" in capsys.readouterr().err
