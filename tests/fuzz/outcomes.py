"""The rule of all fuzzing: a value or an error of the tree comes, within stated limits of time and memory."""

from __future__ import annotations

import random
import time
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

from tritonhttp.errors import InferenceServerException

__all__ = ["PER_BYTE", "SECONDS", "Fault", "Source", "be_strict", "checked", "measured", "mutated", "outcome"]

#: Limit on one execution, in seconds of its thread's CPU time; of a wait in seconds of the clock.
SECONDS = 2.0
#: Limit on what Python and numpy have allocated at any time in one execution: `_FIXED` bytes, and so many for each
#: byte of input. orjson makes up to 72 bytes of a byte of JSON, and a target reads its input up to three times.
PER_BYTE = 256
_FIXED = 1 << 20


class Fault(AssertionError):
    """The library broke the rule."""


class Source:
    """Draws decisions from the first bytes of an input, zeros behind its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def choice(self, options: Any) -> Any:
        return options[self.byte() % len(options)]

    def rest(self) -> bytes:
        return self._data[self._at :]


def be_strict() -> None:
    """Make faults of warnings, but for the library's own advice."""
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "not ready: |timeout=")


def outcome(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns, or the class of the tree that it raises; anything else is a fault."""
    try:
        return function(*arguments)
    except InferenceServerException as error:
        str(error)  # which is what people see of it
        return type(error)


def checked(run: Callable[[bytes], None], data: bytes) -> None:
    """Run a target on an input; raise :class:`Fault` if it took too long."""
    began = time.thread_time()
    run(data)
    if (seconds := time.thread_time() - began) > SECONDS:
        raise Fault(f"{len(data)} bytes took {seconds:.2f} s; the limit is {SECONDS}")


def measured(run: Callable[[bytes], None], data: bytes) -> int:
    """Run a target on an input; return the peak of memory, or raise :class:`Fault` beyond the limit."""
    tracemalloc.start()
    try:
        run(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if peak > (most := _FIXED + PER_BYTE * len(data)):
        raise Fault(f"{len(data)} bytes took {peak} bytes of memory; the limit is {most}")
    return peak


def mutated(generator: random.Random, data: bytes, times: int, tokens: tuple[bytes, ...]) -> bytes:
    """Return the data with so many changes: cut, bytes put in, removed, repeated or changed, tokens set."""
    changed = bytearray(data)
    for _ in range(times):
        position = generator.randrange(len(changed) + 1)
        match generator.randrange(8):
            case 0:
                del changed[position:]
            case 1:
                changed[position:position] = generator.randbytes(generator.randrange(6))
            case 2:
                del changed[position : position + generator.randrange(1, 12)]
            case 3:
                written = generator.choice(tokens)
                changed[position : position + len(written)] = written
            case 4:
                changed[position:position] = generator.choice(tokens)
            case 5:
                piece = changed[position : position + generator.randrange(40)]
                changed[position:position] = piece * generator.randrange(1, 4)
            case 6 if position < len(changed):
                changed[position] ^= 1 << generator.randrange(8)
            case _:
                changed[position : position + 1] = generator.randbytes(1)
    return bytes(changed)
