"""What both clients do beside making calls: pickling, waiting, several servers, contexts."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import os
import pickle
import re
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tritonhttp
import tritonhttp.aio
from tritonhttp import (
    DeadlineExceeded,
    InferenceServerClient,
    InferenceServerClientPlugin,
    InferInput,
    InvalidRequest,
    Request,
    Retry,
    ServerError,
)
from tritonhttp._clients.awaited.aiohttp_forms import Answer
from tritonhttp._protocol.probes import until_ready
from tritonhttp._wire.http1 import parse_head
from tritonhttp._wire.responses import Response, ResponseHead
from tritonhttp.auth import BearerAuth
from tritonhttp.events import Call

INFERRED = b'{"model_name":"m","outputs":[]}'
BOTH = pytest.mark.parametrize("kind", [InferenceServerClient, tritonhttp.aio.InferenceServerClient])


def tensor() -> InferInput:
    return InferInput("x", [2], "INT8").set_data_from_numpy(np.array([1, 2], np.int8))


def answering(peer: Any) -> None:
    while (request := peer.receive()) is not None:
        peer.reply(INFERRED if b"/infer" in request[0] else b"{}", headers="X-Served-By: one")


def closed(client: Any) -> Any:
    """Close a client of either kind; return what its `close` returns."""
    outcome = client.close()
    return asyncio.run(outcome) if hasattr(outcome, "__await__") else outcome


@BOTH
def test_a_client_shows_what_it_is_and_its_servers(kind: Any) -> None:
    module = kind.__module__.removesuffix(".client")
    for url, shown in (("a:8000/base", "a:8000/base"), (["a:8000", "b:8000"], "a:8000, b:8000")):
        client = kind(url)
        assert repr(client) == f"<{module}.InferenceServerClient {shown}>"
        closed(client)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: InferenceServerClient("a:1", ssl=True, ssl_context_factory=ssl.create_default_context()),  # type: ignore[arg-type]
            "ssl_context_factory must be a function that returns a context, got <ssl.SSLContext",
        ),
        (
            lambda: InferenceServerClient("a:1", ssl=True, ssl_context_factory=lambda: None),  # type: ignore[arg-type,return-value]
            "what ssl_context_factory returns must be an ssl.SSLContext, got None",
        ),
        (
            lambda: tritonhttp.aio.InferenceServerClient("a:1", ssl=True, ssl_context=0),  # type: ignore[arg-type]
            r"ssl_context must be an ssl.SSLContext, True, False \(verifies nothing\), .*Fingerprint, got 0",
        ),
    ],
)
def test_an_object_that_is_no_tls_context_is_refused(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        make()


# -- pickling ---------------------------------------------------------------------------------------

heard: list[Call] = []


def hear(call: Call) -> None:
    heard.append(call)


class Own(InferenceServerClient):
    """A subclass with arguments and attributes of its own."""

    def __init__(self, place: str, *, tenant: str) -> None:
        super().__init__(place, concurrency=3)
        self.tenant = tenant

    def whose(self) -> str:
        return self.tenant


class OwnAio(tritonhttp.aio.InferenceServerClient):
    def __init__(self, place: str, *, tenant: str) -> None:
        super().__init__(place, conn_limit=3)
        self.tenant = tenant


class Unpicklable(InferenceServerClientPlugin):
    def __init__(self) -> None:
        self.held = open(os.devnull)  # noqa: SIM115 - what cannot be pickled

    def __call__(self, request: Request) -> None: ...


@BOTH
def test_a_client_pickles_as_its_configuration(kind: type[Any]) -> None:
    client = kind(
        ["a:8000", "b:8000"],
        retry=Retry(attempts=5),
        deadline=7.5,
        balancing="round_robin",
        on_response=hear,
    )
    client.register_plugin(BearerAuth("token"))
    again = pickle.loads(pickle.dumps(client))
    try:
        assert type(again) is kind
        assert again.servers == ("a:8000", "b:8000")
        assert again._configuration == client._configuration
        assert (again._configuration["retry"], again._deadline, again._dispatch._balancing) == (
            Retry(attempts=5),
            7.5,
            "round_robin",
        )
        assert again.hooks.observers.response == (hear,)
        assert again.hooks is not client.hooks
        for server in again.servers:
            assert again.server(server).plugin() is again.plugin()
        assert isinstance(again.plugin(), BearerAuth)
    finally:
        closed(again)
        closed(client)


def test_a_client_that_came_out_of_a_pickle_works(serve: Any) -> None:
    server = serve(answering)
    with InferenceServerClient(server.url, on_response=hear) as client:
        client.infer("m", [tensor()])
        heard.clear()
        with pickle.loads(pickle.dumps(client)) as again:
            assert again.infer("m", [tensor()]).attempts == 1
        assert [call.status for call in heard] == [200]
    assert server.accepted == 2


@pytest.mark.parametrize("kind", [Own, OwnAio])
def test_a_subclass_keeps_its_attributes(kind: type[Any]) -> None:
    client = kind("a:8000", tenant="x")
    again = pickle.loads(pickle.dumps(client))
    assert (type(again), again.tenant, again.servers) == (kind, "x", ("a:8000",))
    closed(again)
    closed(client)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"on_request": lambda call: None}, "on_request"),
        ({"ssl_context_factory": lambda: ssl.create_default_context()}, "ssl_context_factory"),
    ],
    ids=["lambda", "factory"],
)
def test_an_option_that_cannot_be_pickled_is_named(options: dict[str, Any], named: str) -> None:
    with (
        InferenceServerClient("a:8000", **options) as client,
        pytest.raises(TypeError, match=f"cannot pickle this client because of its {named}: "),
    ):
        pickle.dumps(client)


def test_a_context_of_tls_is_named() -> None:
    client = tritonhttp.aio.InferenceServerClient(
        "a:8000", ssl=True, ssl_context=ssl.create_default_context()
    )
    with pytest.raises(TypeError, match="because of its ssl_context: cannot pickle 'SSLContext' object"):
        pickle.dumps(client)
    closed(client)


@BOTH
def test_a_plugin_that_cannot_be_pickled_is_named(kind: type[Any]) -> None:
    client, plugin = kind("a:8000"), Unpicklable()
    client.register_plugin(plugin)
    with plugin.held, pytest.raises(TypeError, match=r"because of its plugin: .*TextIOWrapper"):
        pickle.dumps(client)
    closed(client)


def test_an_attribute_that_cannot_be_pickled_is_named() -> None:
    with Own("a:8000", tenant="x") as client:
        client.callback = lambda: None  # type: ignore[attr-defined]
        with pytest.raises(TypeError, match="because of its callback: "):
            pickle.dumps(client)


# -- waiting ----------------------------------------------------------------------------------------


def test_wait_until_ready_asks_less_and_less_often() -> None:
    now, pauses, paths = 0.0, [], []
    flow = until_ready("m", "2", lambda: 30.0 - now)
    step: Any = next(flow)
    failed = None
    while failed is None:
        try:
            if isinstance(step, float):
                pauses.append(step)
                now += step
                step = flow.send(None)
            else:
                paths.append(step.path)
                is_index = not step.path.endswith("/ready")
                step = flow.throw(ServerError("no index", "404")) if is_index else flow.send(False)
        except DeadlineExceeded as error:
            failed = str(error)
    assert failed.endswith(
        f"model 'm' to be ready; asked {len(pauses) + 1} times, the last answer: not ready"
    )
    ready, listed = "v2/models/m/versions/2/ready", "v2/repository/index"
    assert paths == [ready, listed, *[ready] * len(pauses), listed]
    assert pauses[:3] == pytest.approx([0.05, 0.075, 0.1125])
    assert pauses == sorted(pauses)
    assert pauses[-1] == 2.0
    assert sum(pauses) <= 30.0


def test_wait_until_ready_ends_with_the_first_yes(serve: Any, open_client: Callable[..., Any]) -> None:
    answers = ["503 Busy", "400 Bad Request", "cut", "200 OK"]

    def handler(peer: Any) -> None:
        while peer.receive() is not None:
            status = answers.pop(0)
            if status == "cut":
                return
            peer.reply(b"", status=status)

    server = serve(handler)
    client = open_client(server.url)
    client.wait_until_ready(None, headers={"X-Own": "1"})
    assert answers == []
    assert all(
        head.startswith(b"GET /v2/health/ready ") and b"X-Own: 1" in head for head, _ in server.requests
    )


def test_wait_until_ready_ends_in_time_where_nothing_answers(
    serve: Any, open_client: Callable[..., Any]
) -> None:
    server = serve(lambda peer: peer.receive() and peer.receive())
    client = open_client(server.url)
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        client.wait_until_ready(0.4)
    assert 0.3 < time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("speak", "words"),
    [
        (
            lambda peer: peer.send(b"\0\0\x18\4\0\0\0\0\0" + bytes(24)),
            "no inference server: .* the gRPC port, 8001",
        ),
        (
            lambda peer: peer.send(b"\x15\3\3\0\2\2\x46"),
            "no inference server: .*the server speaks TLS: https://",
        ),
        (lambda peer: peer.receive() and None, "the connection broke: "),
        (lambda peer: peer.receive() and peer.receive(), "no answer came in time: "),
        (
            lambda peer: peer.receive() and peer.reply(status="301 Moved", headers="Location: /x"),
            "redirect to /x",
        ),
    ],
    ids=["gRPC", "TLS", "closed", "silent", "redirect"],
)
def test_a_check_says_what_answers_in_place_of_a_server(
    serve: Any, open_client: Callable[..., Any], speak: Any, words: str
) -> None:
    server = serve(speak)
    found = open_client(server.url).check("m", deadline=0.3)
    assert (bool(found), found.live, found.ready) == (False, False, False)
    assert re.search(words, found.reason), found.reason


def test_wait_until_ready_refuses_wrong_arguments_at_once(open_client: Callable[..., Any]) -> None:
    client = open_client("127.0.0.1:9")
    with pytest.raises(InvalidRequest):
        client.wait_until_ready(30, "..")
    with pytest.raises(InvalidRequest, match="timeout must be a number of seconds, or None; got nan"):
        client.wait_until_ready(math.nan)


# -- several servers --------------------------------------------------------------------------------


@BOTH
def test_a_client_knows_its_servers(kind: type[Any]) -> None:
    client = kind(("a:1", "b:2", "a:1"))
    assert client.servers == ("a:1", "b:2")
    assert client.server("b:2").servers == ("b:2",)
    assert client.server("b:2") is client.server("b:2") is not client
    with pytest.raises(InvalidRequest, match="'c:3' is none of this client's servers: a:1, b:2"):
        client.server("c:3")
    closed(client)
    alone = kind("a:1")
    assert alone.server("a:1") is alone
    closed(alone)
    with pytest.raises(InvalidRequest, match="the URL of a server, or several; got none"):
        kind([])


def test_results_and_errors_say_how_often_they_were_tried(
    serve: Any, open_client: Callable[..., Any]
) -> None:
    answers = ["503 Busy", "200 OK", "503 Busy", "503 Busy", "200 OK"]

    def handler(peer: Any) -> None:
        while peer.receive() is not None:
            peer.reply(INFERRED, status=answers.pop(0), headers="X-Served-By: one")

    client = open_client(serve(handler).url, retry=Retry(attempts=2, backoff=0))
    result = client.infer("m", [tensor()], idempotent=True)
    assert (result.attempts, result.headers["x-served-by"]) == (2, "one")
    with pytest.raises(tritonhttp.ServerError) as caught:
        client.infer("m", [tensor()], idempotent=True)
    assert caught.value.attempts == 2
    assert client.infer("m", [tensor()], idempotent=True).attempts == 1


class Post(InferenceServerClient):
    """Hands each request on to ours."""

    def _post(self, *args: Any, **options: Any) -> Any:
        return super()._post(*args, **options)

    def _get(self, *args: Any, **options: Any) -> Any:
        return super()._get(*args, **options)


class PostAio(tritonhttp.aio.InferenceServerClient):
    async def _post(self, *args: Any, **options: Any) -> Any:
        return await super()._post(*args, **options)

    async def _get(self, *args: Any, **options: Any) -> Any:
        return await super()._get(*args, **options)


@pytest.fixture(params=[Post, PostAio])
def replaced(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Make a client with a replaced `_post`, and call one of its methods."""

    async def awaited(client: Any, calls: Any) -> list[Any]:
        async with client:
            return [await getattr(client, name)(*args, **options) for name, args, options in calls]

    def run(*calls: Any, url: Any, **options: Any) -> list[Any]:
        client = request.param(url, **options)
        if request.param is PostAio:
            return asyncio.run(awaited(client, calls))
        with client:
            return [getattr(client, name)(*args, **options) for name, args, options in calls]

    return run


def test_idempotent_passes_through_a_replaced_post(serve: Any, replaced: Callable[..., Any]) -> None:
    answers = ["503 Busy", "200 OK", "503 Busy", "200 OK"]

    def handler(peer: Any) -> None:
        while peer.receive() is not None:
            peer.reply(INFERRED, status=answers.pop(0))

    calls = ("infer", ("m", [tensor()]), {"idempotent": True}), ("get_server_metadata", (), {})
    result, _ = replaced(*calls, url=serve(handler).url, retry=Retry(attempts=2, backoff=0))
    assert (result.attempts, answers) == (2, [])


def test_the_deadline_passes_through_a_replaced_post(serve: Any, replaced: Callable[..., Any]) -> None:
    server = serve(lambda peer: peer.receive() and peer.receive())
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        replaced(("infer", ("m", [tensor()]), {"deadline": 0.3}), url=server.url)
    assert time.monotonic() - began < 5


def test_a_sequence_stays_with_its_server_through_a_replaced_post(
    serve: Any, replaced: Callable[..., Any]
) -> None:
    servers = [serve(answering) for _ in range(3)]
    calls = [
        ("infer", ("m", [tensor()]), {"sequence_id": 7, "sequence_start": number == 0}) for number in range(6)
    ]
    replaced(*calls, url=[server.url for server in servers])
    assert sorted(len(server.requests) for server in servers) == [0, 0, 6]


def test_hooks_see_how_long_each_phase_took(serve: Any, open_client: Callable[..., Any]) -> None:
    calls: list[Call] = []
    client = open_client(serve(answering).url, on_response=calls.append)
    client.get_server_metadata()
    client.get_server_metadata()
    first, second = (call.phases for call in calls)
    assert {"wait", "connect", "send", "first_byte", "receive"} <= set(first)
    assert "connect" not in second
    for call in calls:
        assert 0 < sum(call.phases.values()) <= call.seconds * 1e3
        assert f", receive {call.phases['receive']:.3g}" in str(call)


def test_hooks_see_no_time_of_the_phase_in_which_a_call_failed(open_client: Callable[..., Any]) -> None:
    calls: list[Call] = []
    client = open_client("unix:///not/there", on_response=calls.append)
    with pytest.raises(tritonhttp.ConnectError):
        client.get_server_metadata()
    assert "send" not in calls[0].phases
    assert "wait" in calls[0].phases


# -- contexts ---------------------------------------------------------------------------------------

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


def test_hooks_plugins_and_the_log_of_async_infer_see_the_callers_context(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    class Tenant(InferenceServerClientPlugin):
        def __call__(self, request: Request) -> None:
            seen.append(f"plugin {tenant.get()}")

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(f"log {tenant.get()}")

    def call(client: InferenceServerClient, name: str) -> Any:
        tenant.set(name)
        return client.async_infer("m", [tensor()])

    log, keep = logging.getLogger("tritonhttp"), Keep()
    log.addHandler(keep)
    caplog.set_level(logging.DEBUG, "tritonhttp")
    try:
        with InferenceServerClient(serve(answering).url) as client:
            client.hooks.add(on_request=lambda call: seen.append(f"hook {tenant.get()}"))
            client.register_plugin(Tenant())
            for name in ("one", "two"):
                contextvars.copy_context().run(call, client, name).get_result()
    finally:
        log.removeHandler(keep)
    assert seen == [f"{what} {who}" for who in ("one", "two") for what in ("plugin", "hook", "log")]


def test_without_threads_probes_and_look_ups_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    told: list[tuple[str, bool]] = []
    with tritonhttp.InferenceServerClient(["127.0.0.1:1", "127.0.0.1:2"]) as client:
        monkeypatch.setattr(client._dispatch, "probed", lambda url, now, ready: told.append((url, ready)))
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            client._probe("127.0.0.1:1")
            client._resolved = time.monotonic() - 10
            client._look_up(5.0, None)
    assert told == [("127.0.0.1:1", False)]


# -- the forms of aiohttp's response ------------------------------------------------------------------


def test_a_response_of_the_asyncio_client_has_the_methods_of_aiohttps() -> None:
    head = parse_head(
        b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=latin-1\r\nContent-Length: 1\r\n\r\n"
    )
    response = Response(head, b"\xe9")
    response.asked = "GET", "http://a:1", "/v2"

    async def body() -> None:
        answer = Answer.of(response)
        assert (answer.status, answer.ok, answer.reason) == (404, False, "Not Found")
        assert (answer.content_type, answer.charset, answer.content_length) == ("text/plain", "latin-1", 1)
        assert (answer.method, answer.url, answer.host) == ("GET", "http://a:1/v2", "a")
        assert (answer.get_encoding(), answer.closed, answer.history) == ("latin-1", True, ())
        assert (answer.version, answer.headers["CONTENT-length"]) == ("HTTP/1.1", "1")
        assert list(answer) == [b"\xe9"]
        assert list(answer) == []
        assert await answer.read() == await answer.read() == b"\xe9"
        assert (await answer.text(), await answer.text("cp437")) == ("é", "Θ")
        assert await answer.json(loads=str) == "é"
        with pytest.raises(tritonhttp.ServerError, match="404"):
            answer.raise_for_status()
        await answer.release()
        answer.close()
        async with Answer.of(Response(ResponseHead(200, {}), b"")) as empty:
            empty.raise_for_status()
            assert (empty.content_type, empty.charset) == ("application/octet-stream", None)
            assert empty.get_encoding() == "utf-8"
            assert await empty.json() is None

    asyncio.run(body())
