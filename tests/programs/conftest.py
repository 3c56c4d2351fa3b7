"""Everything that the programs talk to, started once, and the interpreter that has the real tritonclient."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from ..live.api.gateway import Gateway
from .peer import Peer


@pytest.fixture(scope="session")
def reference() -> str:
    """Return the interpreter of the environment in which ``make programs`` installs the real tritonclient."""
    python = os.environ.get("TRITONCLIENT_PYTHON")
    if not python or not shutil.which(python):
        pytest.skip("needs TRITONCLIENT_PYTHON, an interpreter with tritonclient[http]: run `make programs`")
    return str(Path(python).absolute())


@pytest.fixture(scope="session")
def places(triton_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Return the environment variables that tell programs where things are."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    authority.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(str(folder / "client.pem"))
    with ExitStack() as stack, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and listens not

        def secure(name: str) -> str:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(name).configure_cert(context)
            return stack.enter_context(Gateway(triton_server.url, context=context)).url

        yield {
            "TRITON": triton_server.url,
            "GATEWAY": stack.enter_context(Gateway(triton_server.url, base_path="/deep/down")).url,
            "PEER": stack.enter_context(Peer()).url,
            "SECURE": secure("127.0.0.1"),
            "ELSEWHERE": secure("elsewhere.example"),
            "NOBODY": f"127.0.0.1:{nobody.getsockname()[1]}",
            "CA": str(folder / "ca.pem"),
            "CERT": str(folder / "client.pem"),
        }
