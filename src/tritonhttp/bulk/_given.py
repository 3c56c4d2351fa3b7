"""Sources as callers give them: paths and URIs, frames, tables and iterables."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import InvalidRequest
from ._formats import parquet_dataset, reader_of
from ._places import Place, place_of
from ._sources import Fragment, Source, array_of

__all__ = ["source_of"]

#: Dicts that become a batch; those of the first tell the columns.
_ROWS = 256


def source_of(given: Any) -> Source:
    """Return the source that a caller gave.

    Parameters
    ----------
    given : path, URI, frame, table, or iterable
        A file (.parquet, .arrow, .feather, .ipc, .arrows, .csv, .jsonl, .ndjson, .npy, .npz), a folder of files of
        one of these formats or of images, a pandas or polars frame, a ``pyarrow.Table``, ``RecordBatch``,
        ``RecordBatchReader`` or ``Dataset``, or an iterable of record batches, or of dicts, a row each.

    Raises
    ------
    InvalidRequest
        If it is none of these.
    """
    if isinstance(given, Source):
        return given
    if isinstance(given, (str, bytes)) or hasattr(given, "__fspath__"):
        return _of_place(place_of(given))
    if hasattr(given, "get_fragments") and hasattr(given, "schema"):
        return parquet_dataset(given)
    return _of_object(given)


def _of_place(place: Place) -> Source:
    if not place.exists():
        raise InvalidRequest(f"{place.name}: there is no such file or folder")
    infos = place.files() if place.is_folder() else [place.info()]
    if not infos:
        raise InvalidRequest(f"{place.name}: the folder has no files")
    return reader_of(place, infos)


# -- what is in memory --


def _of_object(given: Any) -> Source:
    kind = type(given).__module__.partition(".")[0]
    if kind == "pandas":
        given = pa.Table.from_pandas(given, preserve_index=False)
    elif kind == "polars":
        given = (given.collect() if hasattr(given, "collect") else given).to_arrow()
    elif isinstance(given, pa.RecordBatch):
        given = pa.Table.from_batches([given])
    elif isinstance(given, Mapping) and given and all(hasattr(each, "__len__") for each in given.values()):
        given = pa.table({str(name): column_of_values(values) for name, values in given.items()})
    if isinstance(given, pa.Table):
        table: Any = given

        def read(row: int, columns: Sequence[str] | None) -> Iterator[tuple[int, Any]]:
            wanted = table if columns is None else table.select(list(columns))
            start = row
            for batch in wanted.slice(row).to_batches():
                yield start, batch
                start += len(batch)

        # Its content is not looked at: a caller that goes on gives the same.
        state = {"rows": len(table)}
        return Source([Fragment("the table", state, read)], table.schema, len(table))
    if isinstance(given, Iterable) and not isinstance(given, Mapping):
        return _of_batches(_batches(given))
    raise InvalidRequest(
        "expected a path, a URI, a frame, a table, or an iterable of dicts or record batches as the source, got"
        f" {type(given).__name__}"
    )


def column_of_values(values: Any) -> Any:
    """Return an Arrow array of a column's values; rows of numpy arrays become lists of fixed size."""
    if isinstance(values, np.ndarray) and values.ndim > 1:
        return array_of(values)
    if len(values) and isinstance(values[0], np.ndarray):
        shapes = {np.shape(each) for each in values}
        if len(shapes) == 1:
            return array_of(np.stack(list(values)))
    return pa.array(values)


def _batches(given: Iterable[Any]) -> Iterator[Any]:
    """Yield record batches of an iterable's items: batches, tables, or dicts of a row each."""
    rows: list[Mapping[str, Any]] = []
    schema = None
    for item in given:
        if isinstance(item, pa.RecordBatch):
            yield item
        elif isinstance(item, pa.Table):
            yield from item.to_batches()
        elif isinstance(item, Mapping):
            rows.append(item)
            if len(rows) == _ROWS:
                batch = _of_rows(rows, schema)
                schema, rows = batch.schema, []
                yield batch
        else:
            raise InvalidRequest(
                f"expected dicts or record batches in the iterable, got {type(item).__name__}"
            )
    if rows:
        yield _of_rows(rows, schema)


def _of_rows(rows: list[Mapping[str, Any]], schema: Any) -> Any:
    names = list(dict.fromkeys(name for row in rows for name in row))
    if schema is not None:
        unknown = next((name for name in names if name not in schema.names), None)
        if unknown is not None:
            raise InvalidRequest(
                f"column {unknown!r}: the first {_ROWS} dicts, which tell the columns, do not have it; expected"
                f" {', '.join(schema.names)}"
            )
        names = schema.names
    arrays = []
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            kind = None if schema is None else schema.field(name).type
            found = column_of_values(values)
            arrays.append(found if kind is None or found.type == kind else pa.array(values, kind))
        except (pa.ArrowException, ValueError, TypeError) as error:
            raise InvalidRequest(f"column {name!r}: rows that make no column: {error}") from error
    return pa.record_batch(arrays, names=names)


def _of_batches(batches: Iterator[Any]) -> Source:
    first = next(batches, None)
    if first is None:
        return Source([], pa.schema([]), 0)

    def read(row: int, columns: Sequence[str] | None) -> Iterator[tuple[int, Any]]:
        start = 0
        for batch in itertools.chain([first], batches):
            yield start, batch if columns is None else batch.select(list(columns))
            start += len(batch)

    return Source([Fragment("the iterable", {}, read)], first.schema, None, False)
