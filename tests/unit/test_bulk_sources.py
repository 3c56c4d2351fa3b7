"""Sources of other shapes than a plain file, functions before the model, and outputs of text and numpy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tritonhttp import InvalidRequest
from tritonhttp._protocol.signature import Signature
from tritonhttp._protocol.tensors import TensorInfo
from tritonhttp.bulk._checkpoint import Committed
from tritonhttp.bulk._chunks import Chunk
from tritonhttp.bulk._columns import Columns
from tritonhttp.bulk._given import source_of
from tritonhttp.bulk._sinks import Sink
from tritonhttp.bulk._sources import Piece
from tritonhttp.errors import BulkError


def rows_of(given: Any, columns: list[str] | None = None) -> list[dict[str, Any]]:
    return [row for piece in source_of(given).read(columns=columns) for row in piece.batch.to_pylist()]


@pytest.fixture
def partitions(tmp_path: Path) -> Path:
    """Files of which one has another type in its column, and one lacks a column."""
    parts = [
        pa.table({"x": pa.array([1, 2], pa.int64()), "y": ["a", "b"]}),
        pa.table({"x": pa.array([3], pa.int32()), "y": ["c"]}),
        pa.table({"x": pa.array([4], pa.int64())}),
    ]
    for day, part in enumerate(parts, 1):
        (tmp_path / f"day={day}").mkdir()
        pq.write_table(part, tmp_path / f"day={day}" / "rows.parquet")
    return tmp_path


def test_partitions_are_columns_and_files_have_all_columns(partitions: Path) -> None:
    assert rows_of(partitions) == [
        {"x": 1, "y": "a", "day": 1},
        {"x": 2, "y": "b", "day": 1},
        {"x": 3, "y": "c", "day": 2},
        {"x": 4, "y": None, "day": 3},
    ]
    assert rows_of(partitions, ["day", "x"]) == [
        {"day": d, "x": x} for d, x in ((1, 1), (1, 2), (2, 3), (3, 4))
    ]


def test_a_partition_whose_column_is_of_another_kind_is_named(tmp_path: Path) -> None:
    for day, values in ((1, [1.5]), (2, ["text"])):
        (tmp_path / f"day={day}").mkdir()
        pq.write_table(pa.table({"x": values}), tmp_path / f"day={day}" / "rows.parquet")
    with pytest.raises(InvalidRequest, match=r"day=2/rows\.parquet: cannot be read from row 0 on: .*text"):
        rows_of(tmp_path)


def dicts(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        yield {"id": number, "x": np.full(3, number, np.float32)}


def test_rows_with_numpy_arrays_are_lists_of_one_length() -> None:
    source = source_of(dicts(600))
    assert source.schema.field("x").type == pa.list_(pa.float32(), 3)
    found = rows_of(dicts(600))
    assert [row["id"] for row in found] == list(range(600))
    assert found[599]["x"] == [599.0] * 3


def test_a_dict_of_columns_is_a_table() -> None:
    source = source_of(
        {"x": np.arange(6, dtype=np.int32).reshape(2, 3), "name": ["a", "b"], "z": np.zeros((2, 2, 2))}
    )
    assert source.schema.field("x").type == pa.list_(pa.int32(), 3)
    assert source.schema.field("z").type == pa.fixed_shape_tensor(pa.float64(), [2, 2])
    assert rows_of({"x": np.arange(4).reshape(2, 2)}) == [{"x": [0, 1]}, {"x": [2, 3]}]
    assert rows_of({"x": np.array([["a", "b"]])}) == [{"x": ["a", "b"]}]


def test_batches_and_tables_may_be_mixed() -> None:
    batch = pa.record_batch({"x": [1]})
    assert rows_of([batch, pa.table({"x": [2, 3]})]) == [{"x": 1}, {"x": 2}, {"x": 3}]
    assert rows_of(batch) == [{"x": 1}]
    assert rows_of([]) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([{"x": 1}, {"x": "a"}], "column 'x': rows that make no column"),
        ([{"x": number} for number in range(256)] + [{"x": "a"}], "column 'x': rows that make no column"),
        (
            [{"x": number} for number in range(256)] + [{"x": 1, "y": 1}],
            "column 'y': the first 256 dicts, which tell the columns, do not have it; expected x",
        ),
        ([1, 2], "expected dicts or record batches in the iterable, got int"),
        ({}, "got dict"),
        (7, "got int"),
    ],
)
def test_what_makes_no_rows_is_refused(given: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        rows_of(given)


def test_a_field_that_comes_late_in_json_lines_is_refused_unless_others_are_wanted(tmp_path: Path) -> None:
    lines = ['{"x": 1, "text": "' + "a" * 1000 + '"}'] * 2000 + ['{"x": 2, "text": "", "y": 1}']
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(BulkError, match=r"in\.jsonl: cannot be read from row \d+ on: .*unexpected field"):
        rows_of(path)
    assert sum(row["x"] for row in rows_of(path, ["x"])) == 2002


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="the folder has no files"):
        source_of(tmp_path)


def test_files_of_other_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("x\n1\n")
    (tmp_path / "2.csv").write_text("y\n1\n")
    with pytest.raises(InvalidRequest, match=r"2\.csv: expected the columns of the other files"):
        source_of(tmp_path)


# -- functions before the model --

COLUMNS = Columns(
    Signature("m", (TensorInfo("X", "FP32", (-1,)),), (TensorInfo("Y", "FP32", (-1,)),)), inputs={"X": "x"}
)


@pytest.mark.parametrize("count", [0, 2])
def test_a_function_before_the_model_may_return_a_table(count: int) -> None:
    batch = pa.record_batch({"x": pa.array([1.0, 2.0][:count], pa.float32())})
    chunk = Chunk([Piece(0, 0, batch)], batch, 0, count)

    def doubled(found: Any) -> Any:
        twice = pa.array(np.asarray(found["x"]) * 2)
        return pa.Table.from_batches([pa.record_batch({"x": twice})])

    chunk.prepare(COLUMNS, doubled)
    assert chunk.arrays["X"].tolist() == [2.0, 4.0][:count]


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda batch: batch.to_pylist(), "must return a RecordBatch or Table, got list"),
        (lambda batch: batch.slice(1), "expected 2, got 1"),
    ],
)
def test_what_a_function_before_the_model_may_not_return(returned: Any, words: str) -> None:
    batch = pa.record_batch({"x": pa.array([1.0, 2.0], pa.float32())})
    with pytest.raises(InvalidRequest, match=words):
        Chunk([Piece(0, 0, batch)], batch, 0, 2).prepare(COLUMNS, returned)


# -- text and numpy --


def written(path: Path, table: Any) -> Path:
    sink = Sink(path)
    sink.prepare()
    part = sink.part(0, table.schema)
    for batch in table.to_batches():
        part.write(batch)
    part.commit()
    sink.finish([Committed(0, len(table), len(table), 0, 0, 0)], table.schema)
    return path


def test_json_lines_hold_bytes_as_text_or_base64(tmp_path: Path) -> None:
    table = pa.table({"text": [b"abc", b"\xff"], "time": pa.array([0, 1], pa.timestamp("s"))})
    lines = [json.loads(line) for line in written(tmp_path / "x.jsonl", table).read_text().splitlines()]
    assert lines == [
        {"text": "abc", "time": "1970-01-01T00:00:00"},
        {"text": {"base64": "/w=="}, "time": "1970-01-01T00:00:01"},
    ]


def test_a_numpy_file_holds_tensors(tmp_path: Path) -> None:
    arrays = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    table = pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(arrays), "ok": [True, False]})
    with np.load(written(tmp_path / "x.npz", table)) as found:
        np.testing.assert_array_equal(found["x"], arrays)
        assert found["ok"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array(["a", "b"]), "numpy files hold numbers and vectors of one length, got string"),
        (pa.array([1, None]), "numpy files cannot hold nulls"),
    ],
)
def test_what_a_numpy_file_does_not_hold(column: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=words):
        written(tmp_path / "x.npz", pa.table({"x": column}))
    assert not (tmp_path / "x.npz").exists()
