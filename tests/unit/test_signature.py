"""Signatures read from a server's metadata; calls are checked against them, split and joined."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tritonhttp import InvalidRequest, ProtocolError, TensorInfo
from tritonhttp._protocol.signature import Joined, Signature, requested, split, tensors

METADATA = {
    "name": "m",
    "versions": ["1"],
    "platform": "python",
    "inputs": [
        {"name": "X", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "W", "datatype": "INT32", "shape": [-1, 1]},
    ],
    "outputs": [{"name": "Y", "datatype": "FP32", "shape": [-1, 2]}],
}
CONFIG = {"max_batch_size": 4, "input": [{"name": "X", "optional": False}, {"name": "W", "optional": True}]}
BATCHES = Signature.read(METADATA, CONFIG)
PLAIN = Signature(
    "p",
    (TensorInfo("V", "FP32", (-1,)), TensorInfo("T", "BYTES", (2,), True)),
    (TensorInfo("Y", "FP32", (-1,)), TensorInfo("Z", "FP32", (-1,))),
)
X = np.array([[1, 2], [3, 4]], np.float32)


def test_metadata_becomes_a_signature() -> None:
    assert (
        Signature(
            "m",
            (TensorInfo("X", "FP32", (-1, 2)), TensorInfo("W", "INT32", (-1, 1), True)),
            (TensorInfo("Y", "FP32", (-1, 2)),),
            4,
            ("1",),
            "python",
        )
        == BATCHES
    )
    assert str(BATCHES) == "X FP32[-1, 2], W INT32[-1, 1] (optional) -> Y FP32[-1, 2], batches of at most 4"


@pytest.mark.parametrize("missing", [{}, {"inputs": None, "outputs": None, "versions": None}])
def test_a_server_may_say_nothing_of_tensors(missing: Any) -> None:
    found = Signature.read({"name": "m", **missing}, {})
    assert (found.inputs, found.outputs, found.max_batch_size, found.versions) == ((), (), 0, ())
    assert str(found) == "not said -> not said"
    assert found.wanted(["any"]) == ("any",)
    given = found.arrays({"X": X, "N": 3})
    assert [(tensor.name(), tensor.datatype()) for tensor in tensors(given, True)] == [
        ("X", "FP32"),
        ("N", "INT64"),
    ]


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        {"inputs": []},
        {"name": "m", "inputs": 3},
        {"name": "m", "inputs": [{"name": "X"}]},
        {"name": "m", "inputs": [{"name": "X", "datatype": "FP32", "shape": ["x"]}]},
    ],
)
def test_malformed_metadata_is_refused(metadata: Any) -> None:
    with pytest.raises(ProtocolError, match="expected metadata of a model"):
        Signature.read(metadata, {})


@pytest.mark.parametrize("limit", [math.inf, math.nan, "x", [1]])
def test_a_malformed_configuration_is_refused(limit: Any) -> None:
    with pytest.raises(ProtocolError, match="expected metadata of a model"):
        Signature.read({"name": "m"}, {"max_batch_size": limit})


def test_arrays_stay_as_they_are() -> None:
    found = BATCHES.arrays({"X": X})
    assert found["X"] is X


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([[1, 2]], np.array([[1, 2]], np.float32)),
        ([[True, 2.5]], np.array([[1, 2.5]], np.float32)),
        ([(1, 2), (3, 4)], X),
    ],
)
def test_lists_take_the_inputs_datatype(value: Any, expected: Any) -> None:
    found = BATCHES.arrays({"X": value})["X"]
    assert found.dtype == expected.dtype
    assert found.tolist() == expected.tolist()


def test_one_value_serves_where_every_dimension_may_be_1() -> None:
    found = PLAIN.arrays({"V": 3})["V"]
    assert (found.dtype, found.shape, found.tolist()) == (np.float32, (1,), [3.0])
    with pytest.raises(InvalidRequest, match=r"'T': expected BYTES of shape \[2\].*got shape \[\]"):
        PLAIN.arrays({"V": 3, "T": "text"})


def test_an_empty_list_is_of_every_datatype() -> None:
    assert Signature("p", (TensorInfo("V", "INT32", (-1,)),), ()).arrays({"V": []})["V"].dtype == np.int32
    assert Signature("p", (TensorInfo("V", "BYTES", (-1,)),), ()).arrays({"V": []})["V"].dtype == object


@pytest.mark.parametrize(
    "column",
    [[], np.zeros(0), np.zeros(0, object), np.zeros((0, 0)), np.zeros((0, 2), object)],
    ids=["list", "numbers", "objects", "vectors of unknown length", "objects of its shape"],
)
def test_a_column_without_rows_is_of_every_type_and_shape(column: Any) -> None:
    found = BATCHES.arrays({"X": column})["X"]
    assert (found.shape, found.dtype) == ((0, 2), np.float32)


@pytest.mark.parametrize("column", [np.zeros((0, 3), np.float32), np.zeros((0, 2))])
def test_a_tensor_without_rows_is_checked(column: Any) -> None:
    with pytest.raises(InvalidRequest, match="expected FP32"):
        BATCHES.arrays({"X": column})


@pytest.mark.parametrize(
    "texts", [["a", b"b"], np.array([b"a", b"b"]), np.array(["a", "b"]), np.array(["a", b"b"], object)]
)
def test_text_of_every_kind_is_taken(texts: Any) -> None:
    found = PLAIN.arrays({"V": [0], "T": texts})
    (_, tensor) = tensors(found, True)
    assert tensor._get_binary_data() == b"\1\0\0\0a\1\0\0\0b"


def test_numpy_strings_of_any_length_are_taken() -> None:
    dtypes = pytest.importorskip("numpy.dtypes", reason="numpy 1.26 has none")
    if not hasattr(dtypes, "StringDType"):
        pytest.skip("numpy 1.26 has none")
    found = PLAIN.arrays({"V": [0], "T": np.array(["a", "b"], dtypes.StringDType())})
    assert tensors(found, True)[1]._get_binary_data() == b"\1\0\0\0a\1\0\0\0b"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "model 'm': input 'X' is missing; expected X FP32[-1, 2], W INT32[-1, 1] (optional)"),
        ({"W": [[1]], "Q": 1}, "it has no input 'Q'; input 'X' is missing; expected X"),
        (
            {"X": X[0]},
            "input 'X': expected FP32 of shape [-1, 2] (-1: any length, the first of them for the batch)",
        ),
        ({"X": X.T[:1]}, None),
        ({"X": X[:, :1]}, "got shape [2, 1]"),
        (
            {"X": X.astype("f8")},
            "input 'X': expected FP32, got FP64; cast=True converts where the values fit",
        ),
        ({"X": X.astype("c8")}, "expected FP32, got complex64"),
        ({"X": [["a", "b"]]}, "expected FP32, got BYTES"),
        ({"X": [[1e39, 0]]}, "beyond the largest finite FP32"),
        ({"X": X, "W": [[1.5], [2]]}, "input 'W': expected INT32, got FP64, which is not cast to that"),
        ({"X": X, "W": [[2**31], [0]]}, "values from 0 to 2147483648 do not fit into INT32"),
        ({"X": X, "W": [[1]]}, "expected the same number of rows in every input, got {'X': 2, 'W': 1}"),
        ({"X": X[:0]}, None),
        ({"X": np.zeros((5, 2), "f4")}, "expected at most 4 rows, got 5; batched() splits more"),
        (
            {"X": X, "W": [[np.nan], [2]]},
            "expected INT32, got FP64 with NaN in row 0: a missing value?",
        ),
    ],
)
def test_a_misfit_is_refused_with_what_was_expected(given: Any, words: str | None) -> None:
    if words is None:
        BATCHES.arrays(given)
        return
    with pytest.raises(InvalidRequest) as caught:
        BATCHES.arrays(given)
    assert words in str(caught.value)


def test_casts_are_made_only_when_asked_for() -> None:
    found = BATCHES.arrays({"X": X.astype("f8"), "W": np.array([[1], [2]])}, casts=True)
    assert (found["X"].dtype, found["W"].dtype) == (np.float32, np.int32)
    with pytest.raises(InvalidRequest, match="which is not cast to that"):
        BATCHES.arrays({"X": X, "W": X[:, :1]}, casts=True)


def test_outputs_are_known_by_name() -> None:
    assert PLAIN.wanted(None) == ("Y", "Z")
    assert PLAIN.wanted(["Z"]) == ("Z",)
    with pytest.raises(InvalidRequest, match="model 'p' has no output 'Q'; there are 'Y', 'Z'"):
        PLAIN.wanted(["Y", "Q"])
    for names in ("Y", [3]):
        with pytest.raises(InvalidRequest, match="outputs must be a list of names"):
            PLAIN.wanted(names)  # type: ignore[arg-type]
    assert [output._form[:3] for output in requested({"Y": 3, "Z": 0}, False)] == [
        ("Y", False, 3),
        ("Z", False, 0),
    ]


# -- classes --


def outputs_of(*outputs: tuple[str, list[int]], max_batch_size: int = 0) -> Signature:
    infos = [
        TensorInfo(f"{datatype}-{index}", datatype, tuple(shape))
        for index, (datatype, shape) in enumerate(outputs)
    ]
    return Signature("m", (TensorInfo("X", "FP32", (-1,)),), tuple(infos), max_batch_size)


@pytest.mark.parametrize(
    "datatype", ["INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP32", "FP64"]
)
def test_numbers_have_classes(datatype: str) -> None:
    signature = outputs_of((datatype, [-1]), ("BYTES", [1]))
    assert signature.classes([f"{datatype}-0"], 3, {"X": X}) == {f"{datatype}-0": 3}
    assert signature.classes(None, 3, {"X": X}) == {f"{datatype}-0": 3, "BYTES-1": 0}
    assert signature.classes(None, 0, {"X": X[:0]}) == {f"{datatype}-0": 0, "BYTES-1": 0}


@pytest.mark.parametrize(
    ("output", "max_batch_size", "rows", "words"),
    [
        (("BYTES", [1]), 0, 2, "output 'BYTES-0' is BYTES"),
        (("BYTES", [-1, 1]), 8, 2, "output 'BYTES-0' is BYTES"),
        (("BOOL", [-1]), 0, 2, "output 'BOOL-0' is BOOL"),
        (("FP16", [4]), 0, 2, "output 'FP16-0' is FP16"),
        (("BF16", [4]), 0, 2, "output 'BF16-0' is BF16"),
        (("FP32", [0]), 0, 2, r"output 'FP32-0' has shape \[0\]"),
        (("FP32", [-1, 4, 0]), 8, 2, r"output 'FP32-0' has shape \[-1, 4, 0\]"),
        (("FP32", [-1]), 0, 0, r"output 'FP32-0' has shape \[-1\], and an input has no elements"),
        (("FP32", [-1, -1]), 8, 0, "an input has no elements"),
    ],
)
def test_an_output_without_classes_is_refused_or_comes_whole(
    output: tuple[str, list[int]], max_batch_size: int, rows: int, words: str
) -> None:
    signature = outputs_of(output, ("INT64", [5]), max_batch_size=max_batch_size)
    name, other = signature.wanted(None)
    for names in ([name], [other, name]):
        with pytest.raises(InvalidRequest, match=words):
            signature.classes(names, 2, {"X": X[:rows]})
    assert signature.classes([other], 2, {"X": X[:rows]}) == {other: 2}
    assert signature.classes(None, 2, {"X": X[:rows]}) == {name: 0, other: 2}
    assert signature.classes([name], 0, {"X": X[:rows]}) == {name: 0}
    with pytest.raises(InvalidRequest, match=f"classes are for outputs of integers, FP32 or FP64 .*{words}"):
        outputs_of(output, max_batch_size=max_batch_size).classes(None, 2, {"X": X[:rows]})


def test_outputs_of_one_batch_have_elements_whatever_their_first_axis() -> None:
    signature = outputs_of(("FP32", [-1, 10]), max_batch_size=8)
    assert signature.classes(None, 2, {"X": X[:0]}) == {"FP32-0": 2}
    assert Signature("m", (), ()).classes(["any"], 2, {}) == {"any": 2}


# -- None --


def test_none_is_an_optional_input_that_is_left_out() -> None:
    assert list(BATCHES.arrays({"X": X, "W": None})) == ["X"]
    assert list(Signature("m", (), ()).arrays({"X": X, "W": None})) == ["X"]
    for given, words in (
        ({"X": None, "W": None}, "model 'm': input 'X' is None, and not optional; expected X FP32"),
        ({"W": None}, "model 'm': input 'X' is missing"),
        ({"X": X, "Q": None}, "it has no input 'Q'"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            BATCHES.arrays(given)


# -- large batches --


def test_rows_are_counted_and_max_batch_limits_a_call() -> None:
    rows = np.zeros((9, 2), np.float32)
    assert BATCHES.rows({"X": rows}, None) == (9, 4)
    assert BATCHES.rows({"X": rows}, 3) == (9, 3)
    assert PLAIN.rows({"V": np.zeros(7)}, 5) == (7, 5)


@pytest.mark.parametrize(
    ("signature", "arrays", "max_batch", "words"),
    [
        (BATCHES, {"X": X}, 5, "expected max_batch of at most 4, got 5"),
        (BATCHES, {"X": X}, 0, "expected max_batch as a whole number above 0, got 0"),
        (PLAIN, {"V": X}, None, "has no max_batch_size: give max_batch"),
        (PLAIN, {"V": X, "T": X}, 2, "input 'T' has no first axis of any length to split along"),
        (PLAIN, {"V": np.float32(1)[...]}, 2, "input 'V' has no first axis"),
        (BATCHES, {"X": X, "W": X[:1]}, 2, "expected the same number of rows in every input"),
        (BATCHES, {}, None, "there is no batch to split without an input"),
    ],
)
def test_inputs_that_cannot_be_split_are_refused(
    signature: Signature, arrays: Any, max_batch: Any, words: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        signature.rows(arrays, max_batch)
    assert words in str(caught.value)


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 10, 11])
def test_parts_are_views_and_join_in_any_order(limit: int) -> None:
    rows = np.arange(20.0).reshape(10, 2)
    texts = np.array([b"x" * index for index in range(10)], object)
    parts = list(split({"X": rows, "T": texts}, 10, limit, lambda part: part, lambda part: True))
    assert all(np.shares_memory(found["X"], rows) for _, found in parts)
    assert [len(found["X"]) for _, found in parts] == [
        min(limit, 10 - start) for start in range(0, 10, limit)
    ]
    joined = Joined(10)
    for part, found in reversed(parts):
        joined.add(part, found)
    assert joined.arrays["X"].tolist() == rows.tolist()
    assert joined.arrays["T"].tolist() == texts.tolist()
    assert joined.arrays["T"].dtype == object


@pytest.mark.parametrize(
    ("sizes", "most", "parts"),
    [
        ([1] * 10, 3, [2, 2, 2, 2, 2]),
        ([1] * 10, 100, [8, 2]),
        ([1] * 7, 4, [3, 3, 1]),
        ([9] * 3, 4, [1, 1, 1]),  # a row is never divided
        ([1, 1, 9, 1, 1, 1, 1, 1, 1, 1], 4, [2, 1, 1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_parts_that_do_not_fit_are_halved(sizes: list[int], most: int, parts: list[int]) -> None:
    rows = np.array(sizes)
    found = list(
        split({"X": rows}, len(rows), 8, lambda part: part["X"].tolist(), lambda made: sum(made) <= most)
    )
    assert [len(made) for _, made in found] == parts
    assert [size for _, made in found for size in made] == sizes
    assert [rows[part].tolist() for part, _ in found] == [made for _, made in found]


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"Y": np.zeros((3, 1))}, "output 'Y': expected 2 rows, one for each input row, got shape [3, 1]"),
        ({"Y": np.zeros(())}, "expected 2 rows, one for each input row, got shape []"),
        ({"Y": np.zeros((2, 2))}, "output 'Y': parts of a batch differ"),
        (
            {"Y": np.zeros((2, 1), np.float32)},
            "parts of a batch differ, float32 [1] for each row and float64 [1]",
        ),
        ({"Z": np.zeros((2, 1))}, "parts of a batch have other outputs: ['Z'], ['Y']"),
    ],
)
def test_parts_that_cannot_be_joined_are_refused(part: Any, words: str) -> None:
    joined = Joined(4)
    joined.add(slice(0, 2), {"Y": np.zeros((2, 1))})
    with pytest.raises(ProtocolError) as caught:
        joined.add(slice(2, 4), part)
    assert words in str(caught.value)
