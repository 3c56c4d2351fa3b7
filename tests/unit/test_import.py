"""Importing the library loads nothing that a plain client does not need."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = {
    "PIL",
    "_ssl",
    "asyncio",
    "click",
    "concurrent.futures",
    "email",
    "gevent",
    "gzip",
    "hdrh",
    "http.client",
    "isal",
    "ml_dtypes",
    "queue",
    "requests",
    "rich",
    "ssl",
    "textual",
    "typer",
    "urllib.request",
    "zlib",
}


def loaded_by(statement: str) -> set[str]:
    """Return the modules that a statement loads in an interpreter of its own."""
    program = f"import sys\n{statement}\nsys.stdout.write('\\n'.join(sys.modules))"
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("COV", "PYTHON"))
    }
    command = [sys.executable, "-W", "error", "-c", program]
    return set(
        subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()
    )


@pytest.fixture(scope="module")
def numpys() -> set[str]:
    return loaded_by("import numpy, httptools, orjson")


def test_importing_the_library_loads_little(numpys: set[str]) -> None:
    loaded = loaded_by("import tritonhttp") - numpys
    forbidden = HEAVY - numpys
    if sys.version_info < (3, 11):
        # There asyncio has a TimeoutError of its own, which ours must be a subclass of; it brings the rest.
        forbidden -= {"asyncio", "ssl", "_ssl", "concurrent.futures", "queue", "zlib", "email"}
    assert loaded & forbidden == set()
    assert "tritonhttp._clients.blocking.client" in loaded
    assert {"tritonhttp.cli", "tritonhttp.testing", "tritonhttp.aio"}.isdisjoint(loaded)


def test_a_client_without_tls_loads_no_tls(numpys: set[str]) -> None:
    if sys.version_info < (3, 11):
        pytest.skip("asyncio brings it")
    statement = """
import numpy, tritonhttp
with tritonhttp.InferenceServerClient("127.0.0.1:9") as client:
    tensor = tritonhttp.InferInput("x", [2], "FP32").set_data_from_numpy(numpy.zeros(2, "f4"))
    client.generate_request_body([tensor])
    tritonhttp.InferResult.from_response_body(b'{"outputs":[]}')
"""
    # A signal's handler that calls a client must not meet an import half done.
    assert loaded_by(statement) & (HEAVY - numpys) <= {"queue", "concurrent.futures"}


@pytest.mark.parametrize(
    "statement",
    [
        "import tritonhttp.errors",
        "import tritonhttp._wire.http1",
        "from tritonhttp import *",
        "import tritonhttp.utils",
    ],
)
def test_each_door_opens_without_warnings(statement: str) -> None:
    assert "tritonhttp" in loaded_by(statement)
