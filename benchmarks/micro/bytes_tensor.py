"""BYTES framing in C, in Python and by tritonclient, in turn, so that a busy machine slows all of them alike.

Run ``python benchmarks/micro/bytes_tensor.py`` with tritonclient installed. Prints medians in milliseconds,
and their ratios to tritonclient's.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from tritonhttp._wire import bytes_tensor

_SPEEDUPS = bytes_tensor._speedups


def _in_python(function: Callable[[Any], object]) -> Callable[[Any], object]:
    def run(argument: Any) -> object:
        bytes_tensor._speedups = None
        try:
            return function(argument)
        finally:
            bytes_tensor._speedups = _SPEEDUPS

    return run


def _seconds(function: Callable[[Any], object], argument: Any) -> float:
    start = time.perf_counter()
    result = function(argument)
    elapsed = time.perf_counter() - start
    del result  # outside the measurement
    return elapsed


def _objects(items: list[Any]) -> np.ndarray:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def _arrays(generator: random.Random) -> dict[str, np.ndarray]:
    def words(count: int, shortest: int, longest: int) -> list[bytes]:
        return [
            bytes(generator.choices(b"abcdefghijklmnopqrstuvwxyz", k=generator.randint(shortest, longest)))
            for _ in range(count)
        ]

    same, ragged = words(100_000, 20, 20), words(100_000, 0, 40)
    return {
        "100k x 20 bytes": _objects(same),
        "100k x 0..40 bytes": _objects(ragged),
        "100k x 20, str": _objects([item.decode() for item in same]),
        "100k x 0..40, str": _objects([item.decode() for item in ragged]),
        "100k x S20, full": np.array(same),
        "100k x S40, ragged": np.array(ragged),
        "1k x 10 kB": _objects([generator.randbytes(10_000) for _ in range(1000)]),
    }


def main() -> None:
    """Print one line per array and direction."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    rounds: int = parser.parse_args().rounds

    print(f"extension {'built' if _SPEEDUPS else 'NOT BUILT'}; {rounds} rounds; numpy {np.__version__}")
    print(f"{'':30}{'C':>16}{'Python':>16}{'tritonclient':>14}")
    for name, array in _arrays(random.Random(7)).items():
        data = bytes(bytes_tensor.encode(array))
        assert data == serialize_byte_tensor(array).item()
        directions = [("encode", array, bytes_tensor.encode, serialize_byte_tensor)]
        if array.dtype == object and "str" not in name:
            directions.append(("decode", data, bytes_tensor.decode, deserialize_bytes_tensor))
        for direction, argument, ours, theirs in directions:
            candidates = [ours, _in_python(ours), theirs]
            times: list[list[float]] = [[], [], []]
            for _ in range(rounds):
                for taken, candidate in zip(times, candidates, strict=True):
                    taken.append(_seconds(candidate, argument))
            in_c, in_python, reference = (statistics.median(taken) * 1e3 for taken in times)
            print(
                f"{direction + ' ' + name:30}"
                f"{in_c:8.2f} ({in_c / reference:.3f}){in_python:8.2f} ({in_python / reference:.3f})"
                f"{reference:14.2f}"
            )


if __name__ == "__main__":
    main()
