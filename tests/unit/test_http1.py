"""HTTP/1.1 on bytes: every response read whole, byte by byte, split anywhere, and with trailing data."""

from __future__ import annotations

import itertools
import mmap
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritonhttp._wire.http1 import MAX_HEAD, ResponseReader, parse_head
from tritonhttp._wire.requests import (
    COALESCE,
    amended,
    coalesce,
    encode_head,
    header_line,
    without_expectation,
)
from tritonhttp._wire.responses import Response, ResponseHead
from tritonhttp.errors import InvalidRequest, ProtocolError


class Read(NamedTuple):
    """What came of reading some bytes: the response or the error, and the state of the connection."""

    status: int = 0
    reason: str = ""
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    error: str = ""
    rest: int = 0
    reusable: bool = True


def read(
    data: bytes, sizes: list[int] | None = None, eof: bool = True, reader: ResponseReader | None = None
) -> Read:
    """Feed data in pieces of the given sizes, the last of them repeated, as a socket would."""
    reader = reader or ResponseReader()
    sizes = list(sizes or [len(data) or 1])
    position = 0
    try:
        complete = False
        while position < len(data) and not complete:
            buffer = reader.get_buffer()
            size = min(sizes[0] if len(sizes) == 1 else sizes.pop(0), len(buffer), len(data) - position)
            if size == 0:
                continue
            buffer[:size] = data[position : position + size]
            position += size
            complete = reader.received(size)
        if not complete and not (eof and reader.received_eof()):
            return Read(error=f"incomplete: {reader.progress()}")
    except ProtocolError as error:
        return Read(error=type(error).__name__)
    response = reader.response
    assert response is not None
    return Read(
        response.status_code,
        response.reason,
        bytes(response.body),
        tuple(sorted(response.headers.items())),
        rest=len(data) - position,
        reusable=reader.reusable,
    )


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

#: Name -> (bytes, status, body, whether the connection may be used again)
SCENARIOS: dict[str, tuple[bytes, int, bytes, bool]] = {
    "length": (OK + b"Content-Length: 5\r\n\r\nhello", 200, b"hello", True),
    "length zero": (OK + b"Content-Length: 0\r\n\r\n", 200, b"", True),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi", True),
    "space for a reason": (b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nhi", 200, b"hi", True),
    "body like a head": (OK + b"Content-Length: 8\r\n\r\n\r\n\r\n\n\n\r\n", 200, b"\r\n\r\n\n\n\r\n", True),
    "error status": (b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy", 503, b"busy", True),
    "chunked": (CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 200, b"abcde", True),
    "chunked, nothing in it": (CHUNKED + b"0\r\n\r\n", 200, b"", True),
    "chunked with extensions": (
        CHUNKED + b'3;a=b\r\nabc\r\n0A;q="x;y"\r\n0123456789\r\n0;last\r\n\r\n',
        200,
        b"abc0123456789",
        True,
    ),
    "chunked with trailers": (
        CHUNKED + b"2\r\nhi\r\n0\r\nExpires: never\r\nX-Sum: 7\r\n\r\n",
        200,
        b"hi",
        True,
    ),
    "chunked, name in capitals": (
        OK + b"TRANSFER-ENCODING: Chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        200,
        b"hi",
        True,
    ),
    "chunked and close": (
        OK + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        200,
        b"hi",
        False,
    ),
    "chunked with a folded trailer": (
        CHUNKED + b"2\r\nhi\r\n0\r\nX-Sum: 7\r\n 8\r\nY:\r\n\t9\r\n\r\n",
        200,
        b"hi",
        True,
    ),
    "chunked, folded": (
        OK + b"Transfer-Encoding:\r\n chunked\r\nX: a\r\n b\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        200,
        b"hi",
        True,
    ),
    "length, folded": (OK + b"Content-Length:\r\n 5\r\n \t\r\n\r\nhello", 200, b"hello", True),
    "close, folded": (OK + b"Connection:\r\n\tclose\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi", False),
    "length in two lines": (OK + b"Content-Length: 5\r\n" * 2 + b"\r\nhello", 200, b"hello", True),
    "no length in two lines": (OK + b"Content-Length: 0\r\n" * 2 + b"\r\n", 200, b"", True),
    "length in a list": (OK + b"Content-Length: 5 , 05,5\r\nX: y\r\n\r\nhello", 200, b"hello", True),
    "lengths in lists and cases": (
        OK + b"content-length: 5,5\r\nX: y\r\nCONTENT-LENGTH:5\r\n\r\nhello",
        200,
        b"hello",
        True,
    ),
    "100 with a folded line first": (
        b"HTTP/1.1 100 Continue\r\nX: a\r\n b\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nhi",
        200,
        b"hi",
        True,
    ),
    "until close": (OK + b"\r\nall of this", 200, b"all of this", False),
    "until close, nothing": (OK + b"X: y\r\n\r\n", 200, b"", False),
    "100 first": (CONTINUE + OK + b"Content-Length: 2\r\n\r\nhi", 200, b"hi", True),
    "100 with headers, then 103": (
        b"HTTP/1.1 100 Go on\r\nX: y\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        + OK
        + b"Content-Length: 2\r\n\r\nhi",
        200,
        b"hi",
        True,
    ),
    "100 before chunks": (CONTINUE + CHUNKED + b"2\r\nhi\r\n0\r\n\r\n", 200, b"hi", True),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    "204 and close": (b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", 204, b"", False),
    "304 with the length it would have": (
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n",
        304,
        b"",
        True,
    ),
    "1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi", False),
    "1.0, length zero": (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", 200, b"", False),
    "1.0 keep-alive": (
        b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nhi",
        200,
        b"hi",
        True,
    ),
    "1.0 until close": (b"HTTP/1.0 200 OK\r\n\r\nhi", 200, b"hi", False),
    "close": (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi", False),
    "uvicorn's 500": (
        b"HTTP/1.1 500 Internal Server Error\r\nserver: uvicorn\r\nContent-Length: 2\r\n\r\nhi",
        500,
        b"hi",
        False,
    ),
    "uvicorn's 422": (
        b"HTTP/1.1 422 Unprocessable Entity\r\nserver: uvicorn\r\nContent-Length: 2\r\n\r\nhi",
        422,
        b"hi",
        True,
    ),
    "another server's 500": (
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\nhi",
        500,
        b"hi",
        True,
    ),
    "close, length zero": (OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n", 200, b"", False),
    "close among options": (OK + b"Connection: x, Close\r\nContent-Length: 0\r\n\r\n", 200, b"", False),
    "an upgrade that is only offered": (
        OK + b"Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nhi",
        200,
        b"hi",
        True,
    ),
}

scenarios = pytest.mark.parametrize(
    ("data", "status", "body", "reusable"), list(SCENARIOS.values()), ids=list(SCENARIOS)
)


def ends_with_connection(data: bytes) -> bool:
    return read(data, eof=False).error != ""


framed = pytest.mark.parametrize(
    ("data", "status", "body"),
    [each[:3] for each in SCENARIOS.values() if not ends_with_connection(each[0])],
    ids=[name for name, each in SCENARIOS.items() if not ends_with_connection(each[0])],
)


@scenarios
def test_read_whole(data: bytes, status: int, body: bytes, reusable: bool) -> None:
    found = read(data)
    assert (found.status, found.body, found.reusable, found.rest) == (status, body, reusable, 0)


@scenarios
def test_read_byte_by_byte(data: bytes, status: int, body: bytes, reusable: bool) -> None:
    assert read(data, [1]) == read(data)


@scenarios
def test_read_split_at_every_point(data: bytes, status: int, body: bytes, reusable: bool) -> None:
    whole = read(data)
    for point in range(1, len(data)):
        assert read(data, [point, len(data)]) == whole, f"split at {point}"


@scenarios
def test_incomplete_at_every_point(data: bytes, status: int, body: bytes, reusable: bool) -> None:
    if ends_with_connection(data):
        data = data[: data.index(b"\r\n\r\n")]
    for point in range(len(data)):
        assert read(data[:point]).error.startswith("incomplete"), f"cut at {point}"


@pytest.mark.parametrize("trailing", [OK + b"Content-Length: 1\r\n\r\nX", b"garbage", b"\0", OK * 400])
@framed
def test_trailing_data_is_no_part_of_it(data: bytes, status: int, body: bytes, trailing: bytes) -> None:
    found = read(data + trailing)
    assert (found.status, found.body) == (status, body)
    assert found.rest or not found.reusable, "what was taken from the socket must not be lost"


@framed
def test_trailing_data_stays_unread_behind_single_bytes(data: bytes, status: int, body: bytes) -> None:
    found = read(data + b"HTTP/1.1", [1])
    assert (found.status, found.body, found.rest) == (status, body, 8)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(SCENARIOS)), st.lists(st.integers(1, 40), min_size=1, max_size=30), st.booleans()
)
def test_the_result_does_not_depend_on_the_split(name: str, sizes: list[int], eof: bool) -> None:
    data = SCENARIOS[name][0]
    assert read(data, sizes, eof) == read(data, None, eof)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_damage_is_refused_or_read_whatever_the_split(data: Any) -> None:
    whole = bytearray(data.draw(st.sampled_from([each[0] for each in SCENARIOS.values()])))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.sampled_from(b"\r\n\0 :;,0123aX\xff"))
    sizes = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=20))
    once, pieces = read(bytes(whole)), read(bytes(whole), sizes)
    if once.error != pieces.error:
        # Early pieces may already be refused, or only the end shows that a head never comes.
        assert {once.error[:10], pieces.error[:10]} <= {"ProtocolEr", "incomplete"}
    else:
        assert once._replace(rest=0, reusable=True) == pieces._replace(rest=0, reusable=True)


def test_one_reader_reads_response_after_response() -> None:
    reader = ResponseReader()
    for data, status, body, reusable in SCENARIOS.values():
        if reusable:
            reader.start()
            assert reader.blank
            found = read(data, [7], reader=reader)
            assert (found.status, found.body, found.reusable) == (status, body, True)
            assert not reader.blank


def test_headers_are_folded_by_name() -> None:
    found = read(OK + b"X-One: a\r\nx-one:  b \r\nEmpty:\r\nSnow: \xc3\xa9\r\nContent-Length: 0\r\n\r\n")
    assert dict(found.headers) == {
        "x-one": "a, b",
        "empty": "",
        "snow": "\xc3\xa9",
        "content-length": "0",
    }


def test_reason_and_progress_are_told() -> None:
    assert read(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").reason == "Not Found"
    assert read(b"").error == "incomplete: no byte of a response"
    assert read(b"HTTP").error == "incomplete: 4 bytes of the response's head"
    assert (
        read(OK + b"Content-Length: 9\r\n\r\n1234").error == "incomplete: 4 of 9 bytes of the response's body"
    )
    assert read(CHUNKED + b"5\r\nab").error == "incomplete: an incomplete body"


def test_an_alert_of_tls_says_what_speaks_there() -> None:
    for data in (b"\x15\x03\x01\x00\x02\x02\x46", b"\x15\x03\x03\x00\x02\x02\x50\r\n\r\n"):
        reader = ResponseReader()
        reader.get_buffer()[: len(data)] = data
        with pytest.raises(ProtocolError, match=r"the server speaks TLS: https://"):
            reader.received(len(data))


def test_settings_of_http_2_say_what_speaks_there() -> None:
    data = b"\0\0\x18\4\0\0\0\0\0\0\4\0\x40\0\0"  # as gRPC's server begins
    reader = ResponseReader()
    reader.get_buffer()[: len(data)] = data
    with pytest.raises(ProtocolError, match="HTTP/2: is this the gRPC port, 8001 on Triton"):
        reader.received(len(data))


# -- refusals ---------------------------------------------------------------------------------------

REFUSED = {
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "html without a head": b"<html><body>hello</body></html>",
    "TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/2 preface": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n",
    "ICY": b"ICY 200 OK\r\n\r\n",
    "lower case": b"http/1.1 200 OK\r\n\r\n",
    "empty line first": b"\r\n" + OK + b"Content-Length: 0\r\n\r\n",
    "status of letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "status of two digits": b"HTTP/1.1 99 OK\r\n\r\n",
    "status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "status 000": b"HTTP/1.1 000 OK\r\n\r\n",
    "no status": b"HTTP/1.1\r\n\r\n",
    "101 with an upgrade": b"HTTP/1.1 101 Go\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "101 without": b"HTTP/1.1 101 Go\r\n\r\n",
    "LF only": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
    "LF after the status": b"HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nhi",
    "LF after a header": OK + b"Content-Length: 2\nX: y\r\n\r\nhi",
    "lengths that differ": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi!",
    "lengths that differ in one line": OK + b"Content-Length: 2, 3\r\n\r\nhi!",
    "length below zero": OK + b"Content-Length: -1\r\n\r\n",
    "length with a sign": OK + b"Content-Length: +1\r\n\r\nh",
    "length in hex": OK + b"Content-Length: 0x1\r\n\r\nh",
    "length of nothing": OK + b"Content-Length:\r\n\r\n",
    "length past 64 bit": OK + b"Content-Length: 18446744073709551616\r\n\r\n",
    "length past all memory": OK + b"Content-Length: 1152921504606846976\r\n\r\n",
    "chunked and a length": OK
    + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "a length and chunked": OK
    + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "coding gzip": OK + b"Transfer-Encoding: gzip\r\n\r\nhi",
    "codings gzip, chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "coding of a similar name": OK + b"Transfer-Encoding: xchunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "header without a colon": OK + b"nothing\r\n\r\n",
    "header without a name": OK + b": y\r\n\r\n",
    "space before the colon": OK + b"X : y\r\n\r\n",
    "NUL in a value": OK + b"X: a\0b\r\n\r\n",
    "CR in a value": OK + b"X: a\rb\r\n\r\n",
    "white space behind the status line": OK + b" X: a\r\nContent-Length: 0\r\n\r\n",
    "folded name": OK + b"X\r\n : a\r\nContent-Length: 0\r\n\r\n",
    "two lengths in one line": OK + b"Content-Length: 5, 6\r\n\r\nhello",
    "two lengths and one": OK + b"Content-Length: 5, 5\r\nContent-Length: 6\r\n\r\nhello",
    "equal lengths that are none": OK + b"Content-Length: x\r\nContent-Length: x\r\n\r\nhello",
    "a length and an empty one": OK + b"Content-Length: 5,\r\n\r\nhello",
    "equal lengths below zero": OK + b"Content-Length: -0, -0\r\n\r\n",
    "equal lengths and chunked": OK
    + b"Content-Length: 2, 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "folded length of two numbers": OK + b"Content-Length: 1\r\n 0\r\n\r\n0123456789",
    "chunked twice": OK + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n2\r\nhi\r\n0\r\n\r\n",
    "chunk size of letters": CHUNKED + b"xyz\r\nhi\r\n",
    "chunk size below zero": CHUNKED + b"-2\r\nhi\r\n",
    "chunk size past 64 bit": CHUNKED + b"fffffffffffffffff\r\nhi\r\n",
    "chunk longer than its size": CHUNKED + b"2\r\nhi!\r\n0\r\n\r\n",
    "chunk lines with LF only": CHUNKED + b"2\nhi\n0\n\n",
}


@pytest.mark.parametrize("sizes", [None, [1]], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("data", list(REFUSED.values()), ids=list(REFUSED))
def test_what_is_no_response_is_refused(data: bytes, sizes: list[int] | None) -> None:
    assert read(data, sizes, eof=False).error == "ProtocolError"


def test_interim_responses_are_counted() -> None:
    """Each is small and would otherwise restart the limits of the head, without end."""
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    whole = OK + b"Content-Length: 2\r\n\r\nhi"
    assert read(interim * 100 + whole, None, eof=False).status == 200
    assert read(interim * 101 + whole, None, eof=False).error == "ProtocolError"
    assert read(interim * 101, [len(interim)], eof=False).error == "ProtocolError"


def test_a_refusal_shows_how_the_answer_begins() -> None:
    reader = ResponseReader()
    reader.get_buffer()[:8] = b"SSH-2.0-"
    with pytest.raises(ProtocolError, match=r"expected an HTTP/1\.1 response, got .*SSH-2\.0-"):
        reader.received(8)


@pytest.mark.parametrize("fold", [b"\r\n ", b"\r\n\t", b"\r\n \t ", b"\r\n \r\n "])
def test_a_folded_line_is_one_value(fold: bytes) -> None:
    head = parse_head(OK + b"A: 1\r\nX: a," + fold + b"b" + fold + b"c\r\nContent-Length: 2, 2\r\n\r\n")
    assert {name: " ".join(value.split()) for name, value in head.headers.items()} == {
        "a": "1",
        "x": "a, b c",
        "content-length": "2",
    }
    assert (head.content_length, head.reason) == (2, "OK")
    assert head.raw.startswith(OK + b"A: 1\r\nX: a," + fold)


@pytest.mark.parametrize("sizes", [None, [1000]])
def test_the_number_of_header_lines_is_limited(sizes: list[int] | None) -> None:
    assert read(OK + b"A: b\r\n" * 255 + b"Content-Length: 0\r\n\r\n", sizes).status == 200
    assert read(OK + b"A: b\r\n" * 256 + b"Content-Length: 0\r\n\r\n", sizes).error == "ProtocolError"


@pytest.mark.parametrize("sizes", [[MAX_HEAD + 100], [1000]])
def test_the_size_of_the_head_is_limited(sizes: list[int]) -> None:
    def head(size: int) -> bytes:
        start, end = OK + b"X: ", b"\r\nContent-Length: 0\r\n\r\n"
        return start + b"y" * (size - len(start) - len(end)) + end

    assert read(head(MAX_HEAD), sizes).status == 200
    assert read(head(MAX_HEAD + 1), sizes).error == "ProtocolError"
    assert read(OK + b"X: " + b"y" * (2 * MAX_HEAD), sizes).error == "ProtocolError"


def test_trailers_count_as_header_lines() -> None:
    data = CHUNKED + b"0\r\n" + b"A: b\r\n" * 300 + b"\r\n"
    assert read(data).error == "ProtocolError"


@pytest.mark.parametrize("head", [OK + b"Content-Length: %d\r\n\r\n", CHUNKED + b"%x\r\n"])
def test_an_announced_size_costs_no_memory_before_the_bytes_come(head: bytes) -> None:
    """Without a limit either. The size of a process counts pages that were written."""
    statistics = Path("/proc/self/statm")
    if not statistics.exists():
        pytest.skip("no /proc")
    before = int(statistics.read_text().split()[1])
    reader = ResponseReader()
    found = read(head % (1 << 33) + b"begun", reader=reader, eof=False)
    grown = (int(statistics.read_text().split()[1]) - before) * mmap.PAGESIZE
    assert found.error.startswith(("incomplete", "ProtocolError"))  # that there is not so much memory
    assert grown < 64 << 20


@pytest.mark.parametrize("size", [10, 70_000, 400_000])
@pytest.mark.parametrize("framing", ["length", "chunked", "until close"])
def test_the_size_of_the_body_is_limited(framing: str, size: int) -> None:
    body = b"b" * size
    data = {
        "length": OK + b"Content-Length: %d\r\n\r\n" % size + body,
        "chunked": CHUNKED + b"%x\r\n" % size + body + b"\r\n0\r\n\r\n",
        "until close": OK + b"\r\n" + body,
    }[framing]
    for sizes in (None, [max(1, size // 7)]):
        assert read(data, sizes, reader=ResponseReader(max_body=size)).body == body
        assert read(data, sizes, reader=ResponseReader(max_body=size - 1)).error == "ProtocolError"


@pytest.mark.parametrize("size", [1, MAX_HEAD - 40, MAX_HEAD, MAX_HEAD + 1, 1_000_000])
@pytest.mark.parametrize("framing", ["length", "chunked", "until close"])
def test_bodies_of_all_sizes_arrive(framing: str, size: int) -> None:
    body = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    data = {
        "length": OK + b"Content-Length: %d\r\n\r\n" % size + body,
        "chunked": CHUNKED
        + b"".join(
            b"%x\r\n%b\r\n" % (len(body[at : at + 50_000]), body[at : at + 50_000])
            for at in range(0, size, 50_000)
        )
        + b"0\r\n\r\n",
        "until close": OK + b"\r\n" + body,
    }[framing]
    for sizes in ([size + 1000], [4096], [30, 100, 65_536]):
        assert read(data, sizes).body == body


# -- memory -----------------------------------------------------------------------------------------


def address(buffer: Any) -> int:
    return int(np.frombuffer(buffer, np.uint8).__array_interface__["data"][0])


@pytest.mark.parametrize("json_size", [0, 1, 63, 64, 65, 1234])
@pytest.mark.parametrize("first", [1, 40, 200])
def test_the_first_tensor_starts_on_64_bytes(json_size: int, first: int) -> None:
    size = 100_000
    head = OK + b"Content-Length: %d\r\nInference-Header-Content-Length: %d\r\n\r\n" % (size, json_size)
    reader = ResponseReader()
    read(head + b"b" * size, [len(head) + first, 70_000, size], reader=reader)
    assert reader.response is not None
    body = reader.response.body
    assert address(memoryview(body)[json_size:]) % 64 == 0
    assert not memoryview(body).readonly
    assert len(body) == size


@pytest.mark.parametrize("value", [b"x", b"-5", b"1e3", b"99999999999999999999", b"9" * 5000, b"\xb2"])
def test_a_senseless_json_size_does_no_harm_here(value: bytes) -> None:
    size = 100_000
    head = OK + b"Content-Length: %d\r\nInference-Header-Content-Length: %b\r\n\r\n" % (size, value)
    assert read(head + b"b" * size, [len(head), size]).body == b"b" * size


def test_a_body_is_received_where_it_stays() -> None:
    size = 1 << 20
    head = OK + b"Content-Length: %d\r\n\r\n" % size
    reader = ResponseReader()
    reader.get_buffer()[: len(head)] = head
    assert not reader.received(len(head))
    buffer = reader.get_buffer()
    assert len(buffer) == size
    where = address(buffer)
    assert not reader.received(size // 2)
    assert address(reader.get_buffer()) == where + size // 2
    assert reader.received(size - size // 2)
    assert reader.response is not None
    assert address(reader.response.body) == where


def test_a_response_is_not_changed_by_the_next_one() -> None:
    reader = ResponseReader()
    kept = []
    for letter in (b"a", b"b", b"c"):
        for data in (
            OK + b"Content-Length: 3\r\n\r\n" + letter * 3,
            CHUNKED + b"3\r\n" + letter * 3 + b"\r\n0\r\n\r\n",
        ):
            reader.start()
            read(data, reader=reader)
            kept.append(reader.response)
    assert [bytes(each.body) for each in kept if each] == [
        b"aaa",
        b"aaa",
        b"bbb",
        b"bbb",
        b"ccc",
        b"ccc",
    ]


def test_heads_are_remembered_without_mixing_them_up() -> None:
    for number in range(1500):
        head = parse_head(OK + b"Content-Length: %d\r\nX: %d\r\n\r\n" % (number, number))
        assert (head.content_length, head.headers["x"]) == (number, str(number))
    assert parse_head(OK + b"Content-Length: 3\r\nX: 3\r\n\r\n").headers["x"] == "3"


def test_a_head_without_its_end_is_refused() -> None:
    with pytest.raises(ProtocolError):
        parse_head(OK + b"X: y\r\n")


# -- Response ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"0123456789", bytearray(b"0123456789"), memoryview(b"0123456789")])
def test_read_goes_on_where_it_stopped(body: Any) -> None:
    response = Response(ResponseHead(200, {}), body)
    assert response.read(3) == b"012"
    assert response.read(length=0) == b""
    assert response.read(2) == b"34"
    rest = response.read()
    assert rest == b"56789"
    assert type(rest) is bytes
    assert response.read() == b""
    assert response.read(5) == b""


@pytest.mark.parametrize("length", [None, -1, 100])
def test_read_takes_all_that_is_left(length: int | None) -> None:
    assert Response(ResponseHead(200, {}), b"0123").read(length) == b"0123"


def test_headers_that_many_responses_share_cannot_be_changed() -> None:
    headers: Any = parse_head(b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n").headers
    with pytest.raises(TypeError):
        headers["x"] = "z"
    assert headers == {"x": "y"}


def test_get_finds_a_header_in_any_case() -> None:
    response = Response(ResponseHead(200, {"content-type": "text/plain"}), b"")
    assert response.get("Content-Type") == response.get("CONTENT-TYPE") == "text/plain"
    assert response.get("X") is None
    assert response.get("X", "y") == "y"


def test_a_response_shows_its_size_not_its_body() -> None:
    assert repr(Response(ResponseHead(200, {}, "OK"), b"secret")) == "<Response 200 OK, 6 bytes>"


# -- requests ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("Accept", "text/plain", "Accept: text/plain\r\n"),
        ("X-Number", 5, "X-Number: 5\r\n"),
        ("X-Bytes", b"abc", "X-Bytes: abc\r\n"),
        ("X-Empty", "", "X-Empty: \r\n"),
        ("X-List", ["a", b"b", 3], "X-List: a\r\nX-List: b\r\nX-List: 3\r\n"),
        ("X-None", (), ""),
        ("X-Tab", "a\tb", "X-Tab: a\tb\r\n"),
        ("!#$%&'*+.^_`|~09aZ-", "v", "!#$%&'*+.^_`|~09aZ-: v\r\n"),
    ],
)
def test_header_line(name: str, value: object, line: str) -> None:
    assert header_line(name, value) == line


@pytest.mark.parametrize("name", ["", " ", "A B", "A:", "A\r\nB", "A\n", "é", "A\0", "(x)", None, 5, b"A"])
def test_a_name_that_is_no_token_is_refused(name: Any) -> None:
    with pytest.raises(InvalidRequest, match="not a token"):
        header_line(name, "v")


def test_a_name_with_its_value_is_refused_without_showing_the_value() -> None:
    with pytest.raises(InvalidRequest, match="'Authorization:…' is not a token") as caught:
        header_line("Authorization: sesame", "v")
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    "value", [object(), len, {"a": "b"}, {"a"}, np.zeros(2), "\ud800"], ids=lambda it: type(it).__name__
)
def test_a_value_without_a_text_of_its_own_is_refused(value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"'A' must be text .* got {type(value).__name__}"):
        header_line("A", value)


@pytest.mark.parametrize(
    "value", ["sesame\r\nB: c", "sesame\n", "\rsesame", "sesame\0", b"sesame\r\nb", None]
)
def test_a_value_that_would_end_the_line_is_refused_without_showing_it(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="'Authorization'") as caught:
        header_line("Authorization", value)
    assert "sesame" not in str(caught.value)


def test_encode_head() -> None:
    head = encode_head("POST", "/v2/models/m/infer", "Host: h\r\nA: b\r\n", 12)
    assert head == b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nA: b\r\nContent-Length: 12\r\n\r\n"


@pytest.mark.parametrize(
    ("method", "length", "has"), [("GET", 0, False), ("GET", 3, True), ("POST", 0, True)]
)
def test_content_length_is_there_where_a_body_may_be(method: str, length: int, has: bool) -> None:
    assert (b"Content-Length: %d\r\n" % length in encode_head(method, "/", "", length)) == has


sizes_of_buffers = st.lists(
    st.one_of(st.integers(0, 40), st.integers(90, 110), st.integers(180, 300)), max_size=30
)


@given(sizes_of_buffers, st.data())
def test_coalesce_keeps_bytes_and_order(sizes: list[int], data: Any) -> None:
    kinds = [data.draw(st.sampled_from([bytes, bytearray, memoryview])) for _ in sizes]
    buffers = [
        kind(bytes([index % 256]) * size) for index, (kind, size) in enumerate(zip(kinds, sizes, strict=True))
    ]
    joined = coalesce(buffers, limit=100)
    assert b"".join(joined) == b"".join(buffers)
    for buffer in joined:
        assert len(buffer) <= 100 or any(buffer is each for each in buffers), "a tensor was copied"
    kept = {id(each) for each in joined}
    assert all(id(each) in kept for each in buffers if len(each) > 100)
    small = [len(each) for each in joined]
    assert all(left + right > 100 for left, right in itertools.pairwise(small)), "neighbours not joined"


def test_coalesce_never_copies_a_tensor() -> None:
    large = memoryview(bytearray(COALESCE + 1))
    small = [b"head", b"", b"tail"]
    assert coalesce([small[0], large, *small[1:], large]) == [b"head", large, b"tail", large]
    assert coalesce([b"head", large])[1] is large


def test_coalesce_joins_up_to_its_limit() -> None:
    assert coalesce([bytes(COALESCE - 4), b"1234"]) == [bytes(COALESCE - 4) + b"1234"]
    assert list(map(len, coalesce([bytes(COALESCE - 4), b"12345"]))) == [COALESCE - 4, 5]
    assert len(coalesce([b"x" * 30] * 2000)) == 1


@pytest.mark.parametrize("buffers", [[], [b""], [b"", memoryview(b""), bytearray()]])
def test_coalesce_of_nothing_is_nothing(buffers: list[Any]) -> None:
    assert b"".join(coalesce(buffers)) == b""


# -- requests on their way, and answers to CONNECT --------------------------------------------------


def test_a_head_gets_an_origin_and_further_lines() -> None:
    head = encode_head("POST", "/v2?x=y", "Host: h\r\n", 4)
    amended_head, behind = amended(head + b"b\r\n\r", "http://h:8000", b"Connection: close\r\n")
    assert amended_head == (
        b"POST http://h:8000/v2?x=y HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nConnection: close\r\n\r\n"
    )
    assert behind == b"b\r\n\r"
    assert amended(head, "", b"") == (head, b"")


def test_an_expectation_is_taken_out_of_the_head_alone() -> None:
    body = b"x\r\nExpect: 100-continue\r\ny"
    large = memoryview(body)
    for line in ("Expect: 100-continue\r\n", "eXPECT:100-Continue \r\n"):
        head = encode_head("POST", "/v2", f"Host: h\r\n{line}A: b\r\n", len(body))
        plain = encode_head("POST", "/v2", "Host: h\r\nA: b\r\n", len(body))
        assert without_expectation([head + body]) == [plain + body]
        assert without_expectation([head, large]) == [plain, large]
        assert without_expectation([plain + body]) is None
    assert without_expectation([encode_head("GET", "/", "Expect: something\r\n", 0)]) is None


@pytest.mark.parametrize("framing", ["", "Content-Length: 9\r\n", "Transfer-Encoding: chunked\r\n"])
def test_a_success_to_connect_has_no_body(framing: str) -> None:
    data = f"HTTP/1.1 200 OK\r\n{framing}\r\n".encode()
    reader = ResponseReader(tunnel=True)
    reader.get_buffer()[: len(data)] = data
    assert reader.received(len(data))
    assert reader.response is not None
    assert reader.response.body == b""


def test_only_status_100_asks_for_the_body() -> None:
    reader = ResponseReader()
    for status, asked in ((102, False), (100, True), (103, True)):
        data = f"HTTP/1.1 {status} X\r\n\r\n".encode()
        reader.get_buffer()[: len(data)] = data
        assert not reader.received(len(data))
        assert (reader.continued, reader.answering) == (asked, False)
    data = b"HTTP/1.1 200 OK\r\n\r\nbody"
    reader.get_buffer()[: len(data)] = data
    assert not reader.received(len(data))
    assert reader.answering
    reader.start()
    assert (reader.continued, reader.answering) == (False, False)


def test_what_interrupts_the_parser_comes_out_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupt(BaseException):
        pass

    interrupt = Interrupt()
    interrupt.__cause__ = cause = ValueError()

    def on_header(parser: object, name: bytes, value: bytes) -> None:
        raise interrupt

    monkeypatch.setattr("tritonhttp._wire.http1._HeadParser.on_header", on_header)
    with pytest.raises(Interrupt) as caught:
        parse_head(b"HTTP/1.1 200 OK\r\nX-Interrupted: yes\r\n\r\n")
    assert caught.value is interrupt
    assert interrupt.__cause__ is cause


@pytest.mark.parametrize("handling", [False, True])
def test_an_error_in_a_head_is_ours_whatever_is_being_handled(handling: bool) -> None:
    def read() -> None:
        reader = ResponseReader()
        data = b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(300)) + b"\r\n"
        buffer = reader.get_buffer()
        buffer[: len(data)] = data
        reader.received(len(data))

    def read_while_handling() -> None:
        try:
            raise ValueError("of the caller")
        except ValueError:
            read()

    with pytest.raises(ProtocolError, match="header lines"):
        read_while_handling() if handling else read()


# -- the forms of geventhttpclient's response ---------------------------------------------------------


def test_a_response_has_the_methods_that_programs_know_from_geventhttpclient() -> None:
    head = parse_head(b"HTTP/1.1 404 Not Here\r\nContent-Type: text/plain\r\nContent-Length: 14\r\n\r\n")
    response = Response(head, b"one\r\ntwo\nthree")
    assert (response.get_code(), response.status_message, response.content_length) == (404, "Not Here", 14)
    assert response["content-TYPE"] == "text/plain" == response.info()["content-type"]
    assert "Content-type" in response
    assert "x" not in response
    with pytest.raises(KeyError):
        response["x"]
    assert dict(response.items()) == {"content-type": "text/plain", "content-length": "14"}
    assert [response.readline(), response.readline(b"\n"), response.readline()] == [b"one\r\n", b"two\n", b""]
    assert response.read() == b"three"
    response.release()
    assert response.attempts == 1
    assert [Response(head, b"\r\nx\r\n").readline(), Response(head, b"xy\n").readline(b"y\n")] == [
        b"\r\n",
        b"xy\n",
    ]
    with Response(head, bytes(5000)) as another:
        assert list(map(len, another)) == [4096, 904]
        with pytest.raises(StopIteration):
            next(another)
    response.asked = "GET", "http://h", "/v2"
    assert (response.method, response.version, response.get_http_version()) == ("GET", "HTTP/1.1", "HTTP/1.1")
    assert (response.should_keep_alive(), response.should_close()) == (True, False)
    assert response.headers_complete
    assert response.message_complete
    assert Response(ResponseHead(204, {}, content_length=0), b"").content_length is None


def test_a_head_byte_by_byte_takes_linear_time() -> None:
    def seconds(size: int) -> float:
        reader = ResponseReader()
        began = time.thread_time()
        for octet in b"HTTP/1.1 200 OK\r\nX: " + b"\n " * (size // 2):
            reader.get_buffer()[0] = octet
            assert not reader.received(1)
        return time.thread_time() - began

    # Quadratic time would be 8 times as much for each byte.
    assert min(seconds(60_000) for _ in range(2)) < 24 * max(seconds(7500), 0.005)
