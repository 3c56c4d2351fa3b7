"""The peers of the clients: they send the same bytes, encoded beforehand, with as little code as possible.

`Task` is one request in numpy's terms. `Exchange` is its HTTP request as bytes; this module makes it without the
library that is measured. `BareSocket` (blocking), `BareProtocol` (asyncio) and `Libcurl` send an exchange and
receive the answer's bytes; they decode nothing.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

HEAD_END = b"\r\n\r\n"
LENGTH = b"content-length:"
HEAD_BYTES = 1 << 16

Tensor = tuple[str, str, np.ndarray]  # name, Triton's datatype, array


def unchanged(inputs: list[Tensor], outputs: list[np.ndarray]) -> bool:
    """Return whether the outputs equal the inputs."""
    pairs = zip(inputs, outputs, strict=True)
    return all(np.array_equal(given.ravel(), got.ravel()) for (_, _, given), got in pairs)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One infer request: how to make its tensors, and the options of the request."""

    model: str
    make: Callable[[], list[Tensor]]
    outputs: tuple[str, ...] = ("OUTPUT0",)
    binary: bool = True
    class_count: int = 0
    options: dict[str, Any] = field(default_factory=dict)  # further arguments of infer
    check: Callable[[list[Tensor], list[np.ndarray]], bool] = unchanged


def _raw(datatype: str, values: np.ndarray) -> memoryview:
    if datatype == "BYTES":
        items = values.ravel().tolist()
        return memoryview(b"".join(piece for item in items for piece in (struct.pack("<I", len(item)), item)))
    return memoryview(np.ascontiguousarray(values).view(np.uint8).reshape(-1))


class Exchange:
    """A task as bytes: HTTP head and JSON in ``head``, then the tensors' buffers."""

    def __init__(self, task: Task) -> None:
        inputs, self.tensors = [], []
        for name, datatype, values in task.make():
            entry: dict[str, Any] = {"name": name, "shape": values.shape, "datatype": datatype}
            if task.binary:
                raw = _raw(datatype, values)
                entry["parameters"] = {"binary_data_size": raw.nbytes}
                self.tensors.append(raw)
            else:
                entry["data"] = values.ravel().tolist()
            inputs.append(entry)
        wanted: dict[str, Any] = {"binary_data": task.binary}
        if task.class_count:
            wanted["classification"] = task.class_count
        outputs = [{"name": name, "parameters": wanted} for name in task.outputs]
        if len(self.tensors) > 16:
            self.tensors = [memoryview(b"".join(self.tensors))]
        self.json = json.dumps({"inputs": inputs, "outputs": outputs}, separators=(",", ":")).encode()
        self.path = f"/v2/models/{task.model}/infer"
        self.headers = {"Host": "localhost"}
        if self.tensors:
            self.headers["Inference-Header-Content-Length"] = str(len(self.json))
        length = len(self.json) + sum(raw.nbytes for raw in self.tensors)
        lines = [f"{name}: {value}" for name, value in {**self.headers, "Content-Length": length}.items()]
        head = "\r\n".join([f"POST {self.path} HTTP/1.1", *lines]).encode() + HEAD_END
        self.head = head + self.json

    @property
    def body(self) -> bytes:
        """The request's body in one piece."""
        return b"".join([self.json, *self.tensors])


def _body_length(head: bytes) -> int:
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the server said {head[:200]!r}")
    head = head.lower()
    at = head.find(b"\r\n" + LENGTH) + 2 + len(LENGTH)
    return int(head[at : head.find(b"\r\n", at)])


class BareSocket:
    """The floor: a blocking socket, sendmsg, and recv_into a new ``np.empty`` if the answer is large."""

    def __init__(
        self, address: tuple[str, int], exchange: Exchange, tls: ssl.SSLContext | None = None
    ) -> None:
        self._socket = socket.create_connection(address, timeout=None)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket, server_hostname="localhost")
        self._tls = tls is not None
        self._buffer = memoryview(bytearray(HEAD_BYTES))
        self.prepare(exchange)
        self()

    def prepare(self, exchange: Exchange) -> None:
        """Set the exchange; a small one is sent in one piece, and all its answers have the same length."""
        self._pieces = [memoryview(exchange.head), *exchange.tensors]
        self._small = sum(piece.nbytes for piece in self._pieces) <= HEAD_BYTES
        self._whole = b"".join(self._pieces) if self._small else b""
        self._answer_bytes = 0

    def __call__(self) -> None:
        """Make one exchange."""
        if self._small:
            self._socket.sendall(self._whole)
            if self._answer_bytes:
                missing = self._answer_bytes
                while missing > 0:
                    missing -= self._socket.recv_into(self._buffer)
                return
        elif self._tls:
            for piece in self._pieces:
                self._socket.sendall(piece)
        else:
            self._send_pieces()
        self._receive()

    def _send_pieces(self) -> None:
        pieces = self._pieces
        while pieces:
            sent = self._socket.sendmsg(pieces[:1024])
            while pieces and sent >= pieces[0].nbytes:
                sent -= pieces[0].nbytes
                pieces = pieces[1:]
            if sent:
                pieces = [pieces[0][sent:], *pieces[1:]]

    def _receive(self) -> np.ndarray:
        have = 0
        while True:
            got = self._socket.recv_into(self._buffer[have:])
            if not got:
                raise ConnectionError("the server closed the connection")
            have += got
            data = bytes(self._buffer[:have])
            end = data.find(HEAD_END)
            if end >= 0:
                break
        length = _body_length(data[: end + 4])
        body = np.empty(length, np.uint8)
        view, at = memoryview(body), have - end - 4
        view[:at] = self._buffer[end + 4 : have]
        while at < length:
            got = self._socket.recv_into(view[at:])
            if not got:
                raise ConnectionError("the server closed the connection")
            at += got
        self._answer_bytes = end + 4 + length
        return body

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class BareProtocol(asyncio.BufferedProtocol):
    """The floor of asyncio: it sends the head and the buffers, and receives into a small or a new buffer."""

    def __init__(self, exchange: Exchange) -> None:
        self._pieces = [exchange.head, *exchange.tensors]
        if sum(map(len, self._pieces)) <= HEAD_BYTES:
            self._pieces = [b"".join(self._pieces)]
        self._small = bytearray(HEAD_BYTES)
        self._head = b""
        self._body: memoryview | None = None
        self._left = 0
        self._waiter: asyncio.Future[None] | None = None
        self._resumed = asyncio.Event()
        self._resumed.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def pause_writing(self) -> None:
        self._resumed.clear()

    def resume_writing(self) -> None:
        self._resumed.set()

    def get_buffer(self, sizehint: int) -> Any:
        return self._small if self._body is None else self._body[-self._left :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._body is None:
            self._head += self._small[:nbytes]
            end = self._head.find(HEAD_END)
            if end < 0:
                return
            length = _body_length(self._head[: end + 4])
            begun = self._head[end + 4 :]
            self._left = length - len(begun)
            self._head = b""
            if self._left:
                self._body = memoryview(np.empty(length, np.uint8))
                self._body[: len(begun)] = begun
        else:
            self._left -= nbytes
        if not self._left and self._waiter is not None:
            self._body = None
            self._waiter.set_result(None)
            self._waiter = None

    def connection_lost(self, error: Exception | None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error or ConnectionError("the server closed the connection"))

    async def __call__(self) -> None:
        """Make one exchange."""
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        for piece in self._pieces:
            # In slices, because write() copies what the socket does not accept at once.
            for at in range(0, len(piece), 1 << 18):
                self._transport.write(piece[at : at + (1 << 18)])
                if not self._resumed.is_set():
                    await self._resumed.wait()
        await waiter

    def close(self) -> None:
        """Drop the connection."""
        self._transport.abort()


class Libcurl:
    """libcurl with the body in one piece; the answer goes into a reused buffer."""

    def __init__(self, url: str, exchange: Exchange) -> None:
        import pycurl

        self._body = exchange.body
        self._answer = memoryview(bytearray(len(self._body) + HEAD_BYTES))
        self._at = 0
        curl = self._curl = pycurl.Curl()
        curl.setopt(pycurl.URL, f"http://{url}{exchange.path}")
        curl.setopt(pycurl.POST, 1)
        headers = [f"{name}: {value}" for name, value in exchange.headers.items() if name != "Host"]
        # An empty Expect keeps curl from waiting for a 100; an empty Accept saves a header.
        curl.setopt(pycurl.HTTPHEADER, [*headers, "Expect:", "Accept:", "Content-Type:"])
        curl.setopt(pycurl.POSTFIELDS, self._body)
        curl.setopt(pycurl.TCP_NODELAY, 1)
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.BUFFERSIZE, 512 * 1024)
        curl.setopt(pycurl.UPLOAD_BUFFERSIZE, 2 * 1024 * 1024)
        curl.setopt(pycurl.WRITEFUNCTION, self._receive)
        self()
        if curl.getinfo(pycurl.RESPONSE_CODE) != 200:
            raise RuntimeError(f"the server said {curl.getinfo(pycurl.RESPONSE_CODE)}")

    def _receive(self, data: bytes) -> None:
        end = self._at + len(data)
        self._answer[self._at : end] = data
        self._at = end

    def __call__(self) -> None:
        """Make one exchange."""
        self._at = 0
        self._curl.perform()

    def close(self) -> None:
        """Close the connection."""
        self._curl.close()
