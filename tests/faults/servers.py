"""Small servers that misbehave: what each connection's peer does is a function of a few lines."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType

HEALTHY = {"name": "healthy", "model_name": "healthy", "outputs": []}


class Peer:
    """One accepted connection."""

    def __init__(self, sock: socket.socket, server: Server) -> None:
        self.sock = sock
        self.server = server

    def read_head(self) -> bytes:
        """Return the head of the next request; b"" where none comes. What follows it stays unread."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = self.sock.recv(1)
            if not byte:
                return b""
            head += byte
        self.server.requests.append(head)
        return head

    def read_request(self) -> bool:
        """Take the next request with its body; False where none comes."""
        head = self.read_head()
        if not head:
            return False
        length = 0
        for line in head.split(b"\r\n")[1:]:
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        while length:
            piece = self.sock.recv(min(length, 1 << 20))
            if not piece:
                return False
            length -= len(piece)
        return True

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def hold(self) -> None:
        """Say nothing until the client closes, or the test is over."""
        self.sock.settimeout(None)
        while self.sock.recv(1 << 16):
            pass

    def reset(self) -> None:
        """Close with RST in place of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


Script = Callable[[Peer], None]


class Server:
    """Runs the n-th script on the n-th connection, and the last one on all further ones."""

    def __init__(self, scripts: tuple[Script, ...], context: ssl.SSLContext | None = None) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._scripts = scripts
        self._context = context
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Server:
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        for sock in list(self._open):
            with contextlib.suppress(OSError):  # the client may have been faster
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            script = self._scripts[min(self.connections, len(self._scripts) - 1)]
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(sock, script))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, script: Script) -> None:
        sock.settimeout(10)
        self._open.add(sock)
        plain = sock
        try:
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
                self._open.add(sock)
            script(Peer(sock, self))
        except OSError:
            pass  # the client is gone: some of the scripts provoke that
        finally:
            self._open -= {plain, sock}
            sock.close()
            plain.close()


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


def healthy(peer: Peer) -> None:
    """Answer every request as a server should."""
    while peer.read_request():
        peer.send(answer(HEALTHY))


def sends(data: bytes, then: str = "close") -> Script:
    """Answer the first request with these bytes; then close, reset, hold, or go on as a server should."""

    def script(peer: Peer) -> None:
        if not peer.read_request():
            return
        peer.send(data)
        if then == "hold":
            peer.hold()
        elif then == "reset":
            time.sleep(0.05)  # a reset may overtake what was sent
            peer.reset()
        elif then == "go on":
            healthy(peer)
        else:
            assert then == "close"

    return script


def trickles(data: bytes, pause: float = 0.005, step: int = 1) -> Script:
    """Answer the first request with these bytes, a few at a time, then go on as a server should."""

    def script(peer: Peer) -> None:
        if peer.read_request():
            for start in range(0, len(data), step):
                peer.send(data[start : start + step])
                time.sleep(pause)
            healthy(peer)

    return script
