"""Who may talk to the server: only pages that it has served itself, to somebody who has the token."""

import ipaddress
import secrets
import socket
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_ADDRESS = 1000  # characters; also keeps numbers short
MAX_BODY = 40 * 2**20  # bytes: the mask of an 8K frame
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Guard:
    """Refuses, before anything is read or written, what does not come from the own page.

    Another site can send requests to this machine, and with DNS rebinding read the answers: the names in ``Host`` and
    ``Origin`` must be this server's, and every request needs the token: once in the address, then in a cookie.

    Args:
        host, port: what the server listens on.
    """

    def __init__(self, app: ASGIApp, token: str, host: str, port: int):
        self.app, self.token, self.cookie = app, token, f"annotate-{port}"
        self.port, self.names = port, {"localhost", "127.0.0.1", "::1", host.lower()}
        self.is_open = not _is_loopback(host)
        if self.is_open:
            self.names.add(socket.gethostname().lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        too_long = len(scope["raw_path"]) + len(scope["query_string"]) > MAX_ADDRESS
        refusal = (414, "too long an address") if too_long else self._refusal(headers, given)
        if refusal:
            await PlainTextResponse(refusal[1], refusal[0], HEADERS)(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer.update(HEADERS)
                if given:
                    answer.append("Set-Cookie", f"{self.cookie}={self.token}; HttpOnly; SameSite=Strict; Path=/")
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def _refusal(self, headers: Headers, given: str) -> tuple[int, str] | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_own(host):
            return 421, "this server does not have that name"
        if origin is not None and origin != f"http://{host}":
            return 403, "requests of other sites are refused"
        if not secrets.compare_digest((given or self._cookie(headers)).encode(), self.token.encode()):
            return 403, "open the address that the program prints: it holds a token"
        if "transfer-encoding" in headers:
            return 411, "expected a Content-Length"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY:
            return 413, f"expected at most {MAX_BODY} bytes"
        return None

    def _is_own(self, host: str) -> bool:
        try:
            parts = urlsplit(f"http://{host}")
            name, port = parts.hostname or "", parts.port or 80
        except ValueError:
            return False
        return port == self.port and parts.netloc == host and (name in self.names or self.is_open and _is_address(name))

    def _cookie(self, headers: Headers) -> str:
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return ""
        return morsel.value if morsel else ""


def _is_address(name: str) -> bool:
    """Whether it is a number, which no DNS server can point elsewhere."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or _is_address(host) and ipaddress.ip_address(host).is_loopback
