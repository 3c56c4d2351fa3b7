"""A server that answers as programs need it for what a real Triton never does; see the paths of `_Handler`."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

#: What the client of any program adds by itself, so that it is no part of what a program sends.
_OWN = {"host", "user-agent", "accept", "accept-encoding", "connection", "content-length", "content-type"}
_BASIC = "Basic dXNlcjp3b3Jk"  # user:word


class Peer:
    """Runs while entered; `url` is its host:port."""

    def __enter__(self) -> Peer:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        case = self.path.split("/")[1]
        if case == "echo":
            seen = {name.lower(): value for name, value in self.headers.items() if name.lower() not in _OWN}
            self.answer(200, {"target": self.path, "headers": dict(sorted(seen.items()))})
        elif case == "locked":
            known = self.headers.get("Authorization") == _BASIC
            self.answer(200 if known else 401, {"name": "unlocked"} if known else {"error": "who are you?"})
        elif case == "broken":
            self.answer(500, {"error": "it broke\nin two lines"})
        elif case == "empty":
            self.answer(503, None)
        elif case == "text":
            self.answer(502, "no gateway")
        elif case == "close":
            self.close_connection = True
        elif case == "stall":
            time.sleep(1)
            self.close_connection = True
        else:
            self.answer(404, {"error": "no such path"})

    def answer(self, status: int, content: Any) -> None:
        body = (
            b""
            if content is None
            else content
            if isinstance(content, bytes)
            else json.dumps(content).encode()
        )
        if isinstance(content, str):
            body = content.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass
