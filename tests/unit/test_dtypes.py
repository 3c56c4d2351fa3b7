"""The table of datatypes: names, numpy dtypes, sizes, byte order."""

from __future__ import annotations

import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tritonhttp._wire.dtypes import (
    BY_NAME,
    NAMES,
    as_little_endian,
    meant,
    np_to_triton_dtype,
    triton_to_np_dtype,
)

TABLE = [
    ("BOOL", bool, 1),
    ("INT8", np.int8, 1),
    ("INT16", np.int16, 2),
    ("INT32", np.int32, 4),
    ("INT64", np.int64, 8),
    ("UINT8", np.uint8, 1),
    ("UINT16", np.uint16, 2),
    ("UINT32", np.uint32, 4),
    ("UINT64", np.uint64, 8),
    ("FP16", np.float16, 2),
    ("FP32", np.float32, 4),
    ("FP64", np.float64, 8),
    ("BF16", ml_dtypes.bfloat16, 2),
    ("BYTES", np.object_, None),
]


def test_the_table_is_complete() -> None:
    assert sorted(NAMES) == sorted(name for name, _, _ in TABLE)
    assert set(NAMES) - set(BY_NAME) == {"BF16"}


@pytest.mark.parametrize(("name", "scalar", "size"), TABLE)
def test_name_scalar_and_size_belong_together(name: str, scalar: Any, size: int | None) -> None:
    assert triton_to_np_dtype(name) is scalar
    assert np_to_triton_dtype(scalar) == name
    assert np_to_triton_dtype(np.dtype(scalar)) == name
    if size is not None:
        assert np.dtype(triton_to_np_dtype(name)).itemsize == size, "bytes of an element on the wire"


@pytest.mark.parametrize("name", [name for name, _, size in TABLE if size and name != "BF16"])
def test_byte_order_does_not_change_the_name(name: str) -> None:
    for order in "<>=":
        assert np_to_triton_dtype(np.dtype(BY_NAME[name]).newbyteorder(order)) == name


@pytest.mark.parametrize("dtype", ["S", "S5", "U", "U7", np.bytes_, np.str_, bytes, str, object, "O"])
def test_strings_are_bytes(dtype: Any) -> None:
    assert np_to_triton_dtype(dtype) == "BYTES"


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="numpy 2 brought it")
def test_string_dtype_is_bytes() -> None:
    assert np_to_triton_dtype(np.dtypes.StringDType()) == "BYTES"


@pytest.mark.parametrize(
    "dtype",
    [
        np.complex64,
        np.longdouble,
        "M8[s]",
        "m8",
        "V4",
        np.dtype([("a", "f4")]),
        ml_dtypes.float8_e4m3fn,
        "no dtype",
        None,  # numpy takes it for float64
    ],
)
def test_a_dtype_that_the_protocol_lacks_is_none(dtype: Any) -> None:
    assert np_to_triton_dtype(dtype) is None


@pytest.mark.parametrize("name", ["", "fp32", "FP8", "STRING", "TYPE_FP32", ["FP32"], 5])
def test_an_unknown_name_is_none(name: Any) -> None:
    assert triton_to_np_dtype(name) is None


def test_python_types_have_the_references_names() -> None:
    assert np_to_triton_dtype(float) == "FP64"
    assert np_to_triton_dtype(bool) == "BOOL"
    assert np_to_triton_dtype(np.dtype(int)) == ("INT64" if np.dtype(int).itemsize == 8 else "INT32")


@pytest.mark.parametrize("alias", [np.longlong, np.ulonglong, np.intc, np.uintc, np.intp, np.uintp])
def test_c_types_of_the_same_size_have_a_name(alias: Any) -> None:
    dtype = np.dtype(alias)
    expected = f"{'INT' if dtype.kind == 'i' else 'UINT'}{8 * dtype.itemsize}"
    assert np_to_triton_dtype(alias) == expected
    assert np_to_triton_dtype(dtype) == expected


def test_bf16_without_its_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match=r"pip install 'tritonhttp\[bf16\]'"):
        triton_to_np_dtype("BF16")
    assert triton_to_np_dtype("FP32") is np.float32


BASE = np.arange(24, dtype=np.int32).reshape(2, 3, 4)


@pytest.mark.parametrize(
    "array",
    [
        BASE,
        np.asfortranarray(BASE),
        BASE[:, ::-1],
        BASE[..., ::2],
        BASE.transpose(2, 0, 1),
        BASE.astype(">i4"),
        np.asfortranarray(BASE.astype(">f8")),
        BASE.astype(">i4")[0, 0, 0],
        np.array(7, ">u2"),
        np.array(7, "i8"),
        np.zeros((0, 3), ">f4"),
        np.zeros((3, 0))[:, ::-1],
        np.broadcast_to(np.int16(3), (2, 2)),
        BASE.astype(ml_dtypes.bfloat16).T,
        BASE.astype(bool)[::-1],
    ],
    ids=lambda array: f"{array.dtype.str}{list(array.shape)}",
)
def test_the_wires_layout_keeps_values_and_shape(array: Any) -> None:
    array = np.asarray(array)
    found = as_little_endian(array)
    assert found.flags.c_contiguous
    assert found.dtype.byteorder in "=|<"
    assert found.shape == array.shape
    np.testing.assert_array_equal(found, array)
    little = array.astype(array.dtype.newbyteorder("<"))
    assert found.tobytes() == little.tobytes()


@pytest.mark.skipif(sys.byteorder != "little", reason="there every array is copied")
@pytest.mark.parametrize("dtype", [scalar for _, scalar, size in TABLE if size])
def test_an_array_in_the_wires_layout_is_not_copied(dtype: Any) -> None:
    array = np.zeros((3, 4), dtype)
    assert as_little_endian(array) is array
    assert as_little_endian(array.view()).base is array


@pytest.mark.parametrize(
    ("given", "datatype"),
    [
        (np.float32, "FP32"),
        (np.dtype(">i4"), "INT32"),
        (object, "BYTES"),
        ("float32", "FP32"),
        ("TYPE_FP32", "FP32"),
        ("fp32", "FP32"),
        (" <FP32>", "FP32"),
        ("STRING", "BYTES"),
        ("double", "FP64"),
        ("FP33", "FP32"),
        ("zzz", None),
        (None, None),
        (3, None),
    ],
)
def test_what_a_caller_meant(given: Any, datatype: str | None) -> None:
    assert meant(given) == datatype
