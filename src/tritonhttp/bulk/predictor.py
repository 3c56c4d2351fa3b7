"""A served model as a function of batches, for engines that send it to other processes."""

from __future__ import annotations

import atexit
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import pyarrow as pa

from .._calls.retry import Retry
from .._clients.blocking.client import InferenceServerClient
from .._clients.given import CallOptions
from .._protocol.signature import Joined, Signature, rows_of
from .._transport.policy import positive
from ..errors import InvalidRequest
from ._columns import Columns

__all__ = ["Predictor"]

Array = npt.NDArray[Any]

#: The clients of this process, by the mark that all copies of a predictor have.
_clients: dict[str, InferenceServerClient] = {}
#: The most bytes of a call's inputs: half of what Triton takes by default, 64 MiB.
_MOST = 32 << 20


def _close(mark: str | None = None) -> None:
    """Close the client of a predictor, or of all."""
    for each in [*_clients] if mark is None else [mark]:
        if (client := _clients.pop(each, None)) is not None:
            client.close()


atexit.register(_close)


class Predictor:
    """Run a served model on batches of rows, in whatever process this object gets to.

    It has no connection until it is called. Its copies in one process share a client, which is closed with the
    process. Batches are split into calls that the server takes, of which several are under way at a time.

    Parameters
    ----------
    url : str or sequence of str
        The server, or several of them, as a client takes it.
    model : str
    version : str
        Empty: the server's choice, which may change while a dataset is scored.
    inputs, outputs, keep
        The columns: see ``Columns``. None: inputs and outputs under their own names, and all columns are kept.
    batch_size : int, optional
        The most rows for one call. None: the model's max_batch_size, or for a model without one what fits into a
        request.
    in_flight : int
        How many calls may be under way at a time, and so how many connections there are to a server.
    cast, refuse_nan : bool
        Whether numbers may be rounded to the model's datatypes; whether NaN is refused.
    options : mapping, optional
        Those of each call, as a model takes them, such as ``deadline``, ``headers`` or ``parameters``. A call is
        declared idempotent if they do not say otherwise, since an engine repeats it with its task anyway.
    prepare : callable, optional
        Called with each client that is made, such as a function that registers a plugin.
    **client
        Those of the client, such as ``ssl`` or ``retry``, which is ``Retry()`` here.

    Raises
    ------
    InvalidRequest
        For arguments that cannot be used; at the first call, for columns that the model does not have.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        model: str,
        *,
        version: str = "",
        inputs: Mapping[str, str] | None = None,
        outputs: Mapping[str, Any] | None = None,
        keep: Sequence[str] | None = None,
        batch_size: int | None = None,
        in_flight: int = 8,
        cast: bool = False,
        refuse_nan: bool = False,
        options: CallOptions | None = None,
        prepare: Callable[[InferenceServerClient], object] | None = None,
        **client: Any,
    ) -> None:
        if "concurrency" in client:
            raise InvalidRequest("a predictor has in_flight in place of the client's concurrency")
        self._url, self._model, self._version = url, model, str(version)
        self._names: dict[str, Any] = {"inputs": inputs, "outputs": outputs, "keep": keep}
        self._cast, self._refuse_nan = cast, refuse_nan
        self._batch_size = None if batch_size is None else positive(batch_size, "batch_size")
        self._in_flight = positive(in_flight, "in_flight")
        self._options: dict[str, Any] = {"idempotent": True, **(options or {})}
        self._prepare = prepare
        self._client = {"retry": Retry(), **client}
        self._columns: Columns | None = None
        self._mark = uuid.uuid4().hex
        self._make().close()  # refuses what a client refuses
        weakref.finalize(self, _close, self._mark)

    def __repr__(self) -> str:
        return f"<Predictor {self._model!r} at {self._url}>"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_columns": None}

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close this process's client; the next call makes another one."""
        _close(self._mark)

    # -- the model --

    def _make(self) -> InferenceServerClient:
        return InferenceServerClient(self._url, concurrency=self._in_flight, **self._client)

    @property
    def client(self) -> InferenceServerClient:
        """The client of this process."""
        found = _clients.get(self._mark)
        if found is None:
            made = self._make()
            if self._prepare is not None:
                self._prepare(made)
            found = _clients.setdefault(self._mark, made)
            if found is not made:  # another thread's was first
                made.close()
        return found

    @property
    def signature(self) -> Signature:
        """What the model takes and gives; its server is asked at the first time."""
        model = self.client.model(self._model, self._version)
        return model.signature or model.refresh().signature  # type: ignore[return-value]

    @property
    def columns(self) -> Columns:
        """The model's inputs and outputs as columns."""
        if self._columns is None:
            self._columns = Columns(
                self.signature, cast=self._cast, refuse_nan=self._refuse_nan, **self._names
            )
        return self._columns

    def schema(self, input_schema: Any) -> Any:
        """Return the ``pyarrow.Schema`` of the result for that of an input."""
        return self.columns.schema(input_schema)

    # -- batches --

    def __call__(self, batch: Any) -> Any:
        """Return a batch with the model's outputs: of the kind that it is.

        Parameters
        ----------
        batch : dict of numpy.ndarray, pyarrow.Table, pyarrow.RecordBatch or pandas.DataFrame

        Returns
        -------
        of the same kind
            The columns that are kept, then the outputs.

        Raises
        ------
        InvalidRequest
            For a row that the model does not take; says which and why.
        InferenceServerException
            What a call failed with.
        """
        if isinstance(batch, pa.RecordBatch):
            return next(self.stream([batch]))
        if isinstance(batch, pa.Table):
            parts = batch.combine_chunks().to_batches()
            return pa.Table.from_batches(self.stream(parts), self.schema(batch.schema))
        if isinstance(batch, Mapping):
            kept = {name: batch[name] for name in self.columns.kept([*batch])}
            return {**kept, **self._scored(batch)}
        if hasattr(batch, "columns") and hasattr(batch, "assign"):
            found = {
                name: array if array.ndim == 1 else [*array] for name, array in self._scored(batch).items()
            }
            return batch[self.columns.kept([*batch.columns])].assign(**found)
        raise InvalidRequest(
            "expected a dict of arrays, a pyarrow Table or RecordBatch, or a pandas DataFrame, got"
            f" {type(batch).__name__}"
        )

    def stream(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the result of each record batch, in order; calls of the next ones are under way meanwhile.

        Parameters
        ----------
        batches : iterable of pyarrow.RecordBatch
            Read one by one, ahead of the results by as many calls as may wait.

        Yields
        ------
        pyarrow.RecordBatch

        Raises
        ------
        InvalidRequest, InferenceServerException
            As for a call.
        """

        def read() -> Iterator[tuple[Any, dict[str, Array], int]]:
            for batch in batches:
                arrays, bad = self.columns.tensors(batch)
                if bad:
                    raise InvalidRequest(
                        f"model {self._model!r}: column {bad[0].column!r}, row {bad[0].row} of {len(batch)} in a"
                        f" batch: {bad[0].reason}; rows that do not fit: {len(bad)}"
                    )
                yield batch, arrays, max(batch.nbytes, _size(arrays))

        for batch, outputs in self._answered(read()):
            yield self.columns.result(batch, outputs)

    def _scored(self, batch: Mapping[str, Any]) -> dict[str, Array]:
        """Return the outputs for columns of numpy or pandas, by their columns."""
        arrays = self.columns.arrays(batch)
        ((_, outputs),) = self._answered([(None, arrays, _size(arrays))])
        rows = len(next(iter(arrays.values())))
        return self.columns.named(rows, outputs)

    def _answered(
        self, batches: Iterable[tuple[Any, dict[str, Array], int]]
    ) -> Iterator[tuple[Any, dict[str, Array]]]:
        """Yield what each batch came with, and the model's outputs for it."""
        waiting: deque[tuple[Any, Joined, slice, int]] = deque()

        def parts() -> Iterator[dict[str, Array]]:
            for what, arrays, size in batches:
                rows = len(next(iter(arrays.values())))
                joined, limit = Joined(rows), self._limit(rows, size)
                for start in range(0, max(rows, 1), limit):
                    part = slice(start, min(start + limit, rows))
                    waiting.append((what, joined, part, rows))
                    yield rows_of(arrays, part)

        model = self.client.model(self._model, self._version)
        options = {**self._options, "outputs": self.columns.requested}
        for outputs in model.map(parts(), copy=False, return_exceptions=False, **options):
            what, joined, part, rows = waiting.popleft()
            joined.add(part, outputs)
            if joined.done == rows:
                yield what, joined.arrays

    def _limit(self, rows: int, size: int) -> int:
        """Return how many rows a call takes, of a batch of so many rows and bytes."""
        given = self._batch_size or rows
        most = self.signature.max_batch_size or given
        return max(1, min(given, most, _MOST * rows // max(size, 1)))


def _size(arrays: Mapping[str, Array]) -> int:
    """Return how many bytes arrays take, of text the elements themselves."""
    return sum(
        sum(map(len, array.ravel().tolist())) if array.dtype.kind == "O" else array.nbytes
        for array in arrays.values()
    )
