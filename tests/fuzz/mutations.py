"""What the fuzzing programs share: damage to bytes, and the loop around their checks."""

# ruff: noqa: T201  for programs

from __future__ import annotations

import argparse
import random
import resource
import time
from collections.abc import Callable


def mutated(generator: random.Random, data: bytes, times: int, number: Callable[[], bytes]) -> bytes:
    """Return the data with so many changes: cut off, bytes put in or taken out, or another `number` written."""
    changed = bytearray(data)
    for _ in range(times):
        position = generator.randrange(len(changed) + 1)
        match generator.randrange(5):
            case 0:
                del changed[position:]
            case 1:
                changed[position:position] = generator.randbytes(generator.randrange(6))
            case 2:
                del changed[position : position + generator.randrange(6)]
            case 3:
                written = number()
                changed[position : position + len(written)] = written
            case _:
                changed[position : position + 1] = generator.randbytes(1)
    return bytes(changed)


def fuzzed(description: str | None, check: Callable[[str], int | None], extension: bool) -> int:
    """Check one seed after the other until the time is over or something differs; return the exit status.

    `check` raises AssertionError for a difference, and returns how many calls the extension took.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    options = parser.parse_args()
    print("extension", "built" if extension else "NOT BUILT", "- seed", options.seed)
    end = time.monotonic() + options.seconds
    done = taken = 0
    while time.monotonic() < end:
        try:
            taken += check(f"{options.seed} {done}") or 0
        except AssertionError as error:
            print(f"seed {options.seed}, case {done}: {error}")
            return 1
        done += 1
        if done % 10_000 == 0:
            print(done, "cases")
    print(done, "cases without a difference,", f"{taken} calls by the extension," * bool(taken), end=" ")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "MiB at most")
    return 0
