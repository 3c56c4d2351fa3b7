"""A loopback server whose handler is a function of a few lines.

And exceptions at every line, such as those of signal handlers and of other threads.
"""

from __future__ import annotations

import contextlib
import linecache
import os
import random
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ..framing import answer, read_body, read_head


class Peer:
    """One accepted connection, as the server sees it."""

    def __init__(self, sock: socket.socket, number: int, server: Server) -> None:
        self.sock = sock
        self.number = number
        self.server = server

    def receive(self) -> tuple[bytes, bytes] | None:
        """Return the next request's head and body, or None where the client closed."""
        head = read_head(self.sock)
        body = read_body(self.sock, head) if head else None
        if body is None:
            return None
        request = head, body
        self.server.requests.append(request)
        return request

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reply(self, body: bytes = b"{}", *, status: str = "200 OK", headers: str = "") -> None:
        self.send(answer(body, status, headers and f"{headers}\r\n"))


Handler = Callable[[Peer], None]


class Server:
    """Accepts connections and lets the handler talk on each, in a thread of its own."""

    def __init__(self, handler: Handler, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[bytes, bytes]] = []
        self.failures: list[BaseException] = []
        self.accepted = 0
        self._handler = handler
        self._context = context
        self._peers: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"127.0.0.1:{self.port}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._peers.append(sock)
            self.accepted += 1
            thread = threading.Thread(target=self._talk, args=(sock, self.accepted))
            self._threads.append(thread)
            thread.start()

    def _talk(self, sock: socket.socket, number: int) -> None:
        try:
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
                self._peers.append(sock)
            with sock:
                self._handler(Peer(sock, number, self))
        except OSError:
            pass  # the client is gone
        except BaseException as error:
            self.failures.append(error)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(10)
        for sock in self._peers:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for sock in self._peers:
            sock.close()
        if self.failures:
            raise self.failures[0]


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start a server with the handler of its connections; without one every request is answered with `{}`."""

    def answer_all(peer: Peer) -> None:
        while peer.receive() is not None:
            peer.reply()

    with contextlib.ExitStack() as stack:

        def start(handler: Handler = answer_all, **options: Any) -> Server:
            server = Server(handler, **options)
            stack.callback(server.close)
            return server

        yield start


def interrupted_everywhere(run: Callable[[], object], *modules: Any) -> Iterator[int]:
    """Run something again and again, with a KeyboardInterrupt at the first line of these modules, the second, …

    After the first thirty lines that is a sample, unless EVERY_PLACE is set in the environment. The caller checks
    what each run has left. The run that completes is the last.
    """
    files = {module.__file__ for module in modules}
    number = 0
    while True:
        step = 1 if number < 30 or os.environ.get("EVERY_PLACE") else random.randrange(1, 16)
        left = number = number + step
        entered: set[tuple[int, int]] = set()

        def trace(frame: Any, event: str, _: Any, entered: set[tuple[int, int]] = entered) -> Any:
            nonlocal left
            if frame.f_code.co_filename not in files or frame.f_code.co_name == "__del__":
                return None  # what is raised in the collector is only shown
            if event == "line":
                line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
                if line.startswith("with "):
                    # Nothing comes between the end of its body and its exit, which is traced as this line again.
                    place = id(frame), frame.f_lineno
                    if place in entered:
                        entered.discard(place)
                        return trace
                    entered.add(place)
                if line == "try:":
                    return trace  # which does nothing, so that nothing comes there
                left -= 1
                if not left:
                    raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            run()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        yield number
        if left > 0:
            return
