"""Streams of generated answers: ``client.generate_stream(…)`` makes them."""

from ._clients.blocking.stream import GenerateStream

__all__ = ["GenerateStream"]
