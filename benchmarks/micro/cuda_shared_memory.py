"""Send a tensor from a GPU to a model and back: over HTTP, and through shared memory, ours and a peer's.

Run on a machine with an NVIDIA GPU, with the library and torch installed (the peer is tritonclient[http] with
cuda-python): ``python benchmarks/micro/cuda_shared_memory.py``. The models return their input. The one for HTTP
gets it on the host, the one for shared memory on the GPU. Prints the medians over the blocks of a call's wall
time and client CPU, in milliseconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import tritonhttp
import tritonhttp.utils.cuda_shared_memory
from tritonhttp.testing import TritonServer

MIB = 1 << 20
SIZES = [MIB // 16, MIB, 16 * MIB, 64 * MIB]
GPU_MODELS = Path(__file__).parents[2] / "tests" / "gpu" / "models"
Way = Callable[[], object]


def over_http(http: Any, client: Any, data: Any) -> Way:
    """Copy to the host, infer, copy back."""

    def call() -> object:
        tensor = http.InferInput("INPUT0", [data.numel()], "FP32")
        tensor.set_data_from_numpy(data.cpu().numpy())
        wanted = [http.InferRequestedOutput("OUTPUT0")]
        found = client.infer("identity_fp32", [tensor], outputs=wanted).as_numpy("OUTPUT0")
        return torch.from_numpy(found).cuda()

    return call


@contextmanager
def through_memory(http: Any, client: Any, cudashm: ModuleType, data: Any, name: str) -> Iterator[Way]:
    """Copy into the region, infer, and return a view of the region's other half."""
    size = data.nbytes
    region = cudashm.create_shared_memory_region(name, 2 * size, 0)
    client.register_cuda_shared_memory(name, cudashm.get_raw_handle(region), 0, 2 * size)
    try:
        tensor = http.InferInput("INPUT0", [data.numel()], "FP32")
        tensor.set_shared_memory(name, size)
        wanted = http.InferRequestedOutput("OUTPUT0")
        wanted.set_shared_memory(name, size, offset=size)
        whole = torch.from_dlpack(cudashm.as_shared_memory_tensor(region, "FP32", [2, data.numel()]))

        def call() -> object:
            cudashm.set_shared_memory_region_from_dlpack(region, [data])
            client.infer("identity_gpu", [tensor], outputs=[wanted])
            return whole[1]

        yield call
    finally:
        client.unregister_cuda_shared_memory(name)
        cudashm.destroy_shared_memory_region(region)


def block(way: Way, calls: int) -> tuple[float, float]:
    """Return the median wall time of a call and its mean CPU, in milliseconds."""
    walls = []
    cpu = time.process_time()
    for _ in range(calls):
        start = time.perf_counter()
        way()
        walls.append(time.perf_counter() - start)
    return statistics.median(walls) * 1e3, (time.process_time() - cpu) / calls * 1e3


def main() -> None:
    """Measure every size, all ways in turn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=20)
    options = parser.parse_args()
    print(torch.cuda.get_device_name(0))
    with ExitStack() as stack:
        host = stack.enter_context(TritonServer(models=["identity_fp32"]))
        gpu = stack.enter_context(TritonServer(GPU_MODELS))
        open_client = tritonhttp.InferenceServerClient
        plain = stack.enter_context(open_client(host.url))
        shared = stack.enter_context(open_client(gpu.url))
        try:
            import tritonclient.http as peer
            import tritonclient.utils.cuda_shared_memory as peer_cudashm

            peer_client = stack.enter_context(peer.InferenceServerClient(gpu.url))
        except (ImportError, RuntimeError) as error:
            print(f"without tritonclient: {error}")
            peer = None
        for size in SIZES:
            data = torch.rand(size // 4, device="cuda")
            with ExitStack() as regions:
                ours = through_memory(
                    tritonhttp, shared, tritonhttp.utils.cuda_shared_memory, data, f"ours_{size}"
                )
                ways = {
                    "HTTP": over_http(tritonhttp, plain, data),
                    "CUDA shared memory": regions.enter_context(ours),
                }
                if peer is not None:
                    theirs = through_memory(peer, peer_client, peer_cudashm, data, f"theirs_{size}")
                    ways["tritonclient's"] = regions.enter_context(theirs)
                found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
                for turn in range(options.rounds + 1):
                    for name, way in ways.items():
                        assert torch.equal(way(), data), name
                        measured = block(way, options.calls)
                        if turn:  # the first one warms up
                            found[name].append(measured)
                for name, blocks in found.items():
                    wall, cpu = (statistics.median(each[i] for each in blocks) for i in (0, 1))
                    print(f"{size / MIB:8.3f} MiB  {name:20} {wall:9.3f} ms  CPU {cpu:9.3f} ms")
                del way, ways


if __name__ == "__main__":
    main()
