"""Compress 1 MB of several kinds with ``isal`` (the extra ``fast-gzip``) and with zlib: time and size.

Run ``python benchmarks/micro/compression.py`` with the library and ``isal`` installed. Both go through the
library's own code. Prints medians in milliseconds, sizes in per cent of the data, and the ratios of isal to zlib.
"""

from __future__ import annotations

import statistics
import time
import zlib

import numpy as np
from isal import isal_zlib

from tritonhttp._wire import compression

ROUNDS = 9
SIZE = 1 << 20


def kinds() -> dict[str, bytes]:
    """Return data of each kind."""
    generator = np.random.default_rng(1)
    count = SIZE // 4
    x = np.linspace(0, 40, count)
    side = int((SIZE / 3) ** 0.5)
    ramp = np.add.outer(np.arange(side), np.arange(side))[..., None] * np.array([0.12, 0.2, 0.3])
    text = generator.choice([b"model ", b"input ", b"tensor ", b"of ", b"the ", b"shape "], SIZE // 5)
    return {
        "FP32, random": generator.random(count, np.float32).tobytes(),
        "FP32, a wave": np.sin(x).astype(np.float32).tobytes(),
        "FP32, two digits": (generator.integers(0, 100, count) / 100).astype(np.float32).tobytes(),
        "UINT8, an image": (ramp + generator.normal(0, 3, ramp.shape))
        .clip(0, 255)
        .astype(np.uint8)
        .tobytes(),
        "INT32, a counter": np.arange(count, dtype=np.int32).tobytes(),
        "BYTES, words": b"".join(text.tolist())[:SIZE],
        "zeros": bytes(SIZE),
    }


def main() -> None:
    """Measure both in turn and print the medians."""
    both = {"isal": isal_zlib, "zlib": zlib}
    print(f"{'':18} {'isal ms':>8} {'zlib ms':>8} {'ratio':>6} {'isal %':>7} {'zlib %':>7} {'ratio':>6}")
    for kind, data in kinds().items():
        seconds: dict[str, list[float]] = {name: [] for name in both}
        sizes: dict[str, int] = {}
        for _ in range(ROUNDS):
            for name, module in both.items():
                compression._zlib = lambda module=module: module
                before = time.perf_counter()
                sizes[name] = len(compression.compress([data], "gzip")[0])
                seconds[name].append(time.perf_counter() - before)
        fast, slow = (statistics.median(seconds[name]) * 1000 for name in both)
        small, large = (sizes[name] / len(data) * 100 for name in both)
        print(
            f"{kind:18} {fast:8.2f} {slow:8.2f} {fast / slow:6.2f} {small:7.1f} {large:7.1f} {small / large:6.2f}"
        )


if __name__ == "__main__":
    main()
