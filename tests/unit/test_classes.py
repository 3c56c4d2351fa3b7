"""Classification outputs as tuples."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest

from tritonhttp import Classification, InferResult, InvalidRequest
from tritonhttp._clients.model_base import Outputs
from tritonhttp._protocol.classes import classifications
from tritonhttp._wire import jsonio


def result(datatype: str, shape: list[int], data: list[Any]) -> InferResult:
    output = {"name": "SCORES", "datatype": datatype, "shape": shape, "data": data}
    return InferResult.from_response_body(jsonio.dumps({"model_name": "m", "outputs": [output]}))


def array(*elements: Any, shape: tuple[int, ...] | None = None) -> Any:
    made = np.empty(len(elements), object)
    made[:] = elements
    return made if shape is None else made.reshape(shape)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"0.98:3:three", (0.98, 3, "three")),
        ("0.98:3:three", (0.98, 3, "three")),
        (b"30:15", (30.0, 15, "")),
        (b"30:15:", (30.0, 15, "")),
        (b"-1e-07:0:a:b::c", (-1e-07, 0, "a:b::c")),
        (b":".join([b"1", b"2", "größer\n".encode()]), (1.0, 2, "größer\n")),
        (b"1:2:\xff", (1.0, 2, "�")),
        (b"inf:1", (math.inf, 1, "")),
    ],
)
def test_one_element_is_score_index_and_label(text: Any, found: tuple[float, int, str]) -> None:
    made = Classification.parse(text)
    assert made == found
    assert tuple(map(type, made)) == (float, int, str)
    assert pickle.loads(pickle.dumps(made)) == made


def test_a_score_that_is_no_number_is_nan() -> None:
    assert math.isnan(Classification.parse(b"-nan:4").score)


@pytest.mark.parametrize(
    "text", [b"", b"three", b"1", b":1", b"1:", b"x:1", b"1:-1", b"1:1.5", b"1: 1", None, 3.0]
)
def test_anything_else_is_refused_and_shown(text: Any) -> None:
    with pytest.raises(InvalidRequest, match='expected BYTES "score:index" or "score:index:label", got'):
        Classification.parse(text)


@pytest.mark.parametrize(
    ("shape", "nested"),
    [
        ((4,), ["a", "b", "c", "d"]),
        ((1, 4), [["a", "b", "c", "d"]]),
        ((2, 2), [["a", "b"], ["c", "d"]]),
        ((2, 1, 2), [[["a", "b"]], [["c", "d"]]]),
    ],
)
def test_rows_are_nested_as_the_shape_is(shape: tuple[int, ...], nested: Any) -> None:
    def labels(found: Any) -> Any:
        return found.label if isinstance(found, Classification) else [labels(each) for each in found]

    elements = array(*(b"1:0:%b" % each for each in (b"a", b"b", b"c", b"d")), shape=shape)
    assert labels(classifications(elements, "output 'X'", "BYTES")) == nested


@pytest.mark.parametrize(("shape", "nested"), [((0,), []), ((0, 3), []), ((2, 0), [[], []])])
def test_an_empty_output_has_no_classes(shape: tuple[int, ...], nested: Any) -> None:
    assert classifications(np.empty(shape, object), "output 'X'", "BYTES") == nested


def test_a_result_and_a_models_outputs_have_them() -> None:
    found = result("BYTES", [2, 1], ["0.5:1:one", "0.25:2"])
    assert found.classes("SCORES") == [[(0.5, 1, "one")], [(0.25, 2, "")]]
    assert Outputs(found).classes("SCORES")[0][0].label == "one"
    assert found["SCORES"].tolist() == [["0.5:1:one"], ["0.25:2"]]
    with pytest.raises(KeyError, match="no output 'scores'; there are: 'SCORES'"):
        found.classes("scores")


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "words"),
    [
        (
            "FP32",
            [2],
            [0.5, 1.0],
            "output 'SCORES' is no classification: expected BYTES .*, got FP32; ask for",
        ),
        ("BF16", [1], [0.5], "got BF16"),
        (
            "BYTES",
            [2],
            ["1:1", "text"],
            "output 'SCORES', element 1: no classification: .*got 'text'; ask for",
        ),
        ("BYTES", [1, 2], ["1:1", "text"], r"element \[0, 1\]"),
    ],
)
def test_an_output_that_is_no_classification_says_what_it_is(
    datatype: str, shape: list[int], data: list[Any], words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        result(datatype, shape, data).classes("SCORES")
