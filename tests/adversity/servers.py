"""Small servers that misbehave. The script of a connection, a function of a few lines, says how."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType

from ..framing import answer, read_body, read_head

HEALTHY = {"name": "healthy", "model_name": "healthy", "outputs": []}


class Peer:
    """One accepted connection."""

    def __init__(self, sock: socket.socket, server: Server) -> None:
        self.sock = sock
        self.server = server
        #: The script for "go on".
        self.go_on: Script = healthy

    def read_head(self) -> bytes:
        """Return the head of the next request, b"" if there is none; what follows it stays unread."""
        head = read_head(self.sock)
        if head:
            self.server.requests.append(head)
        return head

    def read_request(self) -> bool:
        """Take the next request with its body; False if there is none."""
        head = self.read_head()
        return bool(head) and self.read_body(head) is not None

    def read_body(self, head: bytes, left: int = 0) -> bytes | None:
        """Return the body that belongs to a head, without the `left` bytes at its end; None if it is cut off."""
        return read_body(self.sock, head, left)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def encrypt(self, context: ssl.SSLContext) -> None:
        """Answer a TLS handshake; all that follows is encrypted."""
        self.sock = context.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
        self.server.keep(self.sock)
        try:
            self.sock.do_handshake()
        except ssl.SSLError:
            # Let the client read why: a socket that is closed over unread data is reset.
            with socket.socket(fileno=os.dup(self.sock.fileno())) as plain:
                plain.settimeout(1)
                plain.shutdown(socket.SHUT_WR)
                while plain.recv(1 << 16):
                    pass
            raise

    def end(self, how: str) -> None:
        """End the connection's script as its table says."""
        if how == "hold":
            self.hold()
        elif how == "reset":
            time.sleep(0.03)  # a reset may overtake what was sent
            self.reset()
        elif how == "half-close":
            self.sock.shutdown(socket.SHUT_WR)
            self.hold()
        elif how == "go on":
            self.go_on(self)
        else:
            assert how == "close"

    def hold(self) -> None:
        """Stay silent until the client closes, or the test is over."""
        self.sock.settimeout(None)
        while self.sock.recv(1 << 16):
            pass

    def reset(self) -> None:
        """Close with RST in place of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


Script = Callable[[Peer], None]


class Server:
    """Runs the n-th script on the n-th connection, and the last one on all further ones.

    With a `context` all of them under TLS; with a `path` on a unix socket. `answers_connects` False: until
    :meth:`mend` nothing listens, which refuses; None: connects are not answered at all, since the line of those
    who wait to be accepted is full.
    """

    def __init__(
        self,
        scripts: tuple[Script, ...],
        context: ssl.SSLContext | None = None,
        path: str = "",
        answers_connects: bool | None = True,
        at: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._scripts = scripts
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._in_line: list[socket.socket] = []
        self._answers_connects = answers_connects
        self._context = context
        self._acceptor: threading.Thread | None = None
        self.port = 0
        if path:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(path)
            self.url = f"unix://{path}"
        else:
            self._listener = socket.socket()
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(at)
            self.port = self._listener.getsockname()[1]
            self.url = f"127.0.0.1:{self.port}"

    def __enter__(self) -> Server:
        if self._answers_connects:
            self._start()
        elif self._answers_connects is None:
            self._listener.listen(0)
            for _ in range(4):
                sock = socket.socket()
                self._in_line.append(sock)
                sock.setblocking(False)
                sock.connect_ex(self._listener.getsockname())
            time.sleep(0.02)
        return self

    def mend(self) -> None:
        """Answer connects from now on."""
        if self._acceptor is None:
            self._leave_line()
            self._start()

    def _start(self) -> None:
        self._listener.listen()
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    def _leave_line(self) -> None:
        self._listener.setblocking(False)
        for sock in self._in_line:
            sock.close()
        with contextlib.suppress(OSError):
            while self._in_line:
                self._listener.accept()[0].close()
        self._in_line.clear()
        self._listener.setblocking(True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._acceptor is None:
            self._leave_line()
        else:
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
            thread.start()
            self._threads = [*filter(threading.Thread.is_alive, self._threads), thread]

    def _serve(self, sock: socket.socket, script: Script) -> None:
        sock.settimeout(10)
        self._open.add(sock)
        peer = Peer(sock, self)
        # The client may be gone: some of the scripts provoke that.
        with contextlib.suppress(OSError):
            if self._context is not None:
                peer.encrypt(self._context)
            script(peer)
        self._open -= {sock, peer.sock}
        peer.sock.close()
        sock.close()

    def keep(self, sock: socket.socket) -> None:
        """Close this connection at the end of the test."""
        self._open.add(sock)


def healthy(peer: Peer) -> None:
    """Answer every request correctly."""
    while peer.read_request():
        peer.send(answer(HEALTHY))


class Answers:
    """Answer every request with these bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __call__(self, peer: Peer) -> None:
        while peer.read_request():
            peer.send(self.data)


class Sends:
    """Answer the first request with these bytes; then "close", "reset", "half-close", "hold", or "go on"."""

    def __init__(self, data: bytes, then: str = "close") -> None:
        self.data = data
        self.then = then

    def __call__(self, peer: Peer) -> None:
        if peer.read_request():
            peer.send(self.data)
            peer.end(self.then)


class Trickles(Sends):
    """Answer with the bytes, a few at a time."""

    def __init__(self, data: bytes, then: str = "go on", pause: float = 0.005, step: int = 1) -> None:
        super().__init__(data, then)
        self.pause = pause
        self.step = step

    def __call__(self, peer: Peer) -> None:
        if peer.read_request():
            for start in range(0, len(self.data), self.step):
                peer.send(self.data[start : start + self.step])
                time.sleep(self.pause)
            peer.end(self.then)


def over_tls(context: ssl.SSLContext, script: Script) -> Script:
    """Run a script after a TLS handshake."""

    def encrypted(peer: Peer) -> None:
        peer.encrypt(context)
        script(peer)

    return encrypted


def behind_a_good_answer(then: Script) -> Script:
    """Answer the first request correctly, and then run a script."""

    def script(peer: Peer) -> None:
        if peer.read_request():
            peer.send(answer(HEALTHY))
            then(peer)

    return script


def behind_equal_answers(data: bytes, then: Script, times: int = 3) -> Script:
    """Answer some requests with these bytes, which "go on" means too, and run a script when the next one comes."""

    def script(peer: Peer) -> None:
        for _ in range(times):
            if not peer.read_request():
                return
            peer.send(data)
        peer.go_on = Answers(data)
        if peer.sock.recv(1, socket.MSG_PEEK):
            then(peer)

    return script


def relays(
    host: str,
    port: int,
    *,
    request: int | None = None,
    response: int | None = None,
    then: str = "hold",
    step: int = 1 << 16,
    pause: float = 0.0,
) -> Script:
    """Relay requests to a server, and responses back, `step` bytes at a time with a pause after each piece.

    After so many bytes of a request or a response the relay stops, and the connection ends as `then` says.
    """

    def script(peer: Peer) -> None:
        with socket.create_connection((host, port), timeout=10) as server:
            ways = {peer.sock: (server, request), server: (peer.sock, response)}
            passed = dict.fromkeys(ways, 0)
            while True:
                for source in select.select(list(ways), [], [], 10)[0]:
                    sink, limit = ways[source]
                    left = step if source is server else 1 << 16
                    if limit is not None:
                        left = min(left, limit - passed[source])
                    if not left:
                        peer.end(then)
                        return
                    piece = source.recv(left)
                    if not piece:
                        return
                    sink.sendall(piece)
                    passed[source] += len(piece)
                    time.sleep(pause)

    return script
