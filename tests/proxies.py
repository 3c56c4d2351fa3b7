"""A small HTTP proxy: forwards what comes in absolute form, and opens tunnels; may ask for a password."""

from __future__ import annotations

import base64
import contextlib
import http.client
import select
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit


class Proxy:
    """Runs while its block does. `seen` are the request lines, `hosts` the Host headers that came with them."""

    def __init__(self, credentials: str = "") -> None:
        self.seen: list[str] = []
        self.hosts: list[str | None] = []
        self.expected = f"Basic {base64.b64encode(credentials.encode()).decode()}" if credentials else None
        owner = self

        class Handler(_Handler):
            proxy = owner

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.place = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"
    timeout = 10
    disable_nagle_algorithm = True
    wbufsize = -1

    def _admits(self) -> bool:
        self.proxy.seen.append(self.requestline)
        self.proxy.hosts.append(self.headers.get("Host"))
        self._body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.proxy.expected in (None, self.headers.get("Proxy-Authorization")):
            return True
        self._answer(407, [("Proxy-Authenticate", "Basic")], b"<html><body>who are you?</body></html>")
        return False

    def do_GET(self) -> None:
        if not self._admits():
            return
        target = urlsplit(self.path)
        assert target.scheme == "http"
        upstream = http.client.HTTPConnection(target.netloc, timeout=30)
        try:
            path = target.path + (f"?{target.query}" if target.query else "")
            upstream.putrequest(self.command, path, skip_accept_encoding=True, skip_host=True)
            for name, value in self.headers.items():
                if name.lower() not in ("proxy-authorization", "connection"):
                    upstream.putheader(name, value)
            upstream.endheaders(self._body)
            answer = upstream.getresponse()
            self._answer(answer.status, answer.getheaders(), answer.read())
        finally:
            upstream.close()

    do_POST = do_GET

    def do_CONNECT(self) -> None:
        if not self._admits():
            return
        host, _, port = self.path.rpartition(":")
        try:
            upstream = socket.create_connection((host.strip("[]"), int(port)), timeout=10)
        except OSError as error:
            self._answer(502, [], f"cannot reach {self.path}: {error.strerror}".encode())
            return
        self.close_connection = True
        with upstream:
            self.connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with contextlib.suppress(OSError):
                relay(self.connection, upstream)

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        pass


def relay(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until either side closes."""
    while True:
        for source in select.select([one, other], [], [], 10)[0] or [None]:
            data = source.recv(1 << 16) if source is not None else b""
            if not data:
                return
            (other if source is one else one).sendall(data)
