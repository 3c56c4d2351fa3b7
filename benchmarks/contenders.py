"""The contenders that more than one case uses, as builders for the harness.

tritonhttp and tritonclient have the same API, so the same code drives both and does the same work. It measures the
whole public path: make the InferInput objects, set their data, make the requested outputs, infer, and read every
output with as_numpy.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import os
import ssl
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import numpy as np
from harness import (
    FLOOR,
    LIBCURL,
    OURS,
    REFERENCE,
    Block,
    Builder,
    Site,
    all_at_once,
    in_threads,
    one_by_one,
)
from peers import BareProtocol, BareSocket, Exchange, Libcurl, Task

PACKAGES = {OURS: "tritonhttp", REFERENCE: "tritonclient.http"}
AIO_PACKAGES = {OURS: "tritonhttp.aio", REFERENCE: "tritonclient.http.aio"}


class PublicPath:
    """One task as a user of the package writes it; subclasses add a feature."""

    def __init__(self, package: str, task: Task, *, reuse: bool = False) -> None:
        self.module: Any = importlib.import_module(package)
        self.task = task
        self.tensors = task.make()
        self._made = self._make() if reuse else None

    def _make(self) -> dict[str, Any]:
        task = self.task
        inputs = []
        for name, datatype, values in self.tensors:
            tensor = self.module.InferInput(name, [*values.shape], datatype)
            tensor.set_data_from_numpy(values, binary_data=task.binary)
            inputs.append(tensor)
        outputs = [
            self.module.InferRequestedOutput(name, binary_data=task.binary, class_count=task.class_count)
            for name in task.outputs
        ]
        return {"model_name": task.model, "inputs": inputs, "outputs": outputs, **task.options}

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of infer."""
        return self._made or self._make()

    def caller(self, client: Any) -> Callable[[], Any]:
        """Return a function that infers, for one of several concurrent callers."""
        return lambda: client.infer(**self.arguments())

    def read(self, result: Any) -> list[np.ndarray]:
        """Return every output."""
        return [result.as_numpy(name) for name in self.task.outputs]

    def check(self, outputs: list[np.ndarray]) -> None:
        """Refuse to measure wrong answers."""
        if not self.task.check(self.tensors, outputs):
            raise RuntimeError(f"{self.module.__name__} returned wrong outputs for {self.task.model}")

    def client(self, site: Site, **options: Any) -> Any:
        """Return a client of the site."""
        if site.ca:
            options["ssl"] = True
            # Without arguments: the reference would pass the file of the public authorities.
            options["ssl_context_factory"] = lambda: ssl.create_default_context(cafile=site.ca)
            return self.module.InferenceServerClient(f"localhost:{site.address[1]}", **options)
        return self.module.InferenceServerClient(site.url, **options)


# Blocking


@contextlib.contextmanager
def blocking(
    package: str, task: Task, site: Site, *, reuse: bool = False, kind: type[PublicPath] = PublicPath
) -> Iterator[Block]:
    """Infer, one request after the other."""
    path = kind(package, task, reuse=reuse)
    with path.client(site) as client:
        infer = path.caller(client)

        def call() -> list[np.ndarray]:
            return path.read(infer())

        path.check(call())
        yield one_by_one(call)


@contextlib.contextmanager
def bare(task: Task, site: Site) -> Iterator[Block]:
    """One bare socket."""
    tls = ssl.create_default_context(cafile=site.ca) if site.ca else None
    with contextlib.closing(BareSocket(site.address, Exchange(task), tls)) as call:
        yield one_by_one(call)


@contextlib.contextmanager
def libcurl(task: Task, site: Site) -> Iterator[Block]:
    """One libcurl handle."""
    with contextlib.closing(Libcurl(site.url, Exchange(task))) as call:
        yield one_by_one(call)


@contextlib.contextmanager
def shared_client(package: str, task: Task, site: Site, *, threads: int) -> Iterator[Block]:
    """One client that several threads use at once."""
    path = PublicPath(package, task)
    with path.client(site, concurrency=threads) as client:

        def call() -> list[np.ndarray]:
            return path.read(client.infer(**path.arguments()))

        path.check(call())
        with in_threads([call] * threads) as block:
            yield block


@contextlib.contextmanager
def bare_in_threads(task: Task, site: Site, *, threads: int) -> Iterator[Block]:
    """A bare socket for each thread."""
    exchange = Exchange(task)
    with contextlib.ExitStack() as stack:
        sockets = [BareSocket(site.address, exchange) for _ in range(threads)]
        for each in sockets:
            stack.callback(each.close)
        with in_threads(sockets) as block:
            yield block


@contextlib.contextmanager
def async_infer(package: str, task: Task, site: Site, *, in_flight: int) -> Iterator[Block]:
    """Start all requests of a block with async_infer, then get all results."""
    path = PublicPath(package, task)
    with path.client(site, concurrency=in_flight) as client:

        def batch(number: int) -> None:
            handles = [client.async_infer(**path.arguments()) for _ in range(number)]
            for handle in handles:
                path.read(handle.get_result())

        path.check(path.read(client.async_infer(**path.arguments()).get_result()))
        yield all_at_once(batch)


# asyncio


@contextlib.contextmanager
def _loop(policy: str) -> Iterator[asyncio.AbstractEventLoop]:
    loop = importlib.import_module(policy).new_event_loop()
    try:
        yield loop
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _in_flight(loop: asyncio.AbstractEventLoop, calls: list[Callable[[], Awaitable[object]]]) -> Block:
    """Return a block that keeps as many requests in flight as there are calls."""

    async def repeat(call: Callable[[], Awaitable[object]], number: int, walls: list[float]) -> None:
        for _ in range(number):
            start = time.perf_counter()
            await call()
            walls.append(time.perf_counter() - start)

    async def run(number: int) -> list[float]:
        walls: list[float] = []
        shares = [(number + i) // len(calls) for i in range(len(calls))]
        await asyncio.gather(*(repeat(call, share, walls) for call, share in zip(calls, shares, strict=True)))
        return walls

    return all_at_once(lambda number: loop.run_until_complete(run(number)))


@contextlib.contextmanager
def aio(
    package: str,
    task: Task,
    site: Site,
    *,
    in_flight: int,
    loop: str = "asyncio",
    kind: type[PublicPath] = PublicPath,
    **options: Any,
) -> Iterator[Block]:
    """Infer with the asyncio client."""
    path = kind(package, task)
    with _loop(loop) as running:

        async def connect() -> Any:
            return path.client(site, **options)

        client = running.run_until_complete(connect())

        def lane() -> Callable[[], Awaitable[list[np.ndarray]]]:
            infer = path.caller(client)

            async def call() -> list[np.ndarray]:
                return path.read(await infer())

            return call

        lanes = [lane() for _ in range(in_flight)]
        path.check(running.run_until_complete(lanes[0]()))
        yield _in_flight(running, lanes)
        running.run_until_complete(client.close())


@contextlib.contextmanager
def bare_aio(task: Task, site: Site, *, in_flight: int, loop: str = "asyncio") -> Iterator[Block]:
    """As many bare protocols as requests in flight."""
    exchange = Exchange(task)
    with _loop(loop) as running:

        async def connect() -> list[BareProtocol]:
            running = asyncio.get_running_loop()
            pairs = [
                await running.create_connection(lambda: BareProtocol(exchange), *site.address)
                for _ in range(in_flight)
            ]
            return [protocol for _, protocol in pairs]

        protocols = running.run_until_complete(connect())
        yield _in_flight(running, list(protocols))
        for protocol in protocols:
            protocol.close()


# The contenders of most cases


@contextlib.contextmanager
def with_implementation(implementation: str, build: Builder, site: Site) -> Iterator[Block]:
    """Build a contender with tritonhttp, with the C extension (``c``) or without it (``python``)."""
    if "tritonhttp" in sys.modules:
        raise RuntimeError("tritonhttp was imported before its implementation was chosen")
    os.environ["TRITONHTTP_IMPL"] = implementation
    with build(site) as block:
        yield block


def against_all(task: Task, *, curl: bool = False) -> Mapping[str, Builder]:
    """Return both packages, the bare socket, and libcurl if asked for."""
    builders: dict[str, Builder] = {
        name: functools.partial(blocking, package, task) for name, package in PACKAGES.items()
    }
    builders[FLOOR] = functools.partial(bare, task)
    if curl:
        builders[LIBCURL] = functools.partial(libcurl, task)
    return builders


def packages(build: Callable[..., Any], *arguments: Any, **options: Any) -> dict[str, Builder]:
    """Return both packages, from a builder that takes the package's name first."""
    return {
        name: functools.partial(build, package, *arguments, **options) for name, package in PACKAGES.items()
    }
