"""The kinds of client that one test body runs over, and what the bodies share.

A body uses the blocking client's surface: methods that return their result, from any thread. A kind is a
callable that takes a URL and constructor arguments by name and returns an object with that surface; the
asyncio client joins as an adapter that runs each coroutine on an event loop in a thread of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

import tritonhttp

Client = tritonhttp.InferenceServerClient

KINDS: dict[str, Callable[..., Any]] = {"blocking": tritonhttp.InferenceServerClient}


def tensor(name: str, array: Any, *, binary_data: bool = True, copy: bool = False) -> tritonhttp.InferInput:
    """Return the input of that name with the array as its data."""
    array = np.asarray(array)
    datatype = tritonhttp.np_to_triton_dtype(array.dtype)
    assert datatype is not None
    return tritonhttp.InferInput(name, list(array.shape), datatype).set_data_from_numpy(
        array, binary_data, copy=copy
    )


def wait_until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"it did not hold within {seconds:g} s"
        time.sleep(0.01)
