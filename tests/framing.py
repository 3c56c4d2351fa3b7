"""HTTP as the servers of the tests speak it: over a socket, and as handlers of the standard library's server."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import sys
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_END = b"\r\n\r\n"
JSON_SIZE = "Inference-Header-Content-Length"


def number_in(head: bytes, name: str) -> int:
    """Return the number in a header; 0 if there is no such header."""
    found = re.search(rb"\r\n%b: *(\d+)" % re.escape(name.encode()), head, re.IGNORECASE)
    return int(found[1]) if found else 0


def read_head(sock: socket.socket) -> bytes:
    """Return the head of the next request, b"" if there is none; what follows it stays unread."""
    head = b""
    while not head.endswith(_END):
        size = 1  # TLS has nothing to peek at
        if not isinstance(sock, ssl.SSLSocket):
            ahead = head + sock.recv(1 << 16, socket.MSG_PEEK)
            size = (ahead.find(_END) + len(_END) if _END in ahead else len(ahead)) - len(head)
        piece = sock.recv(size)
        if not piece:
            return b""
        head += piece
    return head


def read_body(sock: socket.socket, head: bytes, left: int = 0) -> bytes | None:
    """Return the body that belongs to a head, without the `left` bytes at its end; None if it is cut off."""
    length = max(0, number_in(head, "Content-Length") - left)
    body = bytearray()
    while len(body) < length:
        piece = sock.recv(min(length - len(body), 1 << 20))
        if not piece:
            return None
        body += piece
    return bytes(body)


def answer(
    body: bytes | object,
    status: str = "200 OK",
    headers: str = "",
    *,
    version: str = "1.1",
    length: object = None,
) -> bytes:
    """Return a response's bytes; a body that is no bytes goes out as JSON."""
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    length = len(body) if length is None else length
    return f"HTTP/{version} {status}\r\n{headers}Content-Length: {length}\r\n\r\n".encode() + body


def inference_answer(
    head: bytes | object, data: bytes, status: str = "200 OK", headers: str = "", *, head_size: object = None
) -> bytes:
    """Return the bytes of a response with binary tensors behind its JSON."""
    if not isinstance(head, bytes):
        head = json.dumps(head).encode()
    head_size = len(head) if head_size is None else head_size
    return answer(head + data, status, f"{JSON_SIZE}: {head_size}\r\n{headers}")


def chunks(*pieces: bytes, end: bytes = b"0\r\n\r\n", extension: bytes = b"") -> bytes:
    return b"".join(b"%x%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces) + end


class Handler(BaseHTTPRequestHandler):
    """Reads requests and writes answers; its subclasses say which answers."""

    #: The server whose class names this handler.
    owner: Any
    protocol_version = "HTTP/1.1"
    timeout = 10
    disable_nagle_algorithm = True
    wbufsize = -1

    def read(self) -> bytes:
        """Return the request's body."""
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, status: int, body: bytes = b"", headers: Iterable[tuple[str, str]] = ()) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def forward(self, place: str, target: str, body: bytes, *, without: Iterable[str] = ()) -> None:
        """Pass the request on to another server, `without` some of its headers, and answer as that one does."""
        upstream = http.client.HTTPConnection(place, timeout=30)
        try:
            upstream.putrequest(
                self.command, target, skip_accept_encoding=True, skip_host="host" not in without
            )
            for name, value in self.headers.items():
                if name.lower() not in ("connection", *without):
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            response = upstream.getresponse()
            self.answer(response.status, response.read(), response.getheaders())
        finally:
            upstream.close()

    def log_message(self, *_: Any) -> None:
        pass


class HandlerServer:
    """Answers requests with a handler, in threads, while its block runs."""

    handler: type[Handler]
    host = "127.0.0.1"

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __enter__(self) -> Any:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        server = type("_FamilyServer", (_Server,), {"address_family": family})
        self._server = server((self.host, 0), type("_OwnedHandler", (self.handler,), {"owner": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet about clients that go away or refuse our certificate: the tests are about them."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)
