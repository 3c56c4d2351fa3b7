"""Columns of record batches as a model's inputs, and its outputs as columns."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from tritonhttp import InvalidRequest, ProtocolError, Signature, TensorInfo

pa: Any = pytest.importorskip("pyarrow", reason="a dependency of the tests only")

from tritonhttp.bulk._columns import BadRow, Columns  # noqa: E402

OUT = (TensorInfo("Y", "FP32", (-1, 2)),)


def signature(datatype: str, *shape: int, outputs: Any = OUT) -> Signature:
    return Signature("m", (TensorInfo("X", datatype, (-1, *shape)),), outputs, 8)


def read(
    column: Any, datatype: str, *shape: int, **options: Any
) -> tuple[np.ndarray[Any, Any], list[BadRow]]:
    columns = Columns(signature(datatype, *shape), inputs={"X": "x"}, **options)
    arrays, bad = columns.tensors(pa.record_batch({"x": column}))
    return arrays["X"], bad


def tensor(values: Any, shape: Any, kind: Any = None, **options: Any) -> Any:
    type = pa.fixed_shape_tensor(kind or pa.float32(), shape, **options)
    return pa.ExtensionArray.from_storage(type, pa.array(values, type.storage_type))


def not_utf8() -> Any:
    return pa.Array.from_buffers(pa.string(), 2, pa.array([b"a", b"\xff"]).buffers())


FLAT = [[1, 2, 3, 4], [5, 6, 7, 8]]
SQUARES = [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]


@pytest.mark.parametrize(
    ("column", "datatype", "shape", "expected"),
    [
        (pa.array([1, 2], pa.int64()), "INT64", (), [1, 2]),
        (pa.array([1, 2], pa.int32()), "INT64", (), [1, 2]),
        (pa.array([1, 2], pa.int64()), "INT8", (), [1, 2]),
        (pa.array([1, 2], pa.int64()), "FP32", (), [1, 2]),
        (pa.array([1, 2], pa.uint8()), "BF16", (), [1, 2]),
        (pa.array(np.array([1.5, 2], np.float16)), "FP32", (), [1.5, 2]),
        (pa.array([1.5, 2], pa.float32()), "FP64", (), [1.5, 2]),
        (pa.array([True, False]), "BOOL", (), [True, False]),
        (pa.array([True, False]), "INT32", (), [1, 0]),
        (pa.array([1, 2], pa.int64()), "INT64", (1,), [[1], [2]]),
        (pa.array(FLAT, pa.list_(pa.float32(), 4)), "FP32", (4,), FLAT),
        (pa.array(FLAT, pa.list_(pa.float32())), "FP32", (4,), FLAT),
        (pa.array(FLAT, pa.large_list(pa.int16())), "FP32", (-1,), FLAT),
        (pa.array(FLAT, pa.list_view(pa.float32())), "FP32", (2, 2), SQUARES),
        (pa.array(SQUARES, pa.list_(pa.list_(pa.float32(), 2))), "FP32", (2, 2), SQUARES),
        (pa.array(SQUARES, pa.list_(pa.list_(pa.float32(), 2), 2)), "FP32", (-1, 2), SQUARES),
        (tensor(FLAT, [2, 2]), "FP32", (2, 2), SQUARES),
        (tensor(FLAT, [4]), "FP32", (2, 2), SQUARES),
        (tensor(FLAT, [2, 2], permutation=[1, 0]), "FP32", (2, 2), [[[1, 3], [2, 4]], [[5, 7], [6, 8]]]),
        (pa.array([[True, False]]), "BOOL", (2,), [[True, False]]),
        (pa.array(["a", "ü\0"]), "BYTES", (), [b"a", "ü\0".encode()]),
        (pa.array(["a"], pa.large_string()), "BYTES", (1,), [[b"a"]]),
        (pa.array(["a"], pa.string_view()), "BYTES", (), [b"a"]),
        (pa.array([b"\xff"]), "BYTES", (), [b"\xff"]),
        (pa.array([b"ab"], pa.binary(2)), "BYTES", (), [b"ab"]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), "BYTES", (), [b"a", b"b", b"a"]),
        (
            pa.array([["a", "b"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))),
            "BYTES",
            (2,),
            [[b"a", b"b"]],
        ),
    ],
    ids=lambda value: str(value.type) if hasattr(value, "type") else None,
)
def test_columns_become_tensors(column: Any, datatype: str, shape: Any, expected: Any) -> None:
    for given in (column, pa.concat_arrays([column, column])[len(column) :]):
        found, bad = read(given, datatype, *shape)
        assert bad == []
        wanted = np.array(expected, object) if datatype == "BYTES" else np.array(expected)
        assert found.shape == wanted.shape
        np.testing.assert_array_equal(found.astype(wanted.dtype), wanted)
        assert found.dtype == signature_dtype(datatype)
        assert read(given[:0], datatype, *shape)[0].shape == (0, *(max(0, size) for size in shape))


def signature_dtype(datatype: str) -> Any:
    from tritonhttp import triton_to_np_dtype

    return np.dtype(triton_to_np_dtype(datatype))


@pytest.mark.parametrize(
    "column",
    [
        pa.array(np.arange(8, dtype=np.float32)),
        pa.FixedSizeListArray.from_arrays(pa.array(np.arange(8, dtype=np.float32)), 4),
        tensor(FLAT, [4]),
    ],
)
def test_numbers_are_not_copied(column: Any) -> None:
    found, _ = read(column, "FP32", *([4] if len(column) == 2 else []))
    flat = column.storage.flatten() if hasattr(column, "storage") else column
    flat = flat.flatten() if hasattr(flat, "flatten") and len(column) == 2 else flat
    assert np.shares_memory(found, flat.to_numpy())
    columns = Columns(signature("FP32", 4), inputs={"X": "x"}, outputs={"Y": "y"}, keep=[])
    scores = np.ones((2, 2), np.float32)
    result = columns.result(pa.record_batch({"x": tensor(FLAT, [4])}), {"Y": scores})
    assert np.shares_memory(result["y"].flatten().to_numpy(), scores)


@pytest.mark.parametrize(
    ("column", "datatype", "shape", "row", "reason"),
    [
        (pa.array([1, None, 3], pa.int64()), "INT64", (), 1, "null"),
        (pa.array([None, None], pa.null()), "INT64", (), 0, "null"),
        (pa.array([[1, 2], None], pa.list_(pa.float32(), 2)), "FP32", (2,), 1, "null"),
        (pa.array([[1, 2], [1, None]], pa.list_(pa.float32(), 2)), "FP32", (2,), 1, "a null inside"),
        (pa.array([[[1], [2]], [[1], None]]), "INT64", (2, 1), 1, "a null inside"),
        (pa.array([[1, 2], [1]]), "INT64", (2,), 1, "expected shape [2], got [1]"),
        (pa.array([[1], [1, 2], [3]]), "INT64", (-1,), 1, "expected shape [1], got [2]"),
        (pa.array([[[1, 2]], [[1]]]), "INT64", (1, 2), 1, "expected shape [1, 2], got [1, 1]"),
        (pa.array([[[1], [2]], [[1], [2, 3]]]), "INT64", (2, 1), 1, "lists of 1 to 2 elements in one row"),
        (not_utf8(), "BYTES", (), 1, "not UTF-8"),
        (pa.array([[b"a"], None]), "BYTES", (1,), 1, "null"),
        (pa.array(["a", None, "a"]).dictionary_encode(), "BYTES", (), 1, "null"),
        (pa.array([1, 300], pa.int64()), "INT8", (), 1, "300 does not fit into INT8"),
        (pa.array([1, -1], pa.int8()), "UINT64", (), 1, "-1 does not fit into UINT64"),
        (
            pa.array([1, (1 << 24) + 1]),
            "FP32",
            (),
            1,
            "16777217 may be rounded by FP32; cast=True allows that",
        ),
    ],
)
def test_rows_that_do_not_fit_are_named_and_left_out(
    column: Any, datatype: str, shape: Any, row: int, reason: str
) -> None:
    found, bad = read(column, datatype, *shape)
    assert bad[0] == BadRow(row, "x", reason)
    assert len(found) == len(column) - len(bad)
    good = column.filter(
        pa.array([number not in {each.row for each in bad} for number in range(len(column))])
    )
    if len(good) and good.type != pa.null():
        np.testing.assert_array_equal(found, read(good, datatype, *shape)[0])


def test_nan_is_refused_where_asked() -> None:
    column = pa.array([1.0, float("nan")])
    assert read(column, "FP64")[1] == []
    assert read(column, "FP64", refuse_nan=True)[1] == [BadRow(1, "x", "NaN")]
    assert read(pa.array([[1.0], [float("nan")]]), "FP64", 1, refuse_nan=True)[1] == [BadRow(1, "x", "NaN")]


def test_a_row_that_is_bad_in_one_column_is_left_out_of_all() -> None:
    model = Signature("m", (TensorInfo("A", "INT64", (-1,)), TensorInfo("B", "BYTES", (-1,))), OUT, 8)
    batch = pa.record_batch({"A": [1, None, 3, 4], "B": ["a", "b", None, "d"]})
    arrays, bad = Columns(model).tensors(batch)
    assert [(each.row, each.column) for each in bad] == [(1, "A"), (2, "B")]
    assert (arrays["A"].tolist(), arrays["B"].tolist()) == ([1, 4], [b"a", b"d"])


@pytest.mark.parametrize(
    ("kind", "datatype", "shape", "words"),
    [
        (pa.float64(), "FP32", (), "expected FP32, got double; cast=True"),
        (pa.float32(), "INT32", (), "not cast"),
        (pa.string(), "FP32", (), "expected FP32, got string"),
        (pa.int64(), "BYTES", (), "expected BYTES, got int64"),
        (pa.timestamp("s"), "INT64", (), "timestamp"),
        (pa.decimal128(5, 2), "FP64", (), "decimal"),
        (pa.struct([("a", pa.int64())]), "INT64", (), "struct"),
        (pa.int64(), "INT64", (2,), "1 dimensions"),
        (pa.list_(pa.list_(pa.int64())), "INT64", (2,), "1 dimensions"),
        (pa.list_(pa.int64()), "INT64", (-1, 2), "2 dimensions"),
    ],
)
def test_columns_of_which_no_row_can_fit_are_refused(
    kind: Any, datatype: str, shape: Any, words: str
) -> None:
    columns = Columns(signature(datatype, *shape), inputs={"X": "x"})
    with pytest.raises(InvalidRequest, match=words) as caught:
        columns.schema(pa.schema([("x", kind)]))
    assert "'X', column 'x'" in str(caught.value)


def test_floats_are_rounded_where_allowed() -> None:
    found, bad = read(pa.array([0.1, 1e300]), "FP32", cast=True)
    assert found.tolist() == [np.float32(0.1)]
    assert bad == [BadRow(1, "x", "1e+300 does not fit into FP32")]


OUTPUTS = (
    TensorInfo("N", "INT64", (-1,)),
    TensorInfo("V", "FP32", (-1, 2)),
    TensorInfo("M", "FP16", (-1, 2, 3)),
    TensorInfo("A", "FP32", (-1, -1)),
    TensorInfo("T", "BYTES", (-1, 1)),
    TensorInfo("B", "BF16", (-1, 1)),
    TensorInfo("L", "BOOL", (-1, 1, 1)),
)


def given(rows: int) -> dict[str, Any]:
    import ml_dtypes

    return {
        "N": np.arange(rows),
        "V": np.ones((rows, 2), np.float32),
        "M": np.arange(rows * 6, dtype=np.float16).reshape(rows, 2, 3),
        "A": np.ones((rows, 3), np.float32),
        "T": np.array([["ä".encode()]] * rows, object).reshape(rows, 1),
        "B": np.full((rows, 1), 1.5, ml_dtypes.bfloat16),
        "L": np.ones((rows, 1, 1), bool),
    }


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_outputs_become_columns_of_a_schema_known_before(rows: int) -> None:
    pytest.importorskip("ml_dtypes")
    columns = pickle.loads(
        pickle.dumps(Columns(signature("INT64", outputs=OUTPUTS), inputs={"X": "x"}, keep=["id"]))
    )
    batch = pa.record_batch({"id": pa.array(range(rows), pa.int8()), "x": pa.array(range(rows), pa.int64())})
    found = columns.result(batch, given(rows))
    found.validate(full=True)
    assert found.schema == columns.schema(batch.schema)
    assert found.schema.names == ["id", *(info.name for info in OUTPUTS)]
    assert [str(kind) for kind in found.schema.types][:3] == [
        "int8",
        "int64",
        "fixed_size_list<item: float>[2]",
    ]
    assert found.schema.field("M").type == pa.fixed_shape_tensor(pa.float16(), [2, 3])
    assert found.schema.field("A").type == pa.list_(pa.float32())
    assert found.schema.field("T").type == pa.list_(pa.binary(), 1)
    assert found["B"].to_pylist() == [[1.5]] * rows
    assert found["L"].to_pylist() == [[[True]]] * rows
    assert found["A"].to_pylist() == [[1, 1, 1]] * rows
    if rows:
        np.testing.assert_array_equal(found["M"].to_numpy_ndarray(), given(rows)["M"])


def test_fields_say_types() -> None:
    fields = {
        "T": pa.field("text", pa.string()),
        "B": pa.field("score", pa.float64()),
        "V": pa.field("v", pa.list_(pa.float64())),
        "M": pa.field("m", pa.list_(pa.list_(pa.float32()))),
    }
    columns = Columns(signature("INT64", outputs=OUTPUTS), inputs={"X": "x"}, outputs=fields, keep=[])
    assert columns.requested == ("T", "B", "V", "M")
    pytest.importorskip("ml_dtypes")
    found = columns.result(pa.record_batch({"x": [1, 2]}), given(2)).to_pylist()
    assert found[0] == {"text": "ä", "score": 1.5, "v": [1, 1], "m": [[0, 1, 2], [3, 4, 5]]}
    named = columns.named(2, given(2))
    assert named["text"].tolist() == ["ä", "ä"]
    assert named["score"].shape == (2,)
    bad = {**given(2), "T": np.array([[b"\xff"]] * 2, object)}
    with pytest.raises(InvalidRequest, match="'text' of string"):
        columns.result(pa.record_batch({"x": [1, 2]}), bad)
    with pytest.raises(InvalidRequest, match="'v' of float"):
        Columns(
            signature("INT64", outputs=OUTPUTS),
            inputs={"X": "x"},
            outputs={"V": pa.field("v", pa.float32())},
            keep=[],
        ).result(pa.record_batch({"x": [1, 2]}), given(2))


def test_answers_of_other_shapes_are_refused() -> None:
    columns = Columns(signature("INT64"), inputs={"X": "x"})
    batch = pa.record_batch({"x": [1, 2]})
    for shape in ((3, 2), (2, 3), (2,), (2, 2, 1)):
        with pytest.raises(ProtocolError, match=r"expected shape \[2, 2\]"):
            columns.result(batch, {"Y": np.ones(shape, np.float32)})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"inputs": {"x": "x"}}, "no input 'x'.*did you mean 'X'"),
        ({"inputs": {}}, "'X' has no column"),
        ({"inputs": {"X": "z"}}, "no column 'z'"),
        ({"outputs": {"y": "y"}}, "no output 'y'.*did you mean 'Y'"),
        ({"keep": ["z"]}, "no column 'z'"),
        ({"keep": "X"}, r"did you mean \['X'\]"),
        ({"outputs": {"Y": "X"}}, "two columns 'X'"),
    ],
)
def test_names_are_checked(options: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        Columns(signature("INT64"), **options).schema(pa.schema([("X", pa.int64())]))


def test_models_without_rows_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="first axis is not rows"):
        Columns(Signature("m", (TensorInfo("X", "FP32", (3,)),), OUT))
    with pytest.raises(InvalidRequest, match="does not say which inputs"):
        Columns(Signature("m", (), ()))


def test_optional_inputs_may_lack_a_column() -> None:
    model = Signature("m", (*signature("INT64").inputs, TensorInfo("W", "INT64", (-1,), True)), OUT, 8)
    columns = Columns(model, keep=[])
    assert [*columns.tensors(pa.record_batch({"X": [1]}))[0]] == ["X"]
    assert [*columns.tensors(pa.record_batch({"X": [1], "W": [1]}))[0]] == ["X", "W"]
    assert columns.reads(["a", "W", "X"]) == ["W", "X"]


def test_arrays_of_numpy_follow_the_same_rules() -> None:
    columns = Columns(signature("INT8", 2), inputs={"X": "x"})
    assert columns.arrays({"x": np.ones((3, 2), np.int64)})["X"].dtype == np.int8
    assert columns.arrays({"x": [[1, 2]]})["X"].tolist() == [[1, 2]]
    for value, words in (
        (np.array([[1, 2], [1, 300]]), r"row 1: \[1, 300\] does not fit"),
        (np.ones((2, 3), int), r"row 0: expected shape \[2\], got \[3\]"),
        (np.ones((2, 2)), "not cast"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            columns.arrays({"x": value})
    with pytest.raises(InvalidRequest, match="no column 'x'"):
        columns.arrays({})
