"""Converts numbers from callers, of any type, to plain ints and floats.

Only these can be stored, compared, sent as JSON and packed into structs without surprises.
"""

from __future__ import annotations

import math
from numbers import Complex, Number, Real
from operator import index
from typing import Any

import numpy as np

__all__ = ["came", "integer", "real"]


def came(value: Any) -> str:
    """Return what a caller gave, for a message that refuses it: its type where that is long."""
    shown = repr(value)
    return shown if len(shown) <= 100 else f"{type(value).__name__} {shown[:80]}…"


def real(value: Any) -> float | None:
    """Return a real number of any type as a float, or None for anything else, including bools and arrays.

    A number that is too large for a float becomes infinite.
    """
    if type(value) is float:
        return value
    # numpy's time spans are integers by class. Decimal is a Number but not a Real.
    if isinstance(value, (bool, np.timedelta64)) or not isinstance(value, Number):
        return None
    if isinstance(value, Complex) and not isinstance(value, Real):
        return None
    try:
        return float(value)  # type: ignore[arg-type]  # every Number but a complex one has __float__
    except OverflowError:
        return math.inf if value > 0 else -math.inf  # type: ignore[operator]
    except (TypeError, ValueError):  # a signalling NaN
        return None


def integer(value: Any) -> int | None:
    """Return an integer of any type as an int, or None for anything else, including bools and arrays."""
    if type(value) is int:
        return value
    if isinstance(value, (bool, np.bool_, np.ndarray)):
        return None
    try:
        return int(index(value))
    except TypeError:
        return None
