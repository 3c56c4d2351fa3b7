"""Compare a transport with and without the extension over peers that answer at random, for as long as asked.

Run ``python tests/fuzz/fuzz_repeater.py --seconds 600 --seed 1``; best with the extension built with
``-fsanitize=address,undefined``. Ends with status 1 at the first difference and shows how to see it again.
"""

# ruff: noqa: T201  a program

from __future__ import annotations

import argparse
import contextlib
import random
import socket
import struct
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tritonhttp.errors import ConnectionLost, DeadlineExceeded, InferenceServerException, TransportError
from tritonhttp.transport.address import Address
from tritonhttp.transport.blocking import BlockingTransport
from tritonhttp.transport.policy import Connections, Timeouts
from tritonhttp.transport.repeater import REPEATS
from tritonhttp.wire.http1 import encode_head

_NETWORK = 5.0
#: How long a peer says nothing where it does not close: a call that has less time ends before.
_PAUSE, _HURRY = 0.1, 0.03
_HEAD = b"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: 6\r\nContent-Length: %d\r\n\r\n"
#: What closes a connection between two calls may be seen by the second one before or behind its sending.
_LOST = (ConnectionLost, ConnectionLost.__mro__[1])


class _Off:
    calls = 0

    def repeat(self, *arguments: object) -> None:
        return None


def _answer(data: bytes) -> bytes:
    body = b"{json}" + data
    return _HEAD % len(body) + body


def _mutated(generator: random.Random, answer: bytes) -> bytes:
    mutated = bytearray(answer)
    for _ in range(generator.randrange(1, 4)):
        position = generator.randrange(len(mutated) + 1)
        match generator.randrange(5):
            case 0:
                del mutated[position:]
            case 1:
                mutated[position:position] = generator.randbytes(generator.randrange(6))
            case 2:
                del mutated[position : position + generator.randrange(6)]
            case 3:
                mutated[position : position + 1] = b"%d" % generator.randrange(100)
            case _:
                mutated[position : position + 1] = generator.randbytes(1)
    return bytes(mutated)


def _course(generator: random.Random, data: bytes) -> tuple[list[bytes], float, str]:
    """Return what a peer answers: the pieces, the pause between two of them, and what it does behind them."""
    answer = _answer(data)
    end = "stay"
    if generator.random() < 0.3:
        answer, end = _mutated(generator, answer), generator.choice(("close", "close", "reset"))
    elif generator.random() < 0.1:
        end = "close"
    elif generator.random() < 0.1:
        answer += generator.randbytes(generator.randrange(1, 9))
        end = "close"
    cuts = sorted(generator.randrange(len(answer) + 1) for _ in range(generator.choice((0, 0, 0, 1, 3))))
    pieces = [answer[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
    return pieces, generator.choice((0.0, 0.002, _PAUSE if generator.random() < 0.2 else 0.0)), end


def _read(sock: socket.socket) -> bytes | None:
    """Return the body of the next request."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (piece := sock.recv(1 << 16)):
            return None
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.rpartition(b"Content-Length: ")[2])
    while len(body) < length:
        if not (piece := sock.recv(1 << 20)):
            return None
        body += piece
    return body


class _Peer:
    """A server; each request names the course of its answer."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._talk, args=(sock,)))
            self._threads[-1].start()

    def _talk(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock:
            while (body := _read(sock)) is not None:
                pieces, pause, end = _course(random.Random(f"{self._seed} {body[:8].hex()}"), body[:8])
                for piece in pieces:
                    sock.sendall(piece)
                    time.sleep(pause)
                if end == "reset":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if end != "stay":
                    return

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()


def _outcome(transport: BlockingTransport, number: int, size: int, hurry: bool) -> Any:
    data = struct.pack("<Q", number)
    start = _answer(data)[:-8]
    request = encode_head("POST", "/v2", "", 8 + size) + data + bytes(size)
    deadline = time.monotonic() + _HURRY if hurry else None
    try:
        answer = transport.repeat("/v2", request, start, start.index(b"{json}"), len(start) + 8, deadline)
    except InferenceServerException as error:
        return type(error)
    if isinstance(answer, bytes):
        return 200, answer
    return answer.status_code, bytes(answer.body)


def _run(seed: str, extension: bool) -> tuple[list[list[Any]], int]:
    """Return what became of each thread's calls, and how many the extension took."""
    generator = random.Random(seed)
    peer = _Peer(seed)
    threads = generator.choice((1, 1, 2, 4))
    # Each has a place, so that no call waits for those of others.
    transport = BlockingTransport(
        Address("127.0.0.1", peer.port, False, ""), threads, Timeouts(network=_NETWORK), None, Connections()
    )
    repeater = transport._repeater
    if not extension:
        transport._repeater = _Off()  # type: ignore[assignment]
    plans = [
        [
            (
                thread << 32 | turn,
                generator.choice((0, 0, 0, 1000, 1 << 17, 1 << 22 if generator.random() < 0.2 else 0)),
                generator.random() < 0.1,
            )
            for turn in range(generator.randrange(1, 30))
        ]
        for thread in range(threads)
    ]

    def calls(plan: list[tuple[int, int, bool]]) -> list[Any]:
        return [_outcome(transport, *call) for call in plan]

    with ThreadPoolExecutor(threads) as executor:
        outcomes = list(executor.map(calls, plans))
    pool = transport._pool
    assert pool.taken == len(pool.idle) == len(transport._connections), (pool.taken, pool.idle)
    assert transport.counts.calls == sum(map(len, plans)), transport.counts
    transport.close()
    assert pool.taken == 0, pool.taken
    peer.close()
    return outcomes, repeater.calls


def _same(first: Any, second: Any) -> bool:
    """Whether two outcomes are alike, as far as the network's timing leaves them so."""
    if first == second:
        return True
    # A call over a connection that the peer was about to close, or that ran out of time on a busy machine.
    return any(
        isinstance(each, type) and issubclass(each, ConnectionLost | DeadlineExceeded)
        for each in (first, second)
    ) and all(isinstance(each, tuple) or issubclass(each, TransportError) for each in (first, second))


def main() -> int:
    """Run until the time is over or something differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    options = parser.parse_args()
    print("extension", "built" if REPEATS else "NOT BUILT", "- seed", options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
