"""Show what it costs the client that somebody watches a small infer: a hook, the log, OpenTelemetry with its SDK.

Run ``python benchmarks/micro/observers.py`` with the library and ``opentelemetry-sdk`` installed. The server is
the sink, which only answers. Prints medians of the client's CPU for one call.
"""

from __future__ import annotations

import json
import logging
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

import tritonhttp
from tritonhttp.otel import instrument

ROUNDS, CALLS = 11, 1000
SINK = Path(__file__).parents[1] / "sink.py"


class Nowhere(SpanExporter):
    """Drops spans, so that no exporter's own work is measured."""

    def export(self, spans: object) -> SpanExportResult:
        """Say that all went well."""
        return SpanExportResult.SUCCESS


def main() -> None:
    """Measure the clients in turn and print the medians."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    logger = logging.getLogger("tritonhttp")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    array = np.arange(16, dtype=np.int32).reshape(1, 16)
    wanted = [tritonhttp.InferRequestedOutput(name) for name in ("OUTPUT0", "OUTPUT1")]
    with subprocess.Popen([sys.executable, SINK], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sink:
        assert sink.stdin is not None
        assert sink.stdout is not None
        url = f"127.0.0.1:{json.loads(sink.stdout.readline())['port']}"
        names = ("nobody", "the log at DEBUG", "a hook", "OpenTelemetry")
        clients = {name: tritonhttp.InferenceServerClient(url) for name in names}
        clients["a hook"].hooks.add(on_response=lambda call: None)
        instrument(clients["OpenTelemetry"], tracer_provider=provider)
        found: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(ROUNDS):
            for name, client in clients.items():
                logger.setLevel(logging.DEBUG if "log" in name else logging.WARNING)
                before = time.process_time()
                for _ in range(CALLS):
                    inputs = [
                        tritonhttp.InferInput(each, [1, 16], "INT32").set_data_from_numpy(array)
                        for each in ("INPUT0", "INPUT1")
                    ]
                    result = client.infer("add_sub", inputs, outputs=wanted)
                    result.as_numpy("OUTPUT0")
                    result.as_numpy("OUTPUT1")
                found[name].append((time.process_time() - before) / CALLS * 1e6)
        for client in clients.values():
            client.close()
        sink.stdin.close()
    provider.shutdown()
    for name, values in found.items():
        print(f"{name:20} {statistics.median(values):6.1f} µs CPU")


if __name__ == "__main__":
    main()
