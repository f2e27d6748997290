"""make_submission.py: a valid submission passes, and each fault is one line."""

import io
import re
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from datasets.images import PALETTE
from scripts import make_submission
from tests.folders import SIZE, WANTED, ids_at, make_testdev, make_youtube
from tests.scenes import write_davis_2016

DATASETS = ["davis2016", "davis2017-testdev", "youtube2019"]


def png(ids, palette=True, **options) -> bytes:
    image = Image.fromarray(ids)
    if palette:
        image.putpalette(PALETTE.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "PNG", **options})
    return buffer.getvalue()


def valid_files(dataset) -> dict[str, bytes]:
    if dataset == "davis2016":
        return {f"bear/{t:05d}.png": png(np.eye(64, dtype=np.uint8) * 255, palette=False) for t in range(4)}
    if dataset == "davis2017-testdev":
        return {f"{v}/{t:05d}.png": png(ids_at(t, 1, 2)) for v in ("aa", "bb") for t in range(4)}
    return {f"Annotations/{v}/{name}.png": png(ids_at(int(name), 2, 3, 9)) for v in ("aa", "bb") for name in WANTED}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with a small copy of each data set, under its name."""
    root = tmp_path_factory.mktemp("data")
    make_testdev(root / "davis2017-testdev")
    make_youtube(root / "youtube2019")
    write_davis_2016(root / "davis2016", {"bear": 0}, length=4)
    (root / "davis2016/ImageSets/2016").mkdir(parents=True)
    (root / "davis2016/ImageSets/2016/val.txt").write_text("bear")
    return root


@pytest.fixture
def submit(tmp_path, data, capsys):
    """``submit(dataset, files, *flags)`` packs [(name, bytes)] and returns (exit code, lines on stdout)."""

    def run(dataset, files, *flags, folder=False):
        path = tmp_path / ("given" if folder else "given.zip")
        if folder:
            for name, content in files:
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes(content)
        else:
            with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about repeated names
                for name, content in files:
                    archive.writestr(name, content)
        code = 0
        try:
            make_submission.main([dataset, str(path), "--data", str(data / dataset), *map(str, flags)])
        except SystemExit as end:
            code = end.code
        return code, capsys.readouterr().out.splitlines()

    return run


@pytest.mark.parametrize("dataset", DATASETS)
def test_valid_submissions_pass_and_are_packed_reproducibly(tmp_path, submit, dataset):
    files = valid_files(dataset)
    assert submit(dataset, files.items())[0] == 0
    beside = {".records/aa.json": b"{}", "overlay/aa.png": b"", "Annotations/aa/00099.png": b"extra", "notes.txt": b""}
    zips = []
    for order in (1, -1):
        given, output = [*files.items(), *beside.items()][::order], tmp_path / "out.zip"
        code, lines = submit(dataset, given, "--output", output, folder=True)
        assert code == 0 and lines == [f"{tmp_path}/given: {len(files)} of {len(files)} masks, 0 faults"]
        zips.append(output.read_bytes())
        for path in sorted((tmp_path / "given").rglob("*.png")):  # other times, same masks
            path.touch()
    assert zips[0] == zips[1]
    with zipfile.ZipFile(io.BytesIO(zips[0])) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == files


def bb(files):
    return sorted(name for name in files if "bb/" in name)


def change(content):
    """The second mask of video bb gets other content."""
    return lambda files: files | {bb(files)[1]: content}


ids = ids_at(1, 2)
FAULTS = {
    "enclosed": (lambda f: {f"out/{k}": v for k, v in f.items()}, "holds no expected mask, but out/.*; expected names"),
    "empty": (lambda f: {}, "holds no expected mask, but nothing"),
    "missing video": (lambda f: {k: v for k, v in f.items() if k not in bb(f)}, r"bb/0000\d.png and \d more: missing"),
    "missing mask": (lambda f: {k: v for k, v in f.items() if k != bb(f)[1]}, "{}: missing"),
    "extra video": (lambda f: f | {bb(f)[0].replace("bb", "cc"): png(ids)}, "cc/.*: not expected"),
    "extra mask": (lambda f: f | {bb(f)[0].replace("0000", "0009"): png(ids)}, "bb/0009[02].png: not expected"),
    "macOS": (lambda f: f | {"__MACOSX/aa/._00000.png": b""}, "__MACOSX/aa/._00000.png: not expected"),
    "outside": (lambda f: f | {"../aa/00000.png": b""}, "../aa/00000.png: not expected"),
    "twice": (lambda f: [*f.items(), (bb(f)[1], f[bb(f)[1]])], "{}: listed twice"),
    "other size": (change(png(np.zeros((36, 51), np.uint8))), f"{{}}: is 51×36; expected {SIZE[1]}×{SIZE[0]}"),
    "colour": (change(png(PALETTE[ids], palette=False)), "{}: is a RGB PNG image; expected an indexed"),
    "16 bits": (change(png(ids.astype(np.uint16), palette=False)), r"{}: is a I(;16)? PNG image"),
    "foreign ids": (change(png(ids * 127)), r"{}: holds the ids \[254\]; expected \[0, "),
    "JPEG": (change(png(ids, palette=False, format="JPEG")), "{}: is a L JPEG image; expected"),
    "truncated": (change(png(ids_at(1, 1, 2))[:60]), "{}: cannot be decoded"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("dataset", DATASETS[1:])
def test_each_fault_is_one_line(tmp_path, submit, dataset, fault):
    spoil, message = FAULTS[fault]
    files = valid_files(dataset)
    name = bb(files)[1]
    spoilt = spoil(files)
    code, lines = submit(dataset, spoilt.items() if isinstance(spoilt, dict) else spoilt)
    assert code == 1 and len(lines) == 2, lines
    assert re.match(f"{tmp_path}/given.zip: .*{message.format(name)}", lines[0]), lines[0]
    assert lines[1].endswith(" masks, 1 faults")


def test_what_cannot_be_read_at_all(tmp_path, data, capsys):
    (tmp_path / "text.zip").write_text("no zip")
    for name, message in (("text.zip", "cannot be read"), ("nothing.zip", "no such file")):
        with pytest.raises(SystemExit) as end:
            make_submission.main(["davis2017-testdev", f"{tmp_path}/{name}", "--data", f"{data}/davis2017-testdev"])
        assert end.value.code == 2 and f"{name}: {message}" in capsys.readouterr().err
