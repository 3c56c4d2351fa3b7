"""The transparent path: large tensors of an inference travel through pooled regions, unseen by the caller.

A server on the same machine reads and writes them in place. Inputs are copied into a region. Outputs are placed in
a region if their sizes are known before the request. If anything stands in the way, tensors travel over HTTP.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from .._protocol.inference import Inference
from .._protocol.operations import Operation
from .._protocol.result import InferResult
from .call import Call, InferFlow, byte_size
from .pool import BlockPool
from .registrations import Registrations
from .sizes import Model, OutputSizes

__all__ = ["InferFlow", "Sharing"]


class Sharing:
    """The transparent path of one client; safe to share between threads.

    Parameters
    ----------
    threshold : int
        Smaller tensors travel over HTTP, in bytes.
    limit : int
        The bytes of all regions together.
    """

    def __init__(self, threshold: int, limit: int) -> None:
        self.threshold = threshold
        self.pool = BlockPool(limit)
        self._registrations = Registrations(self.pool)
        self._sizes = OutputSizes()
        #: Models known to have large outputs.
        self._large: set[Model] = set()

    def infer(self, inference: Inference, *, snapshot: bool = False) -> InferFlow | None:
        """Begin an inference: copy its large inputs into a region.

        Parameters
        ----------
        inference : Inference
        snapshot : bool
            Whether the caller may change its arrays as soon as this returns.

        Returns
        -------
        generator of Operation, or None
            None if no tensor of it is large.
        """
        if self._registrations.refused:
            self.pool.collect()
            return None
        large: list[int] = []
        try:
            if not inference.request_compression_algorithm:
                sizes = map(byte_size, inference.inputs)
                large = [index for index, size in enumerate(sizes) if size >= self.threshold]
            if not large and (inference.model_name, inference.model_version) not in self._large:
                return None
            call = Call(self._registrations, self._sizes, self.threshold, inference, large)
        except (AttributeError, TypeError):
            return None  # encoding the request says what is wrong with the arguments
        if large and not call.place_inputs() and not self.pool.has_doomed:
            return None
        if snapshot:
            call.let_go()
        return call.carry_out()

    def note(self, model: Model, result: InferResult) -> None:
        """Remember a model whose answer over HTTP is large."""
        if len(result._body) >= self.threshold:
            self._large.add(model)

    def close(self) -> Generator[Operation[Any], Any, None]:
        """Have the server forget the regions; a second call goes on with those that are left."""
        return self._registrations.close()
