"""Whole calls of both clients against a server that answers with the bytes of the input."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

import tritonhttp
from tritonhttp import aio
from tritonhttp.errors import DeadlineExceeded

from ..clients import tensor
from ..framing import chunks, inference_answer, read_body, read_head
from .outcomes import SECONDS, Fault, Source, outcome

__all__ = ["calls"]

#: The limit of a call whose peer falls silent, in seconds.
_SHORT = 0.03
#: What the answer to the second call holds.
_TAG = 123456.0
_TAGGED = inference_answer(
    {
        "model_name": "m",
        "outputs": [{"name": "O", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}],
    },
    struct.pack("<f", _TAG),
)


class _Server:
    """Answers the first request of each execution as that says, and all further ones with the tag."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._course: tuple[list[bytes], str] | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def answer(self, pieces: list[bytes], end: str) -> None:
        self._course = pieces, end

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock:
            sock.settimeout(30)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while (head := read_head(sock)) and read_body(sock, head) is not None:
                course, self._course = self._course, None
                if course is None:
                    sock.sendall(_TAGGED)
                    continue
                pieces, end = course
                for piece in pieces:
                    sock.sendall(piece)
                if end == "reset":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if end != "stay":
                    break


@cache
def _server() -> _Server:
    return _Server()


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def _used(result: tritonhttp.InferResult) -> None:
    for name in result:
        with contextlib.suppress(KeyError):
            outcome(result.__getitem__, name)
    result.get_response()


_FLOATS = np.arange(3, dtype=np.float32)

#: What is asked first, of the blocking client.
_ASKED: tuple[Callable[[Any], Any], ...] = (
    lambda client: _used(client.infer("m", [tensor("I", _FLOATS)])),
    lambda client: _used(client.infer("m", [tensor("I", _FLOATS)], request_id="id")),
    lambda client: _used(client.async_infer("m", [tensor("I", _FLOATS)]).get_result()),
    lambda client: client.get_server_metadata(),
    lambda client: client.is_server_ready(),
    lambda client: [None for _ in client.generate_stream("m", {})],
    lambda client: client.models(),
    lambda client: repr(client.check()),
)


async def _ask(client: Any, number: int) -> None:
    """Ask the same of the asyncio client."""
    match number:
        case 0 | 2:
            _used(await client.infer("m", [tensor("I", _FLOATS)]))
        case 1:
            _used(await client.infer("m", [tensor("I", _FLOATS)], request_id="id"))
        case 3:
            await client.get_server_metadata()
        case 4:
            await client.is_server_ready()
        case 5:
            async for _ in client.generate_stream("m", {}):
                pass
        case 6:
            await client.models()
        case _:
            repr(await client.check())


async def _asked_async(client: Any, number: int) -> None:
    await _ask(client, number)


async def _tag_async(client: Any) -> Any:
    return (await client.infer("m", [tensor("I", _FLOATS)]))["O"].tolist()


def calls(data: bytes) -> None:
    """Call twice: the second answer is good, and the call must have it, or an error, whatever came before."""
    source = Source(data)
    number, control = source.byte() % len(_ASKED), source.byte()
    server = _server()
    body = source.rest()
    if control & 8:
        body = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(
            body[:9] or b"0", body[9:] or b"0"
        )
    end = ("stay", "close", "close", "reset")[control & 3]
    cuts = sorted({source.byte() % (len(body) + 1) for _ in range(control >> 4 & 3)})
    server.answer([body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)], end)
    limit = _SHORT if end == "stay" else 10 * SECONDS
    if control & 4:
        loop = _loop()

        async def both() -> tuple[Any, Any]:
            async with aio.InferenceServerClient(server.url, conn_timeout=limit) as client:
                first = await _outcome(_asked_async(client, number))
                server.answer([_TAGGED], "stay")
                return first, await _outcome(_tag_async(client))

        first, second = loop.run_until_complete(both())
    else:
        with tritonhttp.InferenceServerClient(server.url, network_timeout=limit) as client:
            first = outcome(_ASKED[number], client)
            server.answer([_TAGGED], "stay")
            second = outcome(lambda: client.infer("m", [tensor("I", _FLOATS)])["O"].tolist())
    if end != "stay" and isinstance(first, type) and issubclass(first, DeadlineExceeded):
        raise Fault("a call waited for a peer that was gone")
    if not cuts and second != [_TAG] and not isinstance(second, type):
        raise Fault(f"an answer that is not its own: {second}")


async def _outcome(awaitable: Any) -> Any:
    async def wrapped() -> Any:
        return await awaitable

    try:
        return await wrapped()
    except tritonhttp.InferenceServerException as error:
        str(error)
        return type(error)
