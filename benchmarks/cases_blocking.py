"""The blocking client: small requests, large tensors, many at once, TLS and gzip."""

from __future__ import annotations

import functools

import numpy as np
from contenders import (
    against_all,
    async_infer,
    bare,
    bare_in_threads,
    blocking,
    packages,
    shared_client,
)
from harness import FLOOR, LIBCURL, OURS, REFERENCE, Bound, Case
from peers import Task, Tensor

MIB = 1 << 20
SERVERS = {"triton": "Triton", "sink": "sink"}
# The reference sleeps 10 ms in every async_infer.
ASYNC_REQUESTS = {OURS: 3000, REFERENCE: 200, FLOOR: 3000}
FEWER_REQUESTS = {OURS: 600, REFERENCE: 40, FLOOR: 600}


def small_tensors() -> list[Tensor]:
    """Make the inputs of add_sub."""
    a = np.arange(16, dtype=np.int32).reshape(1, 16)
    return [("INPUT0", "INT32", a), ("INPUT1", "INT32", np.full_like(a, 3))]


def added(inputs: list[Tensor], outputs: list[np.ndarray]) -> bool:
    """Return whether the outputs are the sum and the difference."""
    a, b = (values for _, _, values in inputs)
    return np.array_equal(outputs[0], a + b) and np.array_equal(outputs[1], a - b)


def fp32_tensor(mib: int) -> list[Tensor]:
    """Make one tensor of this many MiB."""
    return [("INPUT0", "FP32", np.arange(mib * MIB // 4, dtype=np.float32))]


def many_tensors(number: int, *shape: int) -> list[Tensor]:
    """Make many small inputs."""
    return [(f"INPUT{i}", "INT32", np.full(shape, i, np.int32)) for i in range(number)]


def image() -> list[Tensor]:
    """Make the input of digits."""
    return [("IMAGE", "FP32", np.linspace(0, 16, 64, dtype=np.float32).reshape(1, 64))]


def classified(inputs: list[Tensor], outputs: list[np.ndarray]) -> bool:
    """Return whether the output is a classification."""
    return outputs[0].dtype == np.object_ and outputs[0].size == 3


def bf16_tensor() -> list[Tensor]:
    """Make one MiB of bfloat16."""
    import ml_dtypes

    values = np.arange(MIB // 2, dtype=np.float32).astype(ml_dtypes.bfloat16)
    return [("INPUT0", "BF16", values)]


def bf16_unchanged(inputs: list[Tensor], outputs: list[np.ndarray]) -> bool:
    """Return whether the values came back, in any dtype."""
    return np.array_equal(inputs[0][2].astype(np.float32), outputs[0].astype(np.float32))


SMALL = Task(model="add_sub", make=small_tensors, outputs=("OUTPUT0", "OUTPUT1"), check=added)
GZIP = Task(
    model="identity_fp32",
    make=functools.partial(fp32_tensor, 1),
    options={"request_compression_algorithm": "gzip", "response_compression_algorithm": "gzip"},
)


def many(number: int, *shape: int) -> Task:
    """Return the task of sending and receiving this many small tensors."""
    return Task(
        model="identity_many",
        make=functools.partial(many_tensors, number, *shape),
        outputs=tuple(f"OUTPUT{i}" for i in range(number)),
    )


def identity(mib: int) -> Task:
    """Return the task of sending and receiving this many MiB."""
    return Task(model="identity_fp32", make=functools.partial(fp32_tensor, mib))


SMALL_BOUNDS = (
    Bound(metric="cpu", against=REFERENCE, at_most=0.30),
    Bound(metric="cpu", against=LIBCURL, at_most=1.0),
)
TENSOR_BOUNDS = {
    1: (),
    16: (
        Bound(metric="cpu", against=REFERENCE, at_most=0.16),
        Bound(metric="cpu", against=FLOOR, at_most=1.15),
        Bound(metric="cpu", against=LIBCURL, at_most=0.85),
    ),
    64: (
        Bound(metric="cpu", against=REFERENCE, at_most=0.20),
        Bound(metric="cpu", against=FLOOR, at_most=1.15),
    ),
}
# The sink polls, so clients do not pay for waking it. The bare socket's real cost shows only on a real server.
SMALL_ON_TRITON = (
    Bound(metric="cpu", against=FLOOR, at_most=2.0),
    Bound(metric="p50", against=REFERENCE, at_most=0.6),
)
LARGE_ON_TRITON = {64: (Bound(metric="p50", against=REFERENCE, at_most=0.6),)}
AT_ONCE = Bound(metric="rate", against=FLOOR, at_least=0.7)
TIMES_REFERENCE = Bound(metric="rate", against=REFERENCE, at_least=50.0)

CASES = [
    *(
        Case(
            name=f"small-{server}",
            title=f"small infer, {where}",
            server=server,
            contenders=against_all(SMALL, curl=True),
            bounds=SMALL_BOUNDS + (SMALL_ON_TRITON if server == "triton" else ()),
            blocks=15,
        )
        for server, where in SERVERS.items()
    ),
    Case(
        name="reuse-sink",
        title="small infer, InferInput objects made once, sink",
        server="sink",
        contenders={**packages(blocking, SMALL, reuse=True), FLOOR: functools.partial(bare, SMALL)},
    ),
    *(
        Case(
            name=f"inputs-{number}",
            title=f"{number:,} inputs of INT32{list(shape)} in one request, sink",
            server="sink",
            contenders=against_all(many(number, *shape)),
            bounds=(Bound(metric="cpu", against=REFERENCE, at_most=at_most),),
            least=5,
        )
        for number, shape, at_most in ((32, (1,), 0.25), (1000, (1, 16), 0.15))
    ),
    *(
        Case(
            name=f"fp32-{mib}mb-{server}",
            title=f"{mib} MB FP32 identity, {where}",
            server=server,
            contenders=against_all(identity(mib), curl=mib == 16),
            bounds=TENSOR_BOUNDS[mib] + (LARGE_ON_TRITON.get(mib, ()) if server == "triton" else ()),
            blocks=7,
        )
        for mib in (1, 16, 64)
        for server, where in SERVERS.items()
    ),
    Case(
        name="bf16-triton",
        title="1 MB BF16 identity, Triton",
        server="triton",
        contenders=against_all(
            Task(model="identity_bf16", make=bf16_tensor, check=bf16_unchanged),
        ),
    ),
    Case(
        name="class-count",
        title="class_count=3, Triton",
        server="triton",
        contenders=against_all(
            Task(model="digits", make=image, outputs=("SCORES",), class_count=3, check=classified)
        ),
    ),
    *(
        Case(
            name=f"async-{in_flight}-{server}",
            title=f"async_infer, {in_flight} in flight, {SERVERS[server]}",
            server=server,
            contenders={
                **packages(async_infer, SMALL, in_flight=in_flight),
                FLOOR: functools.partial(bare_in_threads, SMALL, threads=in_flight),
            },
            metrics=("rate", "cpu"),
            bounds=(TIMES_REFERENCE, AT_ONCE) if (in_flight, server) == (16, "triton") else (),
            counts=ASYNC_REQUESTS if (in_flight, server) == (16, "triton") else FEWER_REQUESTS,
        )
        for in_flight, server in ((1, "triton"), (4, "triton"), (16, "triton"), (16, "sink"), (64, "triton"))
    ),
    *(
        Case(
            name=f"threads-8-{server}",
            title=f"8 threads, one client, {where}",
            server=server,
            contenders={
                OURS: functools.partial(shared_client, "tritonhttp", SMALL, threads=8),
                FLOOR: functools.partial(bare_in_threads, SMALL, threads=8),
            },
            metrics=("rate", "cpu"),
            bounds=(AT_ONCE,) if server == "triton" else (),
            blocks=7,
        )
        for server, where in SERVERS.items()
    ),
    Case(
        name="gzip-triton",
        title="1 MB FP32 identity, gzip both ways, Triton",
        server="triton",
        contenders=packages(blocking, GZIP),
        bounds=(Bound(metric="cpu", against=REFERENCE, at_most=0.3),),
        seconds=0.4,
    ),
    Case(
        name="tls-small",
        title="small infer over TLS, sink",
        server="tls",
        contenders=against_all(SMALL),
    ),
    Case(
        name="tls-16mb",
        title="16 MB FP32 identity over TLS, sink",
        server="tls",
        contenders=against_all(identity(16)),
    ),
]
