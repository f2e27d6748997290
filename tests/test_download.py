"""scripts/download.py and download_datasets.py against a server on this machine."""

import hashlib
import io
import re
import stat
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import scripts.download
from scripts import download_datasets
from scripts.download import download
from tests.server import Server
from util.errors import InputError

FILE = "DAVIS-2017-test-dev.zip"
NOISE = bytes(range(256)) * 4000  # 1 MB
Get = Callable[..., tuple[int, str]]


def make_zip(entries: Sequence[tuple[str | zipfile.ZipInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for entry, content in entries:
            archive.writestr(entry, content)
    return buffer.getvalue()


def data_set(prefix: str = "DAVIS/") -> list[tuple[str | zipfile.ZipInfo, bytes]]:
    names = {"JPEGImages/480p/a/00000.jpg": NOISE, "Annotations/480p/a/00000.png": b"mask", "README.md": b"terms"}
    return [(prefix + name, content) for name, content in names.items()]


@pytest.fixture
def get(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Get:
    """``get()`` downloads DAVIS test-dev to tmp_path/data; returns exit code and the last line of stderr."""

    def run() -> tuple[int, str]:
        code: int | str | None = 0
        try:
            download_datasets.main(["davis2017-testdev", "--root", str(tmp_path / "data"), "--mirror", server.url])
        except SystemExit as end:
            code = end.code
        assert isinstance(code, int)
        return code, (capsys.readouterr().err.strip().splitlines() or [""])[-1]

    return run


def test_a_download_can_be_read_by_those_who_can_read_other_files(tmp_path, server):
    server.files["file"] = NOISE
    download(f"{server.url}/file", tmp_path / "target")
    (tmp_path / "other").touch()
    assert (tmp_path / "target").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("stall", [False, True])
@pytest.mark.parametrize("retries", [0, 1])
def test_a_download_continues_where_it_stopped(tmp_path, server, monkeypatch, stall, retries):
    server.files["file"], server.cut, server.stall = NOISE, 700_000, stall
    monkeypatch.setattr(scripts.download, "TIMEOUT", 0.3)
    monkeypatch.setattr(scripts.download, "RETRIES", retries)
    url, target = f"{server.url}/file", tmp_path / "new" / "target"
    if not retries:
        with pytest.raises(InputError, match=rf"^{url}: download failed \(.*\); run again to continue"):
            download(url, target)
        assert not target.exists()
    download(url, target)
    assert target.read_bytes() == NOISE and list(target.parent.iterdir()) == [target]
    assert 0 < server.begins[-1] <= 700_000 and not any(server.begins[:-1])
    count = len(server.begins)
    download(url, target)
    assert len(server.begins) == count


def test_no_download_continues_with_another_file(tmp_path, server, monkeypatch):
    server.files |= {"old": NOISE, "new": NOISE[::-1]}
    monkeypatch.setattr(scripts.download, "RETRIES", 0)
    server.cut = 700_000
    with pytest.raises(InputError, match="download failed"):
        download(f"{server.url}/old", tmp_path / "target")
    download(f"{server.url}/new", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == NOISE[::-1] and server.begins == [0, 0]


def test_a_wrong_checksum_leaves_nothing(tmp_path, server):
    server.files["file"] = NOISE
    with pytest.raises(InputError, match=f"{server.url}/file: has the SHA-256 .*; expected 00"):
        download(f"{server.url}/file", tmp_path / "target", sha256="00")
    assert list(tmp_path.iterdir()) == []
    download(f"{server.url}/file", tmp_path / "target", sha256=hashlib.sha256(NOISE).hexdigest())
    assert (tmp_path / "target").read_bytes() == NOISE


@pytest.mark.parametrize("prefix", ["", "DAVIS/", "a/b/"])
def test_a_data_set_is_installed_once(tmp_path, server, get, prefix):
    server.files[FILE] = make_zip(data_set(prefix))
    target = tmp_path / "data/DAVIS/2017/test-dev"
    assert get() == get() == (0, "") and len(server.begins) == 1
    assert (target / "JPEGImages/480p/a/00000.jpg").read_bytes() == NOISE
    assert sorted(path.name for path in target.iterdir()) == ["Annotations", "JPEGImages", "README.md"]
    assert list(target.parent.iterdir()) == [target] and list((tmp_path / "data/downloads").iterdir()) == []


def test_an_existing_folder_does_not_hide_the_download(tmp_path, server, get):
    server.files[FILE] = make_zip(data_set())
    mine = tmp_path / "data/DAVIS/2017/test-dev/JPEGImages/mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    code, error = get()
    assert code == 2 and "test-dev: already holds JPEGImages; move them away" in error
    assert mine.read_text() == "mine" and (tmp_path / "data/downloads" / FILE).is_file()
    assert list(mine.parent.parent.iterdir()) == [mine.parent]
    mine.parent.rename(tmp_path / "moved")
    assert get() == (0, "") and len(server.begins) == 1  # from the zip that was kept


def test_no_entry_leaves_the_target_folder(tmp_path, server, get):
    link = zipfile.ZipInfo("DAVIS/link")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    names = ["../outside", "DAVIS/../../../outside", f"{tmp_path}/outside", "C:/outside", "..#outside"]
    content = make_zip([*data_set(), (link, b"/etc/passwd"), *((name, b"") for name in names)])
    server.files[FILE] = content.replace(b"..#outside", b"..\\outside")  # ZipInfo would tidy the name up
    assert get() == (0, "")
    files = [path.relative_to(tmp_path / "data").as_posix() for path in tmp_path.rglob("*") if not path.is_dir()]
    assert files and all(file.startswith("DAVIS/2017/test-dev/") for file in files)
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


# As Windows packs large files: with a compression that Python lacks, by the table of contents.
DEFLATE64 = re.sub(rb"(?s)(PK\x01\x02.{6})..", lambda entry: entry[1] + b"\x09\x00", make_zip(data_set()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>Quota exceeded</html>", "was not a complete zip file"),
        (make_zip(data_set())[:-200], "was not a complete zip file"),
        (make_zip(data_set()).replace(b"mask", b"mosk", 1), "was not a complete zip file"),  # wrong checksum
        (DEFLATE64, "cannot be unpacked .* compression method"),
        (make_zip([("DAVIS/README.md", b"")]), "holds no folder with JPEGImages and Annotations"),
        (None, "download failed .*404"),
    ],
)
def test_what_is_not_the_data_set(tmp_path, server, get, content, message):
    if content:
        server.files[FILE] = content
    code, error = get()
    assert code == 2 and re.search(message, error) and not (tmp_path / "data/DAVIS/2017/test-dev").exists()
    server.files[FILE] = make_zip(data_set())
    kept = "holds no" in message or "cannot be" in message  # a complete zip, for its owner to look at
    assert (tmp_path / "data/downloads" / FILE).is_file() == kept
    if not kept:
        assert get() == (0, "")


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_every_archive_is_listed_with_its_licence(capsys, arguments):
    try:
        download_datasets.main(arguments)
    except SystemExit as end:
        assert not end.code
    listed = capsys.readouterr().out
    for archive in download_datasets.ARCHIVES:
        assert f"{archive.dataset}: {archive.file}, {archive.size}, {archive.url}\n    {archive.licence}" in listed
    assert "CC BY-NC 4.0" in listed
