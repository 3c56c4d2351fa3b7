"""Models as functions of arrays: ``client.model("digits")`` makes them."""

from .._clients.awaited.model import CallOptions, Model, Outputs, Sequence, SequenceOptions

__all__ = ["CallOptions", "Model", "Outputs", "Sequence", "SequenceOptions"]
