"""A gateway before the real server: it takes note of each request, may speak TLS, may have a base path."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass
class Seen:
    """A request as it arrived."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> list[tuple[str, str]]:
        return parse_qsl(urlsplit(self.target).query, keep_blank_values=True)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        values = self.all(name)
        assert len(values) < 2, f"header {name} came {len(values)} times"
        return values[0] if values else None


@dataclass
class Gateway:
    """Forward to `upstream` what comes in below `base_path`; 404 for the rest."""

    upstream: str
    base_path: str = ""
    context: ssl.SSLContext | None = None
    host: str = "127.0.0.1"
    #: May answer a request itself (status, body), or change its body to one of the same length.
    meddle: Callable[[Seen], tuple[int, bytes] | None] | None = None
    seen: list[Seen] = field(default_factory=list)
    peer_names: list[Any] = field(default_factory=list)
    connections: int = 0
    #: Statuses that the next requests are answered with, in place of the server's answer.
    refusals: list[int] = field(default_factory=list)
    #: Seconds before each answer.
    delay: float = 0.0

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}{self.base_path}"

    @property
    def last(self) -> Seen:
        return self.seen[-1]

    def __enter__(self) -> Gateway:
        gateway = self

        class Handler(_Handler):
            owner = gateway

        class Server(_Server):
            address_family = socket.AF_INET6 if ":" in gateway.host else socket.AF_INET

        self._server = Server((self.host, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, or that refuses our certificate, is what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    owner: Gateway
    protocol_version = "HTTP/1.1"
    timeout = 10
    disable_nagle_algorithm = True
    wbufsize = -1

    def setup(self) -> None:
        self.owner.connections += 1
        if self.owner.context is not None:
            self.request.settimeout(self.timeout)
            plain = self.request
            try:
                self.request = self.owner.context.wrap_socket(plain, server_side=True)
            except OSError:
                plain.close()
                raise
            self.owner.peer_names.append(self.request.getpeercert())
        super().setup()

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            self.request.close()

    def do_GET(self) -> None:
        owner = self.owner
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        seen = Seen(self.command, self.path, list(self.headers.items()), body)
        owner.seen.append(seen)
        own = None if owner.meddle is None else owner.meddle(seen)
        if own is not None:
            self._answer(own[0], [("Content-Type", "application/json")], own[1])
            return
        if not self.path.startswith(owner.base_path + "/"):
            self._answer(404, [("Content-Type", "text/html")], b"<html><h1>no such gateway</h1></html>")
            return
        time.sleep(owner.delay)
        if owner.refusals:
            self._answer(owner.refusals.pop(0), [], b"")
            return
        upstream = http.client.HTTPConnection(owner.upstream, timeout=30)
        try:
            upstream.putrequest(self.command, self.path[len(owner.base_path) :], skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("host", "connection"):
                    upstream.putheader(name, value)
            upstream.endheaders(seen.body)
            answer = upstream.getresponse()
            self._answer(answer.status, answer.getheaders(), answer.read())
        finally:
            upstream.close()

    do_POST = do_GET

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
