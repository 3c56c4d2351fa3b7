"""gzip and deflate: both directions, what other servers send, damage, and decompression bombs."""

from __future__ import annotations

import contextlib
import gzip
import sys
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritonhttp._wire import compression
from tritonhttp._wire.compression import ALGORITHMS, Decompressor, compress, decompress
from tritonhttp.errors import InvalidRequest, ProtocolError

load_zlib = compression._zlib.__wrapped__  # not cached


@pytest.fixture(scope="module", params=["zlib", "isal.isal_zlib"], autouse=True)
def library(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run every test with the standard library, and with ISA-L where it is installed."""
    module = pytest.importorskip(request.param, reason="needs the extra fast-gzip")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, "_zlib", lambda: module)
        yield request.param


def test_isal_is_used_where_it_is_installed(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if library == "zlib":
        monkeypatch.setitem(sys.modules, "isal", None)  # importing it raises ImportError
    assert load_zlib().__name__ == library


TEXT = b"the quick brown fox jumps over the lazy dog. " * 20


def raw_deflate(data: bytes, level: int = -1) -> bytes:
    stream = zlib.compressobj(level, zlib.DEFLATED, -15)
    return stream.compress(data) + stream.flush()


def with_fields(flags: int, method: int = 8, checksum: int = 0) -> bytes:
    """Return a gzip body of TEXT whose header has these optional fields; `checksum` falsifies its own."""
    head = bytes([0x1F, 0x8B, method, flags]) + b"\1\2\3\4\0\3"
    head += b"\2\0ab" * bool(flags & 4) + b"name\0" * bool(flags & 8) + b"comment\0" * bool(flags & 16)
    if flags & 2:
        head += (zlib.crc32(head) & 0xFFFF ^ checksum).to_bytes(2, "little")
    return head + gzip.compress(TEXT)[10:]


#: Form -> (body of TEXT, its Content-Encoding)
FORMS = {
    "gzip": (gzip.compress(TEXT), "gzip"),
    "gzip by its old name": (gzip.compress(TEXT), "x-gzip"),
    "gzip in capitals": (gzip.compress(TEXT), " GZIP "),
    "gzip in members": (
        b"".join(gzip.compress(TEXT[at : at + 100]) for at in range(0, len(TEXT), 100)),
        "gzip",
    ),
    "gzip with an empty member": (gzip.compress(b"") + gzip.compress(TEXT) + gzip.compress(b""), "gzip"),
    "gzip with padding": (gzip.compress(TEXT) + bytes(512), "gzip"),
    "gzip with a name": (with_fields(8), "gzip"),
    "gzip with every field": (with_fields(31), "gzip"),
    "zlib": (zlib.compress(TEXT), "deflate"),
    "zlib by the name of gzip": (zlib.compress(TEXT), "gzip"),
    "zlib, stored": (zlib.compress(TEXT, 0), "deflate"),
    "raw": (raw_deflate(TEXT), "deflate"),
    "raw, stored": (raw_deflate(TEXT, 0), "deflate"),
    "both": (gzip.compress(zlib.compress(TEXT)), "deflate, gzip"),
    "both, the other way round": (zlib.compress(gzip.compress(TEXT)), "gzip,deflate"),
    "identity": (TEXT, "identity"),
    "nothing": (TEXT, ""),
}
forms = pytest.mark.parametrize(("body", "encoding"), list(FORMS.values()), ids=list(FORMS))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@forms
def test_each_form_is_read(body: bytes, encoding: str, kind: Any) -> None:
    assert bytes(decompress(kind(body), encoding)) == TEXT


@pytest.mark.parametrize("data", [b"", b"x", TEXT, bytes(20 << 20)], ids=["empty", "byte", "text", "20 MiB"])
@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_a_round_trip(algorithm: str, data: bytes) -> None:
    (body,) = compress([data], algorithm)
    assert bytes(decompress(body, algorithm)) == data
    standard = gzip.decompress(body) if algorithm == "gzip" else zlib.decompress(body)
    assert standard == data


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_buffers_become_one_body(algorithm: str) -> None:
    buffers = [b"head", memoryview(b"tensor" * 1000), b"", bytearray(b"tail")]
    (body,) = compress(buffers, algorithm)
    assert bytes(decompress(body, algorithm)) == b"".join(buffers)


def test_a_small_tensor_behind_a_head_is_compressed() -> None:
    values = np.random.default_rng(0).standard_normal(100, np.float32).tobytes() * 60
    (body,) = compress([b'{"inputs":[]}', values], "gzip")
    assert len(body) < len(values) / 20


@pytest.mark.parametrize("algorithm", ["br", "GZIP", "zstd", "identity"])
def test_an_unknown_algorithm_is_refused(algorithm: str) -> None:
    with pytest.raises(InvalidRequest, match=f"'{algorithm}'.*expected 'gzip', 'deflate' or None"):
        compress([b""], algorithm)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, br", "compress"])
def test_an_unknown_coding_is_refused(encoding: str) -> None:
    with pytest.raises(ProtocolError, match=f"'{encoding}'"):
        decompress(gzip.compress(TEXT), encoding)


@pytest.mark.parametrize("name", ["gzip", "zlib", "raw", "gzip in members"])
def test_a_truncated_body_is_refused_wherever_it_is_cut(name: str) -> None:
    body, encoding = FORMS[name]
    ends = set()
    if name == "gzip in members":  # between members it is only shorter
        ends = {
            sum(len(gzip.compress(TEXT[i : i + 100])) for i in range(0, at, 100)) for at in range(0, 900, 100)
        }
    for point in range(len(body)):
        if point in ends and point:
            continue
        with pytest.raises(ProtocolError, match=r"truncated|not valid"):
            decompress(body[:point], encoding)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("body", [b"\xff" * 50, TEXT, b"{}", b"\x1f\x8b\x08"])
def test_garbage_is_refused(body: bytes, encoding: str) -> None:
    with pytest.raises(ProtocolError):
        decompress(body, encoding)


@pytest.mark.parametrize("position", [12, 30, -8, -1])
def test_damage_within_is_refused(position: int) -> None:
    body = bytearray(gzip.compress(TEXT))
    body[position] ^= 0xFF
    with pytest.raises(ProtocolError):
        decompress(body, "gzip")


def test_garbage_behind_a_gzip_stream_is_refused() -> None:
    with pytest.raises(ProtocolError, match="gzip"):
        decompress(gzip.compress(TEXT) + b"garbage", "gzip")


@pytest.mark.parametrize("name", ["gzip", "gzip in members", "zlib", "raw", "both"])
def test_the_limit_is_the_most_that_comes_out(name: str) -> None:
    body, encoding = FORMS[name]
    limit = max(len(TEXT), len(body))
    assert bytes(decompress(body, encoding, limit=limit)) == TEXT
    with pytest.raises(ProtocolError, match=f"the limit of {len(TEXT) - 1} bytes"):
        decompress(body, encoding, limit=len(TEXT) - 1)


@pytest.mark.parametrize("limit", [1 << 20, None])
@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_a_bomb_takes_no_more_memory_than_the_limit(
    algorithm: str, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "MAX_DECOMPRESSED", 1 << 20)
    (bomb,) = compress([bytes(1 << 20)] * 64, algorithm)
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="limit"):
            decompress(bomb, algorithm, limit)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [1, 7, 10**6])
@forms
def test_a_stream_is_read_in_pieces_of_any_size(body: bytes, encoding: str, size: int) -> None:
    stream = Decompressor(encoding)
    assert stream.pending == (encoding not in ("", "identity"))
    pieces: list[Any] = []
    for at in range(0, len(body), size):
        pieces += stream.feed(body[at : at + size])
    assert b"".join(pieces) == TEXT
    assert not stream.pending
    stream.end()


#: Bytes that are no body of their coding -> what the error says of them.
DAMAGED = {
    "gzip and garbage": (gzip.compress(TEXT) + b"garbage", "gzip", "not valid gzip"),
    "gzip and a line end": (gzip.compress(TEXT) + b"\n", "gzip", "truncated"),
    "gzip, padding, garbage": (gzip.compress(TEXT) + bytes(5000) + b"garbage", "gzip", "not valid gzip"),
    "a member that is cut": (gzip.compress(TEXT) * 2 + gzip.compress(TEXT)[:-1], "gzip", "truncated"),
    "a damaged member": (gzip.compress(b"") + gzip.compress(TEXT)[:-1] + b"x", "gzip", "not valid gzip"),
    "zlib and garbage": (zlib.compress(TEXT) + b"x", "deflate", "not valid deflate: 1 bytes"),
    "zlib twice": (zlib.compress(TEXT) * 2, "deflate", "not valid deflate"),
    "raw and more than a checksum": (raw_deflate(TEXT) + b"12345", "deflate", "not valid deflate"),
    "raw, zeros, and more than a checksum": (raw_deflate(TEXT) + b"1\0" * 4, "deflate", "not valid deflate"),
    "garbage for raw": (b"\x07\x8b\x07\x8b" * 9, "deflate", "not valid deflate"),
    "a byte of deflate": (b"\x78", "deflate", "the deflate body of 1 bytes is truncated"),
    "nothing": (b"", "gzip", "the gzip body of 0 bytes is truncated"),
    "the inner coding is cut": (gzip.compress(zlib.compress(TEXT)[:-1]), "deflate, gzip", "deflate body of"),
    "the outer coding is cut": (gzip.compress(zlib.compress(TEXT))[:-1], "deflate, gzip", "gzip body of"),
    "too many codings": (TEXT, ",".join(["gzip"] * 9), "expected at most 8 codings, got 9"),
}


@pytest.mark.parametrize("size", [1, 7, 10**6])
@pytest.mark.parametrize(("body", "encoding", "says"), list(DAMAGED.values()), ids=list(DAMAGED))
def test_damage_is_the_same_error_in_a_body_and_in_a_stream(
    body: bytes, encoding: str, says: str, size: int
) -> None:
    with pytest.raises(ProtocolError, match=says) as whole:
        decompress(body, encoding)

    def read() -> None:
        stream = Decompressor(encoding)
        for at in range(0, len(body), size):
            list(stream.feed(body[at : at + size]))
        stream.end()

    with pytest.raises(ProtocolError, match=says) as pieces:
        read()
    if size > len(body):
        assert str(pieces.value) == str(whole.value)


#: Headers that their formats forbid -> (body, its Content-Encoding, what the error says).
FORBIDDEN = {
    "reserved flags": (with_fields(0xE0), "gzip", "unknown header flags"),
    "a reserved flag among fields": (with_fields(0x3F), "gzip", "unknown header flags"),
    "reserved flags, later": (gzip.compress(TEXT) + with_fields(0x20), "gzip", "unknown header flags"),
    "a wrong checksum": (with_fields(31, checksum=1), "gzip", "header crc mismatch"),
    "another method": (with_fields(0, method=7), "gzip", "unknown compression method"),
    "no magic": (b"\x1f\x8c" + gzip.compress(TEXT)[2:], "gzip", "incorrect header check"),
    "a dictionary": (b"\x78\xbb\1\2\3\4" + zlib.compress(TEXT)[2:], "deflate", "a preset dictionary"),
    "a dictionary, as gzip": (b"\x78\xbb\1\2\3\4" + zlib.compress(TEXT)[2:], "gzip", "a preset dictionary"),
    "a large window": (b"\x88\x1c" + zlib.compress(TEXT)[2:], "deflate", "larger than 32 KiB"),
    "another method of zlib": (b"\x79\x9b" + zlib.compress(TEXT)[2:], "gzip", "incorrect header check"),
}


@pytest.mark.parametrize(("body", "encoding", "says"), list(FORBIDDEN.values()), ids=list(FORBIDDEN))
def test_a_forbidden_header_is_the_same_error_wherever_it_is_cut(
    body: bytes, encoding: str, says: str
) -> None:
    with pytest.raises(ProtocolError, match=says) as whole:
        decompress(body, encoding)

    def read(pieces: list[bytes]) -> None:
        stream = Decompressor(encoding)
        for piece in pieces:
            list(stream.feed(piece))

    for pieces in ([bytes([octet]) for octet in body], *([body[:cut], body[cut:]] for cut in range(1, 60))):
        with pytest.raises(ProtocolError) as error:
            read(pieces)
        assert str(error.value) == str(whole.value)


@pytest.mark.parametrize("flags", range(32))
def test_optional_fields_are_skipped_wherever_they_are_cut(flags: int) -> None:
    body = with_fields(flags) * 2
    for cut in range(1, 60):
        stream = Decompressor("gzip")
        pieces = [*stream.feed(body[:cut]), *stream.feed(body[cut:])]
        stream.end()
        assert b"".join(pieces) == TEXT * 2


@pytest.mark.parametrize("cut", range(1, 4))
def test_a_cut_in_the_magic_of_a_later_member_is_truncation(cut: int) -> None:
    body = gzip.compress(TEXT)
    stream = Decompressor("gzip")
    for octet in body + body[:cut]:
        list(stream.feed(bytes([octet])))
    assert stream.pending
    with pytest.raises(ProtocolError, match="truncated"):
        stream.end()


def test_the_head_of_zlib_may_be_missing_and_its_checksum_not() -> None:
    assert bytes(decompress(zlib.compress(TEXT)[2:], "deflate")) == TEXT


@pytest.mark.parametrize(
    ("data", "between", "count"), [(b"", b"", 40_000), (b"x", b"", 40_000), (b"x", bytes(3000), 4000)]
)
def test_many_members_take_linear_time(data: bytes, between: bytes, count: int) -> None:
    def seconds(count: int) -> float:
        body = (gzip.compress(data) + between) * count
        began = time.process_time()
        assert bytes(decompress(body, "gzip")) == data * count
        return time.process_time() - began

    few = min(seconds(500) for _ in range(5))
    assert seconds(count) < 4 * few * count / 500


@pytest.mark.parametrize("body", [gzip.compress(b"") * 50_000, gzip.compress(bytes(50 << 20))])
@pytest.mark.parametrize("layers", [1, 2])
def test_no_slice_takes_long(body: bytes, layers: int) -> None:
    for _ in range(layers - 1):
        body = gzip.compress(body)
    slices = compression.slices(body, ", ".join(["gzip"] * layers))
    number = 0
    for piece in slices:
        number += 1
        assert len(piece) <= 1 << 20
    assert number > 10


@pytest.mark.parametrize("kind", ["gzip", "deflate"])
def test_a_stream_is_damaged_or_truncated(kind: str) -> None:
    (body,) = compress([TEXT], kind)
    stream = Decompressor(kind)
    assert TEXT.startswith(b"".join(stream.feed(body[:-1])))
    assert stream.pending
    with pytest.raises(ProtocolError, match=f"not valid {kind}"):
        list(stream.feed(bytes([body[-1] ^ 1])))


def test_a_bomb_in_a_stream_is_decompressed_one_mib_at_a_time() -> None:
    (bomb,) = compress([bytes(10 << 20)], "gzip")
    stream = Decompressor("gzip")
    assert [len(piece) for piece in stream.feed(bomb) if piece] == [1 << 20] * 10
    assert not stream.pending


@given(st.binary(max_size=2000), st.integers(0, 9))
def test_raw_streams_are_told_from_zlib_streams(data: bytes, level: int) -> None:
    assert bytes(decompress(raw_deflate(data, level), "deflate")) == data
    assert bytes(decompress(zlib.compress(data, level), "deflate")) == data


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate", "gzip, deflate"]))
def test_any_bytes_are_read_or_refused(data: bytes, encoding: str) -> None:
    with contextlib.suppress(ProtocolError):
        decompress(data, encoding, limit=1 << 16)
