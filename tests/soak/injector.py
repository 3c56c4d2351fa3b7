"""A TCP proxy in front of Triton that cuts, delays and corrupts, on purpose and at random.

Run ``python -m tests.soak.injector PORT:PORT... RATE SEED``: it prints its own ports, one for each of Triton's,
and when its standard input ends what it has done. RATE is the share of exchanges with a fault.

Requests and answers go in lockstep: one answer is passed on for each request, and a connection ends with an
exchange whose request was damaged. So whatever the client gets belongs to the request it has sent, as far as HTTP
can tell. Only heads and framing are damaged: no HTTP client can notice another byte in a payload.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import socket
import struct
import sys
from asyncio import StreamReader, StreamWriter
from collections import Counter

_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_PIECE = 1 << 18
#: How often each fault comes, among all faults. Those behind which a client can only wait for long are rare.
FAULTS = {
    "refused": 2,
    "request cut": 4,
    "request head damaged": 4,
    "cut before the answer": 6,
    "cut in the head": 6,
    "cut in the body": 6,
    "delayed": 6,
    "body delayed": 3,
    "head in pieces": 3,
    "head damaged": 8,
    "length changed": 2,
    "framing damaged": 4,
    "noise before the head": 3,
    "answered twice": 3,
    "silence": 0.3,
}
#: Seconds of silence.
_SILENCE = 8.0


class Cut(Exception):
    """The connection ends here."""


class Injector:
    """Carries connections to Triton's port.

    Parameters
    ----------
    rate : float
        The share of exchanges with a fault.
    seed : int
        Of the random numbers.
    """

    def __init__(self, rate: float, seed: int) -> None:
        self.rate = rate
        self.random = random.Random(seed)
        self.done: Counter[str] = Counter()
        #: asyncio itself keeps no task alive.
        self._tasks: set[asyncio.Task[None] | None] = set()

    def _fault(self) -> str:
        """Return the fault of the next exchange; "" for none."""
        if self.random.random() >= self.rate:
            return ""
        return self.random.choices(list(FAULTS), list(FAULTS.values()))[0]

    async def carry(self, port: int, reader: StreamReader, writer: StreamWriter) -> None:
        """Carry one connection."""
        upstream: StreamWriter | None = None
        self._tasks.add(task := asyncio.current_task())
        try:
            answers, upstream = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
            while await self._exchange(reader, writer, answers, upstream):
                pass
        except (OSError, EOFError, ValueError, Cut, asyncio.LimitOverrunError):
            pass
        finally:
            self._tasks.discard(task)
            for each in (writer, upstream):
                if each is not None:
                    self._end(each)

    def _end(self, writer: StreamWriter) -> None:
        """End a connection, half of the time by a reset."""
        sock = writer.get_extra_info("socket")
        if sock is not None and self.random.random() < 0.5:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def _exchange(
        self, reader: StreamReader, writer: StreamWriter, answers: StreamReader, upstream: StreamWriter
    ) -> bool:
        """Carry one request and its answer; return whether the connection goes on."""
        head = await reader.readuntil(_END)
        fault = self._fault()
        if fault == "head damaged" and self.random.random() < 0.2:
            fault = "status damaged"
        if fault:
            self.done[fault] += 1
        if fault == "refused":
            raise Cut
        length = _length(head)
        if fault == "request cut":
            size = self.random.randrange(len(head) + length)
            upstream.write(head[:size])
            await self._pass(reader, upstream, max(0, size - len(head)))
            raise Cut
        upstream.write(self._damaged(head) if fault == "request head damaged" else head)
        await self._pass(reader, upstream, length)
        await self._answer(fault, answers, writer)
        return fault != "request head damaged" and not (fault and self.random.random() < 0.3)

    async def _answer(self, fault: str, reader: StreamReader, writer: StreamWriter) -> None:
        """Pass an answer on."""
        head = await reader.readuntil(_END)
        while head.split(b" ", 2)[1] == b"100":
            writer.write(head)
            head = await reader.readuntil(_END)
        if fault == "cut before the answer":
            raise Cut
        if fault == "delayed":
            await asyncio.sleep(self.random.expovariate(5))
        elif fault == "silence":
            await asyncio.sleep(_SILENCE)
            raise Cut
        elif fault == "cut in the head":
            writer.write(head[: self.random.randrange(1, len(head))])
            await writer.drain()
            raise Cut
        chunked, length = _CHUNKED.search(head) is not None, _length(head)
        if fault == "answered twice" and not chunked and length < 1 << 14:
            whole = head + await reader.readexactly(length)
            writer.write(whole + whole)  # in one segment: the second is there as soon as the first
            await writer.drain()
            return
        for piece in self._heads(fault, head):
            writer.write(piece)
            await writer.drain()
            if fault == "head in pieces":
                await asyncio.sleep(0.002)
        if chunked:
            await self._pass_chunks(fault, reader, writer)
            return
        first = self.random.randrange(length) if length and "body" in fault else 0
        await self._pass(reader, writer, first)
        if fault == "cut in the body":
            raise Cut
        if fault == "body delayed":
            await asyncio.sleep(self.random.expovariate(5))
        await self._pass(reader, writer, length - first)

    def _heads(self, fault: str, head: bytes) -> list[bytes]:
        """Return an answer's head as it is sent, in pieces."""
        chance = self.random
        if fault == "head in pieces":
            return [head[start : start + 7] for start in range(0, len(head), 7)]
        if fault == "head damaged":
            return [self._damaged(head)]
        if fault == "status damaged":
            return [re.sub(rb" \d\d\d ", b" %d " % chance.randrange(100, 1000), head, count=1)]
        if fault == "length changed":
            length = max(0, _length(head) + chance.choice((-100, -8, -1, 1, 8, 100)))
            return [_LENGTH.sub(b"\r\nContent-Length: %d" % length, head)]
        if fault == "noise before the head":
            noise = chance.choice((b"\r\n", b"\0", chance.randbytes(20), b"0\r\n\r\n", b'{"error": 1}'))
            return [noise + head]
        if fault == "framing damaged":
            more = chance.choice(
                (
                    b"\r\nTransfer-Encoding: chunked",
                    b"\r\nContent-Length: 5",
                    b"\r\nContent-Encoding: gzip",
                    b"\r\nInference-Header-Content-Length: 7",
                )
            )
            return [head] if _CHUNKED.search(head) else [head[:-4] + more + _END]
        return [head]

    def _damaged(self, head: bytes) -> bytes:
        """Return a head with a few bytes changed, missing or too many."""
        chance, damaged = self.random, bytearray(head)
        for _ in range(chance.choice((1, 1, 1, 2, 8))):
            at = chance.randrange(len(damaged))
            how = chance.randrange(4)
            if how == 0:
                damaged[at] ^= 1 << chance.randrange(8)
            elif how == 1:
                damaged[at] = chance.randrange(256)
            elif how == 2:
                del damaged[at]
            else:
                damaged.insert(at, chance.randrange(256))
        return bytes(damaged)

    async def _pass(self, reader: StreamReader, writer: StreamWriter, left: int) -> None:
        while left:
            piece = await reader.read(min(left, _PIECE))
            if not piece:
                raise Cut
            left -= len(piece)
            writer.write(piece)
            await writer.drain()

    async def _pass_chunks(self, fault: str, reader: StreamReader, writer: StreamWriter) -> None:
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line, 16)
            if fault == "framing damaged" and self.random.random() < 0.4:
                line = self.random.choice(
                    (b"%x\r\n" % (size + 1), b"%x\r\n" % max(0, size - 1), self._damaged(line))
                )
            writer.write(line)
            if fault == "cut in the body" and self.random.random() < 0.4:
                await writer.drain()
                raise Cut
            if fault == "body delayed":
                await asyncio.sleep(self.random.expovariate(20))
            await self._pass(reader, writer, size + 2)
            if not size:
                return


def _length(head: bytes) -> int:
    found = _LENGTH.search(head)
    return int(found[1]) if found else 0


async def run(ports: list[int], rate: float, seed: int) -> None:
    """Carry connections until standard input ends; print the ports at first, and the faults in the end."""
    injector = Injector(rate, seed)
    servers = []
    for port in ports:
        carry = lambda reader, writer, port=port: injector.carry(port, reader, writer)  # noqa: E731
        servers.append(await asyncio.start_server(carry, "127.0.0.1", 0, limit=1 << 20, backlog=512))
    own = [server.sockets[0].getsockname()[1] for server in servers]
    print(json.dumps(own), flush=True)  # noqa: T201
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    print(json.dumps(injector.done), flush=True)  # noqa: T201
    os._exit(0)  # whatever is still carried


if __name__ == "__main__":
    asyncio.run(run([int(port) for port in sys.argv[1].split(":")], float(sys.argv[2]), int(sys.argv[3])))
