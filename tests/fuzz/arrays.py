"""Arrays of any dtype, shape and memory layout, for hypothesis; their elements are any bits."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from tritonhttp._wire.dtypes import BY_NAME

__all__ = ["DATATYPES", "arrays", "same"]

DATATYPES = (*BY_NAME, "BF16")
_LARGEST_RANK = 32 if np.lib.NumpyVersion(np.__version__) < "2.0.0" else 64


def shapes(least: int, most: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes with few elements: small, with a 0, or of a large rank."""
    return st.one_of(
        st.lists(st.integers(0, 4), min_size=min(least, 4), max_size=min(most, 4)).map(tuple),
        st.integers(least, most).map(lambda rank: (1,) * (rank - 1) + (2,) * (rank > 0)),
    ).filter(lambda shape: len(shape) >= least)


@st.composite
def arrays(draw: Any, datatype: str | None = None, least: int = 0, most: int = _LARGEST_RANK) -> np.ndarray:
    """Draw an array; its dtype may be byte-swapped, its memory in any order, unaligned or read-only."""
    if datatype is None:
        datatype = draw(st.sampled_from(DATATYPES))
    shape = draw(shapes(least, most))
    size = int(np.prod(shape, dtype=int))
    dtype = np.dtype(ml_dtypes.bfloat16 if datatype == "BF16" else BY_NAME[datatype])
    if datatype == "BYTES":
        flat = np.empty(size, object)
        flat[:] = draw(st.lists(st.binary(max_size=9), min_size=size, max_size=size))
    else:
        octets = draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize))
        if datatype == "BOOL":
            octets = bytes(octet & 1 for octet in octets)
        flat = np.frombuffer(octets, dtype).copy()
    array = flat.reshape(shape)
    layout = draw(
        st.sampled_from(
            ["C", "F", "every second", "backwards", "swapped", "read-only", "unaligned", "repeated"]
        )
    )
    if layout == "F":
        array = np.asfortranarray(array)
    elif layout == "every second" and array.ndim:
        array = np.repeat(array, 2, axis=-1)[..., ::2]
    elif layout == "backwards" and array.ndim:
        array = array[(slice(None, None, -1),) * array.ndim]
    elif layout == "swapped" and dtype.kind in "iuf" and datatype != "BF16":
        array = array.astype(dtype.newbyteorder(">"))
    elif layout == "read-only":
        array.flags.writeable = False
    elif layout == "unaligned" and dtype.kind in "iuf" and datatype != "BF16":
        array = np.frombuffer(b"\0" + array.tobytes(), dtype, size, 1).reshape(shape)
    elif layout == "repeated" and array.size:
        array = np.broadcast_to(array.ravel()[:1].reshape((1,) * array.ndim), shape)
    return array


def same(got: Any, sent: np.ndarray) -> None:
    """Check that an array came back bit for bit, in this machine's byte order."""
    assert got.shape == sent.shape
    assert got.flags.writeable
    assert got.flags.aligned
    if sent.dtype.kind == "O":
        assert got.dtype == sent.dtype
        assert got.ravel().tolist() == sent.ravel().tolist()
    else:
        assert got.dtype == sent.dtype.newbyteorder("=")
        assert got.tobytes() == sent.astype(sent.dtype.newbyteorder("=")).tobytes()
