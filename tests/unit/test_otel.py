"""Spans as OpenTelemetry's SDK receives them, of both clients."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pytest

import tritonhttp
import tritonhttp.aio
from tritonhttp import InferenceServerClient, InferInput, InvalidRequest, Retry
from tritonhttp.auth import BasicAuth

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import baggage, context, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from tritonhttp import otel

from ..clients import run_in_threads

STREAM = b'data: {"OUT": 1}\n\ndata: {"OUT": 2}\n\n'
INFERRED = b'{"model_name":"m","outputs":[]}'


class Traced:
    """A provider of the test's own, and the spans it was given."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")

    @property
    def spans(self) -> list[ReadableSpan]:
        """The client spans, in the order of their ends."""
        return [span for span in self.exporter.get_finished_spans() if span.kind is trace.SpanKind.CLIENT]

    @property
    def span(self) -> ReadableSpan:
        (span,) = self.spans
        return span

    def attributes(self) -> dict[str, Any]:
        return dict(self.span.attributes or {})


@pytest.fixture
def traced() -> Iterator[Traced]:
    traced = Traced()
    yield traced
    traced.provider.shutdown()


@pytest.fixture
def answers() -> list[str]:
    """Statuses that the server answers with, before it goes over to 200."""
    return []


@pytest.fixture
def server(serve: Any, answers: list[str]) -> Any:
    def handler(peer: Any) -> None:
        while (request := peer.receive()) is not None:
            status = answers.pop(0) if answers else "200 OK"
            if b"/generate_stream" in request[0]:
                head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n"
                peer.send(head % (len(STREAM) + (status == "cut")) + STREAM[:10])
                time.sleep(0.1)
                peer.send(STREAM[10:])
                if status == "cut":
                    return
            elif status == "cut":
                return
            elif b"/infer" in request[0]:
                peer.reply(INFERRED if status == "200 OK" else b'{"error":"not today"}', status=status)
            else:
                peer.reply(b"{}", status=status)

    return serve(handler)


@pytest.fixture
def client(server: Any, open_client: Callable[..., Any], traced: Traced) -> Any:
    client = open_client(server.url, retry=Retry(attempts=3, backoff=0.001), concurrency=4)
    instrument(client, tracer_provider=traced.provider)
    return client


def instrument(client: Any, **options: Any) -> Callable[[], None]:
    return otel.instrument(getattr(client, "_client", client), **options)


def tensor() -> InferInput:
    return InferInput("x", [2], "INT8").set_data_from_numpy(np.array([1, 2], np.int8))


def headers_of(server: Any, number: int = -1) -> dict[str, str]:
    lines = server.requests[number][0].decode().split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines) if name}


def traceparent(span: Any) -> str:
    found = span.get_span_context()
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"


def test_a_call_is_a_client_span_with_the_conventional_attributes(
    client: Any, server: Any, traced: Traced
) -> None:
    client.infer("m", [tensor()], "3", request_id="call 7", query_params={"a": 1, "api_key": "sesame"})
    host, _, port = server.url.partition(":")
    body = len(server.requests[-1][1])
    assert traced.span.name == "POST /v2/models/{model}/versions/{version}/infer"
    assert traced.attributes() == {
        "http.request.method": "POST",
        "http.request.body.size": body,
        "http.response.body.size": len(INFERRED),
        "http.response.status_code": 200,
        "network.protocol.version": "1.1",
        "server.address": host,
        "server.port": int(port),
        "triton.model.name": "m",
        "triton.model.version": "3",
        "triton.request.id": "call 7",
        "url.full": f"http://{server.url}/v2/models/m/versions/3/infer?a=1&api_key=***",
        "url.template": "/v2/models/{model}/versions/{version}/infer",
    }
    assert traced.span.status.status_code is trace.StatusCode.UNSET
    assert traced.span.instrumentation_scope is not None
    assert traced.span.instrumentation_scope.name == "tritonhttp"
    assert headers_of(server)["traceparent"] == traceparent(traced.span)
    assert traced.span.parent is None


def test_the_span_that_is_current_at_the_call_is_the_parent(client: Any, server: Any, traced: Traced) -> None:
    with traced.tracer.start_as_current_span("outer") as outer:
        client.get_model_metadata("m")
        assert trace.get_current_span() is outer
    assert traced.span.parent == outer.get_span_context()
    assert traced.span.name == "GET /v2/models/{model}"


def test_an_error_of_the_server_makes_the_spans_status(
    client: Any, answers: list[str], traced: Traced
) -> None:
    answers.append("400 Bad Request")
    with pytest.raises(tritonhttp.ServerError):
        client.infer("m", [tensor()])
    attributes = traced.attributes()
    assert (attributes["http.response.status_code"], attributes["error.type"]) == (400, "400")
    assert traced.span.status.status_code is trace.StatusCode.ERROR
    assert traced.span.status.description is None
    assert "http.request.resend_count" not in attributes


def test_an_error_of_the_transport_is_the_spans(client: Any, answers: list[str], traced: Traced) -> None:
    answers += ["cut"]
    with pytest.raises(tritonhttp.ConnectionLost) as caught:
        client.infer("m", [tensor()])
    attributes = traced.attributes()
    assert attributes["error.type"] == "tritonhttp.errors.ConnectionLost"
    assert "http.response.status_code" not in attributes
    assert traced.span.status.status_code is trace.StatusCode.ERROR
    assert traced.span.status.description == str(caught.value)


def test_a_call_that_is_sent_again_stays_one_span(
    client: Any, server: Any, answers: list[str], traced: Traced
) -> None:
    answers += ["503 Busy", "429 Slow Down"]
    assert client.infer("m", [tensor()], idempotent=True).attempts == 3
    assert traced.attributes()["http.request.resend_count"] == 2
    assert traced.span.status.status_code is trace.StatusCode.UNSET
    events = [(event.name, dict(event.attributes or {})) for event in traced.span.events]
    for _, attributes in events:
        assert attributes.pop("triton.retry.delay") < 0.01  # type: ignore[operator]
    assert events == [
        ("retry", {"http.request.resend_count": 1, "triton.retry.reason": "status 503"}),
        ("retry", {"http.request.resend_count": 2, "triton.retry.reason": "status 429"}),
    ]
    assert {headers_of(server, number)["traceparent"] for number in range(3)} == {traceparent(traced.span)}


@pytest.mark.parametrize("how", ["whole", "cut", "left"])
def test_the_span_of_a_stream_lasts_until_it_has_ended(
    client: Any, answers: list[str], traced: Traced, how: str
) -> None:
    answers += ["cut"] * (how == "cut")
    stream = client.generate_stream("m", {})
    assert next(stream) == {"OUT": 1}
    assert traced.spans == []
    if how == "cut":
        with pytest.raises(tritonhttp.ConnectionLost):
            list(stream)
    elif how == "left":
        stream.close()
    else:
        assert list(stream) == [{"OUT": 2}]
    span, attributes = traced.span, traced.attributes()
    assert span.name == "POST /v2/models/{model}/generate_stream"
    assert (span.end_time or 0) - (span.start_time or 0) >= 1e8
    assert attributes["http.response.status_code"] == 200
    assert attributes["http.response.body.size"] == len(STREAM)
    assert attributes.get("error.type") == ("tritonhttp.errors.ConnectionLost" if how == "cut" else None)
    assert (span.status.status_code is trace.StatusCode.ERROR) == (how == "cut")


def test_calls_at_the_same_time_have_spans_of_their_own(client: Any, server: Any, traced: Traced) -> None:
    parents = {}
    both = threading.Barrier(2)

    def call(name: str) -> None:
        with traced.tracer.start_as_current_span(name) as outer:
            parents[name] = outer.get_span_context()
            both.wait(10)
            client.infer(name, [tensor()])

    run_in_threads(call, "ab")
    assert {(span.attributes or {})["triton.model.name"]: span.parent for span in traced.spans} == parents
    assert len({headers_of(server, number)["traceparent"] for number in range(2)}) == 2


def test_tasks_at_the_same_time_have_parents_of_their_own(server: Any, traced: Traced) -> None:
    parents = {}

    async def call(client: Any, name: str) -> None:
        with traced.tracer.start_as_current_span(name) as outer:
            parents[name] = outer.get_span_context()
            await asyncio.sleep(0.01)
            await client.infer(name, [tensor()])

    async def main() -> None:
        async with tritonhttp.aio.InferenceServerClient(server.url) as client:
            instrument(client, tracer_provider=traced.provider)
            await asyncio.gather(call(client, "a"), call(client, "b"))

    asyncio.run(main())
    assert {(span.attributes or {})["triton.model.name"]: span.parent for span in traced.spans} == parents


def test_async_infer_has_the_parent_that_was_current_when_it_was_called(server: Any, traced: Traced) -> None:
    parents = {}
    with InferenceServerClient(server.url, concurrency=2) as client:
        instrument(client, tracer_provider=traced.provider)
        pending = []
        for name in "abcd":
            with traced.tracer.start_as_current_span(name) as outer:
                parents[name] = outer.get_span_context()
                pending.append(client.async_infer(name, [tensor()]))
        for each in pending:
            each.get_result()
    assert {(span.attributes or {})["triton.model.name"]: span.parent for span in traced.spans} == parents


def test_a_cancelled_call_ends_its_span(serve: Any, traced: Traced) -> None:
    server = serve(lambda peer: peer.receive() and peer.receive())

    async def main() -> None:
        async with tritonhttp.aio.InferenceServerClient(server.url) as client:
            instrument(client, tracer_provider=traced.provider)
            with pytest.raises(TimeoutError if sys.version_info >= (3, 11) else asyncio.TimeoutError):
                await asyncio.wait_for(client.is_server_live(), 0.2)

    asyncio.run(main())
    assert traced.attributes()["error.type"] == "asyncio.exceptions.CancelledError"
    assert traced.span.status.status_code is trace.StatusCode.ERROR


# -- headers ----------------------------------------------------------------------------------------


def test_a_header_of_the_callers_stays(client: Any, server: Any, traced: Traced) -> None:
    own = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    given = {"TraceParent": own}
    client.get_server_metadata(headers=given)
    assert headers_of(server)["traceparent"] == own
    assert given == {"TraceParent": own}


def test_the_given_propagator_writes_the_headers(
    server: Any, open_client: Callable[..., Any], traced: Traced
) -> None:
    client = open_client(server.url)
    instrument(client, tracer_provider=traced.provider, propagator=W3CBaggagePropagator())
    token = context.attach(baggage.set_baggage("tenant", "a b"))
    try:
        client.get_server_metadata()
    finally:
        context.detach(token)
    headers = headers_of(server)
    assert headers["baggage"] == "tenant=a+b"
    assert "traceparent" not in headers


def test_a_span_that_is_not_sampled_is_still_propagated(server: Any, open_client: Callable[..., Any]) -> None:
    traced = Traced(sampler=ALWAYS_OFF)
    client = open_client(server.url)
    instrument(client, tracer_provider=traced.provider)
    client.get_server_metadata()
    assert traced.spans == []
    assert not int(headers_of(server)["traceparent"][-2:], 16) & 1


def test_instrumenting_goes_together_with_a_plugin(client: Any, server: Any, traced: Traced) -> None:
    client.register_plugin(BasicAuth("user", "sesame"))
    client.infer("m", [tensor()])
    headers = headers_of(server)
    assert headers["authorization"].startswith("Basic ")
    assert headers["traceparent"] == traceparent(traced.span)
    assert headers["authorization"] not in str(traced.span.to_json())


def test_instrumenting_goes_together_with_hooks(
    server: Any, open_client: Callable[..., Any], traced: Traced
) -> None:
    seen = []
    client = open_client(server.url, on_response=lambda call: seen.append(call.headers))
    instrument(client, tracer_provider=traced.provider)
    client.infer("m", [tensor()])
    assert seen[0]["traceparent"] == traceparent(traced.span)


# -- beginning and end ------------------------------------------------------------------------------


def test_instrumenting_can_be_undone_and_done_again(
    server: Any, open_client: Callable[..., Any], traced: Traced
) -> None:
    client = open_client(server.url)
    undo = instrument(client, tracer_provider=traced.provider)
    with pytest.raises(InvalidRequest, match="instrumented already"):
        instrument(client, tracer_provider=traced.provider)
    client.infer("m", [tensor()])
    undo()
    client.infer("m", [tensor()])
    assert "traceparent" not in headers_of(server)
    undo()
    instrument(client, tracer_provider=traced.provider)
    client.infer("m", [tensor()])
    assert len(traced.spans) == 2


def test_a_call_under_way_when_instrumenting_ends_gets_its_span(serve: Any, traced: Traced) -> None:
    undo: list[Callable[[], None]] = []

    def handler(peer: Any) -> None:
        while peer.receive() is not None:
            undo[0]()
            peer.reply()

    with InferenceServerClient(serve(handler).url) as client:
        undo.append(instrument(client, tracer_provider=traced.provider))
        client.get_server_metadata()
        client.get_server_metadata()
    assert traced.attributes()["http.response.status_code"] == 200


def test_several_servers_are_told_apart(serve: Any, open_client: Callable[..., Any], traced: Traced) -> None:
    def handler(peer: Any) -> None:
        while peer.receive() is not None:
            peer.reply()

    servers = [serve(handler).url for _ in range(2)]
    client = open_client(servers)
    instrument(client, tracer_provider=traced.provider)
    for _ in servers:
        client.get_server_metadata()
    seen = [(span.attributes or {}) for span in traced.spans]
    assert {f"{found['server.address']}:{found['server.port']}" for found in seen} == set(servers)


def test_a_unix_domain_socket_is_the_servers_address(open_client: Callable[..., Any], traced: Traced) -> None:
    client = open_client("unix:///not/there")
    instrument(client, tracer_provider=traced.provider)
    with pytest.raises(tritonhttp.ConnectError):
        client.get_server_metadata()
    attributes = traced.attributes()
    assert attributes["server.address"] == "/not/there"
    assert "server.port" not in attributes
    assert attributes["url.full"] == "unix:///not/there:/v2"


def test_an_object_that_is_no_client_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="expected a client of tritonhttp, got str"):
        instrument("localhost:8000")  # type: ignore[arg-type]


def test_without_opentelemetry_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "tritonhttp.otel")
    with pytest.raises(ImportError, match=r"pip install 'tritonhttp\[otel\]'"):
        import_module("tritonhttp.otel")
