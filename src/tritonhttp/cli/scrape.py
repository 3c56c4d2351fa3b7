"""A server's metrics, in Prometheus' text format: where they are, and what they say."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from ..errors import ProtocolError, ServerError
from .common import Failure, Setup

if TYPE_CHECKING:
    from ..metrics import Metrics

__all__ = ["address", "matching", "read", "samples_of"]

#: Triton's port for them.
_PORT = 8002


def address(setup: Setup, url: str) -> str:
    """Return where a server's metrics are, by Triton's defaults."""
    from .._transport.address import parse_url

    found = parse_url(url, setup.is_tls)
    if found.socket_path:
        raise Failure(f"{url}: metrics are not on a unix socket; --metrics-url says where they are")
    host = f"[{found.host}]" if ":" in found.host else found.host
    # With the server's scheme, so that credentials for TLS are not sent without it.
    return f"{'https' if found.tls else 'http'}://{host}:{_PORT}/metrics"


def read(setup: Setup, url: str) -> list[dict[str, Any]]:
    """Return the samples at a URL, each with name, labels and value."""
    if not url.startswith("https://"):
        setup = replace(setup, ca_certs=None, cert=None, key=None, insecure=False)
    url = url if "://" in url else f"http://{url}"
    with setup.client("/".join(url.split("/")[:3])) as client:
        try:
            metrics = client.metrics(url)
        except ServerError as error:
            raise ServerError(
                f"{url}: no metrics there; --metrics-url says where they are", str(error.status())
            ) from error
        except ProtocolError as error:
            raise ProtocolError(
                f"{url}: expected metrics in Prometheus' text format: {error.message()}"
            ) from error
    return samples_of(metrics)


def samples_of(metrics: Metrics) -> list[dict[str, Any]]:
    """Return the samples of metrics as objects."""
    return [{"name": each.name, "labels": dict(each.labels), "value": each.value} for each in metrics.samples]


def matching(samples: list[dict[str, Any]], pattern: str) -> list[dict[str, Any]]:
    """Return the samples whose name or one of whose labels has the pattern in it, or matches it."""
    whole = pattern if set(pattern) & set("*?[") else f"*{pattern}*"

    def wanted(sample: dict[str, Any]) -> bool:
        texts = [sample["name"], *(f"{name}={value}" for name, value in sample["labels"].items())]
        return any(fnmatchcase(text, whole) for text in (*texts, *sample["labels"].values()))

    return [sample for sample in samples if wanted(sample)]
