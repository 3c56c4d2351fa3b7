"""``examples/fastapi_service.py`` under uvicorn."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import tritonhttp

from ..clients import wait_until
from ..live.api.gateway import Gateway, Seen
from .conftest import PATIENCE, Service, established

Start = Callable[[str], Service]


@pytest.fixture(scope="module")
def start(serve: Callable[..., Service]) -> Start:
    return lambda url: serve(url, "uvicorn", "--fd", "{fd}", "fastapi_service:app")


@pytest.fixture(scope="module")
def service(start: Start, triton_server: Any) -> Service:
    return start(triton_server.url)


def connections_of(service: Service, port: int) -> int:
    return sum(service.process.pid in pids for pids in established(port).values())


def test_it_answers_with_the_digits(service: Service, digits: Any, found: Any) -> None:
    assert service.ask("/health") == (200, {"ready": True})
    status, outputs = service.ask("/infer/digits", {"IMAGE": digits[0][:50].tolist()})
    assert status == 200
    assert np.argmax(outputs["SCORES"], axis=1).tolist() == found[:50].tolist()


def test_all_requests_share_the_client(start: Start, triton_server: Any, digits: Any, found: Any) -> None:
    with Gateway(triton_server.url) as gateway, ThreadPoolExecutor(40) as pool:
        service = start(gateway.url)
        bodies = [{"IMAGE": [image.tolist()]} for image in digits[0][:120]]
        answers = list(pool.map(lambda body: service.ask("/infer/digits", body), bodies))
        assert [np.argmax(outputs["SCORES"]) for _, outputs in answers] == found[:120].tolist()
        asked = [seen.path for seen in gateway.seen]
        assert asked.count("/v2/models/digits/infer") == 120
        assert asked.count("/v2/models/digits") == 1
        service.stop()


def test_what_does_not_fit_is_the_callers_error(service: Service) -> None:
    status, body = service.ask("/infer/digits", {"IMAGE": [[1, 2]]})
    assert status == 400
    assert "IMAGE" in body["error"]
    assert service.ask("/infer/digits", [1])[0] == 422  # FastAPI's own


def test_a_server_that_is_gone_is_no_reason_to_end(start: Start) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        service = start(f"127.0.0.1:{nobody.getsockname()[1]}")
        for path, body in (("/health", None), ("/infer/digits", {"IMAGE": [[0] * 64]})):
            status, answer = service.ask(path, body)
            assert status == 503
            assert "refused" in answer["error"]


def test_a_call_is_cancelled_when_its_caller_hangs_up(start: Start, triton_server: Any) -> None:
    """It closes its connection, and no other. Triton itself runs to the end what it has begun over HTTP."""
    begun, go_on = threading.Event(), threading.Event()

    def hold(seen: Seen) -> None:
        if seen.path.endswith("/infer") and seen.body.endswith(np.float32(0.5).tobytes()):
            begun.set()
            go_on.wait(PATIENCE)

    with Gateway(triton_server.url, meddle=hold) as gateway, ThreadPoolExecutor(1) as pool:
        service = start(gateway.url)
        port = int(gateway.url.rpartition(":")[2])
        caller = service.send("/infer/slow", {"DELAY": [0.5]})
        assert begun.wait(PATIENCE)
        begun.clear()
        staying = pool.submit(service.ask, "/infer/slow", {"DELAY": [0.5]})
        assert begun.wait(PATIENCE)
        try:
            assert connections_of(service, port) == 2
            caller.close()
            wait_until(lambda: connections_of(service, port) == 1)
            assert not staying.done()
        finally:
            go_on.set()
        assert staying.result() == (200, {"OUTPUT": [0.5]})
        service.stop()  # the gateway waits for the end of its connections


def test_a_stream_comes_answer_by_answer(service: Service) -> None:
    with service.send("/stream/repeat", {"IN": [7, 8, 9]}) as caller, caller.makefile("rb") as file:
        head, _, body = file.read().partition(b"\r\n\r\n")
    assert b"text/event-stream" in head
    events = [json.loads(event) for event in re.findall(rb"^data: (.*?)\r?$", body, re.MULTILINE)]
    assert [(event["INDEX"], event["OUT"]) for event in events] == [(0, 7), (1, 8), (2, 9)]


def test_a_stream_ends_when_its_reader_hangs_up(
    service: Service, triton_client: tritonhttp.InferenceServerClient
) -> None:
    # The model has one instance, which this stream would keep for a minute.
    body = {"IN": list(range(600)), "DELAY": 0.1}
    with service.send("/stream/repeat", body) as caller, caller.makefile("rb") as file:
        while not file.readline().startswith(b"data: "):
            pass
    with triton_client.generate_stream("repeat", {"IN": [5]}, deadline=PATIENCE) as stream:
        assert [answer["OUT"] for answer in stream] == [5]
