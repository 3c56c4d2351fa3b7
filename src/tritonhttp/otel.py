"""OpenTelemetry: a client span for each call, and trace headers in each request. It needs the extra ``otel``.

It uses the client's event hooks, so it works with any plugin and both clients. Names and rules follow the stable
semantic conventions for HTTP client spans; attributes beyond those begin with ``triton.``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ._basics.redaction import without_secrets
from ._clients.base import ClientBase
from ._version import __version__
from .errors import InvalidRequest, MissingDependency
from .events import Call

try:
    from opentelemetry import propagate, trace
except ImportError as error:
    raise MissingDependency(
        "tritonhttp.otel needs opentelemetry-api: pip install 'tritonhttp[otel]'"
    ) from error

if TYPE_CHECKING:
    from opentelemetry.propagators.textmap import TextMapPropagator

__all__ = ["instrument"]


def instrument(
    client: ClientBase,
    *,
    tracer_provider: trace.TracerProvider | None = None,
    propagator: TextMapPropagator | None = None,
) -> Callable[[], None]:
    """Create a CLIENT span for each call of a client, from its first request to the end of its last answer.

    The span's parent is the span that is current where the call is made, also in tasks and for `async_infer`. A
    retried call is one span, with an event ``retry`` for each retry, and ``http.request.resend_count``. The status
    is ERROR if no answer came or its HTTP status is at least 400, even if that only means "not ready". Trace
    headers are added to the request, except those that the caller or a plugin has set.

    Parameters
    ----------
    client : InferenceServerClient
        A blocking or an asyncio client. Clients unpickled from it are not instrumented.
    tracer_provider : TracerProvider, optional
        Receives the spans; the global one by default.
    propagator : TextMapPropagator, optional
        Writes the headers; the global one by default.

    Returns
    -------
    callable
        Stops the instrumentation: later calls create no spans.

    Raises
    ------
    InvalidRequest
        If `client` is not a client of this library, or is already instrumented.
    """
    if not isinstance(client, ClientBase):
        raise InvalidRequest(f"expected a client of tritonhttp, got {type(client).__name__}")
    hooks = client.hooks
    if any(isinstance(getattr(hook, "__self__", None), _Spans) for hook in hooks.observers.request):
        raise InvalidRequest("this client is instrumented already; stop that instrumentation first")
    spans = _Spans(tracer_provider, propagator)
    hooks.add(on_request=spans.begin, on_response=spans.end, on_retry=spans.retry)
    return partial(hooks.remove, spans.begin, spans.end, spans.retry)


class _Spans:
    """The hooks of one client. Each call's context has its span, with this object as the key."""

    def __init__(
        self, tracer_provider: trace.TracerProvider | None, propagator: TextMapPropagator | None
    ) -> None:
        self._tracer = trace.get_tracer(
            "tritonhttp", __version__, tracer_provider, "https://opentelemetry.io/schemas/1.37.0"
        )
        self._propagator = propagator

    def begin(self, call: Call) -> None:
        span = self._tracer.start_span(
            f"{call.method} {call.route}" if call.route else call.method,
            kind=trace.SpanKind.CLIENT,
            attributes=_of_request(call),
        )
        call.context[self] = span
        carrier: dict[str, Any] = {}
        propagator = self._propagator or propagate.get_global_textmap()
        propagator.inject(carrier, trace.set_span_in_context(span))
        given = {str(name).lower() for name in call.headers}
        if "traceparent" in given:
            carrier.pop("tracestate", None)  # it belongs to the other traceparent
        call.headers.update((name, value) for name, value in carrier.items() if name.lower() not in given)

    def retry(self, call: Call, reason: str, delay: float) -> None:
        span = call.context.get(self)
        if span is not None:
            span.add_event(
                "retry",
                {
                    "http.request.resend_count": call.attempts,
                    "triton.retry.reason": reason,
                    "triton.retry.delay": delay,
                },
            )

    def end(self, call: Call) -> None:
        span = call.context.pop(self, None)
        if span is None:
            return
        if span.is_recording():
            span.set_attributes(_of_url(call.url))
            if call.attempts > 1:
                span.set_attribute("http.request.resend_count", call.attempts - 1)
            if call.status is not None:
                span.set_attribute("http.response.status_code", call.status)
                span.set_attribute("network.protocol.version", "1.1")
                span.set_attribute("http.response.body.size", call.response_bytes)
            if call.error is not None:
                kind = type(call.error)
                span.set_attribute("error.type", f"{kind.__module__}.{kind.__qualname__}")
                span.set_status(trace.StatusCode.ERROR, without_secrets(str(call.error)))
            elif call.status is not None and call.status >= 400:
                span.set_attribute("error.type", str(call.status))
                span.set_status(trace.StatusCode.ERROR)
        span.end()


def _of_request(call: Call) -> dict[str, Any]:
    optional = {
        "url.template": call.route,
        "triton.model.name": call.model_name,
        "triton.model.version": call.model_version,
        "triton.request.id": call.request_id,
    }
    return {
        "http.request.method": call.method,
        "http.request.body.size": call.request_bytes,
        **_of_url(call.url),
        **{name: value for name, value in optional.items() if value},
    }


@lru_cache(maxsize=256)
def _of_url(url: str) -> dict[str, Any]:
    """Return the attributes of a URL, or none if no server is chosen yet."""
    if not url:
        return {}
    found: dict[str, Any] = {"url.full": without_secrets(url)}
    if url.startswith("unix://"):
        return {**found, "server.address": url[len("unix://") :].partition(":")[0]}
    parts = urlsplit(url)
    if parts.hostname:
        found["server.address"] = parts.hostname
        found["server.port"] = parts.port or (443 if parts.scheme == "https" else 80)
    return found
