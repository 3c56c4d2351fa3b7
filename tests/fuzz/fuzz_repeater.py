"""Compare a transport with and without the extension over peers that answer at random, for as long as asked.

Run ``python tests/fuzz/fuzz_repeater.py --seconds 600 --seed 1``; best with the extension built with
``-fsanitize=address,undefined``. Ends with status 1 at the first difference and shows how to see it again.
"""

# ruff: noqa: T201  a program

from __future__ import annotations

import argparse
import contextlib
import random
import resource
import socket
import struct
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

from mutations import mutated

from tritonhttp._repetition.repeater import REPEATS
from tritonhttp._transport.address import Address
from tritonhttp._transport.blocking import BlockingTransport
from tritonhttp._transport.policy import Connections, Timeouts
from tritonhttp._wire.requests import encode_head
from tritonhttp.errors import ConnectionLost, InferenceServerException

#: How long a call waits for a peer that has fallen silent, in seconds.
_SHORT = 0.02


class _Off:
    """In the extension's place."""

    calls = ended = 0

    def repeat(self, *arguments: object) -> None:
        return None


def _answer(data: bytes) -> tuple[bytes, bytes]:
    body = b"{json}" + data
    return b"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: 6\r\nContent-Length: %d\r\n\r\n" % len(
        body
    ), body


def _course(seed: str, data: bytes) -> tuple[list[bytes], float, str]:
    """Return what answers a request: pieces, the pause behind each, and what the peer does in the end."""
    generator = random.Random(f"{seed} {data.hex()}")
    answer = b"".join(_answer(data))
    end = generator.choices(("stay", "close", "reset", "silence"), (20, 2, 2, 1))[0]
    if end == "silence":
        answer = answer[: generator.randrange(len(answer))]
    elif end != "stay" and generator.random() < 0.8:
        answer = mutated(
            generator, answer, generator.randrange(1, 4), lambda: b"%d" % generator.randrange(100)
        )
    cuts = sorted(generator.randrange(len(answer) + 1) for _ in range(generator.choice((0, 0, 0, 1, 3))))
    pieces = [answer[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
    return pieces, generator.choice((0.0, 0.0, 0.001)), end


class _Peer:
    """A server whose answers are drawn by what is asked, one of these `calls`."""

    def __init__(self, seed: str, calls: list[bytes]) -> None:
        self._seed = seed
        #: Set when the connection of a request was closed.
        self.gone = {data: threading.Event() for data in (b"", *calls)}
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
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._threads.append(threading.Thread(target=self._talk, args=(sock,)))
            self._threads[-1].start()

    def _talk(self, sock: socket.socket) -> None:
        data = b""
        with contextlib.suppress(OSError), sock, sock.makefile("rb") as file:
            while line := file.readline():
                if line.startswith(b"Content-Length: "):
                    length = int(line[16:])
                if line != b"\r\n":
                    continue
                data = file.read(length)[:8]
                pieces, pause, end = _course(self._seed, data)
                for piece in pieces:
                    sock.sendall(piece)
                    time.sleep(pause)
                if end == "reset":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if end in ("close", "reset"):
                    break
        self.gone[data].set()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()


def _call(transport: BlockingTransport, peer: _Peer, seed: str, data: bytes, alone: bool) -> Any:
    """Return what becomes of a call; where it is `alone`, after the peer has closed if it does."""
    generator = random.Random(f"{seed} {data!r}")
    end = _course(seed, data)[2]
    left = _SHORT if end == "silence" else generator.choice((None, None, 60.0))
    payload = data + bytes(generator.choices((0, 5000, 1 << 18, 1 << 22), (20, 4, 1, 1))[0])
    head, body = _answer(data)
    request, end_of_call = (
        encode_head("POST", "/v2", "", len(payload)) + payload,
        left and time.monotonic() + left,
    )
    try:
        expected = SimpleNamespace(start=head + body[:-8], head_size=len(head), size=len(head) + len(body))
        answer = transport.exchange("POST", "/v2", [request], deadline=end_of_call, answer=expected)
    except InferenceServerException as error:
        outcome: Any = type(error).__name__
    else:
        outcome = (200, answer) if isinstance(answer, bytes) else (answer.status_code, bytes(answer.body))
    if alone and end in ("close", "reset"):
        assert peer.gone[data].wait(10), "the peer did not close"
    return outcome


def _run(seed: str, extension: bool) -> tuple[list[Any], int, bool]:
    """Return the outcomes of calls, how many the extension took, and whether there was one thread only."""
    generator = random.Random(seed)
    threads = generator.choice((1, 1, 1, 2, 4))
    limit = generator.randint(1, threads)
    calls = [struct.pack("<Q", number) for number in range(generator.randrange(60))]
    peer = _Peer(seed, calls)
    transport = BlockingTransport(
        Address("127.0.0.1", peer.port, False, ""), limit, Timeouts(network=30.0), None, Connections()
    )
    if not extension:
        transport.repeater = _Off()  # type: ignore[assignment]
    try:
        with ThreadPoolExecutor(threads) as executor:
            outcomes = list(
                executor.map(lambda data: _call(transport, peer, seed, data, threads == 1), calls)
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
        peer.close()
    return outcomes, transport.repeater.calls, threads == 1


def _check(seed: str) -> int:
    """Compare the two; return how many calls the extension took."""
    (first, taken, alone), (second, _, _) = _run(seed, True), _run(seed, False)
    for number, pair in enumerate(zip(first, second, strict=True)):
        # With others, a call may be sent over a connection just before its peer closes it.
        same = pair[0] == pair[1] or (not alone and ConnectionLost.__name__ in pair)
        assert same, f"call {number}, {_course(seed, struct.pack('<Q', number))}: {pair}"
    return taken


def main() -> int:
    """Run until the time is over or something differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    options = parser.parse_args()
    print("extension", "built" if REPEATS else "NOT BUILT", "- seed", options.seed)
    end = time.monotonic() + options.seconds
    done = taken = 0
    while time.monotonic() < end:
        try:
            taken += _check(f"{options.seed} {done}")
        except AssertionError as error:
            print(f"seed {options.seed}, case {done}: {error}")
            return 1
        done += 1
        if done % 500 == 0:
            print(done, "cases,", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "MiB at most")
    print(done, "cases without a difference,", taken, "calls by the extension")
    return 0


if __name__ == "__main__":
    sys.exit(main())
