"""Server-sent events: every framing that the standard allows, cut anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritonhttp._wire.sse import Event, EventReader
from tritonhttp.errors import ProtocolError

LIMIT = 1 << 20

STREAMS = {
    "Triton's": (b'data: {"a": 1}\n\ndata: {"a": 2}\n\n', [Event('{"a": 1}'), Event('{"a": 2}')]),
    "CRLF": (b"data: a\r\n\r\ndata: b\r\n\r\n", [Event("a"), Event("b")]),
    "CR": (b"data: a\r\rdata: b\r\r", [Event("a"), Event("b")]),
    "mixed line ends": (b"data: a\r\ndata: b\n\rdata: c\r\n\n", [Event("a\nb"), Event("c")]),
    "several data lines": (b"data: a\ndata:\ndata: b\n\n", [Event("a\n\nb")]),
    "no space behind the colon": (b"data:a\n\n", [Event("a")]),
    "only one space is dropped": (b"data:  a\n\n", [Event(" a")]),
    "data without a colon": (b"data\n\n", [Event("")]),
    "comments": (b": hello\n\ndata: a\n: in between\ndata: b\n\n:\n\n", [Event("a\nb")]),
    "types": (b"event: error\ndata: a\n\ndata: b\n\n", [Event("a", "error"), Event("b")]),
    "a type without data": (b"event: ping\n\ndata: a\n\n", [Event("a")]),
    "ids, retry times, unknown fields": (b"id: 1\nretry: 5\nfoo: bar\ndata: a\n\n", [Event("a")]),
    "a byte order mark": (b"\xef\xbb\xbfdata: a\n\n", [Event("a")]),
    "a mark that is data": (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [Event("a")]),
    "UTF-8": ("data: größer €😀\n\n".encode(), [Event("größer €😀")]),
    "not UTF-8": (b"data: \xff\n\n", [Event("�")]),
    "an end within an event": (b"data: a\n\ndata: b\n", [Event("a")]),
    "nothing": (b"", []),
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_read(name: str) -> None:
    stream, events = STREAMS[name]
    assert list(EventReader(LIMIT).feed(stream)) == events


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_may_be_cut_anywhere(name: str) -> None:
    stream, events = STREAMS[name]
    for first in range(len(stream) + 1):
        for second in range(first, len(stream) + 1):
            reader = EventReader(LIMIT)
            pieces = (stream[:first], stream[first:second], stream[second:])
            assert [event for piece in pieces for event in reader.feed(piece)] == events, (first, second)


@given(
    st.lists(st.text(alphabet=st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))), st.data()
)
def test_events_are_read_as_written(texts: list[str], data: st.DataObject) -> None:
    stream = "".join(f"data: {text}\n\n" for text in texts).encode()
    reader, read, position = EventReader(LIMIT), [], 0
    while position < len(stream):
        size = data.draw(st.integers(1, len(stream)))
        read += reader.feed(memoryview(stream)[position : position + size])
        position += size
    assert [event.data for event in read] == texts


def test_an_unfinished_event_is_pending() -> None:
    reader = EventReader(LIMIT)
    assert not reader.pending
    assert list(reader.feed(b"data: a")) == []
    assert reader.pending
    assert list(reader.feed(b"\n")) == []
    assert reader.pending
    assert list(reader.feed(b"\n")) == [Event("a")]
    assert not reader.pending


@pytest.mark.parametrize("stream", [b"data: " + b"x" * 64, b"data: x\n" * 16, b":" * 65])
def test_an_event_without_end_is_refused(stream: bytes) -> None:
    reader = EventReader(64)

    def feed() -> None:
        for byte in stream:
            list(reader.feed(bytes([byte])))

    with pytest.raises(ProtocolError, match="more than 64 bytes"):
        feed()


@pytest.mark.parametrize("cut", [False, True])
def test_an_event_may_have_as_many_bytes_as_the_limit(cut: bool) -> None:
    reader = EventReader(64)
    line = b"data: " + b"x" * 58  # 64 bytes
    pieces = [line[:9], line[9:]] if cut else [line]
    assert [event for piece in pieces for event in reader.feed(piece)] == []
    with pytest.raises(ProtocolError, match="more than 64 bytes"):
        list(reader.feed(b"x"))


def test_the_limit_is_for_one_event() -> None:
    reader = EventReader(64)
    assert list(reader.feed(b"data: x\n\n")) == [Event("x")]
    assert list(reader.feed(b"data: " + b"x" * 58)) == []  # all 64 bytes are there again
    assert list(reader.feed(b"\n\n")) == [Event("x" * 58)]
    for _ in range(100):
        assert list(reader.feed(b": still there\n")) == []
    for _ in range(100):
        assert list(reader.feed(b"data: 0123456789\n\n: comment\n\n")) == [Event("0123456789")]
