"""The pytest plugin: a real Triton for a session's tests, and a client for each test.

``TRITON_URL=host:port`` or ``--triton-url`` names a running server; the tests then use that one, and tests that
must stop or inspect the server are skipped. Heavy imports wait until a fixture is used, since every pytest session
of an environment with this package loads this module.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from .. import InferenceServerClient
    from .server import TritonServer

__all__ = ["RunningServer", "triton_client", "triton_server"]


class RunningServer:
    """A server that runs elsewhere: its ``url``. A test that uses more of :class:`TritonServer` is skipped."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __getattr__(self, name: str) -> NoReturn:
        from .server import TritonServer

        if not name.startswith("_") and hasattr(TritonServer, name):
            pytest.skip(
                f"TritonServer.{name} needs a server of the tests' own, and {self.url} runs elsewhere"
            )
        raise AttributeError(name)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare ``--triton-url``."""
    parser.getgroup("tritonhttp").addoption(
        "--triton-url",
        metavar="HOST:PORT",
        help="run the tests against this server instead of starting one (also: TRITON_URL)",
    )


@pytest.fixture(scope="session")
def triton_server(request: pytest.FixtureRequest) -> Iterator[TritonServer | RunningServer]:
    """Provide a real Triton with the packaged models, started on first use; ``.url`` is its ``host:port``."""
    url: Any = request.config.getoption("--triton-url") or os.environ.get("TRITON_URL")
    if url:
        yield RunningServer(str(url))
        return

    from .provision import TritonUnavailable
    from .server import TritonFailed, TritonServer

    server = TritonServer()
    try:
        server.start()
        yield server
    except (TritonUnavailable, TritonFailed) as error:
        if isinstance(error, TritonUnavailable) and error.excused:
            pytest.skip(str(error))
        pytest.fail(str(error), pytrace=False)
    finally:
        server.kill()


@pytest.fixture
def triton_client(triton_server: TritonServer | RunningServer) -> Iterator[InferenceServerClient]:
    """Provide a client of ``triton_server`` for one test."""
    from .._clients.blocking.client import InferenceServerClient

    with InferenceServerClient(triton_server.url) as client:
        yield client
