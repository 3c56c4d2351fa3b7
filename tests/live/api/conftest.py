"""Fixtures of the tests that every kind of client passes on a real Triton."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from .gateway import Gateway


@pytest.fixture
def make_client(open_client: Callable[..., Any], triton_server: Any) -> Callable[..., Any]:
    """Make further clients of the server, with constructor arguments by name."""
    return functools.partial(open_client, triton_server.url)


@pytest.fixture
def client(make_client: Callable[..., Any]) -> Any:
    return make_client()


@pytest.fixture
def make_gateway(triton_server: Any) -> Iterator[Callable[..., Gateway]]:
    """Start gateways before the server; they keep its requests in `seen`.

    Tests ask for it before the clients, so that it outlives them.
    """
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Gateway(triton_server.url, **options))


@pytest.fixture
def gateway(make_gateway: Callable[..., Gateway]) -> Gateway:
    return make_gateway()


@pytest.fixture
def watched(gateway: Gateway, open_client: Callable[..., Any]) -> Any:
    """A client whose requests pass through `gateway`."""
    return open_client(gateway.url)
