"""The readers as targets: functions of bytes without a network. What they raise beyond the error tree is a fault.

The first bytes of an input decide how it is read: in which pieces, with which limits, as which answer.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tritonhttp._calls.retry import parse_retry_after
from tritonhttp._protocol import operations, probes
from tritonhttp._protocol.bodies import Unpacked
from tritonhttp._protocol.classes import Classification
from tritonhttp._protocol.generation import AnswerReader, as_dict, as_result
from tritonhttp._protocol.inference import Inference
from tritonhttp._protocol.refusals import check, own_words
from tritonhttp._protocol.result import InferResult
from tritonhttp._protocol.signature import Signature
from tritonhttp._transport import route
from tritonhttp._transport.address import parse_url
from tritonhttp._wire import bytes_tensor, prometheus
from tritonhttp._wire.compression import Decompressor
from tritonhttp._wire.http1 import ResponseReader
from tritonhttp._wire.responses import Response, ResponseHead
from tritonhttp._wire.sse import EventReader
from tritonhttp.errors import InferenceServerException, InvalidRequest, ProtocolError

from .outcomes import Fault, Source, outcome

__all__ = ["READERS"]

_SPEEDUPS = bytes_tensor._speedups
_OK = b"HTTP/1.1 200 OK\r\n"
_JSON_SIZE = "inference-header-content-length"


def _same(first: Any, second: Any, what: str) -> None:
    if first != second:
        raise Fault(f"{what}: {first!r:.1000}\n!= {second!r:.1000}")


def _cut(data: bytes, control: int) -> list[bytes]:
    """Return data in pieces: whole, byte by byte, or of different sizes."""
    if control == 0:
        return [data]
    if control == 1:
        return [data[at : at + 1] for at in range(min(len(data), 600))] + [data[600:]]
    pieces, at, size = [], 0, control
    while at < len(data):
        size = size * 181 % 251 + 1
        pieces.append(data[at : at + size % (control + 1) + 1])
        at += len(pieces[-1])
    return pieces


# -- HTTP --------------------------------------------------------------------------------------------


def _read(reader: ResponseReader, pieces: Iterable[bytes], eof: bool, stream: bool) -> Any:
    """Return what a reader makes of pieces, in a form that can be compared."""
    taken = []
    complete = False
    for piece in pieces:
        while piece and not complete:
            buffer = reader.get_buffer()
            if not len(buffer):
                raise Fault("no room for what was received")
            count = min(len(buffer), len(piece))
            buffer[:count] = piece[:count]
            piece = piece[count:]
            complete = reader.received(count)
            if reader.open:
                while taken_now := reader.take():
                    taken.append(taken_now)
                complete = reader.ended
        if complete:
            break
    reader.progress()
    if not complete and not (eof and reader.received_eof()):
        return "incomplete"
    response = reader.response
    if response is None:
        raise Fault("complete, but without a response")
    if stream and not reader.open and response.status_code == 200:
        raise Fault("a stream whose body is not open")
    head = response.head
    body = b"".join(taken) if reader.open else bytes(response.body)
    size = None if reader.open or reader._tunnel else head.content_length
    if size is not None and len(body) != size:
        raise Fault("another size than the head says")
    return head.status, head.reason, sorted(head.headers.items()), body


def _response(data: bytes, start: bytes = b"") -> None:
    source = Source(data)
    control, cut = source.byte(), source.byte()
    data = start + source.rest()
    stream, tunnel, eof = bool(control & 1), control & 7 == 6, bool(control & 8)

    def reader() -> ResponseReader:
        made = ResponseReader((1 << 16, 100, 0, 1 << 14)[control >> 6], tunnel=tunnel)
        if stream:
            made.stream()
        return made

    used = reader()
    whole = outcome(_read, used, [data], eof, stream)
    _same(outcome(_read, reader(), _cut(data, cut or 1), eof, stream), whole, "in pieces != whole")
    if isinstance(whole, tuple) and used.reusable and not stream:
        response = used.response
        assert response is not None
        response.content_length, response.read(10), response.readline(), list(response)
        # The same response again, over the same connection.
        if used.blank:
            raise Fault("a reader that read is blank")
        used.start()
        _same(outcome(_read, used, [data], eof, stream), whole, "the second time != the first")
        if used.blank:
            _same(outcome(_read, used, _cut(data, cut), eof, stream), whole, "the third time != the first")


def _chunks(data: bytes) -> None:
    _response(
        data[:2] + data[3:],
        _OK
        + (b"", b"Content-Type: text/event-stream\r\n")[data[2:3] > b"\x7f"]
        + b"Transfer-Encoding: chunked\r\n\r\n",
    )


# -- streams and codings -----------------------------------------------------------------------------


def _events(pieces: Iterable[bytes], limit: int) -> Any:
    reader = EventReader(limit)
    found = []
    try:
        for piece in pieces:
            found += reader.feed(piece)
    except ProtocolError:
        return found, ProtocolError
    return found, reader.pending


def _answers(pieces: Iterable[bytes], kind: str, coding: str, interpret: Any) -> Any:
    reader = AnswerReader(0.0, kind, coding, 1 << 16, interpret)
    reader.response = Response(ResponseHead(200, {}), b"")
    found: list[Any] = []
    try:
        for piece in pieces:
            reader.feed(piece, 1.0)
            while (answer := reader.take()) is not None:
                found.append(answer if isinstance(answer, dict) else _of_result(answer))
        reader.end(2.0)
        while (answer := reader.take()) is not None:
            found.append(answer if isinstance(answer, dict) else _of_result(answer))
    except InferenceServerException as error:
        found.append((type(error), error.status()))
    return repr(found)


def _sse(data: bytes) -> None:
    source = Source(data)
    control, cut = source.byte(), source.byte()
    data = source.rest()
    # Which event exceeds a small limit depends on the pieces.
    limit = 1 << 20 if control & 1 else 50
    whole = _events([data], limit)
    if control & 1:
        _same(_events(_cut(data, cut or 1), limit), whole, "events in pieces != whole")
    else:
        _events(_cut(data, cut or 1), limit)
    kind = ("text/event-stream", "application/json", "TEXT/EVENT-STREAM ; charset=utf-8", "")[
        control >> 1 & 3
    ]
    interpret = as_result if control & 8 else as_dict
    first = _answers([data], kind, "", interpret)
    if kind:  # without a type the first piece decides
        _same(_answers(_cut(data, cut or 1), kind, "", interpret), first, "answers in pieces != whole")


def _undone(pieces: Iterable[bytes], coding: str, limit: int) -> Any:
    decompressor = Decompressor(coding, limit, 4096)
    found = b""
    try:
        for piece in pieces:
            for made in decompressor.feed(piece):
                if len(made) > 4096:
                    raise Fault(f"a slice of {len(made)} bytes")
                found += made
        decompressor.end()
    except ProtocolError:
        return found, ProtocolError
    return found


def _compression(data: bytes) -> None:
    source = Source(data)
    control, cut = source.byte(), source.byte()
    coding = ("gzip", "deflate", "gzip, deflate", "x-gzip,identity", "deflate,deflate,gzip", "br")[
        (control & 7) % 6
    ]
    limit = 1000 if control & 64 else 1 << 16
    data = source.rest()
    if control & 128:  # good data, then damaged
        data = zlib.compress(data, wbits=31 if coding == "gzip" else 15) + data[:3]
    whole = outcome(_undone, [data], coding, limit)
    pieces = outcome(_undone, _cut(data, cut or 1), coding, limit)
    if isinstance(whole, bytes) or isinstance(pieces, bytes):
        _same(pieces, whole, f"{coding} in pieces != whole")
    if coding == "gzip" and isinstance(whole, bytes) and whole:
        with contextlib.suppress(zlib.error):  # ISA-L lets damage pass that changes no data
            reference = zlib.decompressobj(47).decompress(data)  # gzip's head or zlib's
            _same(whole.startswith(reference), True, "gzip != zlib's")
    response = Response(ResponseHead(200 if control & 32 else 500, {"content-encoding": coding}), data, limit)
    unpacked = Unpacked(response)
    list(unpacked.slices())


# -- answers -----------------------------------------------------------------------------------------


def _of_result(result: InferResult) -> Any:
    """Use all that a result offers; return its JSON and arrays."""
    repr(result), str(result.outputs), result.keys(), dict.fromkeys(result)
    found = {}
    for name in result:
        for use in (result.as_numpy, result.classes, result.get_output, result.__getitem__):
            try:
                value = outcome(use, name)
            except KeyError:
                value = None
            if use == result.as_numpy:
                found[name] = _plain(value)
    return repr(result.get_response()), found, str(outcome(lambda: result.parameters))


def _plain(array: Any) -> Any:
    if not isinstance(array, np.ndarray):
        return array
    if not (array.flags.writeable and array.flags.aligned):
        raise Fault(f"an array that is not writable or not aligned: {array.flags}")
    return array.shape, str(array.dtype), array.tolist() if array.dtype.kind == "O" else array.tobytes()


def _inference(data: bytes) -> None:
    """A body: two bytes with the size of its JSON, beyond its end for none, then the body."""
    (size,) = struct.unpack("<H", data[:2].ljust(2, b"\0"))
    body = data[2:]
    headers = {} if size > len(body) + 16 else {_JSON_SIZE: str(size)}
    found = []
    # Bytes, and memory that was received into; the second time with what is remembered.
    for memory in (body, memoryview(bytearray(body)), body):
        response = Response(ResponseHead(200, headers), memory)
        found.append(outcome(lambda response=response: _of_result(InferResult(response, False))))
    _same(repr(found[1:]), repr(found[:1] * 2), "bytes != memory")


def _statuses(response: Response) -> Any:
    found = probes.index().decode(response)
    return repr(found), found._repr_html_()


def _signature(response: Response) -> Any:
    metadata = operations.get_model_metadata("model", "").decode(response)
    try:
        return str(Signature.read(metadata, metadata))
    finally:
        str(outcome(Signature.read, metadata, {}))


def _refusal(response: Response) -> Any:
    try:
        check(response)
    except InferenceServerException as error:
        own_words(error)
        parse_retry_after(response.get("retry-after"), 1.7e9)
        raise


_OPERATIONS: tuple[Callable[[Response], Any], ...] = (
    _refusal,
    _statuses,
    _signature,
    lambda response: _of_result(Inference("model", [], request_id="1").decode(response)),
    operations.is_server_live().decode,
    operations.get_server_metadata().decode,
    operations.get_model_config("model", "1").decode,
    operations.get_inference_statistics("", "").decode,
    operations.metrics("metrics").decode,
    operations.get_trace_settings(None).decode,
    operations.get_log_settings().decode,
    operations.get_shared_memory_status("system", "").decode,
    operations.load_model("model", None, None).decode,
    operations.generate("model", {}, "", None, "", False).decode,
)


def _operations(data: bytes) -> None:
    """What becomes of whole answers: which operation, the status, codings, then the body."""
    source = Source(data)
    decode = source.choice(_OPERATIONS)
    status = (200, 400, 404, 500, 503, 302, 204, 299, 429, 405)[source.byte() % 10]
    coding = source.byte()
    body = source.rest()
    headers = {"retry-after": body[:30].decode("latin-1"), "location": body[:20].decode("latin-1")}
    if coding in (1, 2):
        headers["content-encoding"] = ("gzip", "deflate")[coding - 1]
        body = zlib.compress(body, wbits=31) if coding == 1 else body
    response = Response(ResponseHead(status, headers), body, 1 << 16)
    response.asked = ("GET", "http://host", "/v2/v2" if coding & 4 else "/v2", "host")
    outcome(decode, response)


# -- text --------------------------------------------------------------------------------------------


def _url(text: str) -> None:
    for tls in (False, True):
        address = outcome(parse_url, text, tls)
        if isinstance(address, type):
            if address is not InvalidRequest:
                raise Fault(f"{address} for a URL")
            continue
        for value in (address.key, address.peer, address.tls_name, address.origin, address.is_loopback):
            repr(value)
        head = f"{address.authority}{address.base_path}"
        if not head.isascii() or not head.isprintable() or " " in head:
            raise Fault(f"an address that does not fit into a head: {head!r}")
        if not address.socket_path and "%" not in address.host:
            _same(parse_url(f"{address.origin}{address.base_path}", tls), address, "its own text")


def _proxy(text: str) -> None:
    proxy = outcome(route.parse, text)
    if isinstance(proxy, route.Proxy):
        request = proxy.connect_request(parse_url("server:80", False))
        _same(request.count(b"\r\n\r\n"), 1, "heads in a request for a tunnel")
        secret = text.strip().rpartition("://")[2].rpartition("@")[0]
        if len(secret) > 8 and secret in repr(proxy):
            raise Fault("a password in a repr")


def _no_proxy(text: str) -> None:
    for url in ("host.example:80", "127.0.0.1:80", "[::1]:80", "[fe80::1%25eth0]:8000"):
        route.bypasses(parse_url(url, False), text)


def _retry_after(text: str) -> None:
    seconds = parse_retry_after(text, 1.7e9)
    if seconds is not None and not seconds >= 0:
        raise Fault(f"Retry-After of {seconds} s")


def _classification(text: str) -> None:
    outcome(Classification.parse, text)
    outcome(Classification.parse, text.encode("utf-8", "surrogateescape"))


def _metrics(text: str) -> None:
    metrics = outcome(prometheus.parse, text)
    if isinstance(metrics, prometheus.Metrics):
        metrics.find("a", b="c"), repr(metrics)


_TEXTS: tuple[Callable[[str], None], ...] = (_url, _proxy, _no_proxy, _retry_after, _classification, _metrics)


def _text(data: bytes) -> None:
    source = Source(data)
    read = source.choice(_TEXTS)
    read(source.rest().decode("utf-8", "surrogateescape"))


# -- BYTES -------------------------------------------------------------------------------------------


def framed(items: Iterable[bytes]) -> bytes:
    """Frame elements in the plainest way, to compare with."""
    return b"".join(struct.pack("<I", len(item)) + item for item in items)


def _both(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what C and Python make of it, in a form that can be compared; they must agree."""
    found = []
    for speedups in (_SPEEDUPS, None):
        bytes_tensor._speedups = speedups
        try:
            value = function(*arguments)
        except InferenceServerException as error:
            value = type(error), str(error)
        else:
            value = value.tolist() if isinstance(value, np.ndarray) else bytes(value)
        finally:
            bytes_tensor._speedups = _SPEEDUPS
        found.append(value)
    _same(found[0], found[1], "C != Python")
    return found[0]


def _bytes(data: bytes) -> None:
    """Decode in C and in Python; what both accept they frame as it came."""
    source = Source(data)
    count = source.choice((None, None, 0, 1, 2, 3, 5, 2**40, -1))
    data = source.rest()
    items = _both(bytes_tensor.decode, data, count)
    if isinstance(items, list):
        _same(framed(items), data, "decoded and framed again")
        array = np.empty(len(items), object)
        array[:] = items
        _same(_both(bytes_tensor.encode, array), data, "decoded and encoded again")
        if items and not any(item.endswith(b"\0") for item in items) and any(items):
            _same(_both(bytes_tensor.encode, np.array(items, "S")), data, "of fixed width")
    text = np.empty(3, object)
    text[:] = data.decode("utf-8", "surrogateescape"), data[:7].decode("latin-1"), data[:5]
    _both(bytes_tensor.encode, text)


READERS: dict[str, Callable[[bytes], None]] = {
    "response": _response,
    "chunks": _chunks,
    "sse": _sse,
    "compression": _compression,
    "inference": _inference,
    "operations": _operations,
    "text": _text,
    "bytes": _bytes,
}
