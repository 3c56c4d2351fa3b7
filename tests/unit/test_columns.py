"""Columns of pandas, Arrow and polars as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tritonhttp import InvalidRequest
from tritonhttp._protocol.arrays import as_array

pa: Any = pytest.importorskip("pyarrow", reason="a dependency of the tests only")
pd: Any = pytest.importorskip("pandas", reason="a dependency of the tests only")
pl: Any = pytest.importorskip("polars", reason="a dependency of the tests only")

ROWS = [[1, 2], [3, 4], [5, 6]]
FIXED = pa.array(ROWS, pa.list_(pa.int64(), 2))
NESTED = [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
TENSORS = pa.ExtensionArray.from_storage(
    pa.fixed_shape_tensor(pa.float32(), [2, 2]), pa.array([[1, 2, 3, 4]], pa.list_(pa.float32(), 4))
)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pd.Series([np.array(row) for row in ROWS]), ROWS),
        (pd.Series(ROWS), ROWS),
        (pd.Series(ROWS, dtype=pd.ArrowDtype(pa.list_(pa.int64()))), ROWS),
        (pd.Series(NESTED), NESTED),
        (pd.Series([pd.Series(row) for row in ROWS]), ROWS),
        (pd.Series([pa.array(row) for row in ROWS]), ROWS),
        (np.ma.masked_array([1, 2], [False, False]), [1, 2]),
        (pd.Series([1, 2], dtype="Int64"), [1, 2]),
        (pd.Series([1.5, None]), [1.5, np.nan]),
        (pd.Series([["a", "b"], ["c", "d"]]), [["a", "b"], ["c", "d"]]),
        (pd.Series(["a", "b"], dtype="category"), ["a", "b"]),
        (pd.DataFrame({"a": [1, 2], "b": [3, 4]}), [[1, 3], [2, 4]]),
        (pa.array(ROWS), ROWS),
        (pa.array(ROWS, pa.large_list(pa.int64())), ROWS),
        (pa.array(ROWS, pa.list_view(pa.int64())), ROWS),
        (FIXED, ROWS),
        (FIXED[1:], ROWS[1:]),
        (pa.array(ROWS)[1:], ROWS[1:]),
        (pa.array(NESTED), NESTED),
        (pa.chunked_array([ROWS[:1], ROWS[1:]]), ROWS),
        (pa.chunked_array([[1, 2], [3]]), [1, 2, 3]),
        (pa.array([[True], [False]]), [[True], [False]]),
        (pa.array([["a", "b"]]), [["a", "b"]]),
        (pa.array([b"a", b"\xff"]), [b"a", b"\xff"]),
        (TENSORS, [[[1, 2], [3, 4]]]),
        (pa.array([1.5, float("nan")]), [1.5, np.nan]),
        (pl.Series(ROWS), ROWS),
        (pl.Series(NESTED), NESTED),
        (pl.Series(ROWS, dtype=pl.Array(pl.Int64, 2)), ROWS),
        (pl.Series(NESTED, dtype=pl.Array(pl.Int64, (2, 2))), NESTED),
        (pl.Series(["a", "b"]), ["a", "b"]),
        (pl.DataFrame({"a": [1, 2], "b": [3, 4]}), [[1, 3], [2, 4]]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_columns_become_arrays(column: Any, expected: Any) -> None:
    found = as_array(column, "it")
    wanted = np.array(expected, dtype=object if isinstance(np.ravel(expected)[0], (str, bytes)) else None)
    assert found.shape == wanted.shape
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("column", "shape"),
    [
        (pa.array([], pa.list_(pa.int64(), 2)), (0, 2)),
        (pa.array([[], []], pa.list_(pa.int64())), (2, 0)),
        (pl.Series([[], []], dtype=pl.List(pl.Int64)), (2, 0)),
        (pd.Series([[], []]), (2, 0)),
        (pd.Series([], dtype="float64"), (0,)),
    ],
)
def test_empty_columns_keep_their_shape(column: Any, shape: Any) -> None:
    assert as_array(column, "it").shape == shape


@pytest.mark.parametrize("rows", [FIXED, FIXED[1:], pa.array(ROWS), pa.chunked_array([FIXED])])
def test_lists_of_arrow_are_not_copied(rows: Any) -> None:
    array = as_array(rows, "it")
    chunk = rows.chunk(0) if isinstance(rows, pa.ChunkedArray) else rows
    start = chunk.values.buffers()[1].address + 8 * 2 * (chunk.offset if chunk.type == FIXED.type else 0)
    assert array.__array_interface__["data"][0] == start


@pytest.mark.parametrize(
    ("column", "row"),
    [
        (pd.Series([1, None, 3], dtype="Int64"), 1),
        (pd.Series([True, None], dtype="boolean"), 1),
        (pd.Series(["a", None]), 1),
        (pd.Series(["a", None], dtype=pd.ArrowDtype(pa.string())), 1),
        (pd.Series([None, 1], dtype=object), 0),
        (pd.Series([[1, 2], None]), 1),
        (pd.Series([[1, 2], [3, None]]), 1),
        (pd.Series([[1, None], [3, 4]]), 0),
        (pd.DataFrame({"a": [1, 2], "b": ["x", None]}), 1),
        (pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}), 1),
        (pa.array([1, 2, None]), 2),
        (pa.array(["a", None]), 1),
        (pa.array([[1, 2], None], pa.list_(pa.int64(), 2)), 1),
        (pa.array([[1, 2], [3, None]]), 1),
        (pa.array([[[1, 2], [3, 4]], [[5, 6], [None, 8]]]), 1),
        (pa.chunked_array([[1], [None]]), 1),
        (pa.table({"a": [1, 2], "b": [1, None]}), 1),
        (pl.Series([1, None]), 1),
        (pl.Series(["a", None]), 1),
        (pl.Series([[1, 2], None]), 1),
        (pl.Series([[1, 2], [3, None]]), 1),
        (pl.Series([[1, None], [3, 4]], dtype=pl.Array(pl.Int64, 2)), 0),
        (pl.DataFrame({"a": [1, None]}), 1),
        (np.array([[1, 2], [3, None]], dtype=object), 1),
        ([["a"], [None]], 1),
        (np.ma.masked_array([1, 2, 3], [False, True, True]), 1),
        (np.ma.masked_array([[1, 2], [3, 4]], [[False, False], [False, True]]), 1),
        (np.ma.masked_array(7, True), 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_missing_values_are_named_with_their_row(column: Any, row: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"^it: (column '.': )?row {row} is missing.*no missing values"):
        as_array(column, "it")


@pytest.mark.parametrize("made", [pd.Series, pa.array, pl.Series, list])
def test_vectors_of_different_lengths_are_named_with_the_first_row(made: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^it: .*row 0 has \[2\], row 2 has \[1\]; pad"):
        as_array(made([[1, 2], [3, 4], [5], [6]]), "it")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (pd.DataFrame({"a": [1.5], "b": ["x"]}), "both numbers and text, such as 1.5 and 'x'"),
        (pl.DataFrame({"a": [1.5], "b": ["x"]}), "both numbers and text, such as 1.5 and 'x'"),
        ([1 << 80], f"{1 << 80} does not fit into 64 bits"),
        (pd.DataFrame({"a": [np.ones(2)]}), "give one column, frame['name']"),
    ],
)
def test_values_that_are_no_one_tensor_say_why(value: Any, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        as_array(value, "it")
    assert words in str(caught.value)


def test_vectors_among_other_values_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"^it: row 0 and others are vectors, row 1 is 'x'"):
        as_array(pd.Series([np.ones(2), "x"]), "it")
