"""An HTTP server on this machine that can stop in the middle of a file; the fixture ``server`` starts one."""

import http.server
import re
import threading


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``. The next answer ends after ``cut`` bytes: the connection is closed, or with ``stall`` idle."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.cut: int | None = None
        self.stall = False
        self.stopped = threading.Event()
        self.begins: list[int] = []  # first byte of each request


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if (content := self.server.files.get(self.path.strip("/"))) is None:
            return self.send_error(404)
        match = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        begin = int(match[1]) if match else 0
        self.server.begins.append(begin)
        self.send_response(206 if match else 200)
        if match:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        end, self.server.cut = self.server.cut, None
        self.wfile.write(content[begin:end])
        if end and self.server.stall:
            self.server.stopped.wait(10)
        return None

    def log_message(self, *_: object) -> None:
        pass
