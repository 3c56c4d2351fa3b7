"""Calls of every function of the C extensions, those that fail included; and a program that repeats them.

``python -m tests.fuzz.extensions [--calls 1000000]`` fails if memory grows, or, on a debug build, if the
count of all references does.
"""

# ruff: noqa: T201  a program

from __future__ import annotations

import argparse
import contextlib
import gc
import math
import operator
import resource
import socket
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tritonhttp import InferenceServerClient, InferInput, InferRequestedOutput
from tritonhttp._protocol.inference import Inference
from tritonhttp._repetition import template
from tritonhttp._repetition.repeater import Place, Repeater, Track
from tritonhttp._transport.pool import Pool
from tritonhttp._wire import bytes_tensor
from tritonhttp._wire.requests import COALESCE

__all__ = ["cases"]

_REQUEST, _START, _DATA = b"request", b"HEAD{json}", b"12345678"
_ANSWER = _START + _DATA
_NETWORK = 10.0
#: A peer in a process of its own: what is done to allocations here is not done there.
_PEER = (
    "import socket, sys\nwith socket.socket(fileno=int(sys.argv[1])) as sock:\n"
    f" while sock.recv(7, socket.MSG_WAITALL): sock.sendall({_ANSWER!r})"
)
Call = Callable[[], Any]
#: A name, a call, and where it may leave something to be settled behind it, what does that.
Case = tuple[Any, ...]


class _Line(Track):
    """A connection whose peer answers every request with the same bytes."""

    __slots__ = ("room",)

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(_NETWORK), 0))
        self.room = bytearray(256)
        self.attach(sock.fileno(), self.room)
        self.armed = _NETWORK


def _refused(function: Callable[..., Any], *arguments: Any) -> Call:
    """Return a call whose error is its outcome."""

    def call() -> Any:
        try:
            return function(*arguments)
        except MemoryError:
            raise
        except (
            BufferError,
            OverflowError,
            TypeError,
            ValueError,
            OSError,
            RuntimeError,
            LookupError,
            AttributeError,
        ) as error:
            return type(error)

    return call


#: Makes bytes of an element, as `_as_bytes` does; in C, because CPython 3.11 loses the error of a frame without
#: memory.
_convert = operator.getitem
_CONVERTED = (b"converted",) * 9


def _encode_meddled(c: Any, meddle: Callable[[list[Any]], object]) -> Any:
    """Encode a list that changes while its items are converted."""
    items = [b"first", object()]

    def convert(item: Any, index: int) -> bytes:
        meddle(items)
        return b"converted"

    return c.encode(items, convert)


def _replace_first(items: list[Any]) -> None:
    items[0] = b"longer than the first"


def _frames() -> Iterator[Case]:
    c = bytes_tensor._speedups
    mixed = [b"bytes", "text", "t\xe4xt", "\u20ac\U0001f600", _CONVERTED, list(_CONVERTED), b""]
    frames = c.encode(list(mixed), _convert)
    array = np.empty(len(mixed), object)
    words = b"a\0\0bc\0def\0\0\0"
    yield "encode", lambda: c.encode(list(mixed), _convert)
    yield "encode, an item is refused", _refused(lambda: c.encode([b"a", None], _convert))
    yield "encode, a lone surrogate", _refused(lambda: c.encode(["\ud800"], _convert))
    yield "encode, converted to no bytes", _refused(lambda: c.encode([["text"]], _convert))
    yield "encode, converting empties the list", _refused(lambda: _encode_meddled(c, list.clear))
    yield "encode, converting replaces an item", _refused(lambda: _encode_meddled(c, _replace_first))
    yield "encode, no list", _refused(lambda: c.encode((), _convert))
    yield "encode_fixed", lambda: c.encode_fixed(words, 3)
    yield "encode_fixed, no whole number", _refused(c.encode_fixed, words, 5)
    yield "encode_fixed, width 0", _refused(c.encode_fixed, words, 0)
    yield "encode_fixed, no buffer", _refused(c.encode_fixed, "text", 3)
    yield "scan", lambda: c.scan(frames)
    yield "scan, no buffer", _refused(c.scan, None)
    yield "fill", lambda: c.fill(frames, array)
    yield "fill, no buffer", _refused(c.fill, None, array)
    yield "fill, no array", _refused(c.fill, frames, b"read-only")
    yield "fill, an array of numbers", _refused(c.fill, frames, np.empty(7))
    yield "fill, one argument", _refused(c.fill, frames)


def _searches(client: InferenceServerClient) -> Iterator[Case]:
    inputs = [InferInput.from_numpy(name, np.arange(3, dtype=np.float32)) for name in ("a", "b")]
    inputs.append(InferInput.from_numpy("s", np.array(["text"], object)))
    placed = InferInput("r", [4], "INT8").set_shared_memory("region", 4)
    for what, given, outputs, spoil in (
        ("without outputs", inputs, None, {}),
        ("with outputs", [*inputs, placed], [InferRequestedOutput("o")], {}),
        ("another type", [*inputs, object()], None, {}),
        ("tuples", tuple(inputs), (), {}),
        ("no size", [inputs[0]], None, {"size": None}),
        ("no json", [inputs[1]], None, {"json": None}),
        ("another size", [inputs[2]], None, {"size": 99}),
        ("many outputs", inputs[:1], [InferRequestedOutput(f"o{number}") for number in range(24)], {}),
        ("no buffer", [InferInput.from_numpy("n", np.arange(3))], None, {}),
        ("too large", [*inputs, inputs[0]], None, {"size": 1 << 40}),
    ):
        inference = Inference("model", given, "1", outputs)
        if type(given) is list and object not in map(type, given):
            made = client._encoder.encode(inference, None, None).template
            for name, value in spoil.items():
                setattr(made, name, value)
        if what == "no buffer":
            given[0]._binary = object()
        table = client._encoder.templates
        rest: tuple[Any, ...] = (COALESCE, template.LARGEST, b"?q", b"A: b\r\n", b'"id":"1",', None)

        def found(arguments: tuple[Any, ...] = (table, inference, InferInput, InferRequestedOutput)) -> Any:
            seen = template.find(*arguments)
            return None if seen is None else (seen[0].target, len(seen[1]))

        def composed(
            arguments: tuple[Any, ...] = (table, inference, InferInput, InferRequestedOutput, *rest),
        ) -> Any:
            seen = template.compose(*arguments)
            return None if seen is None else seen[1]

        yield f"find, {what}", found
        yield f"compose, {what}", composed
    nothing: tuple[Any, ...] = ({}, object(), InferInput, InferRequestedOutput)
    yield "find, no inference", lambda: template.find(*nothing)
    yield "compose, no inference", lambda: template.compose(*nothing, 1, 1, b"", b"", b"", None)
    yield "find, one argument", _refused(template.find, {})
    yield "compose, one argument", _refused(template.compose, {})
    yield (
        "compose, no number",
        _refused(template.compose, {}, None, None, None, "1", "1", b"", b"", b"", b""),
    )


def _exchanges(sock: socket.socket) -> Iterator[Case]:
    pool: Pool[Any] = Pool(8)
    line = _Line(sock)
    pool.idle.append(line)
    repeater: Any = Repeater(pool, _NETWORK, 30.0)
    ends = socket.socketpair()
    tracks = [_Line(end) for end in ends]
    room = bytearray(16)

    places: list[Any] = [None]
    others = [Track() for _ in range(8)]

    def repeat(
        start: bytes = _START,
        size: int = len(_ANSWER),
        until: Any = None,
        place: Any = None,
        by: Any = repeater,
    ) -> Any:
        places[0] = place = place or Place()
        return by.repeat(place, _REQUEST, start, 4, size, until)

    def in_line(ahead: int) -> Any:
        pool.line.extend([Place() for _ in range(ahead)])
        place: Any = Place()
        pool.line.append(place)
        return repeat(place=place)

    def with_connection() -> Any:
        place: Any = Place()
        pool.holders.add(place)
        place.connection = pool.idle.pop()
        return repeat(place=place)

    def cancelled() -> Any:
        place: Any = Place()
        place.cancelled = True
        return repeat(place=place)

    def of(idle: Any) -> Any:
        pool.idle = idle
        return repeat()

    def crowd() -> None:
        """Have more idle connections, in a list that is made smaller when one is taken."""
        settle()
        pool.idle = []
        for each in (*others[:7], line, others[7]):
            pool.idle.append(each)
        pool.idle.pop()

    def settle() -> None:
        """Give the connection back, as the transport does that resumes an exchange; it must be in one place."""
        place = places[0]
        if place is not None and place.connection is not None:
            assert pool.holders == {place}
            assert line not in pool.idle
            line.ahead, line.came = 0, -1
            assert pool.give_back(place, reusable=True) is None
        places[0] = None
        line.armed, line.expires = _NETWORK, math.inf
        assert not pool.holders
        assert pool.idle.count(line) == 1
        pool.line.clear()
        pool.idle = [line]

    def settle_tuple() -> None:
        pool.idle = [line]
        settle()

    def receive() -> Any:
        ends[1].send(b"hello")
        return tracks[0].receive(room, time.monotonic() + 10), room.startswith(b"hello")

    def drain() -> None:
        with contextlib.suppress(BlockingIOError):
            ends[0].recv(100, socket.MSG_DONTWAIT)

    def attach(fd: int) -> Track:
        track: Any = Track()
        track.attach(fd, room)
        track.detach()
        return track

    def unfit(**attributes: Any) -> Any:
        before = {name: getattr(line, name) for name in attributes}
        try:
            for name, value in attributes.items():
                setattr(line, name, value)
            return repeat()
        finally:
            for name, value in before.items():
                setattr(line, name, value)

    yield "repeat", repeat, settle
    yield "repeat, another answer", lambda: repeat(b"ELSE{json}"), settle
    yield "repeat, another size", lambda: repeat(b"HEAD", 99), settle
    yield "repeat, until then", lambda: repeat(until=time.monotonic() + 5), settle
    yield "repeat, too late", lambda: repeat(until=time.monotonic() - 1), settle
    yield "repeat, armed otherwise", lambda: unfit(armed=3.0), settle
    yield "repeat, expired", lambda: unfit(expires=0.0), settle
    yield "repeat, first in line", lambda: in_line(0), settle
    yield "repeat, third in line", lambda: in_line(2), settle
    yield "repeat, behind all room", lambda: in_line(9), settle
    yield "repeat, with a connection", with_connection, settle
    yield "repeat, cancelled", cancelled, settle
    yield "repeat, idle is a tuple", lambda: of((line,)), settle_tuple
    yield "repeat, a connection of another kind", lambda: of([line, object()]), settle_tuple
    yield "repeat, of a pool without books", _refused(lambda: repeat(by=Repeater(None, 1.0, 1.0))), settle
    crowd()
    yield "repeat, of many", repeat, crowd
    settle()
    yield "repeat, no arguments", _refused(repeater.repeat)
    yield "repeat, no numbers", _refused(lambda: repeater.repeat(Place(), b"", b"", "1", "2", None))
    yield "repeat, sizes of no answer", _refused(lambda: repeater.repeat(Place(), b"", b"", 3, 2, None))
    yield "repeat, no time", _refused(lambda: repeater.repeat(Place(), b"", b"", 0, 2, "now"))
    yield "receive", receive, drain
    yield "receive, nothing", _refused(lambda: tracks[0].receive(room, 0.0))
    yield "receive, detached", _refused(lambda: attach(ends[0].fileno()).receive(room, 0.0))
    yield "receive, one argument", _refused(tracks[0].receive, room)
    yield "receive, no buffer", _refused(tracks[0].receive, b"", 0.0)
    yield "attach", lambda: type(attach(ends[0].fileno()))
    yield "attach, twice", _refused(line.attach, 0, room)
    yield "attach, no memory", _refused(lambda: Track().attach(0, b""))
    yield "Track, an argument", _refused(Track, 1)
    yield "Place", lambda: type(Place())
    yield "Place, referred to", lambda: weakref.ref(Place())() is None
    yield "Place, an argument", _refused(Place, 1)
    yield "Repeater", lambda: type(Repeater(pool, 1.0, 2.0))
    yield "Repeater, no arguments", _refused(Repeater)
    yield "Repeater, by name", _refused(lambda: Repeater(pool, network=1.0, max_idle=1.0))
    for end in ends:
        end.close()


@contextlib.contextmanager
def cases() -> Iterator[Iterator[tuple[str, Call, Call]]]:
    """Give the calls by what they do. Each returns the same whenever it is made."""
    sock, peer = socket.socketpair()
    with sock, peer, InferenceServerClient("127.0.0.1:1") as client:
        fd = peer.fileno()
        with subprocess.Popen([sys.executable, "-c", _PEER, str(fd)], pass_fds=[fd]) as process:

            def all_of_them() -> Iterator[Case]:
                yield from _frames()
                yield from _searches(client)
                yield from _exchanges(sock)

            def whole() -> Iterator[tuple[str, Call, Call]]:
                for name, call, *settle in all_of_them():
                    yield name, call, settle[0] if settle else lambda: None

            peer.close()
            try:
                yield whole()
            finally:
                sock.close()
                process.wait(30)


def _rss() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


#: References that numpy takes in a call: its wheel is no debug build, and does not count them, but Python counts
#: their end.
_UNCOUNTED = {
    "fill": 1,
    "fill, an array of numbers": 1,
    "compose, without outputs": 2,
    "compose, with outputs": 2,
    "compose, many outputs": 1,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=1_000_000, help="of each kind")
    parser.add_argument("--references", action="store_true", help="do not judge memory: a sanitizer keeps it")
    options = parser.parse_args()
    count: int = options.calls
    references = getattr(sys, "gettotalrefcount", None)
    print("references are counted" if references else "no debug build: memory alone is measured")
    leaks = total = 0
    counted: Callable[[], int] = references or (lambda: 0)
    own = _grown(counted, lambda: None, lambda: None, count)  # the measuring's own
    with cases() as all_of_them:
        for name, call, settle in all_of_them:
            _grown(counted, call, settle, 200)
            memory, began = _memory(), time.monotonic()
            drift = (
                _grown(counted, call, settle, count)
                - own
                + _UNCOUNTED.get(name, 0) * bool(references) * count
            )
            more = _memory() - memory
            shown = f", references {drift:+}" if references else ""
            leaked = bool(drift) or (more > (2 << 20) + count and not options.references)
            print(f"{name}: {count:,} calls in {time.monotonic() - began:.1f} s, memory {more >> 10:+,} KiB{shown}"
                  + " LEAK" * leaked)  # fmt: skip
            leaks += leaked
            total += count
    print(f"{total:,} calls, {leaks} leaks")
    return bool(leaks)


def _memory() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _grown(counted: Callable[[], int], call: Call, settle: Call, count: int) -> int:
    gc.collect()
    before = counted()
    for _ in range(count):
        call()
        settle()
    gc.collect()
    return counted() - before


if __name__ == "__main__":
    sys.exit(main())
