"""Fixtures for every test of a client: one body, each kind of client, and nothing left open behind it."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .clients import KINDS

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So begins what a shell runs in the background, and the programs that tests start would begin so, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="module")
def _frozen() -> None:
    """Keep what pytest holds for thousands of tests out of the collector's way: many tests call it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=sorted(KINDS))
def client_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_client(client_kind: str) -> Iterator[Callable[..., Any]]:
    """Open clients of the kind under test; all of them are closed when the test is over."""
    opened: list[Any] = []

    def open_client(url: str, **options: Any) -> Any:
        client = KINDS[client_kind](url, **options)
        opened.append(client)
        return client

    yield open_client
    for client in reversed(opened):
        client.close()


@pytest.fixture
def open_descriptors() -> Callable[[], dict[str, str]]:
    """Return the sockets and pipes that this process has open, as descriptor -> what it leads to."""
    folder = "/proc/self/fd"
    if not os.path.isdir(folder):
        pytest.skip("needs /proc/self/fd")

    def look() -> dict[str, str]:
        found = {}
        for number in os.listdir(folder):
            try:
                target = os.readlink(f"{folder}/{number}")
            except OSError:
                continue
            if target.startswith(("socket:", "pipe:")):
                found[number] = target
        return found

    return look
