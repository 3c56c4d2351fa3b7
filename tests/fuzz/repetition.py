"""Calls through a transport with and without the extension, over peers that answer at random: they must agree.

An input is the seed of random numbers that decide about the calls and the answers.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tritonhttp._repetition.answer import Answer
from tritonhttp._transport.address import Address
from tritonhttp._transport.blocking import BlockingTransport
from tritonhttp._transport.policy import Connections, Timeouts
from tritonhttp._wire.http1 import parse_head
from tritonhttp._wire.requests import encode_head
from tritonhttp.errors import ConnectionLost, InferenceServerException

from ..adversity.servers import Peer, Server
from ..framing import inference_answer
from .outcomes import Fault, mutated

#: How long a call waits for a peer that has fallen silent, in seconds.
_SHORT = 0.02
_TOKENS = (*(b"%d" % number for number in (0, 1, 9, 42, 99)), b"\r\n", b": ", b"HTTP/1.1 200 OK\r\n")


class _Off:
    """In the extension's place."""

    calls = ended = 0

    def repeat(self, *arguments: object) -> None:
        return None


def _course(seed: str, data: bytes) -> tuple[list[bytes], float, str]:
    """Return what answers a request: pieces, the pause behind each, and what the peer does in the end."""
    generator = random.Random(f"{seed} {data.hex()}")
    answer = inference_answer(b"{json}", data)
    end = generator.choices(("stay", "close", "reset", "silence"), (20, 2, 2, 1))[0]
    if end == "silence":
        answer = answer[: generator.randrange(len(answer))]
    elif end != "stay" and generator.random() < 0.8:
        answer = mutated(generator, answer, generator.randrange(1, 4), _TOKENS)
    cuts = sorted(generator.randrange(len(answer) + 1) for _ in range(generator.choice((0, 0, 0, 1, 3))))
    pieces = [answer[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
    return pieces, generator.choice((0.0, 0.0, 0.001)), end


class _Server(Server):
    """A server whose answers are drawn by what is asked, one of these `calls`."""

    def __init__(self, seed: str, calls: list[bytes]) -> None:
        self._seed = seed
        #: Set when the connection of a request was closed.
        self.gone = {data: threading.Event() for data in (b"", *calls)}
        super().__init__((self._talk,))

    def _talk(self, peer: Peer) -> None:
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = b""
        with contextlib.suppress(OSError), peer.sock:
            while (head := peer.read_head()) and (body := peer.read_body(head)) is not None:
                data = body[:8]
                pieces, pause, end = _course(self._seed, data)
                for piece in pieces:
                    peer.send(piece)
                    time.sleep(pause)
                if end == "reset":
                    peer.reset()
                if end in ("close", "reset"):
                    break
        self.gone[data].set()


def _call(transport: BlockingTransport, server: _Server, seed: str, data: bytes, alone: bool) -> Any:
    """Return what becomes of a call; where it is `alone`, after the peer has closed if it does."""
    generator = random.Random(f"{seed} {data!r}")
    end = _course(seed, data)[2]
    left = _SHORT if end == "silence" else generator.choice((None, None, 60.0))
    payload = data + bytes(generator.choices((0, 5000, 1 << 18, 1 << 22), (20, 4, 1, 1))[0])
    expected = inference_answer(b"{json}", data)
    head_size = expected.index(b"{json}")
    request, end_of_call = (
        encode_head("POST", "/v2", "", len(payload)) + payload,
        left and time.monotonic() + left,
    )
    try:
        known = Answer(expected[:-8], parse_head(expected[:head_size]), len(expected), -1)
        answer = transport.exchange("POST", "/v2", [request], deadline=end_of_call, answer=known)
    except InferenceServerException as error:
        outcome: Any = type(error).__name__
    else:
        outcome = answer.status_code, bytes(answer.body)
    if alone and end in ("close", "reset"):
        assert server.gone[data].wait(10), "the peer did not close"
    return outcome


def _run(seed: str, extension: bool) -> tuple[list[Any], int, bool]:
    """Return the outcomes of calls, how many the extension took, and whether there was one thread only."""
    generator = random.Random(seed)
    threads = generator.choice((1, 1, 1, 2, 4))
    limit = generator.randint(1, threads)
    calls = [struct.pack("<Q", number) for number in range(generator.randrange(60))]
    with _Server(seed, calls) as server:
        transport = BlockingTransport(
            Address("127.0.0.1", server.port, False, ""), limit, Timeouts(network=30.0), None, Connections()
        )
        if not extension:
            transport.repeater = _Off()  # type: ignore[assignment]
        try:
            with ThreadPoolExecutor(threads) as executor:
                outcomes = list(
                    executor.map(lambda data: _call(transport, server, seed, data, threads == 1), calls)
                )
            pool = transport.pool
            assert not [*pool.holders, *pool.line], (pool.holders, pool.line)
            assert set(pool.idle) == set(transport._connections), (pool.idle, transport._connections)
            assert len(pool.idle) <= limit, pool.idle
            assert transport.counts.calls == len(calls), transport.counts
            transport.close()
            assert not [*pool.holders, *pool.line, *pool.idle], (pool.holders, pool.line, pool.idle)
            assert transport.counts.opened == transport.counts.closed, transport.counts
        finally:
            transport.close()
    return outcomes, transport.repeater.calls, threads == 1


def repetition(data: bytes) -> None:
    """Compare the outcomes of calls with and without the extension."""
    seed = data.hex()
    try:
        (first, _, alone), (second, _, _) = _run(seed, True), _run(seed, False)
        for number, pair in enumerate(zip(first, second, strict=True)):
            # With others, a call may be sent over a connection just before its peer closes it.
            same = pair[0] == pair[1] or (not alone and ConnectionLost.__name__ in pair)
            assert same, f"call {number}, {_course(seed, struct.pack('<Q', number))}: {pair}"
    except AssertionError as error:
        raise Fault(str(error)) from error
