"""Find the size from which shared memory is no slower than HTTP: the automatic path and plain requests in turn.

Run with the library installed: ``python benchmarks/micro/shared_memory_threshold.py``. One FP32 tensor goes in
and out of the identity model on a real Triton, or into a model that answers with its mean. Prints the medians
over the blocks of a call's wall time and client CPU, in microseconds, and the median of the blocks' ratios.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import numpy as np

import tritonhttp
from tritonhttp.testing import TritonServer

KIB = 1 << 10
SIZES = [16 * KIB << i for i in range(8)]
#: Model, input and output.
WAYS = {"in and out": ("identity_fp32", "INPUT0", "OUTPUT0"), "in": ("summary", "VALUES", "MEAN")}
Client = tritonhttp.InferenceServerClient


def block(call: Callable[[], object], calls: int) -> tuple[float, float]:
    """Return the median wall time of a call and its mean CPU, in microseconds."""
    walls = []
    cpu = time.process_time()
    for _ in range(calls):
        start = time.perf_counter()
        call()
        walls.append(time.perf_counter() - start)
    return statistics.median(walls) * 1e6, (time.process_time() - cpu) / calls * 1e6


def infer(client: Client, way: str, values: np.ndarray) -> None:
    """Send the values and look at one element of the answer."""
    model, source, target = WAYS[way]
    tensor = tritonhttp.InferInput(source, [*values.shape], "FP32").set_data_from_numpy(values)
    wanted = [tritonhttp.InferRequestedOutput(target)]
    output = client.infer(model, [tensor], outputs=wanted).as_numpy(target)
    assert output is not None
    output.item(-1)


def compare(plain: Client, shared: Client, way: str, size: int, rounds: int, calls: int) -> None:
    """Measure the two in turn and print the medians."""
    values = np.arange(size // 4, dtype=np.float32)
    both = [(client, functools.partial(infer, client, way, values)) for client in (plain, shared)]
    found: dict[Client, list[tuple[float, float]]] = {plain: [], shared: []}
    for turn in range(rounds + 1):
        for client, call in both if turn % 2 else both[::-1]:
            measured = block(call, calls)
            if turn:  # the first one warms up
                found[client].append(measured)
    for i, metric in enumerate(("p50", "CPU")):
        http, memory = ([each[i] for each in found[client]] for client in (plain, shared))
        ratio = statistics.median(b / a for a, b in zip(http, memory, strict=True))
        left = f"{way if i == 0 else '':10} {size // KIB if i == 0 else '':>6} {metric:4}"
        print(f"{left} {statistics.median(http):9,.0f} {statistics.median(memory):9,.0f} {ratio:6.2f}")


def main() -> None:
    """Measure every size, both ways."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--calls", type=int, default=20)
    options = parser.parse_args()
    print(f"{'':10} {'KiB':>6} {'':4} {'HTTP':>9} {'shared':>9} {'ratio':>6}")
    with (
        TritonServer(models=[model for model, _, _ in WAYS.values()]) as server,
        Client(server.url) as plain,
        Client(server.url, shared_memory="auto", shared_memory_threshold=SIZES[0]) as shared,
    ):
        for way in WAYS:
            for size in SIZES:
                compare(plain, shared, way, size, options.rounds, options.calls)


if __name__ == "__main__":
    main()
