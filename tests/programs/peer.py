"""A server for programs that does what a real Triton never does; see the paths of `_Handler`."""

from __future__ import annotations

import json
import time
from typing import Any

from ..framing import Handler, HandlerServer

#: Headers that clients add by themselves; programs do not send them.
_OWN = {"host", "user-agent", "accept", "accept-encoding", "connection", "content-length", "content-type"}
_BASIC = "Basic dXNlcjp3b3Jk"  # user:word


class _Handler(Handler):
    def do_GET(self) -> None:
        case = self.path.split("/")[1]
        if case == "echo":
            seen = {name.lower(): value for name, value in self.headers.items() if name.lower() not in _OWN}
            self._answer(200, {"target": self.path, "headers": dict(sorted(seen.items()))})
        elif case == "locked":
            known = self.headers.get("Authorization") == _BASIC
            self._answer(200 if known else 401, {"name": "unlocked"} if known else {"error": "who are you?"})
        elif case == "broken":
            self._answer(500, {"error": "it broke\nin two lines"})
        elif case == "empty":
            self.answer(503)
        elif case == "text":
            self._answer(502, "no gateway")
        elif case == "close":
            self.close_connection = True
        elif case == "stall":
            time.sleep(1)
            self.close_connection = True
        else:
            self._answer(404, {"error": "no such path"})

    def _answer(self, status: int, content: Any) -> None:
        self.answer(status, content.encode() if isinstance(content, str) else json.dumps(content).encode())


class Peer(HandlerServer):
    """Runs while entered; `url` is its host:port."""

    handler = _Handler
