"""A dataset through the digits model, Parquet to Parquet: `tritonhttp.bulk` beside the loops that a user writes.

Rows are 64 FP32 in a list of fixed size; calls have the model's max_batch_size, 64 rows, and 16 are under way.
Each block is one run over BULK_ROWS rows (100,000; the environment variable gives others). The floor is the
server's own limit: bodies that are encoded beforehand, over bare sockets, with nothing read or written.
"""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import shutil
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness import FLOOR, OURS, Block, Bound, Case, Site

ROWS = int(os.environ.get("BULK_ROWS", "100000"))
BATCH, IN_FLIGHT = 64, 16
LOOP, AIO, FIXED = "tritonclient async_infer", "tritonclient aio", "tritonhttp, 8 in flight"


def _source(folder: Path, rows: int = ROWS) -> Path:
    """Write the rows."""
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
    return path


def _timed(run: Callable[[Path], None]) -> Iterator[Block]:
    """Yield a block that is one run: rows a second, CPU seconds of a row, and the most bytes of memory."""
    with tempfile.TemporaryDirectory(prefix="tritonhttp-bulk-") as name:
        folder = Path(name)
        _source(folder)

        def block(number: int) -> dict[str, float]:
            cpu, start = time.process_time(), time.perf_counter()
            run(folder)
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            return {"rows": ROWS / wall, "cpu": cpu / ROWS, "memory": memory}

        yield block


def _ours(in_flight: Any) -> Callable[[Site], Any]:
    @contextlib.contextmanager
    def build(site: Site) -> Iterator[Block]:
        from tritonhttp import bulk

        def run(folder: Path) -> None:
            shutil.rmtree(folder / "out", ignore_errors=True)
            report = bulk.run(
                folder / "rows.parquet",
                folder / "out",
                model="digits",
                url=site.url,
                inputs={"IMAGE": "pixels"},
                outputs={"SCORES": "scores"},
                keep=["id"],
                in_flight=in_flight,
                progress=False,
            )
            assert report.rows == ROWS

        yield from _timed(run)

    return build


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


@contextlib.contextmanager
def _floor(site: Site) -> Iterator[Block]:
    import numpy as np

    import tritonhttp

    image = tritonhttp.InferInput("IMAGE", [BATCH, 64], "FP32")
    image.set_data_from_numpy(np.random.default_rng(0).random((BATCH, 64), np.float32))
    body, length = tritonhttp.InferenceServerClient.generate_request_body([image])
    head = (
        f"POST /v2/models/digits/infer HTTP/1.1\r\nHost: {site.url}\r\nContent-Type: application/octet-stream\r\n"
        f"Inference-Header-Content-Length: {length}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    request = head.encode() + body
    buffer = bytearray(1 << 16)

    def run(folder: Path) -> None:
        left = waiting = -(-ROWS // BATCH)
        with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
            size = 0
            for _ in range(IN_FLIGHT):
                connection = stack.enter_context(socket.create_connection(site.address))
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if not size:  # an answer's size is always the same
                    connection.sendall(request)
                    seen = connection.recv(1 << 16)
                    start = seen.index(b"\r\n\r\n") + 4
                    fields = seen[:start].lower().split(b"\r\n")
                    size = start + int(
                        next(f for f in fields if f.startswith(b"content-length")).split(b":")[1]
                    )
                    while len(seen) < size:
                        seen += connection.recv(1 << 16)
                connection.sendall(request)
                waiting -= 1
                selector.register(connection, selectors.EVENT_READ, [0])
            while left > 0:
                for key, _ in selector.select():
                    connection, have = key.fileobj, key.data
                    have[0] += connection.recv_into(buffer)  # type: ignore[union-attr]
                    if have[0] >= size:
                        have[0] = 0
                        left -= 1
                        if waiting > 0:
                            waiting -= 1
                            connection.sendall(request)  # type: ignore[union-attr]

    yield from _timed(run)


CASES = [
    Case(
        name="bulk",
        title=f"{ROWS:,} rows of 64 FP32 through the digits model, Parquet to Parquet, Triton",
        server="triton",
        contenders={OURS: _ours("auto"), FIXED: _ours(8), LOOP: _loop, AIO: _aio, FLOOR: _floor},
        metrics=("rows", "cpu", "memory"),
        bounds=(
            Bound(metric="rows", against=LOOP, at_least=5.0),
            Bound(metric="rows", against=AIO, at_least=1.5),
            Bound(metric="rows", against=FLOOR, at_least=0.85),
            Bound(metric="rows", against=FIXED, at_least=0.95),
        ),
        blocks=3,
        counts=dict.fromkeys((OURS, FIXED, LOOP, AIO, FLOOR), 1),
    ),
]
