"""One client and three real servers, of which one goes away and comes back."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

import tritonhttp
from tritonhttp import InvalidRequest, Retry, ServerError, TransportError
from tritonhttp.auth import BearerAuth
from tritonhttp.testing import TritonServer

from ..clients import tensor, wait_until
from .api.gateway import Gateway

ONES = np.ones(4, np.float32)


@pytest.fixture(scope="module")
def trio(start_module_server: Callable[..., TritonServer]) -> list[TritonServer]:
    return [start_module_server(models=["identity_fp32", "sequence_accumulate"]) for _ in range(3)]


@pytest.fixture
def servers(trio: list[TritonServer]) -> list[TritonServer]:
    for server in trio:
        if not server.running:
            server.start()
    return trio


def urls(servers: list[TritonServer]) -> list[str]:
    return [server.url for server in servers]


def inferences(client: Any) -> dict[str, int]:
    """Return how many inferences each server has counted since it started."""
    found: dict[str, dict[str, Any]] = client.on_each(
        lambda one: one.get_inference_statistics("identity_fp32")
    )
    return {url: told["model_stats"][0]["inference_count"] for url, told in found.items()}


def test_an_error_says_whose_it_is(servers: list[TritonServer], open_client: Callable[..., Any]) -> None:
    client = open_client(urls(servers), balancing="round_robin")
    told = set()
    for _ in servers:
        with pytest.raises(ServerError) as caught:
            client.get_model_metadata("no_model")
        told.add(caught.value.url)
    assert told == {f"http://{url}/v2/models/no_model" for url in urls(servers)}


def test_no_call_fails_while_a_server_is_killed_and_comes_back(
    servers: list[TritonServer], open_client: Callable[..., Any]
) -> None:
    failures: list[BaseException] = []
    done: Counter[int] = Counter()
    retries: list[str] = []
    stop = threading.Event()
    client = open_client(
        urls(servers),
        concurrency=8,
        retry=Retry(attempts=4, backoff=0.02),
        on_retry=lambda call, reason, delay: retries.append(reason),
    )

    def load(number: int) -> None:
        given = [tensor("INPUT0", ONES * number)]
        while not stop.is_set():
            try:
                result = client.infer("identity_fp32", given, idempotent=True)
                assert np.array_equal(result.as_numpy("OUTPUT0"), ONES * number)
                done[number] += 1
                time.sleep(0.002)  # leaves the server that starts some of the processor
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=load, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: min(done[number] for number in range(8)) > 20)
        assert min(inferences(client).values()) > 0
        servers[0].kill()
        before = done.total()
        wait_until(lambda: done.total() > before + 200 and bool(retries))
        servers[0].start()
        wait_until(lambda: inferences(client)[servers[0].url] > 20)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []


def accumulate(client: Any, value: int, sequence: int | str, **options: Any) -> int:
    given = tensor("INPUT", np.array([[value]], np.int32))
    result = client.infer("sequence_accumulate", [given], sequence_id=sequence, **options)
    return int(result.as_numpy("OUTPUT")[0, 0])


def test_a_sequence_stays_with_one_server_and_fails_clearly_when_that_dies(
    servers: list[TritonServer], open_client: Callable[..., Any]
) -> None:
    seen: list[str] = []
    client = open_client(
        urls(servers),
        retry=Retry(attempts=3, backoff=0.01),
        on_response=lambda call: seen.append(call.url.split("/")[2]),
    )
    for sequence in ("a", "b", "c"):
        assert accumulate(client, 1, sequence, sequence_start=True) == 1
    homes = dict(zip("abc", seen, strict=True))
    assert set(homes.values()) == set(urls(servers))
    for total in range(2, 6):
        for sequence in "abc":
            assert accumulate(client, 1, sequence) == total
    assert seen == [homes[sequence] for sequence in "abc"] * 5
    with pytest.raises(InvalidRequest, match="was not started through this client"):
        accumulate(client, 1, "d")

    dies = next(server for server in servers if server.url == homes["a"])
    dies.kill()
    with pytest.raises(TransportError):
        accumulate(client, 1, "a")
    with pytest.raises(tritonhttp.ConnectionLost, match=rf"the server {dies.url} of sequence 'a' .* is lost"):
        accumulate(client, 1, "a")
    assert accumulate(client, 1, "b", sequence_end=True) == 6
    assert accumulate(client, 10, "a", sequence_start=True) == 10
    assert accumulate(client, 1, "a", sequence_end=True) == 11
    assert accumulate(client, 1, "c", sequence_end=True) == 6


def test_a_call_for_one_server_is_made_on_each_by_on_each(
    servers: list[TritonServer], open_client: Callable[..., Any]
) -> None:
    client = open_client(urls(servers))
    with pytest.raises(InvalidRequest, match="this client has 3: name it with"):
        client.load_model("identity_int8")
    assert client.on_each(lambda one: one.load_model("identity_int8")) == dict.fromkeys(client.servers)
    assert client.on_each(lambda one: one.is_model_ready("identity_int8")) == dict.fromkeys(
        client.servers, True
    )
    given = tensor("INPUT0", np.ones(3, np.int8))
    for _ in range(3):
        client.infer("identity_int8", [given])
    with pytest.raises(ServerError):
        client.on_each(lambda one: one.load_model("not_there"))


def test_waiting_for_a_server_that_starts(
    start_server: Callable[..., TritonServer], open_client: Any
) -> None:
    server = start_server(models=["identity_fp32"])
    server.kill()
    client = open_client(server.url)
    began = time.monotonic()
    with pytest.raises(tritonhttp.DeadlineExceeded, match=r"timed out waiting for the server .* refused"):
        client.wait_until_ready(0.5)
    assert 0.3 < time.monotonic() - began < 8
    starting = threading.Thread(target=server.start)
    starting.start()
    client.wait_until_ready(60, "identity_fp32")
    assert client.is_model_ready("identity_fp32")
    starting.join()
    with pytest.raises(tritonhttp.DeadlineExceeded, match=r"'slow' .* not ready; model 'slow' is not loaded"):
        client.wait_until_ready(0.3, "slow")


@pytest.fixture
def gateways(triton_server: Any) -> Iterator[list[Gateway]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Gateway(triton_server.url)) for _ in range(3)]


def test_a_plugin_reaches_all_servers(gateways: list[Gateway], open_client: Callable[..., Any]) -> None:
    client = open_client([gateway.url for gateway in gateways])
    client.register_plugin(BearerAuth("one"))
    for _ in gateways:
        client.get_server_metadata()
    client.on_each(lambda one: one.get_log_settings())
    client.unregister_plugin()
    client.on_each(lambda one: one.get_log_settings())
    for gateway in gateways:
        assert [seen.get("Authorization") for seen in gateway.seen] == ["Bearer one", "Bearer one", None]
