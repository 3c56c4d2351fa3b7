"""Every allocation of the C extensions fails once: a MemoryError, or a call left to Python; then all is fine."""

from __future__ import annotations

import gc
import operator
import re
import sys
from typing import Any

import pytest

from tritonhttp._repetition import repeater, template
from tritonhttp._wire import bytes_tensor

from .extensions import cases

_testcapi = pytest.importorskip("_testcapi", reason="this interpreter was built without its test modules")
pytestmark = [
    pytest.mark.skipif(
        bytes_tensor._speedups is None or not repeater.REPEATS, reason="the extensions are not built"
    ),
    pytest.mark.skipif(
        hasattr(sys, "gettotalrefcount") and sys.version_info < (3, 12),
        reason="CPython 3.11 loses the error of a Python frame without memory, and its debug build aborts",
    ),
]

#: More than any of the calls allocates.
_MOST = 60


def failing(call: Any, number: int) -> Any:
    """Make a call whose allocation of this number fails."""
    gc.collect()  # which also empties the free lists of tuples, lists and floats
    _testcapi.set_nomemory(number, number + 1)
    try:
        return call()
    except MemoryError:
        return MemoryError
    except SystemError as error:
        # CPython 3.11 loses the error of a Python frame without memory. What a C function loses names it.
        if not re.match("error return without exception set|<function .*> returned NULL without", str(error)):
            raise
        return MemoryError
    finally:
        _testcapi.remove_mem_hooks()


def test_every_allocation_fails_once() -> None:
    with cases() as all_of_them:
        for name, call, settle in all_of_them:
            expected = call()
            settle()
            seen = set()
            for number in range(_MOST):
                outcome = failing(call, number)
                settle()
                assert outcome in (expected, MemoryError, None), (name, number, outcome)
                seen.add(outcome if outcome is MemoryError else "other")
                assert call() == expected, f"{name}, after allocation {number} failed"
                settle()
            if name in ("encode", "encode_fixed", "fill", "repeat"):
                assert MemoryError in seen, name


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="counts references")
def test_a_failed_allocation_keeps_no_reference() -> None:
    """What a call was given has as many references behind it as before."""
    items = [b"bytes", "text", "t\xe4xt", (b"", b"", b"", b"converted")]
    speedups: Any = bytes_tensor._speedups

    def encode() -> Any:
        return speedups.encode(list(items), operator.getitem)

    before = [sys.getrefcount(each) for each in items]
    for number in range(_MOST):
        failing(encode, number)
    assert [sys.getrefcount(each) for each in items] == before
    assert template.find({}, None, None, None) is None  # type: ignore[arg-type]
