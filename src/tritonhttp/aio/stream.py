"""Streams of answers: ``client.generate_stream(…)`` and ``client.infer_stream(…)`` make them."""

from .._clients.awaited.stream import GenerateStream, InferStream

__all__ = ["GenerateStream", "InferStream"]
