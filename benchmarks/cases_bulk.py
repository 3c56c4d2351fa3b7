"""A dataset through a model, Parquet to Parquet: `tritonhttp.bulk` beside the loops that a user writes.

Rows of the digits model are 64 FP32 in a list of fixed size; calls have the model's max_batch_size, 256 rows, and
the loops have 16 under way. Each block is one run over BULK_ROWS rows (a million; the environment variable gives
others). The floor is the server's own limit: bodies that are encoded beforehand, over bare sockets, with nothing
read or written; beside it stands the same with the rows read and written, which server and client share the cores
for. `in_flight="auto"` stands beside fixed values, on this model, which is done at once, and on one
that sleeps.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import queue
import re
import resource
import selectors
import shutil
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness import FLOOR, OURS, Block, Bound, Case, Site

ROWS = int(os.environ.get("BULK_ROWS", "1000000"))
BATCH, IN_FLIGHT = 256, 16
LOOP, AIO = "tritonclient async_infer", "tritonclient aio"
FILES = "bare socket, rows read and written"
FIXED = {f"tritonhttp, {number} in flight": number for number in (2, 4, 8, 16, 32)}
#: Rows of the model that sleeps, 10 ms for each batch of four, one after the other.
SLOW_ROWS = 2000


def _source(folder: Path, rows: int) -> None:
    """Write rows of pixels."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "rows.parquet"
    writer = None
    for start in range(0, rows, 50_000):
        count = min(50_000, rows - start)
        values = np.random.default_rng(start).random(count * 64, dtype=np.float32)
        pixels = pa.FixedSizeListArray.from_arrays(pa.array(values), 64)
        table = pa.table({"id": np.arange(start, start + count), "pixels": pixels})
        writer = writer or pq.ParquetWriter(path, table.schema, compression="none")
        writer.write_table(table)
    assert writer is not None
    writer.close()


def _slow_source(folder: Path, rows: int) -> None:
    """Write rows that sleep."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"delay": np.full(rows, 0.01, np.float32)}), folder / "rows.parquet")


def _timed(
    run: Callable[[Path], None], rows: int = ROWS, source: Callable[[Path, int], object] = _source
) -> Iterator[Block]:
    """Yield a block that is one run: rows a second, CPU seconds of a row, and the most bytes of memory."""
    with tempfile.TemporaryDirectory(prefix="tritonhttp-bulk-") as name:
        folder = Path(name)
        source(folder, rows)

        def block(number: int) -> dict[str, float]:
            cpu, start = time.process_time(), time.perf_counter()
            run(folder)
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            return {"rows": rows / wall, "cpu": cpu / rows, "memory": memory}

        yield block


@contextlib.contextmanager
def _ours(in_flight: Any, options: dict[str, Any], site: Site) -> Iterator[Block]:
    from tritonhttp import bulk

    rows, source = (SLOW_ROWS, _slow_source) if options["model"] == "batched" else (ROWS, _source)

    def run(folder: Path) -> None:
        shutil.rmtree(folder / "out", ignore_errors=True)
        report = bulk.run(
            folder / "rows.parquet",
            folder / "out",
            url=site.url,
            in_flight=in_flight,
            progress=False,
            **options,
        )
        assert report.rows == rows

    yield from _timed(run, rows, source)


def _batches(folder: Path) -> Iterator[tuple[Any, Any]]:
    """Yield ids and pixels of a batch each, as the loops of users read them."""
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(folder / "rows.parquet").iter_batches(BATCH):
        yield batch.column("id"), batch.column("pixels").flatten().to_numpy().reshape(-1, 64)


class _Output:
    """Write as the loops of users do: a row group for some thousand rows."""

    def __init__(self, folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._pa = pa
        schema = pa.schema([("id", pa.int64()), ("scores", pa.list_(pa.float32(), 10))])
        self._writer = pq.ParquetWriter(folder / "loop.parquet", schema, use_dictionary=False)
        self._waiting: list[Any] = []

    def add(self, ids: Any, scores: Any) -> None:
        lists = self._pa.FixedSizeListArray.from_arrays(self._pa.array(scores.reshape(-1)), 10)
        self._waiting.append(self._pa.record_batch([ids, lists], names=["id", "scores"]))
        if len(self._waiting) == 128:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            self._writer.write_table(self._pa.Table.from_batches(self._waiting, self._writer.schema))
        self._waiting = []

    def close(self) -> None:
        self.flush()
        self._writer.close()


@contextlib.contextmanager
def _loop(site: Site) -> Iterator[Block]:
    import tritonclient.http as client_of

    client = client_of.InferenceServerClient(site.url, concurrency=IN_FLIGHT)

    def run(folder: Path) -> None:
        output, waiting = _Output(folder), deque[Any]()

        def take() -> None:
            ids, handle = waiting.popleft()
            output.add(ids, handle.get_result().as_numpy("SCORES"))

        for ids, pixels in _batches(folder):
            if len(waiting) == IN_FLIGHT:
                take()
            image = client_of.InferInput("IMAGE", list(pixels.shape), "FP32")
            image.set_data_from_numpy(pixels)
            waiting.append((ids, client.async_infer("digits", [image])))
        while waiting:
            take()
        output.close()

    yield from _timed(run)
    client.close()


@contextlib.contextmanager
def _aio(site: Site) -> Iterator[Block]:
    import asyncio

    import tritonclient.http.aio as client_of

    async def go(folder: Path) -> None:
        output, waiting = _Output(folder), deque[Any]()
        async with client_of.InferenceServerClient(site.url, conn_limit=IN_FLIGHT) as client:

            async def take() -> None:
                ids, task = waiting.popleft()
                output.add(ids, (await task).as_numpy("SCORES"))

            for ids, pixels in _batches(folder):
                if len(waiting) == IN_FLIGHT:
                    await take()
                image = client_of.InferInput("IMAGE", list(pixels.shape), "FP32")
                image.set_data_from_numpy(pixels)
                waiting.append((ids, asyncio.ensure_future(client.infer("digits", [image]))))
            while waiting:
                await take()
        output.close()

    yield from _timed(lambda folder: asyncio.run(go(folder)))


def ask(site: Site, bodies: Iterator[Any], take: Callable[[Any], object]) -> None:
    """Send bodies of BATCH rows over IN_FLIGHT bare sockets; `take` gets the bytes of each answer's output."""
    import numpy as np

    import tritonhttp

    image = tritonhttp.InferInput("IMAGE", [BATCH, 64], "FP32")
    image.set_data_from_numpy(np.zeros((BATCH, 64), np.float32))
    example, length = tritonhttp.InferenceServerClient.generate_request_body([image])
    fields = (
        f"POST /v2/models/digits/infer HTTP/1.1\r\nHost: {site.url}\r\nContent-Type: application/octet-stream\r\n"
        f"Inference-Header-Content-Length: {length}\r\nContent-Length: {len(example)}\r\n\r\n"
    )
    head = fields.encode() + example[:length]
    scores, size, open_ = BATCH * 10 * 4, 0, 0
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        for body in itertools.islice(bodies, IN_FLIGHT):
            connection = stack.enter_context(socket.create_connection(site.address))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not size:  # an answer's size is always the same
                connection.sendmsg([head, example[length:]])
                seen = b""
                while not size or len(seen) < size:
                    seen += connection.recv(1 << 16)
                    if found := re.search(
                        rb"(?i)\r\ncontent-length: (\d+)\r\n(?:.*?\r\n)?\r\n", seen, re.DOTALL
                    ):
                        size = found.end() + int(found[1])
            _send(connection, head, body)
            open_ += 1
            selector.register(connection, selectors.EVENT_READ, (bytearray(size), [0]))
        while open_:
            for key, _ in selector.select():
                connection, (answer, have) = key.fileobj, key.data
                have[0] += connection.recv_into(memoryview(answer)[have[0] :])  # type: ignore[union-attr]
                if have[0] < size:
                    continue
                have[0] = 0
                take(answer[-scores:])
                body = next(bodies, None)
                if body is None:
                    open_ -= 1
                else:
                    _send(connection, head, body)  # type: ignore[arg-type]


def _send(connection: socket.socket, head: bytes, body: Any) -> None:
    sent = connection.sendmsg([head, body])
    if sent < len(head) + len(body):
        connection.sendall(memoryview(head + bytes(body))[sent:])


@contextlib.contextmanager
def _floor(site: Site) -> Iterator[Block]:
    body = bytes(BATCH * 64 * 4)
    yield from _timed(lambda folder: ask(site, itertools.repeat(body, ROWS // BATCH), len))


@contextlib.contextmanager
def _floor_of_files(site: Site) -> Iterator[Block]:
    """Read and write as well, in threads beside the sockets, and nothing else: no order, no error is looked at."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    def run(folder: Path) -> None:
        read: queue.Queue[Any] = queue.Queue(4)
        done: queue.Queue[Any] = queue.Queue(4)

        def reads() -> None:
            for batch in pq.ParquetFile(folder / "rows.parquet").iter_batches(32 * BATCH):
                read.put(batch)
            read.put(None)

        def writes() -> None:
            schema = pa.schema([("id", pa.int64()), ("scores", pa.list_(pa.float32(), 10))])
            with pq.ParquetWriter(folder / "floor.parquet", schema, use_dictionary=False) as writer:
                while (found := done.get()) is not None:
                    ids, scores = found
                    lists = pa.FixedSizeListArray.from_arrays(pa.array(np.frombuffer(scores, np.float32)), 10)
                    writer.write_batch(pa.record_batch([ids, lists], schema=schema))

        scores: list[bytes] = []
        ids: list[Any] = []

        def flush() -> None:
            while ids and len(scores) * BATCH >= len(ids[0]) // BATCH * BATCH:
                count = len(ids[0]) // BATCH
                done.put((ids.pop(0).slice(0, count * BATCH), b"".join(scores[:count])))
                del scores[:count]

        def bodies() -> Iterator[Any]:
            while (batch := read.get()) is not None:
                ids.append(batch.column("id"))
                pixels = memoryview(batch.column("pixels").flatten().to_numpy()).cast("B")
                for start in range(0, len(pixels) - BATCH * 256 + 1, BATCH * 256):
                    yield pixels[start : start + BATCH * 256]
                flush()

        threads = [threading.Thread(target=target) for target in (reads, writes)]
        for thread in threads:
            thread.start()
        ask(site, bodies(), scores.append)
        flush()
        done.put(None)
        for thread in threads:
            thread.join()

    yield from _timed(run)


_DIGITS = {"model": "digits", "inputs": {"IMAGE": "pixels"}, "outputs": {"SCORES": "scores"}, "keep": ["id"]}
_SLOW = {"model": "batched", "inputs": {"DELAY": "delay"}, "outputs": {"BATCH_SIZE": "batch"}}


def _in_flight(options: dict[str, Any]) -> dict[str, Any]:
    ways = {OURS: "auto", **FIXED}
    return {name: functools.partial(_ours, in_flight, options) for name, in_flight in ways.items()}


_BEST = tuple(Bound(metric="rows", against=name, at_least=0.95) for name in FIXED)
CASES = [
    Case(
        name="bulk",
        title=f"{ROWS:,} rows of 64 FP32 through the digits model, Parquet to Parquet, Triton",
        server="triton",
        contenders={**_in_flight(_DIGITS), LOOP: _loop, AIO: _aio, FILES: _floor_of_files, FLOOR: _floor},
        metrics=("rows", "cpu", "memory"),
        bounds=(
            Bound(metric="rows", against=LOOP, at_least=5.0),
            Bound(metric="rows", against=AIO, at_least=1.5),
            Bound(metric="rows", against=FLOOR, at_least=0.85),
            *_BEST,
        ),
        blocks=3,
        counts=dict.fromkeys((OURS, *FIXED, LOOP, AIO, FILES, FLOOR), 1),
    ),
    Case(
        name="bulk-slow",
        title=f"{SLOW_ROWS:,} rows through a model that sleeps, Parquet to Parquet, Triton",
        server="triton",
        contenders=_in_flight(_SLOW),
        metrics=("rows", "cpu"),
        bounds=_BEST,
        blocks=3,
        counts=dict.fromkeys((OURS, *FIXED), 1),
    ),
]
