"""Fixtures for tests on a real Triton, beside the plugin's ``triton_server`` and ``triton_client``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tritonhttp.testing import TritonServer, TritonUnavailable

StartServer = Callable[..., TritonServer]


def _starter(config: pytest.Config) -> Iterator[StartServer]:
    url = config.getoption("--triton-url") or os.environ.get("TRITON_URL")
    if url:
        pytest.skip(f"needs a server of its own, and TRITON_URL names {url}")
    servers: list[TritonServer] = []

    def start(*args: Any, **options: Any) -> TritonServer:
        server = TritonServer(*args, **options)
        servers.append(server)
        try:
            server.start()
        except TritonUnavailable as unavailable:
            if unavailable.excused:
                pytest.skip(str(unavailable))
            raise
        return server

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def start_server(request: pytest.FixtureRequest) -> Iterator[StartServer]:
    """Return a function that starts a server of the test's own, which the test may kill and restart."""
    yield from _starter(request.config)


@pytest.fixture(scope="module")
def start_module_server(request: pytest.FixtureRequest) -> Iterator[StartServer]:
    """Return a function that starts a server for all tests of a module; a test may leave it stopped."""
    yield from _starter(request.config)
