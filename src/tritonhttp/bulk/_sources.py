"""Where rows come from, as record batches with their place in the source.

A source is a list of fragments, such as files. A place in it is a fragment's number and a row in that fragment. A
run that goes on reads from such a place: whole fragments before it, and row groups of Parquet and batches of Arrow
files, are not read again; rows of other formats are read and dropped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

__all__ = ["Fragment", "Piece", "Source", "array_of", "rows_at_a_time", "schema_text"]

#: About so many bytes are read at a time.
CHUNK = 4 << 20
#: The most rows that are read at a time, however short they are.
_MOST_ROWS = 4096


class Fragment(NamedTuple):
    """A part of a source.

    `state` is what tells that it has changed: a file's size and time. `read` yields its record batches with the
    number of their first row, from a row on (or from a row before it).
    """

    name: str
    state: dict[str, Any]
    read: Callable[[int, Sequence[str] | None], Iterator[tuple[int, Any]]]


class Piece(NamedTuple):
    """Rows of a source: of a fragment, from a row on."""

    fragment: int
    row: int
    batch: Any


class Source:
    """Rows in fragments.

    Attributes
    ----------
    schema : pyarrow.Schema
    rows : int or None
        How many there are, if that is known.
    can_be_read_again : bool
        False for an iterable, of which the first batch alone has been read.
    """

    def __init__(
        self, fragments: Sequence[Fragment], schema: Any, rows: int | None, can_be_read_again: bool = True
    ) -> None:
        self.fragments, self.schema, self.rows = fragments, schema, rows
        self.can_be_read_again = can_be_read_again

    def state(self) -> list[dict[str, Any]]:
        """Return what tells that the source has changed, for each fragment."""
        return [{"name": each.name, **each.state} for each in self.fragments]

    @property
    def shows_changes(self) -> bool:
        """Whether its state tells of any change: that of files does, that of rows in memory does not."""
        return all("modified" in each.state for each in self.fragments)

    def read(self, fragment: int = 0, row: int = 0, columns: Sequence[str] | None = None) -> Iterator[Piece]:
        """Yield the rows from a place on.

        Parameters
        ----------
        fragment, row : int
            The first row.
        columns : sequence of str, optional
            Those that are needed; None: all.
        """
        for number in range(fragment, len(self.fragments)):
            first = row if number == fragment else 0
            for start, batch in self.fragments[number].read(first, columns):
                cut = max(0, first - start)
                if cut < len(batch):
                    yield from _small(number, start + cut, batch.slice(cut))


def _small(fragment: int, row: int, batch: Any) -> Iterator[Piece]:
    """Yield a batch in parts of about the size that is read at a time."""
    most = rows_at_a_time(batch.nbytes / max(1, len(batch)))
    for start in range(0, len(batch), most):
        yield Piece(fragment, row + start, batch.slice(start, most))


def rows_at_a_time(bytes_per_row: float) -> int:
    """Return how many rows of this size to read at a time."""
    return max(1, min(_MOST_ROWS, int(CHUNK / max(1.0, bytes_per_row))))


def array_of(array: Any) -> Any:
    """Return the rows of a numpy array as an Arrow array."""
    if array.ndim == 1:
        return pa.array(array)
    if array.ndim == 2 and array.dtype.kind in "iuf":
        flat = pa.array(np.ascontiguousarray(array).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, array.shape[1])
    if array.dtype.kind in "iuf":
        return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(array))
    return pa.array(array.tolist())


def schema_text(schema: Any) -> str:
    """Return a schema as text that two equal ones have in common."""
    return json.dumps([[field.name, str(field.type)] for field in schema])
