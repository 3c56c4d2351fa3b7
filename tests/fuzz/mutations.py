"""Damage to bytes, as the fuzzing programs here do it."""

from __future__ import annotations

import random
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
