"""A server's metrics: ``client.metrics()`` returns them."""

from ._wire.prometheus import Metrics, Sample

__all__ = ["Metrics", "Sample"]
