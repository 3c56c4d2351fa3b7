"""The kinds of client that one test body runs over, and what the bodies share.

A body uses the blocking client's surface: methods that return their result, from any thread. A kind is a
callable that takes a URL and the blocking client's constructor arguments by name and returns an object with
that surface. The asyncio client has it through an adapter with an event loop in a thread of its own.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

import tritonhttp
import tritonhttp.aio
from tritonhttp._transport.tls import tls_context


class OverAsyncio:
    """The asyncio client with the blocking client's surface."""

    def __init__(
        self,
        url: Any,
        *,
        verbose: bool = False,
        concurrency: int = 1,
        connection_timeout: float | None = 60.0,
        network_timeout: float | None = 60.0,
        ssl: bool = False,
        ssl_options: Any = None,
        ssl_context_factory: Any = None,
        insecure: bool = False,
        **options: Any,
    ) -> None:
        context = None
        if (ssl_options or ssl_context_factory or insecure) and (ssl or str(url).startswith("https:")):
            context = tls_context(ssl_options, ssl_context_factory, insecure)
        limits = [limit for limit in (connection_timeout, network_timeout) if limit is not None]
        self._client = tritonhttp.aio.InferenceServerClient(
            url,
            verbose=verbose,
            conn_limit=concurrency,
            conn_timeout=min(limits) if limits else None,
            ssl=ssl,
            ssl_context=context,
            **options,
        )
        self._start_loop()

    def _start_loop(self) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        #: What asyncio would only log, such as an exception that nobody looked at.
        self._complaints: list[dict[str, Any]] = []
        self._loop.set_exception_handler(lambda _, complaint: self._complaints.append(complaint))
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not inspect.iscoroutinefunction(found):
            return found

        def call(*args: Any, **options: Any) -> Any:
            if self._pid != os.getpid():  # a forked child has none of its parent's threads
                self._start_loop()
            return asyncio.run_coroutine_threadsafe(found(*args, **options), self._loop).result(60)

        return call

    def model(self, *args: Any, **options: Any) -> Any:
        return _Awaited(self._client.model(*args, **options), self._loop)

    @contextmanager
    def shared_memory(self, *args: Any, **options: Any) -> Iterator[Any]:
        manager = self._client.shared_memory(*args, **options)

        def wait(coroutine: Any) -> Any:
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

        region = wait(manager.__aenter__())
        try:
            yield region
        except BaseException as error:
            if not wait(manager.__aexit__(type(error), error, error.__traceback__)):
                raise
        else:
            wait(manager.__aexit__(None, None, None))

    def generate_stream(self, *args: Any, **options: Any) -> Any:
        return _StreamOverAsyncio(self._client.generate_stream(*args, **options), self._loop)

    def infer_stream(self, *args: Any, **options: Any) -> Any:
        return _StreamOverAsyncio(self._client.infer_stream(*args, **options), self._loop)

    async def _close(self) -> set[asyncio.Task[Any]]:
        """Close the client; return the tasks that are still there."""
        await self._client.close()
        return asyncio.all_tasks() - {asyncio.current_task()}

    def close(self) -> None:
        if self._loop.is_closed():
            return
        try:
            left = asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(60)
            assert not left, f"tasks are left: {left}"
            assert not self._complaints, f"asyncio complained: {self._complaints}"
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


class _Awaited:
    """A model, or a sequence of one, whose coroutines are waited for."""

    def __init__(self, found: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._found, self._loop = found, loop

    def _wait(self, coroutine: Any) -> Any:
        found = asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)
        return self if found is self._found else found

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._found, name)
        if inspect.iscoroutinefunction(found):
            return lambda *args, **options: self._wait(found(*args, **options))
        return found

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        return self._wait(self._found(*args, **inputs))

    def __repr__(self) -> str:
        return repr(self._found)

    def map(self, *args: Any, **options: Any) -> Any:
        return _StreamOverAsyncio(self._found.map(*args, **options), self._loop)

    def sequence(self, id: Any = None) -> Any:
        return _Awaited(self._found.sequence(id), self._loop)

    def __enter__(self) -> Any:
        return self._wait(self._found.__aenter__())

    def __exit__(self, *error: Any) -> Any:
        return self._wait(self._found.__aexit__(*error))


class _StreamOverAsyncio:
    """A stream of the asyncio client with the blocking one's surface."""

    def __init__(self, stream: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._stream, self._loop = stream, loop

    def _wait(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __repr__(self) -> str:
        return repr(self._stream)

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        async def step() -> Any:
            return await anext(self._stream, _END)  # a future cannot hold StopAsyncIteration's twin

        answer = self._wait(step())
        if answer is _END:
            raise StopIteration
        return answer

    def __enter__(self) -> Any:
        self._wait(self._stream.__aenter__())
        return self

    def __exit__(self, *error: Any) -> None:
        self._wait(self._stream.__aexit__(*error))

    def close(self) -> None:
        self._wait(self._stream.close())


_END = object()

KINDS: dict[str, Callable[..., Any]] = {
    "asyncio": OverAsyncio,
    "blocking": tritonhttp.InferenceServerClient,
}


def tensor(name: str, array: Any, *, binary_data: bool = True, copy: bool = False) -> tritonhttp.InferInput:
    """Return the input of that name with the array as its data."""
    array = np.asarray(array)
    datatype = tritonhttp.np_to_triton_dtype(array.dtype)
    assert datatype is not None
    return tritonhttp.InferInput(name, list(array.shape), datatype).set_data_from_numpy(
        array, binary_data, copy=copy
    )


def run_in_threads(work: Callable[[Any], object], arguments: Iterable[Any]) -> None:
    """Call `work` with each of the arguments, all at the same time; fail if one of the calls does."""
    arguments = list(arguments)
    with ThreadPoolExecutor(len(arguments)) as threads:
        list(threads.map(work, arguments, timeout=60))


def wait_until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"it did not hold within {seconds:g} s"
        time.sleep(0.01)
