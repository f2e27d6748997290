"""What the server refuses."""

import errno
import json
import logging
import socket
import struct
import weakref

import numpy as np
import pytest

import annotate
from annotate import make_server
from annotation.guard import Guard
from annotation.runs import pack
from datasets.images import write_image
from tests.annotation.conftest import FRAMES, SIZE
from tests.annotator import TOKEN


def test_what_the_server_refuses(server, tmp_path):
    ask, own = server.ask, f"127.0.0.1:{server.port}"
    mask, pair = pack(np.zeros(SIZE, np.uint8)), struct.Struct("<II")
    files = sorted(path for path in tmp_path.rglob("*"))
    cases = {
        "foreign host": ask("PUT", "mask/0", mask, Host="evil.example:80"),
        "host with another port": ask("GET", "state", Host="127.0.0.1:1"),
        "rebound name": ask("GET", f"/?token={TOKEN}", Host=f"evil.example:{server.port}"),
        "foreign origin": ask("PUT", "mask/0?complete=1", mask, Origin="http://evil.example"),
        "no origin": ask("PUT", "mask/0?complete=1", mask, Origin="null"),
        "no token": ask("PUT", "mask/0?complete=1", mask, Cookie=""),
        "wrong token": ask("GET", "/?token=guess", Cookie=""),
        "no token for files of the page": ask("GET", "/static/main.js", Cookie=""),
        "no length": ask("PUT", "mask/0", iter([mask]), Transfer_Encoding="chunked"),
        "half a number": ask("PUT", "mask/0", mask[1:]),
        "no mask at all": ask("PUT", "mask/0", b""),
        "other size": ask("PUT", "mask/0", pair.pack(1, SIZE[0] * SIZE[1] - 1)),
        "gigabytes of pixels": ask("PUT", "mask/0", pair.pack(1, 2**32 - 1) * 9),
        "no such frame": ask("PUT", f"mask/{FRAMES}", mask),
        "out of the static files": ask("GET", "/static/../server.py"),
        "out of them, encoded": ask("GET", "/static/%2e%2e/server.py"),
        "out of the exports": ask("GET", "export/..%2fclip.json"),
        "out of the root": ask("POST", "open", b"../secret"),
        "absolute": ask("POST", "open", str(tmp_path).encode()),
        "no mask": ask("POST", "import", b"no PNG"),
        "no box": ask("POST", "cut/0?box=1,2,3", mask),
        "no direction": ask("POST", "propagate?frame=0&direction=up", b""),
        "nothing to propagate": ask("POST", "propagate?frame=0&direction=both", b""),
        "token in a header": ask("GET", "/", Cookie="", Authorization=f"Bearer {TOKEN}"),
        "cookie of another port": ask("GET", "/", Cookie=f"annotate-1={TOKEN}"),
        "another origin with the same start": ask("PUT", "mask/0", mask, Origin=f"http://{own}.evil.example"),
        "another scheme": ask("PUT", "mask/0", mask, Origin=f"https://{own}"),
        "host with a path": ask("GET", "/", Host=f"{own}/evil"),
        "half an IPv6 address": ask("GET", "/", Host=f"[::1:{server.port}"),
        "no host": ask("GET", "/", Host=""),
        "negative length": ask("PUT", "mask/0", b"", Content_Length="-1"),
        "endless number of a frame": ask("GET", f"mask/{'9' * 5000}"),
        "endless number in a box": ask("POST", f"cut/0?box=1,2,3,{'9' * 5000}", mask),
        "endless number of a frame to begin at": ask("POST", f"propagate?frame={'9' * 5000}&direction=both", b""),
        "object of no mask": ask("PUT", "object/255", b"name"),
        "mask with such an object": ask("PUT", "mask/0", pair.pack(255, SIZE[0] * SIZE[1])),
        "page of another tab": ask("PUT", "/api/old/mask/0?complete=1", mask),
        "WebSocket": ask("GET", "events", Upgrade="websocket", Connection="Upgrade", Cookie=""),
    }
    assert {name: status for name, (status, _) in cases.items() if not 400 <= status < 500} == {}
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:  # 100 MB, which it does not wait for
        request = f"PUT /api/{server.annotator.page}/mask/0 HTTP/1.1", f"Host: {own}", "Content-Length: 104857600"
        connection.sendall("\r\n".join([*request, f"Cookie: annotate-{server.port}={TOKEN}", "", ""]).encode())
        assert b" 413 " in connection.recv(100)
    assert sorted(path for path in tmp_path.rglob("*")) == files
    status, body = ask("GET", "state", Origin=f"http://{own}")
    assert status == 200 and json.loads(body)["users"] == {}
    assert b"main.js" in ask("GET", f"/?token={TOKEN}", Cookie="")[1]
    for name in (f"LOCALHOST:{server.port}", f"[::1]:{server.port}"):
        assert ask("GET", "/", Host=name)[0] == 200


def test_the_server_starts_while_a_thread_imports_pytorch():
    half_made = logging.StreamHandler.__new__(logging.StreamHandler)  # as such a thread may leave it for a moment
    handlers = logging._handlerList  # type: ignore[attr-defined]  # private, and what uvicorn's own logging goes through
    handlers.append(weakref.ref(half_made))
    try:
        make_server(Guard(lambda *_: None, TOKEN, "127.0.0.1", 1))
    finally:
        del handlers[-1]


def test_bad_arguments(tmp_path, capsys):
    (tmp_path / "outside").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root/link").symlink_to(tmp_path / "outside")
    write_image(tmp_path / "outside/0.png", np.zeros((8, 8, 3), np.uint8))
    for words, expected in (
        (["--root", str(tmp_path / "root")], "holds no videos"),  # the link leads out of it
        (["--root", str(tmp_path / "none")], "no such folder"),
        (["--video", str(tmp_path / "none.mp4")], "no such file"),
        (["--video", str(tmp_path / "outside"), "--model", "none.pth"], "expected weights"),
        (["--video", str(tmp_path / "outside"), "--host", "203.0.113.1"], "cannot listen there"),
    ):
        with pytest.raises(SystemExit) as end:
            annotate.main([*words, "--workspace", str(tmp_path / "work"), "--no_browser", "--port", "0"])
        assert end.value.code == 2 and expected in capsys.readouterr().err


def test_what_the_system_refuses_is_said_to_the_page(server, monkeypatch, tmp_path):
    """Here, the folder for temporary files is full."""

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

    monkeypatch.setattr("annotation.server.tempfile.TemporaryDirectory", fail)
    answer = server.ask("POST", "import", b"png")
    assert answer == (400, f"{tmp_path} cannot be written (No space left on device)".encode())
