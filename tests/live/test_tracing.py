"""Triton's own spans, in its OpenTelemetry mode, as children of the client's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tritonhttp.testing import TritonServer

from ..clients import tensor, wait_until
from ..framing import Handler, HandlerServer

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tritonhttp.otel import instrument


@pytest.fixture
def collected() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Run a collector; its URL, and the spans that it was sent, as OTLP in JSON has them."""
    spans: list[dict[str, Any]] = []

    class Collector(Handler):
        protocol_version = "HTTP/1.0"  # so that no connection outlives its request

        def do_POST(self) -> None:
            for resource in json.loads(self.read())["resourceSpans"]:
                for scope in resource["scopeSpans"]:
                    spans.extend(scope["spans"])
            self.answer(200)

    class Server(HandlerServer):
        handler = Collector

    with Server() as server:
        yield f"http://{server.url}/v1/traces", spans


def test_the_servers_spans_are_children_of_the_clients(
    start_server: Callable[..., TritonServer],
    open_client: Callable[..., Any],
    collected: tuple[str, list[dict[str, Any]]],
) -> None:
    url, spans = collected
    server = start_server(
        models=["identity_fp32"],
        args=[
            "--trace-config=mode=opentelemetry",
            f"--trace-config=opentelemetry,url={url}",
            "--trace-config=opentelemetry,bsp_schedule_delay=50",
            "--trace-config=level=TIMESTAMPS",
            "--trace-config=rate=1",
        ],
    )
    client = open_client(server.url)
    assert client.get_trace_settings()["trace_mode"] == "opentelemetry"
    provider, exporter = TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrument(getattr(client, "_client", client), tracer_provider=provider)
    client.infer("identity_fp32", [tensor("INPUT0", np.ones(3, np.float32))])
    (span,) = exporter.get_finished_spans()
    provider.shutdown()
    ours = span.get_span_context()
    assert ours is not None
    wait_until(lambda: any(span["name"] == "InferRequest" for span in spans))
    (infer,) = (span for span in spans if span["name"] == "InferRequest")
    assert int(infer["traceId"], 16) == ours.trace_id
    assert int(infer["parentSpanId"], 16) == ours.span_id
