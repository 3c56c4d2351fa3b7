"""Programs that gevent patched first: greenlets take turns. Each program in an interpreter of its own."""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from ..api.gateway import Gateway

pytest.importorskip("gevent", reason="a dependency of the tests only")

PROLOGUE = """
from gevent import monkey
monkey.patch_all()
import sys, time
import gevent
import numpy as np
import tritonhttp
url = sys.argv[1]

def delayed(seconds):
    tensor = tritonhttp.InferInput("DELAY", [1], "FP32")
    return [tensor.set_data_from_numpy(np.array([seconds], np.float32))]

class Clock:
    def __enter__(self):
        self.turns = 0
        self.ticking = gevent.spawn(self.tick)
        self.begin = time.monotonic()
        return self
    def tick(self):
        while True:
            gevent.sleep(0.01)
            self.turns += 1
    def __exit__(self, *error):
        self.took = time.monotonic() - self.begin
        self.ticking.kill()
"""


def patched(url: str, program: str, *arguments: str, prologue: str = PROLOGUE) -> None:
    """Run a program that ends itself with an error where something does not hold."""
    command = [sys.executable, "-c", prologue + program, url, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr


def test_a_hundred_greenlets_share_one_client(triton_server: Any) -> None:
    patched(
        triton_server.url,
        """
client = tritonhttp.InferenceServerClient(url, concurrency=100)
with Clock() as clock:
    jobs = [gevent.spawn(client.infer, "slow", delayed(0.05)) for _ in range(100)]
    gevent.joinall(jobs, raise_error=True)
assert all(job.value.as_numpy("OUTPUT") == np.float32(0.05) for job in jobs)
assert len(client._transport._connections) > 50, len(client._transport._connections)
assert clock.turns > 20, clock.turns  # others had their turns meanwhile
client.close()
""",
    )


def test_async_infer_of_a_patched_program_overlaps(triton_server: Any) -> None:
    patched(
        triton_server.url,
        """
with tritonhttp.InferenceServerClient(url, concurrency=4) as client, Clock() as clock:
    handles = [client.async_infer("slow", delayed(0.3), request_id=str(each)) for each in range(4)]
    try:
        handles[0].get_result(timeout=0.01)
    except tritonhttp.InferenceServerException as error:
        assert str(error) == "failed to obtain inference response"
    else:
        raise AssertionError
    assert [handle.get_result().get_response()["id"] for handle in handles] == list("0123")
    assert client.stats().connections_opened > 1
assert clock.turns > 10, clock.turns
""",
    )


def test_greenlets_wait_in_line_for_one_connection(triton_server: Any) -> None:
    patched(
        triton_server.url,
        """
with tritonhttp.InferenceServerClient(url) as client:
    jobs = [gevent.spawn(client.infer, "slow", delayed(0.02)) for _ in range(10)]
    gevent.joinall(jobs, raise_error=True)
    assert len(client._transport._connections) == 1
""",
    )


def test_a_network_timeout_ends_one_greenlet_alone(triton_server: Any) -> None:
    patched(
        triton_server.url,
        """
with tritonhttp.InferenceServerClient(url, concurrency=2, network_timeout=1) as client:
    late, early = gevent.spawn(client.infer, "slow", delayed(2)), gevent.spawn(client.infer, "slow", delayed(0.1))
    gevent.joinall([late, early])
    assert early.value.as_numpy("OUTPUT") == np.float32(0.1)
    assert isinstance(late.exception, TimeoutError), late.exception
""",
    )


def test_a_greenlet_of_gevent_gives_a_result(triton_server: Any) -> None:
    patched(
        triton_server.url,
        """
with tritonhttp.InferenceServerClient(url) as client:
    body, size = client.generate_request_body(delayed(0.2))
    headers = {"Inference-Header-Content-Length": size}
    job = gevent.spawn(client._post, "v2/models/slow/infer", body, headers, None)
    handle = tritonhttp.InferAsyncRequest(job)
    for options in ({"block": False}, {"timeout": 0.01}):
        try:
            handle.get_result(**options)
        except tritonhttp.InferenceServerException as error:
            assert str(error) == "failed to obtain inference response"
        else:
            raise AssertionError
    assert handle.get_result().as_numpy("OUTPUT") == np.float32(0.2)
""",
    )


@pytest.fixture
def secure(triton_server: Any, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Put TLS before the server; return its host:port, and the file of its certificate authority."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    ca_file = str(tmp_path / "ca.pem")
    authority.cert_pem.write_to_path(ca_file)
    with Gateway(triton_server.url, context=context) as gateway:
        yield gateway.url, ca_file


@pytest.mark.parametrize("patch", ["monkey.patch_all()", ""])
def test_an_ssl_context_of_gevent_works(secure: tuple[str, str], patch: str) -> None:
    url, ca_file = secure
    patched(
        url,
        """
import gevent.ssl
with tritonhttp.InferenceServerClient(
    url,
    concurrency=8,
    ssl=True,
    ssl_context_factory=gevent.ssl.create_default_context,
    ssl_options={"ca_certs": sys.argv[2]},
) as client:
    jobs = [gevent.spawn(client.infer, "slow", delayed(0.05)) for _ in range(8)]
    gevent.joinall(jobs, raise_error=True)
    array = np.arange(300_000, dtype=np.float32)
    tensor = tritonhttp.InferInput("INPUT0", array.shape, "FP32").set_data_from_numpy(array)
    assert (client.infer("identity_fp32", [tensor]).as_numpy("OUTPUT0") == array).all()
""",
        ca_file,
        prologue=PROLOGUE.replace("monkey.patch_all()", patch),
    )
