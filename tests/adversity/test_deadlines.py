"""The time that a call is given: any number, and none at all."""

from __future__ import annotations

import inspect
import math
import socket
import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import tritonhttp
from tritonhttp import ConnectTimeout, DeadlineExceeded, InvalidRequest

from ..clients import tensor
from .conftest import SMALL, infer, metadata
from .servers import Server

#: Arguments for the required parameters of methods.
ARGUMENTS: dict[str, Any] = {
    "model_name": "m",
    "name": "r",
    "key": "/key",
    "byte_size": 64,
    "raw_handle": b"",
    "data": b"\0" * 4,
    "device_id": 0,
    "settings": {},
}
METHODS = sorted(
    name
    for name, method in inspect.getmembers(tritonhttp.InferenceServerClient)
    if not name.startswith("_") and callable(method) and "deadline" in inspect.signature(method).parameters
)
MODEL: dict[str, Callable[[Any, Any], Any]] = {
    "call": lambda model, limit: model({"X": SMALL}, deadline=limit),
    "batched": lambda model, limit: model.batched({"X": SMALL}, deadline=limit),
    "map": lambda model, limit: model.map([{"X": SMALL}], deadline=limit, return_exceptions=True),
    "sequence": lambda model, limit: model.sequence()({"X": SMALL}, deadline=limit),
    "refresh": lambda model, limit: model.refresh(deadline=limit),
}
SPENT = [0, -0.3, -math.inf, np.float32(-1)]


def begin(client: Any, name: str, limit: Any) -> None:
    """Begin a call with that many seconds; a stream that it returns is not read."""
    method = getattr(client, name)
    required = [
        parameter.name
        for parameter in inspect.signature(
            getattr(tritonhttp.InferenceServerClient, name)
        ).parameters.values()
        if parameter.default is parameter.empty and parameter.name != "self"
    ]
    arguments = {each: ARGUMENTS.get(each) for each in required}
    if "inputs" in arguments:
        arguments["inputs"] = {"X": 1} if "generate" in name else [tensor("X", SMALL)]
    if name == "shared_memory":
        method(64, deadline=limit).__enter__()
    else:
        method(**arguments, deadline=limit)


def methods_of(client_kind: str) -> list[str]:
    return [name for name in METHODS if (name, client_kind) != ("async_infer", "asyncio")]


def test_every_method_that_sends_takes_a_deadline() -> None:
    assert {"infer", "async_infer", "generate", "generate_stream", "load_model", "shared_memory"} < set(
        METHODS
    )
    assert len(METHODS) > 20


@pytest.mark.parametrize("limit", SPENT, ids=str)
def test_a_deadline_that_has_passed_sends_nothing(
    serve: Callable[..., Server], open_client: Callable[..., Any], client_kind: str, limit: Any
) -> None:
    server = serve()
    client = open_client(server.url)
    for name in methods_of(client_kind):
        if name == "check":
            assert "s are over before it began" in client.check(deadline=limit).reason
            continue
        with pytest.raises(DeadlineExceeded, match=r"s are over before it began") as caught:
            begin(client, name, limit)
        assert (caught.value.phase, caught.value.attempts) == ("start", 0), name
    model = client.model("m")
    for call in MODEL.values():
        with pytest.raises(
            DeadlineExceeded, match=rf"the call's {float(limit):g} s are over before it began"
        ):
            call(model, limit)
    with pytest.raises(DeadlineExceeded, match="over before it began"):
        client.wait_until_ready(timeout=limit)
    assert server.connections == 0


@pytest.mark.parametrize("limit", [math.nan, True, np.True_, "1", np.array(1.0)], ids=str)
def test_a_deadline_that_is_no_number_is_refused(
    serve: Callable[..., Server], open_client: Callable[..., Any], client_kind: str, limit: Any
) -> None:
    server = serve()
    client = open_client(server.url)
    for name in methods_of(client_kind):
        with pytest.raises(InvalidRequest, match="deadline must be a number of seconds, or None; got"):
            begin(client, name, limit)
    for call in MODEL.values():
        with pytest.raises(InvalidRequest, match="deadline must be a number of seconds"):
            call(client.model("m"), limit)
    with pytest.raises(InvalidRequest, match="timeout must be a number of seconds"):
        client.wait_until_ready(timeout=limit)
    assert server.connections == 0


@pytest.mark.parametrize("name", ["deadline", "connection_timeout", "max_idle", "max_age", "resolve_every"])
@pytest.mark.parametrize("value", [0, -1, math.nan, True])
def test_a_clients_deadline_must_be_above_0(open_client: Callable[..., Any], name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match="must be a number of seconds above 0, or None"):
        open_client("localhost:1", **{name: value})


@pytest.mark.parametrize("limit", [0.25, np.float32(0.25), Fraction(1, 4), Decimal("0.25")], ids=repr)
def test_a_deadline_may_be_of_any_numeric_type(
    serve: Callable[..., Server], open_client: Callable[..., Any], within: Any, limit: Any
) -> None:
    client = open_client(serve(lambda peer: peer.hold()).url)
    with within(0.2), pytest.raises(DeadlineExceeded, match=r"the call's 0\.25 s are over"):
        metadata(client, deadline=limit)
    assert metadata(client, deadline=np.int8(20)) == metadata(client)


def test_a_stream_that_never_begins_names_the_limit_that_ended_it(
    serve: Callable[..., Server], open_client: Callable[..., Any], within: Any
) -> None:
    client = open_client(serve(lambda peer: peer.hold()).url)
    with (
        within(0.2),
        pytest.raises(DeadlineExceeded, match=r"no progress for 0\.25 s|idle_timeout of 0\.25 s"),
    ):
        next(client.generate_stream("m", {}, idle_timeout=0.25, deadline=20))


@pytest.mark.skipif(sys.platform != "linux", reason="a full backlog swallows connects on Linux")
def test_a_connect_timeout_says_how_long_it_took(
    serve: Callable[..., Server], open_client: Callable[..., Any], within: Any
) -> None:
    client = open_client(serve(answers_connects=None).url)
    with (
        within(0.2),
        pytest.raises(
            ConnectTimeout, match=r"127\.0\.0\.1: timed out, after \d[\d.]* s: the call's 0\.25 s are over"
        ) as caught,
    ):
        infer(client, deadline=0.25)
    assert caught.value.phase == "connect"


@pytest.mark.parametrize("client_kind", ["asyncio"])
def test_a_slow_connect_is_not_reported_as_a_tls_handshake(
    serve: Callable[..., Server],
    open_client: Callable[..., Any],
    client_kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import asyncio

    async def late(*_: Any, **__: Any) -> None:
        await asyncio.sleep(10)

    async def slow(loop: Any, sock: socket.socket, address: Any) -> None:
        sock.setblocking(True)
        sock.connect(address)
        sock.setblocking(False)
        await asyncio.sleep(0.1)

    client = open_client(serve().url)
    loop = type(client._loop)
    monkeypatch.setattr(loop, "create_connection", late)
    monkeypatch.setattr(loop, "sock_connect", slow)
    with pytest.raises(
        ConnectTimeout,
        match=r"cannot connect to 127\.0\.0\.1 port \d+: timed out, after \d[\d.]* s: the call's",
    ) as caught:
        metadata(client, deadline=0.25)
    assert caught.value.phase == "connect"

    async def breaks(*_: Any, **__: Any) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(loop, "create_connection", breaks)
    with pytest.raises(
        tritonhttp.errors.ConnectError, match=r"cannot connect to .*Invalid argument"
    ) as broken:
        metadata(client)
    assert broken.value.phase == "connect"
