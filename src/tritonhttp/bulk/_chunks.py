"""Rows on their way: read together, sent in several calls, written together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from .._protocol.signature import Joined
from ..errors import BulkError, InvalidRequest
from ._columns import Columns
from ._sources import Piece, Source, rows_at_a_time

__all__ = ["Chunk", "Failure", "chunks"]

Arrays = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """A row that cannot be computed: its index in the chunk, its column (or none), and why."""

    row: int
    column: str | None
    reason: str


@dataclass(slots=True, eq=False)
class Chunk:
    """Rows of a source that follow each other.

    Attributes
    ----------
    part, order, last : int, int, bool
        The part of the output that they belong to, their place there, and whether they are its last.
    batch : pyarrow.RecordBatch
    fragment, row : int
        The place in the source behind them.
    arrays : dict of numpy.ndarray
        The model's inputs, of the rows that fit it.
    good : numpy.ndarray or None
        The indices of these rows; None: all.
    """

    pieces: list[Piece]
    batch: Any
    fragment: int
    row: int
    part: int = 0
    order: int = 0
    last: bool = False
    arrays: Arrays = field(default_factory=dict)
    good: Any = None
    failures: list[Failure] = field(default_factory=list)
    #: How many rows are neither computed nor failed.
    left: int = 0
    answers: Joined | None = None

    def place(self, row: int) -> tuple[int, int]:
        """Return the fragment of a row, and its number there."""
        for piece in self.pieces:
            if row < len(piece.batch):
                return piece.fragment, piece.row + row
            row -= len(piece.batch)
        raise IndexError(row)

    def number(self, row: int) -> int:
        """Return the index in the chunk of a row that fits the model."""
        return row if self.good is None else int(self.good[row])

    def prepare(self, columns: Columns, preprocess: Callable[[Any], Any] | None) -> None:
        """Make the model's inputs of the rows."""
        if preprocess is not None:
            found = preprocess(self.batch)
            if isinstance(found, pa.Table):
                found = found.combine_chunks()
                found = (
                    found.to_batches()[0]
                    if len(found)
                    else pa.record_batch([[]] * len(found.schema), schema=found.schema)
                )
            if not isinstance(found, pa.RecordBatch):
                raise InvalidRequest(
                    f"preprocess must return a RecordBatch or Table, got {type(found).__name__}"
                )
            if len(found) != len(self.batch):
                raise InvalidRequest(
                    f"preprocess must return a row for each: expected {len(self.batch)}, got {len(found)};"
                    " drop rows in postprocess, or before"
                )
            self.batch = found
        self.arrays, bad = columns.tensors(self.batch)
        rows = len(self.batch)
        if bad:
            self.failures = [Failure(each.row, each.column, each.reason) for each in bad]
            missing = {each.row for each in bad}
            self.good = np.array([row for row in range(rows) if row not in missing], np.int64)
            rows = len(self.good)
        self.left = rows
        self.answers = Joined(rows)

    def answer(self, rows: slice, outputs: Mapping[str, Any]) -> None:
        """Take the model's outputs for some of the rows that fit it."""
        if self.answers is not None:
            self.answers.add(rows, outputs)
        self.left -= rows.stop - rows.start

    def fail(self, row: int, reason: str) -> None:
        """Take the failure of a row that fits the model."""
        self.failures.append(Failure(self.number(row), None, reason))
        self.left -= 1

    def result(self, columns: Columns, schema: Any) -> Any:
        """Return the rows of the output; of rows that failed nothing."""
        failed = {each.row for each in self.failures}
        batch = self.batch if self.good is None else self.batch.take(pa.array(self.good))
        arrays = self.answers.arrays if self.answers is not None else {}
        if len(failed) == len(self.batch):
            return None
        sent = range(len(self.batch)) if self.good is None else self.good
        kept = np.array([row not in failed for row in sent]) if failed else None
        if kept is not None and not kept.all():
            batch = batch.filter(pa.array(kept))
            arrays = {name: array[kept] for name, array in arrays.items()}
        return columns.result(batch, arrays)


def chunks(
    source: Source, fragment: int, row: int, columns: Sequence[str] | None, most: int, part: int | None = None
) -> Iterator[Chunk]:
    """Yield the rows of a source from a place on, in chunks.

    Parameters
    ----------
    most : int
        Rows of one call: a chunk has a multiple of it where rows are small, so that few calls have fewer.
    part : int, optional
        Rows after which the caller commits: a chunk has no more calls than that takes.
    """
    pieces: list[Piece] = []
    have = 0
    for piece in source.read(fragment, row, columns):
        size = piece.batch.nbytes / max(1, len(piece.batch))
        target = rows_at_a_time(size)
        if part is not None:
            target = min(target, -(-part // most) * most)
        target = max(1, target // most * most or min(target, most))
        while len(piece.batch):
            some = piece.batch.slice(0, target - have)
            pieces.append(Piece(piece.fragment, piece.row, some))
            have += len(some)
            piece = Piece(piece.fragment, piece.row + len(some), piece.batch.slice(len(some)))
            if have >= target:
                yield _chunk(pieces)
                pieces, have = [], 0
    if pieces:
        yield _chunk(pieces)


def _chunk(pieces: list[Piece]) -> Chunk:
    batches = [piece.batch for piece in pieces]
    if len(batches) > 1:
        try:
            table = pa.Table.from_batches(batches, batches[0].schema).combine_chunks()
        except pa.ArrowInvalid as error:
            raise BulkError(f"batches of different columns: {error}") from error
        batches = table.to_batches()
    last = pieces[-1]
    return Chunk(pieces, batches[0], last.fragment, last.row + len(last.batch))
