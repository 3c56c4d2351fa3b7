"""Fixtures of the tests against servers that misbehave. No descriptor may stay open behind any of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest

from ..clients import tensor
from .servers import HEALTHY, Server, healthy


@pytest.fixture(autouse=True)
def _nothing_leaks(open_descriptors: Callable[[], dict[str, str]]) -> Iterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() == before


@pytest.fixture
def serve(_nothing_leaks: None) -> Iterator[Callable[..., Server]]:
    """Start a server: the scripts of its first connections; those behind them are answered as they should be.

    Tests ask for it before the clients, so that it outlives them.
    """
    with ExitStack() as stack:
        yield lambda *scripts, **options: stack.enter_context(Server((*scripts, healthy), **options))


def metadata(client: Any) -> Any:
    return client.get_server_metadata()


def infer(client: Any) -> Any:
    return client.infer("healthy", [tensor("INPUT0", np.zeros(3, np.float32))]).get_response()


@pytest.fixture(params=[metadata, infer], ids=["metadata", "infer"])
def call(request: pytest.FixtureRequest) -> Any:
    """A call that gives `HEALTHY` on a server that behaves: one that may be repeated, and one that may not."""
    return request.param


@pytest.fixture
def recovers(call: Any) -> Callable[[Any], None]:
    """Check that the client's next calls are fine."""

    def check(client: Any) -> None:
        for _ in range(2):
            assert call(client) == HEALTHY

    return check


@pytest.fixture
def within() -> Callable[..., Any]:
    """Check how long a block takes, in seconds."""

    @contextmanager
    def within(least: float, most: float) -> Iterator[None]:
        before = time.monotonic()
        yield
        assert least <= time.monotonic() - before <= most

    return within


@pytest.fixture
def fails(open_client: Callable[..., Any], call: Any, recovers: Any) -> Callable[..., Any]:
    """Let a call fail on a server, check the error, and that the client's next calls are fine."""

    def fails(server: Server, error: type[BaseException], match: str | None = None, **options: Any) -> Any:
        client = open_client(server.url, **{"network_timeout": 5, "connection_timeout": 5, **options})
        with pytest.raises(error, match=match) as caught:
            call(client)
        recovers(client)
        return caught.value

    return fails
