"""One server after the other, started on first use; the same tests for all of them."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .servers import KINDS, MEASURED, Server, started


def interpreter(name: str) -> str:
    """Return the interpreter of a server's own environment, which ``make interop`` makes; without it, skip."""
    variable = f"{name.upper()}_PYTHON"
    python = os.environ.get(variable)
    if not python or not shutil.which(python):
        pytest.skip(f"needs {variable}, an interpreter with {name}: run `make interop`")
    return str(Path(python).absolute())


@pytest.fixture(scope="session", params=list(KINDS))
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    name = request.param
    if name == "triton":
        yield Server(KINDS[name], request.getfixturevalue("triton_server").url)
        return
    if name == "frontend":
        if not (url := os.environ.get("FRONTEND_URL")):
            pytest.skip("needs FRONTEND_URL, a server of tritonfrontend: run `make frontend`")
        yield Server(MEASURED[name], url)
        return
    with started(name, interpreter(name), tmp_path_factory.mktemp(name)) as running:
        yield running


@pytest.fixture
def make_client(open_client: Callable[..., Any], server: Server) -> Callable[..., Any]:
    return functools.partial(open_client, server.url)


@pytest.fixture
def client(make_client: Callable[..., Any]) -> Any:
    return make_client()
