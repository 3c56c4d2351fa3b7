"""Fixtures of the tests against servers that misbehave. No test may leave anything open or running."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest

from tritonhttp import InferenceServerException

from ..clients import tensor, wait_until
from .servers import HEALTHY, Server, healthy

SMALL, LARGE = np.zeros(3, np.float32), np.zeros(8_000_000, np.float32)


@pytest.fixture(autouse=True)
def _nothing_is_left(open_descriptors: Callable[[], dict[str, str]]) -> Iterator[None]:
    """Check the descriptors, and that no thread came; tasks are the matter of :class:`OverAsyncio`."""
    descriptors, threads = open_descriptors(), set(threading.enumerate())
    yield
    # The look-up of a name cannot be interrupted: its thread may outlive the call, and has a socket.
    wait_until(lambda: set(threading.enumerate()) <= threads, 5)
    assert open_descriptors() == descriptors


@pytest.fixture
def serve(_nothing_is_left: None) -> Iterator[Callable[..., Server]]:
    """Start a server with scripts for its first connections; later ones are answered correctly.

    Tests ask for it before the clients, so that it outlives them.
    """
    with ExitStack() as stack:
        yield lambda *scripts, **options: stack.enter_context(Server((*scripts, healthy), **options))


def metadata(client: Any, **options: Any) -> Any:
    return client.get_server_metadata(**options)


def infer(client: Any, array: Any = SMALL, **options: Any) -> Any:
    """Infer, read every output, and return the response's JSON."""
    result = client.infer("healthy", [tensor("INPUT0", array)], **options)
    response = result.get_response()
    for output in response.get("outputs") or ():
        result.as_numpy(output["name"])
    return response


def infer_large(client: Any, **options: Any) -> Any:
    return infer(client, LARGE, **options)


def stream(client: Any, **options: Any) -> Any:
    """Read a stream; return its last answer, or raise the error that ends it, with the number of answers."""
    seen = []
    try:
        for answer in client.generate_stream("healthy", {}, **options):
            seen.append(answer)
    except InferenceServerException as error:
        error.seen = len(seen)  # type: ignore[attr-defined]
        raise
    finally:
        assert all(answer == HEALTHY for answer in seen)
    return seen[-1]


#: Calls that give `HEALTHY` on a server that behaves: one that may be repeated, one that may not, one whose
#: request does not go out at once, and one whose answers are taken as they come.
CALLS = {"metadata": metadata, "infer": infer, "large infer": infer_large, "stream": stream}


@pytest.fixture(params=["metadata", "infer"])
def call(request: pytest.FixtureRequest) -> Any:
    return CALLS[request.param]


@pytest.fixture
def recovers(call: Any) -> Callable[[Any], None]:
    """Check that the client's next calls are fine."""

    def check(client: Any) -> None:
        for _ in range(2):
            assert call(client) == HEALTHY

    return check


@pytest.fixture
def within() -> Callable[..., Any]:
    """Check how long a block takes, in seconds.

    `most` tells the limit under test from the next longer one, of ten seconds or more. It does not measure: the
    machine may be busy.
    """

    @contextmanager
    def within(least: float, most: float = 8.0) -> Iterator[None]:
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
