"""A gateway before the real server: it takes note of each request, may speak TLS, may have a base path."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ...framing import Handler, HandlerServer


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


class _Handler(Handler):
    owner: Gateway

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
        seen = Seen(self.command, self.path, list(self.headers.items()), self.read())
        owner.seen.append(seen)
        own = None if owner.meddle is None else owner.meddle(seen)
        if own is not None:
            self.answer(*own, [("Content-Type", "application/json")])
            return
        if not self.path.startswith(owner.base_path + "/"):
            self.answer(404, b"<html><h1>no such gateway</h1></html>", [("Content-Type", "text/html")])
            return
        time.sleep(owner.delay)
        if owner.refusals:
            self.answer(owner.refusals.pop(0))
            return
        self.forward(owner.upstream, self.path[len(owner.base_path) :], seen.body, without=["host"])

    do_POST = do_GET


@dataclass
class Gateway(HandlerServer):
    """Forwards requests below `base_path` to `upstream`, and answers others with 404."""

    handler = _Handler

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
    def url(self) -> str:
        return super().url + self.base_path

    @property
    def last(self) -> Seen:
        return self.seen[-1]
