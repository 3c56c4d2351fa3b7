"""Fixtures of the command line's tests: its entry point, here or in a process of its own, on a real Triton."""

from __future__ import annotations

import io
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

import tritonhttp
from tritonhttp.cli.main import main

from ..live.api.gateway import Gateway

#: Beside the interpreter, where the package is installed; otherwise the same by `python -m`.
COMMAND = [sys.executable, "-m", "tritonhttp"]


@dataclass
class Ran:
    """What came of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def failed(self, code: int, *words: str) -> None:
        """Check that it failed as commands do: a line that has the words, and nothing on stdout."""
        assert (self.code, self.out) == (code, ""), self
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("tritonhttp")
        for each in words:
            assert each in lines[0], lines[0]


Run = Callable[..., Ran]


@pytest.fixture
def run(triton_server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process, on the real Triton unless the words name another server."""
    monkeypatch.setenv("TRITON_URL", triton_server.url)

    def run(*words: str, stdin: bytes | None = None) -> Ran:
        with monkeypatch.context() as patch:
            if stdin is not None:
                patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            code = main(list(words))
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return run


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a process that has this library, and nothing that colours its output."""
    kept = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "NO_COLOR")}
    source = str(Path(tritonhttp.__file__).parents[1])
    return {**kept, "PYTHONPATH": source, **more}


@pytest.fixture
def spawn(triton_server: Any) -> Callable[..., Ran]:
    """Run the command line in a process of its own."""

    def spawn(*words: str, **options: Any) -> Ran:
        more = options.pop("env", {})
        ended = subprocess.run(
            [*COMMAND, *words],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment(TRITON_URL=triton_server.url, **more),
            **options,
        )
        return Ran(ended.returncode, ended.stdout, ended.stderr)

    return spawn


@pytest.fixture
def tls_gateway(triton_server: Any, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A gateway with TLS before the server, for the name localhost only: its URL, and the authority's file."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)
    with Gateway(triton_server.url, context=context) as gateway:
        yield f"https://localhost:{gateway.url.rpartition(':')[2]}", str(file)
