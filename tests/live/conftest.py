"""Fixtures for tests on a real Triton, beside the plugin's ``triton_server`` and ``triton_client``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tritonhttp import InferenceServerClient
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


CHAT = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            text = np.array([b"Hello to you"], np.object_)
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("text_output", text)]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
CHAT_CONFIG = {
    "backend": "python",
    "model_transaction_policy": {"decoupled": True},
    "input": [{"name": "text_input", "data_type": "TYPE_STRING", "dims": [1]}],
    "output": [{"name": "text_output", "data_type": "TYPE_STRING", "dims": [1]}],
}


@pytest.fixture
def chat(triton_server: TritonServer) -> Iterator[None]:
    """A language model of one sentence, for the time of a test."""
    assert triton_server.pid  # skipped on a server elsewhere
    with InferenceServerClient(triton_server.url) as client:
        client.load_model("chat", config=json.dumps(CHAT_CONFIG), files={"file:1/model.py": CHAT.encode()})
        yield
        client.unload_model("chat")
