"""Formats of files, read as sources: Parquet, Arrow, CSV, JSON lines, numpy, and images."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa

from .._basics.redaction import without_secrets
from ..errors import BulkError, InvalidRequest, MissingDependency
from ._places import Place
from ._sources import Fragment, Source, array_of, rows_at_a_time

__all__ = ["IMAGES", "KINDS", "parquet_dataset", "reader_of"]

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
KINDS = {
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".arrow", ".feather", ".ipc"), "ipc"),
    ".arrows": "stream",
    ".csv": "csv",
    **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
    ".npy": "npy",
    ".npz": "npz",
    **dict.fromkeys(IMAGES, "image"),
}

Read = Callable[[int, Sequence[str] | None], Iterator[tuple[int, Any]]]


def reader_of(place: Place, infos: Sequence[Any]) -> Source:
    """Return the source that files are: all of them have one format, which their names tell.

    Raises
    ------
    InvalidRequest
        For a name without a known format, several formats in a folder, and a file that does not have its format.
    """
    kinds = {Place(place.system, info.path, "").suffix for info in infos}
    formats = {KINDS.get(suffix) for suffix in kinds}
    if None in formats or len(formats) != 1:
        raise InvalidRequest(
            f"{place.name}: expected files of one format, {', '.join(KINDS)}; got"
            f" {', '.join(sorted(kinds)) or 'none'}"
        )
    (kind,) = map(str, formats)
    try:
        return _of_format(kind, place, infos)
    except InvalidRequest:
        raise
    except (pa.ArrowException, ValueError, EOFError, BadZipFile) as error:
        raise InvalidRequest(f"{place.name}: no usable {kind} file: {error}") from error


def _of_format(kind: str, place: Place, infos: Sequence[Any]) -> Source:
    if kind == "parquet":
        import pyarrow.dataset as datasets

        paths = place.path if place.is_folder() else [place.path]
        return parquet_dataset(
            datasets.dataset(paths, filesystem=place.system, format="parquet", partitioning="hive")
        )
    if kind == "image":
        return _images(place, infos)
    schema = None
    rows: int | None = 0
    fragments = []
    for info in infos:
        file = Place(place.system, info.path, info.path)
        found, count, read = _OPENERS[kind](file)
        if schema is None:
            schema = found
        elif found != schema:
            raise InvalidRequest(
                f"{info.path}: expected the columns of the other files, {schema}, got {found}"
            )
        rows = None if count is None or rows is None else rows + count
        fragments.append(_fragment(info.path, info, read))
    return Source(fragments, schema, rows)


def _fragment(name: str, info: Any, read: Read) -> Fragment:
    """Return a file's fragment. What cannot be read of it is an error that names the file and the row."""

    def rows(row: int, columns: Sequence[str] | None) -> Iterator[tuple[int, Any]]:
        try:
            for start, batch in read(row, columns):
                yield start, batch
                row = start + len(batch)
        except (pa.ArrowException, OSError) as error:
            why = without_secrets(str(error))
            raised = BulkError(f"{name}: cannot be read from row {row} on: {why}")
            raised.file, raised.row = name, row
            raise raised from error

    return Fragment(name, state_of(info), rows)


def state_of(info: Any) -> dict[str, Any]:
    """Return what tells that a file has changed."""
    return {"size": info.size, "modified": info.mtime_ns}


# -- Parquet --


def parquet_dataset(dataset: Any) -> Source:
    """Return the source that a dataset of Parquet files is; its partitions are columns."""
    import pyarrow.dataset as datasets

    fragments, rows = [], 0
    found = sorted(dataset.get_fragments(), key=lambda each: str(each.path))
    for each in found:
        if not hasattr(each, "row_groups"):
            raise InvalidRequest(f"{each.path}: expected a dataset of Parquet files")
        rows += sum(group.num_rows for group in each.row_groups)
        keys = datasets.get_partition_keys(each.partition_expression)
        info = each.filesystem.get_file_info(each.path)
        read = partial(_read_parquet, each, dataset.schema, keys)
        fragments.append(_fragment(each.path, info, read))
    return Source(fragments, dataset.schema, rows)


def _read_parquet(
    fragment: Any, schema: Any, keys: dict[str, Any], row: int, columns: Sequence[str] | None
) -> Iterator[tuple[int, Any]]:
    import pyarrow.parquet as parquet

    wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    start, size = 0, 0.0
    groups: list[int] = []
    # Without its own buffering a whole row group would be read at once.
    with fragment.filesystem.open_input_file(fragment.path) as stream:
        file = parquet.ParquetFile(
            stream, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True
        )
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            if not groups and start + group.num_rows <= row:
                start += group.num_rows
                continue
            groups.append(number)
            size = max(size, group.total_byte_size / max(1, group.num_rows))
        here = set(file.schema_arrow.names)
        names = [name for name in wanted.names if name in here]
        if not groups:
            return
        for batch in file.iter_batches(rows_at_a_time(size), groups, columns=names):
            yield start, _completed(batch, wanted, keys)
            start += len(batch)


def _completed(batch: Any, schema: Any, keys: dict[str, Any]) -> Any:
    """Return a file's batch with all columns of the dataset: those of its partition, and nulls."""
    if batch.schema.equals(schema):
        return batch
    columns = []
    for field in schema:
        if field.name in batch.schema.names:
            column = batch.column(field.name)
            columns.append(column if column.type == field.type else column.cast(field.type))
        elif field.name in keys:
            columns.append(pa.array([keys[field.name]] * len(batch), field.type))
        else:
            columns.append(pa.nulls(len(batch), field.type))
    return pa.record_batch(columns, schema=pa.schema(list(schema)))


# -- Arrow --


def _ipc(file: Place) -> tuple[Any, int | None, Read]:
    with _opened(file) as stream, pa.ipc.open_file(stream) as reader:
        schema = reader.schema

    def read(row: int, columns: Sequence[str] | None) -> Iterator[tuple[int, Any]]:
        with _opened(file) as stream, pa.ipc.open_file(stream) as reader:
            start = 0
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)  # of a local file, in mapped memory: nothing is read yet
                if start + len(batch) > row:
                    yield start, batch if columns is None else batch.select(list(columns))
                start += len(batch)

    return schema, None, read


def _opened(file: Place) -> Any:
    return pa.memory_map(file.path) if file.is_local else file.open()


def _stream(file: Place) -> tuple[Any, int | None, Read]:
    with file.open() as stream, pa.ipc.open_stream(stream) as reader:
        schema = reader.schema

    def read(row: int, columns: Sequence[str] | None) -> Iterator[tuple[int, Any]]:
        with file.open() as stream, pa.ipc.open_stream(stream) as reader:
            yield from _counted(reader, columns)

    return schema, None, read


def _counted(batches: Any, columns: Sequence[str] | None) -> Iterator[tuple[int, Any]]:
    start = 0
    for batch in batches:
        yield start, batch if columns is None else batch.select(list(columns))
        start += len(batch)


# -- text --


def _csv(file: Place) -> tuple[Any, int | None, Read]:
    import pyarrow.csv as csv

    def opened(**options: Any) -> Any:
        try:
            return csv.open_csv(file.open(), **options)
        except pa.ArrowInvalid as error:
            raise InvalidRequest(f"{file.name}: no usable CSV: {error}") from error

    with opened() as reader:
        schema = reader.schema

    def read(row: int, columns: Sequence[str] | None) -> Iterator[tuple[int, Any]]:
        types = csv.ConvertOptions(column_types=schema)
        with opened(convert_options=types) as reader:
            yield from _counted(reader, columns)

    return schema, None, read


def _jsonl(file: Place) -> tuple[Any, int | None, Read]:
    import pyarrow.json as lines

    def parsed(content: bytes, schema: Any, unexpected: str = "infer") -> Any:
        options = lines.ParseOptions(explicit_schema=schema, unexpected_field_behavior=unexpected)
        block = lines.ReadOptions(block_size=max(1 << 20, len(content) + 1), use_threads=False)
        return lines.read_json(io.BytesIO(content), read_options=block, parse_options=options)

    def blocks() -> Iterator[tuple[int, bytes]]:
        rest, start = b"", 0
        with file.system.open_input_stream(file.path) as stream:
            while content := stream.read(1 << 20):
                whole, newline, after = (rest + content).rpartition(b"\n")
                rest = after
                if whole.strip():
                    yield start, whole + newline
                    start += sum(1 for line in whole.split(b"\n") if line.strip())
            if rest.strip():
                yield start, rest

    try:
        first = next(blocks(), None)
        schema = pa.schema([]) if first is None else parsed(first[1], None).schema
    except pa.ArrowInvalid as error:
        raise InvalidRequest(f"{file.name}: no usable JSON lines: {error}") from error

    def read(row: int, columns: Sequence[str] | None) -> Iterator[tuple[int, Any]]:
        # Fields that the first block does not have would be left out; that is right if the caller named others.
        unexpected = "error" if columns is None else "ignore"
        for start, content in blocks():
            table = parsed(content, schema, unexpected)
            for batch in (table if columns is None else table.select(list(columns))).to_batches():
                yield start, batch
                start += len(batch)

    return schema, None, read


# -- numpy --


def _npy(file: Place) -> tuple[Any, int | None, Read]:
    array = np.load(file.path, mmap_mode="r") if file.is_local else np.load(io.BytesIO(file.read()))
    return _arrays({"values": array}, file)


def _npz(file: Place) -> tuple[Any, int | None, Read]:
    with np.load(file.path if file.is_local else io.BytesIO(file.read())) as found:
        return _arrays({name: found[name] for name in found.files}, file)


def _arrays(arrays: dict[str, Any], file: Place) -> tuple[Any, int | None, Read]:
    counts = {name: len(array) if array.ndim else -1 for name, array in arrays.items()}
    if len(set(counts.values())) != 1 or -1 in counts.values():
        raise InvalidRequest(f"{file.name}: expected the same number of rows in every array, got {counts}")
    rows = next(iter(counts.values()))
    most = rows_at_a_time(sum(array.nbytes for array in arrays.values()) / max(1, rows))

    def batch(start: int, stop: int, columns: Sequence[str] | None) -> Any:
        names = list(arrays) if columns is None else list(columns)
        return pa.record_batch([array_of(arrays[name][start:stop]) for name in names], names=names)

    def read(row: int, columns: Sequence[str] | None) -> Iterator[tuple[int, Any]]:
        for start in range(row, rows, most):
            yield start, batch(start, min(rows, start + most), columns)

    return batch(0, 0 if rows == 0 else 1, None).schema, rows, read


# -- images --


def _images(place: Place, infos: Sequence[Any]) -> Source:
    """Return a row for each image: its ``path``, its file's bytes as ``image``, and ``pixels`` of 0 to 255.

    ``pixels`` are the rows of the image, in red, green and blue, or grey if that is what the first image is. All
    images have the size of the first; another is a bad row, without pixels.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependency("folders of images need Pillow: pip install Pillow") from error

    def pixels(content: bytes, mode: str | None) -> Any:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert(mode or ("L" if image.mode in ("1", "L", "I;16") else "RGB")))

    first = Place(place.system, infos[0].path, "").read()
    try:
        example = pixels(first, None)
    except (OSError, SyntaxError, ValueError) as error:
        raise InvalidRequest(f"{infos[0].path}: no usable image: {error}") from error
    mode = "L" if example.ndim == 2 else "RGB"
    tensor = pa.fixed_shape_tensor(pa.uint8(), example.shape)
    schema = pa.schema([("path", pa.string()), ("image", pa.binary()), ("pixels", tensor)])

    def read(info: Any, row: int, columns: Sequence[str] | None) -> Iterator[tuple[int, Any]]:
        if row:
            return
        content = Place(place.system, info.path, "").read()
        try:
            found: Any = pixels(content, mode)
        except (OSError, SyntaxError, ValueError):
            found = None
        flat = None
        if found is not None and found.shape == example.shape:
            flat = found.reshape(-1).tolist()
        storage = pa.array([flat], tensor.storage_type)
        arrays = [pa.array([info.path]), pa.array([content]), pa.ExtensionArray.from_storage(tensor, storage)]
        batch = pa.record_batch(arrays, schema=schema)
        yield 0, batch if columns is None else batch.select(list(columns))

    fragments = [_fragment(info.path, info, partial(read, info)) for info in infos]
    return Source(fragments, schema, len(fragments))


_OPENERS: dict[str, Callable[[Place], tuple[Any, int | None, Read]]] = {
    "ipc": _ipc,
    "stream": _stream,
    "csv": _csv,
    "jsonl": _jsonl,
    "npy": _npy,
    "npz": _npz,
}
