"""download_datasets.py, all but Google Drive itself: against a server on this machine."""

import http.server
import io
import re
import stat
import threading
import zipfile

import pytest

from scripts import download_datasets

FILE = "DAVIS-2017-test-dev-480p.zip"
TARGET = "DAVIS/2017/test-dev"


def make_zip(entries) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for entry, content in entries:
            archive.writestr(entry, content)
    return buffer.getvalue()


def right_entries(prefix="DAVIS/"):
    noise = bytes(range(256)) * 4000  # 1 MB
    return [
        (f"{prefix}JPEGImages/480p/a/00000.jpg", noise),
        (f"{prefix}Annotations/480p/a/00000.png", b"mask"),
        (f"{prefix}README.md", b"terms"),
    ]


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``; ``cut``: the next answer breaks off after that many bytes."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cut, self.requests = {}, None, []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        content = self.server.files.get(self.path.strip("/"))
        if content is None:
            return self.send_error(404)
        begin = int(re.match(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        end, self.server.cut = self.server.cut or len(content), None
        return self.wfile.write(content[begin:end])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def get(server, tmp_path, capsys):
    """``get(*flags)`` → (exit code, stdout, last line of stderr); the data go to tmp_path/data."""

    def run(*flags):
        mirror = f"http://127.0.0.1:{server.server_port}"
        code = 0
        try:
            download_datasets.main(["davis2017-testdev", "--root", str(tmp_path / "data"), "--mirror", mirror, *flags])
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        return code, printed.out, (printed.err.strip().splitlines() or [""])[-1]

    return run


@pytest.mark.parametrize("prefix", ["", "DAVIS/", "a/b/"])
def test_a_data_set_comes_to_its_place_once(tmp_path, server, get, prefix):
    server.files[FILE] = make_zip(right_entries(prefix))
    code, out, _ = get("--dry-run")
    assert code == 0 and "CC BY 4.0" in out and "about 0.3 GB" in out and server.requests == []
    assert not (tmp_path / "data").exists()

    target = tmp_path / "data" / TARGET
    mine = target / "JPEGImages" / "mine.txt"  # what is there already is left alone
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert get()[0] == 0
    assert (target / "Annotations/480p/a/00000.png").read_bytes() == b"mask" and mine.read_text() == "mine"
    assert not (target / "JPEGImages/480p").exists()
    mine.unlink()
    mine.parent.rmdir()
    assert get()[0] == 0
    assert (target / "JPEGImages/480p/a/00000.jpg").stat().st_size == 1024000
    assert sorted(path.name for path in target.parent.iterdir()) == ["test-dev"]
    assert list((tmp_path / "data/downloads").iterdir()) == []
    count = len(server.requests)
    code, out, _ = get()
    assert code == 0 and "(is there)" in out and len(server.requests) == count


def test_a_broken_download_goes_on_where_it_stopped(tmp_path, server, get):
    server.files[FILE] = make_zip(right_entries())
    server.cut = 700_000
    code, _, error = get()
    assert code == 2 and "download failed" in error and "start again later" in error
    assert not (tmp_path / "data" / TARGET).exists()
    assert get()[0] == 0
    (begin,) = [int(re.match(r"bytes=(\d+)-", range_)[1]) for _, range_ in server.requests if range_]
    assert 0 < begin <= 700_000
    assert (tmp_path / "data" / TARGET / "JPEGImages/480p/a/00000.jpg").stat().st_size == 1024000


def link():
    entry = zipfile.ZipInfo("DAVIS/link")
    entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("../outside.txt", "leads out of its folder"),
        ("DAVIS/../../../outside.txt", "leads out of its folder"),
        ("/tmp/outside.txt", "has an absolute path"),
        ("C:/outside.txt", "has an absolute path"),
        ("..\\outside.txt", "has an absolute path"),
        (link(), "is a link or a device"),
    ],
)
def test_no_entry_leaves_the_target_folder(tmp_path, server, get, entry, says):
    server.files[FILE] = make_zip([*right_entries(), (entry, b"/etc/passwd")])
    if says == "has an absolute path" and "\\" in str(entry):  # ZipInfo itself tidies these up: write the bytes
        server.files[FILE] = make_zip([*right_entries(), ("..#outside.txt", b"")]).replace(b"..#out", b"..\\out")
    code, _, error = get()
    assert code == 2 and FILE in error and says in error and "nothing was unpacked" in error
    left = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert left == [f"data/downloads/{FILE}"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<html>Quota exceeded</html>", "is no whole zip"),
        (make_zip(right_entries())[:-200], "is no whole zip"),
        (make_zip(right_entries()).replace(b"mask", b"mosk", 1), "is no whole zip"),  # wrong checksum
        (make_zip([("DAVIS/README.md", b"")]), "nothing in it holds JPEGImages/480p and Annotations/480p"),
        (None, ""),
    ],
)
def test_what_is_not_the_data_set(tmp_path, server, get, content, says):
    if content:
        server.files[FILE] = content
    code, _, error = get()
    assert code == 2 and says in error and error.startswith("error: ")
    assert not (tmp_path / "data" / TARGET).exists()
    server.files[FILE] = make_zip(right_entries())
    if "nothing in it" not in says:  # a whole zip of something else is left for its owner to look at
        assert get()[0] == 0


def test_every_set_is_listed_with_its_licence(capsys):
    download_datasets.main([])
    listed = capsys.readouterr().out
    for name, dataset in download_datasets.DATASETS.items():
        assert f"{name}: " in listed and dataset.licence in listed
        assert all(archive.url in listed for archive in dataset.archives)
