"""Where results go: a folder of Parquet files, or one file of several formats. Files appear whole or not at all.

The files of a folder are the parts that a run commits. One file is made at the end, of parts that lie in a folder
beside it meanwhile.
"""

from __future__ import annotations

import contextlib
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, Protocol

import numpy as np
import orjson
import pyarrow as pa

from ..errors import BulkError, InvalidRequest
from ._arrow import dtype_of
from ._checkpoint import Committed
from ._formats import IMAGES, KINDS
from ._places import Place, place_of

__all__ = ["Part", "Sink"]

#: A row group of Parquet is written when so many rows or bytes are there.
_GROUP_ROWS, _GROUP_BYTES = 1 << 16, 16 << 20
#: The name of a part's file, or of its failed rows; also while it is being written.
_OF_PART = re.compile(r"\.?(part|errors)-\d{7,}\.\w+(\.tmp)?")


class Writer(Protocol):
    """Writes record batches to a stream."""

    def write(self, batch: Any) -> None:
        """Write a batch."""

    def close(self) -> None:
        """Write what is left. It leaves the stream open."""


class Sink:
    """The output of a run.

    Attributes
    ----------
    place, manifest, errors, parts : Place
        The output, the file of what is committed, the file of failed rows, and the folder of unfinished work.
    """

    def __init__(self, given: Any) -> None:
        place = place_of(given)
        self.place, self.kind = place, "folder"
        if place.suffix:
            kind = KINDS.get(place.suffix)
            if kind is None or place.suffix in IMAGES:
                names = ", ".join(each for each in KINDS if each not in IMAGES)
                raise InvalidRequest(
                    f"{place.name}: expected a folder (a name without an ending), or a file that ends with {names}"
                )
            self.kind = kind
        inside = self.kind == "folder"
        self.parts = place / "_parts" if inside else place.beside(".parts")
        self.manifest = place / "_manifest.jsonl" if inside else place.beside(".manifest")
        self.errors = place / "_errors.jsonl" if inside else place.beside(".errors.jsonl")

    def is_used(self) -> bool:
        """Whether there is an output, or a part of one."""
        return bool(self.place.files()) if self.kind == "folder" else self.place.exists()

    def clear(self) -> None:
        """Remove what an earlier run has left, but for its manifest."""
        self.settle((), False, False)
        self.errors.remove()
        if self.kind != "folder":
            self.place.remove()

    def settle(self, committed: Sequence[Committed], recorded: bool, is_done: bool) -> None:
        """See that what was committed is there, and remove what a run had written besides when it was killed.

        Parameters
        ----------
        committed : sequence of Committed
        recorded : bool
            Whether failed rows are recorded.
        is_done : bool
            Whether the output is complete.

        Raises
        ------
        BulkError
            If something that was committed is gone.
        """
        folders = [self.place, self.parts] if self.kind == "folder" else [self.parts]
        parts = [self._place_of(part.number) for part in committed if part.rows]
        errors = [self._errors_of(part.number) for part in committed if recorded and part.failed]
        if is_done:
            errors = [self.errors] if errors else []
            parts = parts if self.kind == "folder" else [self.place]
        there = {each.path: each for folder in folders for each in folder.children()}
        for place in (*parts, *errors):
            if place.path not in there and not place.exists():
                raise BulkError(
                    f"{place.name}: an earlier run has committed this file, and it is gone; overwrite=True begins"
                    " anew"
                )
            there.pop(place.path, None)
        if not is_done:
            for place in there.values():
                if _OF_PART.fullmatch(place.path.rpartition("/")[2]):
                    place.remove()

    def prepare(self) -> None:
        """Make the folders."""
        if self.kind == "folder":
            self.place.make_folder()
        else:
            Place(self.place.system, self.place.path.rpartition("/")[0] or "/", "").make_folder()
        self.parts.make_folder()

    def part(self, number: int, schema: Any) -> Part:
        """Begin a part."""
        place, errors = self._place_of(number), self._errors_of(number)
        if self.kind == "folder":
            return Part(place, lambda stream: _Parquet(stream, schema), errors)
        return Part(place, lambda stream: _Arrow(pa.ipc.new_file(stream, schema)), errors)

    def _place_of(self, number: int) -> Place:
        if self.kind == "folder":
            return self.place / f"part-{number:07}.parquet"
        return self.parts / f"part-{number:07}.arrow"

    def _errors_of(self, number: int) -> Place:
        return self.parts / f"errors-{number:07}.jsonl"

    def finish(self, parts: Sequence[Committed], schema: Any) -> None:
        """Make the output of its parts."""
        if any(self._errors_of(part.number).exists() for part in parts if part.failed):
            with self.errors.written() as stream:
                for part in parts:
                    stream.write(self._errors_of(part.number).read())
        if self.kind != "folder":
            rows = sum(part.rows for part in parts)
            with self.place.written() as stream:

                def batches() -> Iterator[Any]:
                    for part in parts:
                        if part.rows:
                            yield from _read(self._place_of(part.number))

                _WRITE.get(self.kind, _one_after_the_other(self.kind))(stream, schema, rows, batches)
        elif not any(part.rows for part in parts):
            empty = self.part(0, schema)
            empty.open()
            empty.commit()

    def tidy(self) -> None:
        """Remove the parts of a finished output."""
        self.parts.remove()


class Part:
    """A part of an output: its rows, and what is said of the rows that failed."""

    def __init__(self, place: Place, writer: Callable[[IO[bytes]], Writer], errors: Place) -> None:
        self._place, self._make, self._errors = place, writer, errors
        self._stack = contextlib.ExitStack()
        self._writer: Writer | None = None
        #: Rows in the file, rows of the input that they are for, and rows that failed.
        self.rows = self.computed = self.failed = 0
        self._lines: list[bytes] = []

    def open(self) -> Writer:
        """Open the part's file."""
        if self._writer is None:
            self._writer = self._make(self._stack.enter_context(self._place.written()))
        return self._writer

    def write(self, batch: Any) -> None:
        """Add rows."""
        if len(batch):
            self.open().write(batch)
            self.rows += len(batch)

    def fail(self, row: dict[str, Any], recorded: bool) -> None:
        """Count a row that failed; record why."""
        self.failed += 1
        if recorded:
            self._lines.append(orjson.dumps(row) + b"\n")

    def commit(self) -> None:
        """Make the files appear."""
        if self._writer is not None:
            self._writer.close()
        self._stack.close()
        if self._lines:
            self._errors.write(b"".join(self._lines))

    def drop(self) -> None:
        """Remove what was written."""
        with contextlib.suppress(_Dropped), self._stack:
            raise _Dropped


class _Dropped(Exception):
    pass


def _read(place: Place) -> Iterator[Any]:
    with place.open() as stream, pa.ipc.open_file(stream) as reader:
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


# -- writers --

Batches = Callable[[], Iterator[Any]]


def _one_after_the_other(kind: str) -> Callable[[IO[bytes], Any, int, Batches], None]:
    def write(stream: IO[bytes], schema: Any, rows: int, batches: Batches) -> None:
        writer = _WRITERS[kind](stream, schema)
        for batch in batches():
            writer.write(batch)
        writer.close()

    return write


class _Parquet:
    def __init__(self, stream: IO[bytes], schema: Any) -> None:
        import pyarrow.parquet as parquet

        self._schema = schema
        # A dictionary of numbers that hardly repeat costs more than all else here.
        words: Any = [
            field.name for field in schema if not _is_nested(field.type) and not _is_number(field.type)
        ]
        self._writer = parquet.ParquetWriter(_Kept(stream), schema, use_dictionary=words)
        self._waiting: list[Any] = []
        self._rows = self._bytes = 0

    def write(self, batch: Any) -> None:
        self._waiting.append(batch)
        self._rows += len(batch)
        self._bytes += batch.nbytes
        if self._rows >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            table = pa.Table.from_batches(self._waiting, self._schema)
            self._writer.write_table(table, row_group_size=max(1, len(table)))
        self._waiting, self._rows, self._bytes = [], 0, 0

    def close(self) -> None:
        self._flush()
        self._writer.close()


def _Kept(stream: IO[bytes]) -> Any:  # noqa: N802
    """Return a stream that Arrow closes in its place."""
    return pa.output_stream(_Unclosed(stream)) if not isinstance(stream, pa.NativeFile) else stream


class _Unclosed:
    """A stream that stays open: it is synchronised with the disk later."""

    closed = False

    def __init__(self, stream: IO[bytes]) -> None:
        self.write, self.flush, self.tell = stream.write, stream.flush, stream.tell

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        self.flush()


class _Arrow:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def write(self, batch: Any) -> None:
        self._writer.write_batch(batch)

    def close(self) -> None:
        self._writer.close()


class _Csv:
    def __init__(self, stream: IO[bytes], schema: Any) -> None:
        import pyarrow.csv as csv

        plain = [
            pa.field(field.name, pa.string() if _is_nested(field.type) else field.type) for field in schema
        ]
        self._schema = pa.schema(plain)
        self._writer = csv.CSVWriter(_Kept(stream), self._schema)

    def write(self, batch: Any) -> None:
        columns = [
            pa.array([None if each is None else orjson.dumps(each).decode() for each in _values(column)])
            if _is_nested(field.type)
            else column
            for field, column in zip(batch.schema, batch.columns, strict=True)
        ]
        self._writer.write_batch(
            pa.record_batch(
                [c.cast(f.type) for c, f in zip(columns, self._schema, strict=True)], self._schema
            )
        )

    def close(self) -> None:
        self._writer.close()


def _is_nested(kind: Any) -> bool:
    return bool(pa.types.is_nested(kind)) or isinstance(kind, pa.BaseExtensionType)


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _values(column: Any) -> list[Any]:
    kind = column.type
    if isinstance(kind, pa.FixedShapeTensorType) and not column.null_count:
        found: list[Any] = column.to_numpy_ndarray().tolist()
        return found
    return list((column.storage if isinstance(kind, pa.BaseExtensionType) else column).to_pylist())


class _JsonLines:
    def __init__(self, stream: IO[bytes], schema: Any) -> None:
        self._stream, self._names = stream, schema.names

    def write(self, batch: Any) -> None:
        rows = zip(*map(_values, batch.columns), strict=True)
        self._stream.write(
            b"".join(
                orjson.dumps(dict(zip(self._names, row, strict=True)), default=_plain) + b"\n" for row in rows
            )
        )

    def close(self) -> None:
        pass


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            from base64 import b64encode

            return {"base64": b64encode(value).decode()}
    return str(value)


def _dtype(field: Any) -> tuple[np.dtype[Any], tuple[int, ...]]:
    kind, shape = field.type, []
    if isinstance(kind, pa.FixedShapeTensorType):
        return dtype_of(kind.value_type), tuple(kind.shape)
    while hasattr(kind, "list_size"):
        shape.append(kind.list_size)
        kind = kind.value_type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise InvalidRequest(
            f"column {field.name!r}: numpy files hold numbers and vectors of one length, got {field.type}; leave"
            " it out with keep=[…] and outputs={…}, or write Parquet"
        )
    return dtype_of(kind), tuple(shape)


def _array(column: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    if column.null_count:
        raise InvalidRequest(
            "numpy files cannot hold nulls: write Parquet, or leave the column out with keep=[…]"
        )
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    while hasattr(column.type, "value_field"):
        column = column.flatten()
    found = column.to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(found, dtype).tobytes()


def _header(stream: Any, rows: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    about = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (rows, *shape),
    }
    np.lib.format.write_array_header_2_0(stream, about)


def _npy(stream: IO[bytes], schema: Any, rows: int, batches: Batches) -> None:
    if len(schema) != 1:
        raise InvalidRequest(
            f"a .npy file holds one column, and there are {', '.join(schema.names)}: name one with outputs={{…}}"
            " and keep=[], or write .npz"
        )
    dtype, shape = _dtype(schema.field(0))
    _header(stream, rows, dtype, shape)
    for batch in batches():
        stream.write(_array(batch.column(0), dtype, shape))


def _npz(stream: IO[bytes], schema: Any, rows: int, batches: Batches) -> None:
    with zipfile.ZipFile(stream, "w") as archive:
        for number, field in enumerate(schema):
            dtype, shape = _dtype(field)
            with archive.open(f"{field.name}.npy", "w", force_zip64=True) as entry:
                _header(entry, rows, dtype, shape)
                for batch in batches():
                    entry.write(_array(batch.column(number), dtype, shape))


_WRITERS: dict[str, Callable[[IO[bytes], Any], Writer]] = {
    "parquet": _Parquet,
    "ipc": lambda stream, schema: _Arrow(pa.ipc.new_file(_Kept(stream), schema)),
    "stream": lambda stream, schema: _Arrow(pa.ipc.new_stream(_Kept(stream), schema)),
    "csv": _Csv,
    "jsonl": _JsonLines,
}
_WRITE: dict[str, Callable[[IO[bytes], Any, int, Batches], None]] = {"npy": _npy, "npz": _npz}


def check(sink: Sink, schema: Any) -> None:
    """Refuse before the first call what cannot be written in the sink's format.

    Raises
    ------
    InvalidRequest
    """
    if sink.kind == "npy" and len(schema) != 1:
        _npy(None, schema, 0, lambda: iter(()))  # type: ignore[arg-type]
    if sink.kind in ("npy", "npz"):
        for field in schema:
            _dtype(field)
