"""A small HTTP proxy: forwards what comes in absolute form, and opens tunnels; may ask for a password."""

from __future__ import annotations

import base64
import contextlib
import select
import socket
from urllib.parse import urlsplit

from .framing import Handler, HandlerServer


class _Handler(Handler):
    owner: Proxy

    def _admitted(self) -> bytes | None:
        """Return the request's body; None if the request was refused."""
        self.owner.seen.append(self.requestline)
        self.owner.hosts.append(self.headers.get("Host"))
        self.owner.headers.append(list(self.headers))
        body = self.read()
        if self.owner.expected in (None, self.headers.get("Proxy-Authorization")):
            return body
        page = b"<html><body>who are you?</body></html>"
        self.answer(407, page, [("Proxy-Authenticate", "Basic")])
        return None

    def do_GET(self) -> None:
        body = self._admitted()
        if body is None:
            return
        target = urlsplit(self.path)
        assert target.scheme == "http"
        path = target.path + (f"?{target.query}" if target.query else "")
        self.forward(target.netloc, path, body, without=["proxy-authorization"])

    do_POST = do_GET

    def do_CONNECT(self) -> None:
        if self._admitted() is None:
            return
        host, _, port = self.path.rpartition(":")
        try:
            upstream = socket.create_connection((host.strip("[]"), int(port)), timeout=10)
        except OSError as error:
            self.answer(502, f"cannot reach {self.path}: {error.strerror}".encode())
            return
        self.close_connection = True
        with upstream:
            self.send_response_only(200, "Connection established")
            self.end_headers()
            self.wfile.flush()
            with contextlib.suppress(OSError):
                relay(self.connection, upstream)


class Proxy(HandlerServer):
    """Runs while its block does. `seen` are the request lines, `headers` the names of the headers that came with
    them, and `hosts` their Host."""

    handler = _Handler

    def __init__(self, credentials: str = "") -> None:
        self.seen: list[str] = []
        self.hosts: list[str | None] = []
        self.headers: list[list[str]] = []
        self.expected = f"Basic {base64.b64encode(credentials.encode()).decode()}" if credentials else None


def relay(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until either side closes."""
    while True:
        for source in select.select([one, other], [], [], 10)[0] or [None]:
            data = source.recv(1 << 16) if source is not None else b""
            if not data:
                return
            (other if source is one else one).sendall(data)
