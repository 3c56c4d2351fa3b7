"""Frames of arrays of strange elements, in C, in Python and in a plain way, and what becomes of them damaged.

An input is the seed of random numbers that make the array.
"""

from __future__ import annotations

import random
import struct
from typing import Any

import numpy as np

from tritonhttp._wire import bytes_tensor
from tritonhttp.errors import InvalidRequest, ProtocolError

from .outcomes import Fault, mutated

_SPEEDUPS = bytes_tensor._speedups
_PREFIXES = tuple(struct.pack("<I", length) for length in (0, 1, 2**31, 2**32 - 1))
_ALPHABETS = ("ab\0", "aäß€😀\0", "a\ud800\udfff")


class _Meddler:
    """An element whose str() changes the array that is being encoded."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.array: np.ndarray | None = None

    def __str__(self) -> str:
        if self.array is not None:
            array, self.array = self.array, None
            array[...] = b"changed"
        return self.text


class _Failing:
    def __str__(self) -> str:
        raise KeyError("failing")


def _length(generator: random.Random) -> int:
    return generator.choice((0, 0, 1, 2, 3, 4, 5, 20, 255, 256, 257, generator.randrange(3000)))


def _text(generator: random.Random) -> str:
    weights = (10, 10, 1 if generator.random() < 0.05 else 0)
    return "".join(generator.choices(generator.choices(_ALPHABETS, weights)[0], k=_length(generator) % 300))


def _element(generator: random.Random) -> Any:
    match generator.randrange(12):
        case 0 | 1 | 2 | 3:
            return generator.randbytes(_length(generator))
        case 4 | 5 | 6:
            return _text(generator)
        case 7:
            return generator.choice((np.bytes_, bytearray, memoryview))(generator.randbytes(7))
        case 8:
            return np.str_(_text(generator))
        case 9:
            return generator.choice((None, True, 1, 1.5, 10**30, [1], ()))
        case 10:
            return _Meddler(_text(generator))
        case _:
            return _Failing() if generator.random() < 0.02 else generator.randrange(-5, 2**40)


def _array(generator: random.Random) -> np.ndarray:
    shape = generator.choice(
        ((), (0,), (1,), (7,), (3, 0, 2), (4, 5), (2, 3, 4), (generator.randrange(400),))
    )
    size = int(np.prod(shape))
    kind = generator.randrange(4)
    if kind == 0:
        width = generator.randrange(1, 9)
        flat = np.array([bytes(generator.choices(b"a\0", k=width)) for _ in range(size)], dtype=f"S{width}")
    elif kind == 1:
        flat = np.array(["".join(generator.choices("aä😀\0", k=5)) for _ in range(size)], dtype="U5")
    else:
        make = _element if kind == 2 else generator.choice((_text, lambda g: g.randbytes(_length(g))))
        flat = np.empty(size, dtype=object)
        for index in range(size):
            flat[index] = make(generator)
    array = flat.reshape(shape)
    if array.ndim and generator.random() < 0.5:
        array = generator.choice((array.T, array[::-1], array[..., ::2], np.asfortranarray(array)))
    return array


def _plain(array: np.ndarray) -> bytes:
    framed = []
    for item in array.ravel().tolist():
        octets = bytes(item) if isinstance(item, bytes | bytearray | memoryview) else str(item).encode()
        framed += [struct.pack("<I", len(octets)), octets]
    return b"".join(framed)


def _outcome(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except (InvalidRequest, ProtocolError) as error:
        return type(error), str(error)
    except (KeyError, UnicodeEncodeError) as error:
        return (KeyError, "") if isinstance(error, KeyError) else (InvalidRequest, "")


def _arm(array: np.ndarray) -> np.ndarray:
    """Let the meddlers of a fresh copy change that copy, since each may do so once only."""
    copy = array.copy()
    for item in copy.ravel().tolist():
        if isinstance(item, _Meddler):
            item.array = copy
    return copy


def elements(seed: bytes) -> None:
    """Compare what C, Python and a plain reading of the format make of an array, and of its damaged frames."""
    try:
        _compare(random.Random(seed))
    except AssertionError as error:
        raise Fault(str(error)) from None
    finally:
        bytes_tensor._speedups = _SPEEDUPS


def _compare(generator: random.Random) -> None:
    array = _array(generator)
    expected = _outcome(_plain, array)
    encoded = []
    for speedups in (_SPEEDUPS, None):
        bytes_tensor._speedups = speedups
        outcome = _outcome(bytes_tensor.encode, _arm(array))
        encoded.append(outcome if isinstance(outcome, tuple) else bytes(outcome))
    assert encoded[0] == encoded[1], (encoded, array)
    if isinstance(expected, tuple):
        assert encoded[0][0] is expected[0], (encoded[0], expected)
        return
    assert encoded[0] == expected, (encoded[0], expected)

    data = mutated(generator, expected, generator.randrange(4), _PREFIXES)
    count = generator.choice((None, array.size, array.size + 1, 0, 2**40))
    decoded = []
    for speedups in (_SPEEDUPS, None):
        bytes_tensor._speedups = speedups
        outcome = _outcome(bytes_tensor.decode, memoryview(data), count)
        decoded.append(outcome if isinstance(outcome, tuple) else outcome.tolist())
    assert decoded[0] == decoded[1], (decoded, data, count)
    if isinstance(decoded[0], list):
        assert _plain(np.array([*decoded[0], None], dtype=object)[:-1]) == data, data
