"""Numbers of any type become plain ones."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from tritonhttp._basics.quantities import integer, real


@pytest.mark.parametrize(
    "value", [0.5, Fraction(1, 2), Decimal("0.5"), np.float16(0.5), np.float32(0.5), np.float64(0.5)]
)
def test_a_real_number_becomes_a_float(value: Any) -> None:
    assert real(value) == 0.5
    assert isinstance(real(value), float)


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), Fraction(3), Decimal(3)])
def test_a_whole_number_is_a_real_one(value: Any) -> None:
    assert type(real(value)) is float
    assert real(value) == 3


@pytest.mark.parametrize("value", [10**400, Fraction(10**400), Decimal("1e999")])
def test_a_number_too_large_for_a_float_is_infinite(value: Any) -> None:
    assert real(value) == math.inf
    assert real(-value) == -math.inf


@pytest.mark.parametrize("value", [math.nan, np.float32("nan"), Decimal("NaN")])
def test_nan_stays_nan(value: Any) -> None:
    found = real(value)
    assert found is not None
    assert math.isnan(found)


NONE = [
    True,
    np.True_,
    "1",
    b"1",
    None,
    [1],
    np.array(1),
    np.array([1]),
    1j,
    np.complex64(1),
    np.timedelta64(1, "s"),
    np.timedelta64(1, "ns"),
]


@pytest.mark.parametrize("value", [*NONE, Decimal("sNaN")], ids=repr)
def test_anything_else_is_no_real_number(value: Any) -> None:
    assert real(value) is None


@pytest.mark.parametrize("value", [4, np.int8(4), np.uint64(4)])
def test_an_integer_becomes_an_int(value: Any) -> None:
    assert integer(value) == 4
    assert type(integer(value)) is int


@pytest.mark.parametrize("value", [*NONE, 4.0, np.float32(4), Fraction(4), Decimal(4)], ids=repr)
def test_anything_else_is_no_integer(value: Any) -> None:
    assert integer(value) is None
