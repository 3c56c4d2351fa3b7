"""Show where the client CPU of a small infer goes, on a real Triton: each line does less than the previous one.

Run with the library installed: ``python benchmarks/micro/small_infer.py``. Two lines differ: the whole path
without the C extensions, and, last, the whole path with them but without a server. That one runs with warm
caches, so the difference is the cost of waiting for a server.
"""

from __future__ import annotations

import socket
import statistics
import time
import timeit
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np

import tritonhttp
from tritonhttp._protocol import encoder
from tritonhttp._protocol.inference import Inference
from tritonhttp._transport.pool import Place
from tritonhttp.testing import TritonServer

ROUNDS, CALLS = 11, 700


def main() -> None:
    """Measure the variants in turn and print the medians."""
    array = np.arange(16, dtype=np.int32).reshape(1, 16)
    wanted = [tritonhttp.InferRequestedOutput(name) for name in ("OUTPUT0", "OUTPUT1")]

    def make() -> list[tritonhttp.InferInput]:
        return [
            tritonhttp.InferInput(name, [1, 16], "INT32").set_data_from_numpy(array)
            for name in ("INPUT0", "INPUT1")
        ]

    inputs = make()
    with TritonServer(models=["add_sub"]) as server, tritonhttp.InferenceServerClient(server.url) as client:

        def everything() -> None:
            result = client.infer("add_sub", make(), outputs=wanted)
            result.as_numpy("OUTPUT0")
            result.as_numpy("OUTPUT1")

        def without_making() -> None:
            result = client.infer("add_sub", inputs, outputs=wanted)
            result.as_numpy("OUTPUT0")
            result.as_numpy("OUTPUT1")

        def without_arrays() -> None:
            client.infer("add_sub", inputs, outputs=wanted)

        everything()
        everything()
        message = client._encoder.encode(Inference("add_sub", inputs, outputs=wanted), None, None)
        (request,), answer, transport = message.buffers, message.answer, client._transport
        assert isinstance(request, bytes)
        assert answer is not None
        expected = answer.start, answer.head_size, answer.size

        def transport_only() -> None:
            transport.repeater.repeat(Place(), request, *expected, None)

        bare = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])))
        bare.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        memory = bytearray(1 << 16)

        def floor() -> None:
            bare.sendall(request)
            bare.recv_into(memory)

        variants: dict[str, Callable[[], object]] = {
            "whole public path": everything,
            "inputs made once": without_making,
            "and no arrays taken": without_arrays,
            "transport only": transport_only,
            "bare socket": floor,
            "without extensions": everything,
        }
        found: dict[str, list[float]] = {name: [] for name in variants}
        compose, find = encoder.compose, encoder.find
        for _ in range(ROUNDS):
            for name, call in variants.items():
                pure = name == "without extensions"
                transport.repeats = not pure
                if pure:
                    encoder.compose = encoder.find = lambda *_: None  # type: ignore[assignment]
                before = time.process_time()
                for _ in range(CALLS):
                    call()
                found[name].append((time.process_time() - before) / CALLS * 1e6)
                encoder.compose, encoder.find, transport.repeats = compose, find, True
        body = transport.repeater.repeat(Place(), request, *expected, None)
        bare.close()
        repeater = transport.repeater
        transport.repeater = SimpleNamespace(repeat=lambda *_: body)  # type: ignore[assignment]
        warm = min(timeit.repeat(everything, number=5000, repeat=5)) / 5000 * 1e6
        transport.repeater = repeater
    for name, values in found.items():
        print(f"{name:20} {statistics.median(values):6.1f} µs CPU")
    print(f"{'warm, no network':20} {warm:6.1f} µs")


if __name__ == "__main__":
    main()
