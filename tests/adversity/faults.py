"""The table of faults: what a server or a gateway does wrong, and what the caller gets.

`test_faults.py` runs each fault on both clients, and compares this table with the one in `docs/faults.md`.
``python -m tests.adversity.faults`` writes that one.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
import ssl
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import trustme

from tritonhttp import ConnectionLost, DeadlineExceeded, ProtocolError, Retry, ServerError
from tritonhttp.errors import (
    CertificateError,
    ConnectError,
    ConnectRefused,
    ConnectTimeout,
    NameResolutionError,
    TLSError,
)

from ..framing import JSON_SIZE, chunks, inference_answer
from .servers import HEALTHY, Peer, Script, Sends, Trickles, answer, behind_a_good_answer, over_tls

#: A call's deadline in seconds: for faults that let time pass, and for all others.
SHORT, AMPLE = 0.2, 8.0

ANY = ("metadata", "infer")
INFER = ("infer",)
LARGE = ("large infer",)
STREAM = ("stream",)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault, and its expected outcome."""

    name: str
    #: Variant -> script of the first connection. Later connections are answered correctly.
    scripts: Mapping[str, Script]
    #: The error's class; None if the call succeeds.
    error: type[Exception] | tuple[type[Exception], ...] | None = None
    #: Parts of its message.
    says: tuple[str, ...] = ()
    status: str | None = None
    #: Whether the model could have run.
    ran: str = "perhaps"
    #: Whether the request is sent a second time: "no", "yes", or "if repeatable" (the call then succeeds).
    again: str = "no"
    #: The calls to test. metadata may be repeated, infer may not; a large infer is not sent in one step; a stream
    #: has started.
    calls: tuple[str, ...] = ANY
    #: Whether the connection serves the next call too.
    kept: bool = False
    #: How many answers a stream delivers before its error.
    before: int = 0
    #: Whether a successful call precedes the fault.
    warm: bool = False
    limit: float = AMPLE
    #: Options of the client; with `tls` it trusts the tests' certificate authority.
    tls: bool = False
    host: str = "127.0.0.1"
    #: Arguments of :class:`Server`.
    answers_connects: bool | None = True
    #: What the first look-up of the host's name does: "fails" or "stalls".
    look_up: str = ""

    def tried_again(self) -> str:
        """Return whether a client with `Retry()` tries the call again, successfully."""
        if self.error is None or self.limit == SHORT or self.calls == STREAM:
            return "no"  # no need, no time left, or the answer has started
        if isinstance(self.error, type) and issubclass(self.error, ConnectError):
            return "yes"
        statuses = [str(outcome) for outcome in Retry().on]
        lost = self.error is ConnectionLost or isinstance(self.error, tuple)
        return "if repeatable" if lost or self.status in statuses else "no"

    def gets(self) -> str:
        """Return what the caller gets, in Markdown."""
        if self.error is None:
            return "the result"
        classes = self.error if isinstance(self.error, tuple) else (self.error,)
        status = f" {self.status}" if self.status else ""
        text = " … ".join(self.says)
        first = "the answers before it, then " if self.before else ""
        return (
            first
            + " or ".join(f"`{each.__name__}`" for each in classes)
            + status
            + (f": “{text}”" if text else "")
        )


def one(script: Script) -> dict[str, Script]:
    return {"": script}


def each(data: Mapping[str, bytes], *ends: str) -> dict[str, Script]:
    """Return a script for every combination of data and end."""
    if len(ends) == 1:
        return {name: Sends(sent, *ends) for name, sent in data.items()}
    return {
        ", ".join(filter(None, (name, end))): Sends(sent, end) for name, sent in data.items() for end in ends
    }


# -- answers ----------------------------------------------------------------------------------------

JSON = json.dumps(HEALTHY).encode()
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"


OUTPUT: dict[str, Any] = {
    "name": "O",
    "datatype": "INT32",
    "shape": [2],
    "parameters": {"binary_data_size": 8},
}
BINARY = np.array([1, 2], np.int32).tobytes()


def binary_answer(outputs: list[Any], binary: bytes = BINARY, header_length: object = None) -> bytes:
    """Return an answer to infer with binary tensors, which its JSON and headers may describe wrongly."""
    return inference_answer({"model_name": "m", "outputs": outputs}, binary, head_size=header_length)


def expected(script: Script) -> bytes:
    """Return an answer that the client expects to come again, if possible as long as the script's."""
    size = len(getattr(script, "data", b""))
    headers = f"{JSON_SIZE}: {len(JSON)}\r\n"
    least = len(answer(JSON, headers=headers + "X: \r\n"))
    if least <= size <= 4096:
        headers += f"X: {'x' * (size - least)}\r\n"
    return answer(JSON, headers=headers)


def sized(size: object) -> bytes:
    return binary_answer([{**OUTPUT, "parameters": {"binary_data_size": size}}])


def framed(data: bytes) -> bytes:
    """Return an answer with a BYTES tensor of two elements, framed as given."""
    return binary_answer(
        [{**OUTPUT, "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}], data
    )


def encoded(body: bytes, coding: str) -> bytes:
    return answer(body, headers=f"Content-Encoding: {coding}\r\n")


def bomb(layers: int) -> bytes:
    """Return a body that decompresses to 8 MiB of spaces, which are white space in JSON."""
    zipper = zlib.compressobj(1, wbits=31)
    body = b"".join(zipper.compress(b" " * (1 << 20)) for _ in range(8)) + zipper.flush()
    for _ in range(layers - 1):
        body = gzip.compress(body)
    return encoded(body, ", ".join(["gzip"] * layers))


EVENT = b"data: " + JSON + b"\n\n"
STREAMED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


def events(*more: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """Return a stream that starts with two correct answers; each answer and each of `more` is a chunk."""
    return STREAMED + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(EVENT, EVENT, *more, end=end)


ZIPPED = gzip.compress(JSON)
HTML = b"""<!DOCTYPE html><html><head><title>502</title><style>b { color: red }</style></head>
<body><h1>502 Bad Gateway</h1><script>track("you")</script><hr>nginx/1.25</body></html>"""


# -- scripts ----------------------------------------------------------------------------------------


def reads_nothing(then: str, data: bytes = b"") -> Script:
    """Send the data without reading the request, then end as told."""

    def script(peer: Peer) -> None:
        peer.send(data)
        peer.end(then)

    return script


def reads_the_head(then: str, data: bytes = b"", taken: int = 0) -> Script:
    """Read the request's head and a little of its body, send the data, then end as told."""

    def script(peer: Peer) -> None:
        if peer.read_head():
            peer.sock.recv(max(taken, 1))
            peer.send(data)
            if then == "drain":
                peer.sock.shutdown(socket.SHUT_WR)
                peer.hold()
            elif then == "stop":
                time.sleep(3 * SHORT)
                peer.reset()
            else:
                peer.end(then)

    return script


def says_later(data: bytes, then: str) -> Script:
    def script(peer: Peer) -> None:
        time.sleep(0.03)  # until the previous call is over
        peer.send(data)
        peer.end(then)

    return script


def reads_one(peer: Peer) -> None:
    """Read one more request, then close."""
    peer.read_request()


def resets_on_one(peer: Peer) -> None:
    peer.read_request()
    peer.reset()


def resets_in_the_body(peer: Peer) -> None:
    peer.read_head()
    peer.sock.recv(100_000)
    peer.reset()


def interim_without_end(peer: Peer) -> None:
    if peer.read_request():
        while True:
            peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100)


def body_without_end(peer: Peer) -> None:
    """Send small chunks for as long as the client reads."""
    if peer.read_request():
        peer.send(CHUNKED + b"\r\n")
        while True:
            peer.send(b"1\r\n \r\n")
            time.sleep(SHORT / 10)


def beats(peer: Peer) -> None:
    """Send two events, then comments for as long as the client reads."""
    if peer.read_request():
        peer.send(events(end=b""))
        while True:
            peer.send(chunks(b": beat\n\n", end=b""))
            time.sleep(SHORT / 10)


def reset_in_the_handshake(peer: Peer) -> None:
    peer.sock.recv(100)
    peer.reset()


def answers_a_handshake_in_plain(peer: Peer) -> None:
    peer.sock.recv(100)
    peer.send(answer(b"plain HTTP only", "400 Bad Request", "Connection: close\r\n"))


def garbage_in_tls(peer: Peer) -> None:
    if peer.read_request():
        os.write(peer.sock.fileno(), b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        peer.hold()


# -- TLS --------------------------------------------------------------------------------------------


@cache
def authority() -> trustme.CA:
    return trustme.CA()


def trusting() -> ssl.SSLContext:
    """Return a client's context that trusts only the tests' authority; loading the public ones takes time."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    return context


@cache
def identity(kind: str = "good") -> ssl.SSLContext:
    """Return a server's context with a certificate of this kind."""
    issuer, host, options = authority(), "127.0.0.1", {}
    now = datetime.now(timezone.utc)
    if kind == "that has expired":
        options = {"not_before": now - timedelta(days=9), "not_after": now - timedelta(days=1)}
    elif kind == "that is not valid yet":
        options = {"not_before": now + timedelta(days=1)}
    elif kind == "for another name":
        host = "elsewhere.example"
    elif kind == "for another address":
        host = "127.0.0.2"
    elif kind == "from an unknown authority":
        issuer = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issuer.issue_cert(host, **options).configure_cert(context)
    if kind == "that requires the client's":
        context.verify_mode = ssl.CERT_REQUIRED
        issuer.configure_trust(context)
    return context


def tls(kind: str, script: Script | None = None) -> Script:
    def encrypted(peer: Peer) -> None:
        over_tls(identity(kind), script or (lambda peer: peer.end("go on")))(peer)

    return encrypted


# -- the table --------------------------------------------------------------------------------------

NOTHING = {
    "before the head": (b"", "no byte of a response"),
    "in the head": (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n", "37 bytes of the response's head"),
    "after the head": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
        "0 of 10 bytes of the response's body",
    ),
    "in the body": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}",
        "2 of 10 bytes of the response's body",
    ),
    "in a large body": (
        answer(b"x" * 100_000, length=10**6),
        "100000 of 1000000 bytes of the response's body",
    ),
    "in a chunk": (CHUNKED + b"\r\n5\r\nab", "an incomplete body"),
    "between two chunks": (CHUNKED + b"\r\n2\r\n{}\r\n", "an incomplete body"),
    "after an interim answer": (b"HTTP/1.1 100 Continue\r\n\r\n", "no byte of a response"),
}

NOT_HTTP = "expected an HTTP/1.1 response"


def broken(name: str, data: Mapping[str, bytes], *says: str) -> Fault:
    """An answer that is not HTTP; the server then waits."""
    return Fault(name=name, scripts=each(data, "hold"), error=ProtocolError, says=says or (NOT_HTTP,))


def odd(name: str, data: Mapping[str, bytes]) -> Fault:
    """An unusual answer that is valid."""
    return Fault(name=name, scripts=each(data, "go on"), ran="once", kept=True)


def last(name: str, data: Mapping[str, bytes], *ends: str) -> Fault:
    """A correct answer after which the connection cannot be reused."""
    return Fault(name=name, scripts=each(data, *ends), ran="once")


def refused(name: str, data: Mapping[str, bytes], *says: str, calls: tuple[str, ...] = ANY) -> Fault:
    """A complete HTTP answer with wrong content."""
    return Fault(
        name=name, scripts=each(data, "go on"), error=ProtocolError, says=says, calls=calls, kept=True
    )


def failed(name: str, status: str, data: Mapping[str, bytes], *says: str) -> Fault:
    """An answer with an error status."""
    return Fault(
        name=name, scripts=each(data, "go on"), error=ServerError, says=says, status=status, kept=True
    )


def stopped(
    name: str, scripts: Mapping[str, Script], error: type[Exception], *says: str, **options: Any
) -> Fault:
    """A stream that fails after two answers."""
    return Fault(
        name=name, scripts=scripts, error=error, says=says, ran="once", calls=STREAM, before=2, **options
    )


TABLE: dict[str, list[Fault]] = {
    "No connection": [
        Fault(
            name="nothing listens",
            scripts={},
            answers_connects=False,
            error=ConnectRefused,
            says=("cannot connect to 127.0.0.1", "refused"),
            ran="no",
        ),
        Fault(
            name="connection attempts are not answered",
            scripts={},
            answers_connects=None,
            limit=SHORT,
            error=ConnectTimeout,
            says=("cannot connect to 127.0.0.1", "timed out"),
            ran="no",
        ),
        Fault(
            name="the host name has no address",
            scripts={},
            host="server.test",
            look_up="fails",
            error=NameResolutionError,
            says=("cannot resolve the name 'server.test'",),
            ran="no",
        ),
        Fault(
            name="the name server does not answer",
            scripts={},
            host="server.test",
            look_up="stalls",
            limit=SHORT,
            error=DeadlineExceeded,
            says=("timed out while resolving the name 'server.test'",),
            ran="no",
        ),
        Fault(
            name="accepts and closes",
            scripts=one(lambda peer: None),
            error=ConnectionLost,
            says=("connection",),
        ),
        Fault(
            name="accepts and resets",
            scripts=one(lambda peer: peer.reset()),
            error=(ConnectError, ConnectionLost),
            says=("127.0.0.1",),
        ),
    ],
    "TLS": [
        Fault(
            name="TLS to a plain server",
            scripts={
                "that answers": answers_a_handshake_in_plain,
                "that closes": lambda peer: peer.sock.recv(9),
            },
            tls=True,
            error=TLSError,
            says=("the TLS handshake with 127.0.0.1 failed",),
            ran="no",
        ),
        Fault(
            name="the handshake is not answered",
            scripts=one(lambda peer: peer.hold()),
            tls=True,
            limit=SHORT,
            error=ConnectTimeout,
            says=("timed out in the TLS handshake with 127.0.0.1",),
            ran="no",
        ),
        Fault(
            name="a reset during the handshake",
            scripts=one(reset_in_the_handshake),
            tls=True,
            error=TLSError,
            says=("the TLS handshake with 127.0.0.1 failed",),
            ran="no",
        ),
        Fault(
            name="plain HTTP to a TLS server",
            scripts=one(tls("good")),
            error=(ProtocolError, ConnectionLost),
            says=("http://127.0.0.1",),
            ran="no",
        ),
        *(
            Fault(
                name=f"a certificate {kind}",
                scripts=one(tls(kind)),
                tls=True,
                error=CertificateError,
                says=("the TLS handshake with 127.0.0.1 failed", says),
                ran="no",
            )
            for kind, says in {
                "that has expired": "certificate has expired",
                "that is not valid yet": "certificate is not yet valid",
                "for another name": "certificate is not valid for '127.0.0.1'",
                "for another address": "certificate is not valid for '127.0.0.1'",
                "from an unknown authority": "certificate verify failed: unable to get local issuer certificate",
            }.items()
        ),
        Fault(
            name="the server requires a client certificate",
            scripts=one(tls("that requires the client's")),
            tls=True,
            error=ConnectionLost,
            says=("certificate required",),
            ran="no",
        ),
        Fault(
            name="unencrypted bytes inside TLS",
            scripts=one(tls("good", garbage_in_tls)),
            tls=True,
            error=ConnectionLost,
            says=("no byte of a response",),
        ),
        Fault(
            name="closes under TLS",
            scripts={
                "before the head": tls("good", Sends(b"")),
                "with a reset": tls("good", Sends(b"", "reset")),
                "in the body": tls("good", Sends(answer(b"{}", length=10))),
            },
            tls=True,
            error=ConnectionLost,
            says=("after",),
        ),
        Fault(
            name="stops under TLS",
            scripts={
                "before the head": tls("good", Sends(b"", "hold")),
                "in the body": tls("good", Sends(answer(b"{}", length=10), "hold")),
            },
            tls=True,
            limit=SHORT,
            error=DeadlineExceeded,
            says=("timed out while receiving",),
        ),
    ],
    "While the request is sent": [
        Fault(
            name="does not read the request",
            scripts=one(lambda peer: peer.end("hold") if time.sleep(3 * SHORT) else None),
            calls=LARGE,
            limit=SHORT,
            error=DeadlineExceeded,
            says=("timed out while sending",),
            ran="no",
        ),
        Fault(
            name="stops reading in the middle of the request",
            scripts=one(reads_the_head("stop", taken=100_000)),
            calls=LARGE,
            limit=SHORT,
            error=DeadlineExceeded,
            says=("timed out while sending",),
            ran="no",
        ),
        Fault(
            name="goes away in the middle of the request",
            scripts={"closes": reads_the_head("close", taken=100_000), "resets": resets_in_the_body},
            calls=LARGE,
            error=ConnectionLost,
            says=("connection",),
            ran="no",
        ),
        Fault(
            name="the same on a reused connection",
            scripts=one(behind_a_good_answer(resets_in_the_body)),
            calls=LARGE,
            warm=True,
            ran="once",
            again="yes",
        ),
        Fault(
            name="refuses a large request before reading it",
            scripts={
                end: reads_the_head(
                    end,
                    answer({"error": "too large for us"}, "413 Content Too Large", "Connection: close\r\n"),
                )
                for end in ("close", "drain", "reset", "hold")
            },
            calls=LARGE,
            error=ServerError,
            status="413",
            says=("too large for us",),
            ran="no",
        ),
        Fault(
            name="answers before the request is sent",
            scripts={
                end: reads_nothing(
                    end, answer(b"no room", "503 Service Unavailable", "Connection: close\r\n")
                )
                for end in ("close", "hold")
            },
            error=ServerError,
            status="503",
            says=("no room",),
        ),
    ],
    "Silence": [
        Fault(
            name="sends nothing",
            scripts={
                "without reading": lambda peer: time.sleep(2 * SHORT),
                "after reading": Sends(b"", "hold"),
            },
            limit=SHORT,
            error=DeadlineExceeded,
            says=("timed out while receiving", "no byte of a response"),
        ),
        *(
            Fault(
                name=f"stops {place}",
                scripts=one(Sends(sent, "hold")),
                limit=SHORT,
                error=DeadlineExceeded,
                says=("timed out while receiving", progress),
            )
            for place, (sent, progress) in NOTHING.items()
            if sent
        ),
        Fault(
            name="one byte at a time, too slowly",
            scripts={
                "in the head": Trickles(answer(HEALTHY, headers="X: " + "x" * 999), pause=SHORT / 10),
                "in the body": Trickles(answer(b" " * 999 + JSON), pause=SHORT / 10),
                "in chunks": body_without_end,
            },
            limit=SHORT,
            error=DeadlineExceeded,
            says=("timed out while receiving",),
        ),
        Fault(
            name="one byte at a time, fast enough",
            scripts=one(Trickles(answer(HEALTHY), pause=0.001)),
            kept=True,
            ran="once",
        ),
    ],
    "The connection breaks": [
        *(
            Fault(
                name=f"goes away {place}",
                scripts={end: Sends(sent, end) for end in ("close", "reset", "half-close")},
                error=ConnectionLost,
                says=(progress,),
            )
            for place, (sent, progress) in NOTHING.items()
        ),
        Fault(
            name="has closed an idle connection",
            scripts={
                "closes": behind_a_good_answer(says_later(b"", "close")),
                "resets": behind_a_good_answer(says_later(b"", "reset")),
                "half-closes": behind_a_good_answer(says_later(b"", "half-close")),
                "sends 408 and closes": behind_a_good_answer(
                    says_later(answer(b"", "408 Request Timeout", "Connection: close\r\n"), "close")
                ),
            },
            warm=True,
            ran="once",
        ),
        Fault(
            name="has closed an idle connection under TLS",
            scripts={
                "closes": tls("good", behind_a_good_answer(says_later(b"", "close"))),
                "resets": tls("good", behind_a_good_answer(says_later(b"", "reset"))),
            },
            tls=True,
            warm=True,
            ran="once",
        ),
        Fault(
            name="sends an unrequested answer on an idle connection",
            scripts=one(behind_a_good_answer(says_later(answer({"name": "not yours"}), "hold"))),
            warm=True,
            ran="once",
        ),
        Fault(
            name="closes after the next request, without an answer",
            scripts={
                "closes": behind_a_good_answer(reads_one),
                "resets": behind_a_good_answer(resets_on_one),
            },
            warm=True,
            again="if repeatable",
            error=ConnectionLost,
            says=("no byte of a response",),
        ),
        Fault(
            name="closes in the middle of the next answer",
            scripts=one(behind_a_good_answer(Sends(b"HTTP/1.1 20"))),
            warm=True,
            error=ConnectionLost,
            says=("11 bytes of the response's head",),
        ),
    ],
    "Not HTTP": [
        broken(
            "another protocol",
            {"SSH": b"SSH-2.0-OpenSSH_9.6\r\n"},
            NOT_HTTP,
            "got bytes that begin with b'SSH-2.0",
        ),
        broken(
            "HTTP/2",
            {
                "the preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                "a status line": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
            },
            NOT_HTTP,
            "got bytes that begin with",
        ),
        broken(
            "the port of gRPC",
            {"settings": b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64\0\0\0\0\0\0\0\0\0"},
            NOT_HTTP,
            "got HTTP/2: is this the gRPC port",
        ),
        broken(
            "HTML without an HTTP head",
            {"": b"<html>hello</html>\r\n\r\n"},
            NOT_HTTP,
            "got bytes that begin with b'<html>",
        ),
        broken(
            "a TLS alert",
            {"": b"\x15\x03\x01\x00\x02\x02\x46"},
            NOT_HTTP,
            r"got bytes that begin with b'\x15",
        ),
        broken(
            "an invalid status",
            {
                status: f"HTTP/1.1 {status} OK\r\nContent-Length: 2\r\n\r\n{{}}".encode()
                for status in ("two", "20", "000", "-200", "2000")
            },
        ),
        broken(
            "an invalid line in the head",
            {
                "no colon": b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
                "a space in a name": b"HTTP/1.1 200 OK\r\nContent Length: 2\r\n\r\n{}",
                "a space before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n{}",
                "lines that end in LF": b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
                "white space at its start": b"HTTP/1.1 200 OK\r\n X: a\r\nContent-Length: 2\r\n\r\n{}",
            },
        ),
        broken(
            "a header of 1 MB",
            {"": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000},
            "the response's head is longer than 65536 bytes",
        ),
        broken(
            "100,000 headers",
            {
                "long": b"HTTP/1.1 200 OK\r\n"
                + b"".join(b"X-%d: 1\r\n" % n for n in range(100_000))
                + b"\r\n",
                "endless": b"HTTP/1.1 200 OK\r\n" + b"X:1\r\n" * 100_000,
            },
            "the response's head is longer than 65536 bytes",
        ),
        broken(
            "300 headers",
            {"": b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(300)) + b"\r\n"},
            "the response has more than 256 header lines",
        ),
        broken(
            "an invalid Content-Length",
            {str(length): answer(b"{}", length=length) for length in ("two", -1, 2**64, "2, 5", "0x2", "")},
        ),
        broken("two Content-Lengths that differ", {"": answer(b"{}", headers="Content-Length: 5\r\n")}),
        broken(
            "a Content-Length of exabytes", {"": answer(b"", length=2**62)}, "more than there is memory for"
        ),
        broken(
            "an invalid chunk size",
            {
                "not a number": CHUNKED + b"\r\nxyz\r\n{}\r\n0\r\n\r\n",
                "empty": CHUNKED + b"\r\n\r\n{}\r\n0\r\n\r\n",
                "negative": CHUNKED + b"\r\n-2\r\n{}\r\n0\r\n\r\n",
                "past 64 bits": CHUNKED + b"\r\n1" + b"0" * 17 + b"\r\n{}\r\n",
                "0x2": CHUNKED + b"\r\n0x2\r\n{}\r\n0\r\n\r\n",
            },
        ),
        broken("a chunk longer than its size", {"": CHUNKED + b"\r\n2\r\n{}{}\r\n0\r\n\r\n"}),
        broken(
            "Content-Length and Transfer-Encoding",
            {"": CHUNKED + b"Content-Length: 3\r\n\r\n" + chunks(JSON)},
            NOT_HTTP,
            "Transfer-Encoding",
        ),
        broken(
            "a Transfer-Encoding other than chunked",
            {"": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"},
            "Transfer-Encoding 'gzip': expected chunked",
        ),
        broken(
            "an unrequested 101",
            {
                "with Upgrade": b"HTTP/1.1 101 Switching Protocols\r\n"
                b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
                "without": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
            },
            "the server switched to another protocol (status 101), unasked",
        ),
        Fault(
            name="endless interim answers",
            scripts=one(interim_without_end),
            error=ProtocolError,
            says=("the server sent more than 100 interim responses",),
        ),
    ],
    "Unusual, but valid HTTP": [
        odd(
            "1xx first",
            {
                "100": b"HTTP/1.1 100 Continue\r\n\r\n" + answer(HEALTHY),
                "several": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
                b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=x\r\n\r\n" + answer(HEALTHY),
                "before chunks": b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED + b"\r\n" + chunks(JSON),
            },
        ),
        odd(
            "chunks",
            {
                "one": CHUNKED + b"\r\n" + chunks(JSON),
                "of a byte each": CHUNKED + b"\r\n" + chunks(*(JSON[i : i + 1] for i in range(len(JSON)))),
                "with extensions": CHUNKED
                + b"\r\n"
                + chunks(JSON[:9], JSON[9:], extension=b';name="value";flag'),
                "with trailers": CHUNKED
                + b"Trailer: X-Sum\r\n\r\n"
                + chunks(JSON, end=b"0\r\nX-Sum: 1\r\nX-Other: 2\r\n\r\n"),
                "with a folded trailer": CHUNKED + b"\r\n" + chunks(JSON, end=b"0\r\nX: a\r\n b\r\n\r\n"),
                "sizes in upper case": CHUNKED + b"\r\n" + b"%X\r\n%s\r\n0\r\n\r\n" % (len(JSON), JSON),
            },
        ),
        odd(
            "unusual heads",
            {
                "no reason": b"HTTP/1.1 200\r\nContent-Length: %d\r\n\r\n%s" % (len(JSON), JSON),
                "case": b"HTTP/1.1 200 OK\r\ncOnTeNt-LeNgTh:%d\r\n\r\n%s" % (len(JSON), JSON),
                "white space": b"HTTP/1.1 200 OK\r\nContent-Length:  \t%d \r\nX:\r\n\r\n%s"
                % (len(JSON), JSON),
                "Latin-1": answer(HEALTHY, headers="X-Name: caf\xe9\r\n"),
                "a header twice": answer(HEALTHY, headers="Set-Cookie: a\r\nSet-Cookie: b\r\n"),
                "a folded line": answer(HEALTHY, headers="X-Name: a,\r\n\tb\r\n"),
                "equal Content-Lengths": answer(
                    HEALTHY, headers=f"Content-Length: {len(JSON)}\r\n", length=f"{len(JSON)}, {len(JSON)}"
                ),
                "200 headers": answer(HEALTHY, headers="".join(f"X-{n}: {n}\r\n" for n in range(200))),
                "a header of 60 kB": answer(HEALTHY, headers=f"X-Long: {'x' * 60_000}\r\n"),
            },
        ),
        odd("a successful status other than 200", {"202": answer(HEALTHY, "202 Accepted")}),
        odd(
            "HTTP/1.0, kept alive",
            {"": answer(HEALTHY, headers="Connection: keep-alive\r\n", version="1.0")},
        ),
        last(
            "HTTP/1.0",
            {"with a length": answer(HEALTHY, version="1.0")},
            "hold",
            "close",
        ),
        last(
            "a body that ends with the connection",
            {"HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\n" + JSON, "HTTP/1.1": b"HTTP/1.1 200 OK\r\n\r\n" + JSON},
            "close",
            "half-close",
        ),
        last(
            "Connection: close",
            {
                "": answer(HEALTHY, headers="Connection: close\r\n"),
                "chunked": CHUNKED + b"Connection: close\r\n\r\n" + chunks(JSON),
            },
            "close",
            "hold",
            "half-close",
        ),
        last(
            "more than the answer",
            {
                "than Content-Length": answer(HEALTHY) + b"extra bytes",
                "than the chunks": CHUNKED + b"\r\n" + chunks(JSON) + b"extra",
                "two answers": answer(HEALTHY) + answer({"name": "not yours"}),
                "two answers in chunks": 2 * (CHUNKED + b"\r\n" + chunks(JSON)),
            },
            "hold",
        ),
    ],
    "Errors from servers and gateways": [
        failed(
            "a gateway's HTML", "502", {"": answer(HTML, "502 Bad Gateway")}, "502 Bad Gateway nginx/1.25"
        ),
        failed(
            "an error with an empty body",
            "503",
            {"": answer(b"", "503 Service Unavailable")},
            "client received an empty response from the server",
        ),
        *(
            failed(
                f"a redirect, {status}",
                status,
                {"": answer(b"moved", f"{status} Moved", "Location: http://elsewhere.example/v2\r\n")},
                "redirect to http://elsewhere.example/v2",
                "not followed",
            )
            for status in ("301", "302", "307", "308")
        ),
        failed("an unrequested 304", "304", {"": answer(b"", "304 Not Modified")}, "empty response"),
        failed(
            "200 with an error inside",
            "200",
            {"": answer({"error": "one response expected"})},
            "one response expected",
        ),
        failed(
            "an error body that cannot be decompressed",
            "500",
            {
                coding: answer(b"\x1f\x8bgarbage", "500 Oops", f"Content-Encoding: {coding}\r\n")
                for coding in ("gzip", "br")
            },
            "garbage",
        ),
    ],
    "HTTP, but not the protocol": [
        refused(
            "200 with HTML",
            {"": answer(b"<html>please log in</html>")},
            "expected JSON, got 26 bytes that begin with '<html>please log in",
        ),
        refused(
            "200 with an empty body",
            {"": answer(b""), "204": answer(b"", "204 No Content")},
            "expected JSON, got 0 bytes",
        ),
        refused(
            "invalid JSON",
            {
                "cut": answer(JSON[:-9]),
                "Python": answer(b"{'name': 1}"),
                "nested": answer(b"[" * 200_000),
                "two": answer(JSON + JSON),
            },
            "expected JSON",
        ),
        refused("JSON in UTF-16", {"": answer(b"\xff\xfe" + JSON.decode().encode("utf-16le"))}, "UTF-8"),
        Fault(
            name="a Content-Length that is too small",
            scripts=one(Sends(answer(JSON, length=len(JSON) - 9), "hold")),
            error=ProtocolError,
            says=("expected JSON",),
        ),
        refused(
            "JSON of another type",
            {json.dumps(value): answer(value) for value in ([], "text", 7, 1.5, True, None)},
            "expected a JSON object, got",
        ),
        refused(
            "an invalid Inference-Header-Content-Length",
            {
                str(length): binary_answer([OUTPUT], header_length=length)
                for length in ("x", "", "1.5", "0x10", "12, 12")
            },
            "Inference-Header-Content-Length: expected a number",
            calls=INFER,
        ),
        refused(
            "an Inference-Header-Content-Length outside the body",
            {
                str(length): binary_answer([OUTPUT], header_length=length)
                for length in (-1, 10**6, 2**63, 2**200)
            },
            "Inference-Header-Content-Length is",
            "the response's body has",
            calls=INFER,
        ),
        refused(
            "an Inference-Header-Content-Length that cuts the JSON",
            {str(length): binary_answer([OUTPUT], header_length=length) for length in (0, 1, 10)},
            "expected JSON",
            calls=INFER,
        ),
        refused(
            "binary tensors without Inference-Header-Content-Length",
            {"": answer(json.dumps({"outputs": [OUTPUT]}).encode() + BINARY)},
            "JSON",
            calls=INFER,
        ),
        refused(
            "an invalid binary_data_size",
            {json.dumps(size): sized(size) for size in (-8, 2**70, 8.0, "8", True, [8], {})},
            "output 'O': expected binary_data_size as a size, got",
            calls=INFER,
        ),
        refused(
            "a binary_data_size that does not match the body",
            {
                **{json.dumps(size): sized(size) for size in (0, 4, 7, 9, 2**31)},
                "no data": binary_answer([OUTPUT], b""),
                "a byte missing": binary_answer([OUTPUT], BINARY[:-1]),
                "a byte too many": binary_answer([OUTPUT], BINARY + b"x"),
                "two outputs": binary_answer([OUTPUT, {**OUTPUT, "name": "P"}]),
            },
            "the response's body has",
            "its head and binary tensors take",
            calls=INFER,
        ),
        refused(
            "a binary_data_size that does not match the shape",
            {
                "fewer": binary_answer([{**OUTPUT, "shape": [1]}]),
                "more": binary_answer([{**OUTPUT, "shape": [3]}]),
                "beyond memory": binary_answer([{**OUTPUT, "shape": [2**31, 2**30]}]),
                "another datatype": binary_answer([{**OUTPUT, "datatype": "INT64"}]),
            },
            "output 'O'",
            "bytes, got",
            calls=INFER,
        ),
        refused(
            "BYTES whose elements do not match their size",
            {
                "a negative length": framed(b"\xff\xff\xff\xffabcd"),
                "too long": framed(b"\x03\0\0\0ab"),
                "too few": framed(b"\x04\0\0\0abcd"),
                "cut": framed(b"\x01\0\0"),
            },
            "output 'O'",
            calls=INFER,
        ),
    ],
    "Content codings": [
        refused(
            "truncated gzip",
            {
                "in its trailer": encoded(ZIPPED[:-5], "gzip"),
                "in its data": encoded(ZIPPED[:-9], "gzip"),
                "in its head": encoded(ZIPPED[:5], "gzip"),
                "empty": encoded(b"", "gzip"),
            },
            "the gzip body of",
            "is truncated",
        ),
        refused(
            "gzip with a wrong checksum",
            {"": encoded(ZIPPED[:-8] + b"\0" * 8, "gzip")},
            "the body is not valid gzip",
        ),
        refused("gzip with bytes after it", {"": encoded(ZIPPED + b"garbage", "gzip")}, "gzip"),
        refused(
            "a gzip bomb",
            {"": bomb(1), "in gzip": bomb(2)},
            "the gzip body decompresses to more than the limit of",
        ),
        refused("plain JSON declared as gzip", {"": encoded(JSON, "gzip")}, "the body is not valid gzip"),
        refused(
            "gzip declared as deflate",
            {"": encoded(ZIPPED, "deflate")},
            "the body is not valid deflate",
        ),
        refused(
            "truncated deflate",
            {"": encoded(zlib.compress(JSON)[:-5], "deflate")},
            "the deflate body of",
            "is truncated",
        ),
        refused("gzip that is not declared", {"": answer(ZIPPED)}, "UTF-8"),
        refused(
            "an unrequested coding",
            {coding: encoded(JSON, coding) for coding in ("br", "zstd", "gzip;q=1", "identity, br")},
            "Content-Encoding",
            "expected gzip, deflate or identity",
        ),
        odd(
            "valid codings",
            {
                "GZIP": encoded(ZIPPED, "GZIP"),
                "x-gzip": encoded(ZIPPED, "x-gzip"),
                "twice": encoded(gzip.compress(ZIPPED), "gzip, gzip"),
                "two in turn": encoded(gzip.compress(zlib.compress(JSON)), "deflate, identity, gzip"),
                "two members": encoded(gzip.compress(b"") + ZIPPED, "gzip"),
                "two members and padding": encoded(
                    gzip.compress(JSON[:9]) + gzip.compress(JSON[9:]) + bytes(9), "gzip"
                ),
                "deflate": encoded(zlib.compress(JSON), "deflate"),
                "deflate without its head": encoded(zlib.compress(JSON)[2:-4], "deflate"),
                "identity": encoded(JSON, "identity"),
                "empty": encoded(JSON, ""),
            },
        ),
    ],
    "Streams that have started": [
        stopped(
            "a stream that is cut",
            each(
                {"between two events": events(end=b""), "without the last chunk": events(end=b"0\r\n")},
                "close",
            ),
            ConnectionLost,
            "the server closed the connection",
            "after an incomplete body",
        ),
        stopped(
            "a stream that is cut in an event",
            each(
                {
                    "between chunks": events(EVENT[:20], end=b""),
                    "in a chunk": events(end=b"1d\r\n" + EVENT[:20]),
                    "of a known length": STREAMED + b"Content-Length: 9999\r\n\r\n" + 2 * EVENT + EVENT[:9],
                },
                "close",
            ),
            ConnectionLost,
            "connection",
            "body",
        ),
        stopped(
            "a stream that is reset",
            one(Sends(events(end=b""), "reset")),
            ConnectionLost,
            "after an incomplete body",
        ),
        stopped(
            "a stream that stalls",
            each({"between two events": events(end=b""), "in one": events(EVENT[:20], end=b"")}, "hold"),
            DeadlineExceeded,
            "timed out while receiving",
            limit=SHORT,
        ),
        stopped("endless comments", one(beats), DeadlineExceeded, "timed out while receiving", limit=SHORT),
        stopped(
            "a bad chunk between two events",
            each(
                {"not a number": events(end=b"zz\r\n"), "past 64 bits": events(end=b"f" * 17 + b"\r\n")},
                "hold",
            ),
            ProtocolError,
            NOT_HTTP,
        ),
        stopped(
            "an event that is not JSON",
            each(
                {"": events(b"data: nope\n\n", end=b""), "cut": events(b'data: {"a":\n\n', end=b"")}, "hold"
            ),
            ProtocolError,
            "an event of the stream: expected JSON",
        ),
        stopped(
            "an event that is not a JSON object",
            each(
                {"a list": events(b"data: [1]\n\n", end=b""), "a number": events(b"data: 1\n\n", end=b"")},
                "hold",
            ),
            ProtocolError,
            "an event of the stream: expected a JSON object, got",
        ),
        stopped(
            "an end in the middle of an event",
            each(
                {
                    "chunks": events(b"data: {}\n"),
                    "a known length": answer(
                        2 * EVENT + b"data: {}\n", headers="Content-Type: text/event-stream\r\n"
                    ),
                },
                "go on",
            ),
            ProtocolError,
            "the stream ended in the middle of an event",
            kept=True,
        ),
        stopped(
            "an error from the model",
            each(
                {
                    "": events(b'data: {"error": "out of memory"}\n\n', end=b""),
                    "followed by an event": events(b'data: {"error": "out of memory"}\n\n', EVENT, end=b""),
                    "as an error event": events(b"event: error\ndata: out of memory\n\n", end=b""),
                },
                "hold",
            ),
            ServerError,
            "out of memory",
            status="200",
        ),
        Fault(
            name="an error in place of events",
            scripts=one(Sends(answer({"error": "out of memory"}), "go on")),
            error=ServerError,
            says=("out of memory",),
            status="200",
            ran="once",
            calls=STREAM,
            kept=True,
        ),
        Fault(
            name="HTML in place of events",
            scripts=one(Sends(answer(HTML, headers="Content-Type: text/html\r\n"), "go on")),
            error=ProtocolError,
            says=("expected JSON, got", "bytes that begin with '<!DOCTYPE html>"),
            calls=STREAM,
            kept=True,
        ),
        Fault(
            name="unusual events",
            scripts=each(
                {
                    "CRLF": events(b"data: {}\r\n\r\n".replace(b"{}", JSON)),
                    "comments": events(b": beat\n\n", EVENT),
                    "two to a chunk": events(2 * EVENT),
                },
                "go on",
            ),
            ran="once",
            calls=STREAM,
            kept=True,
        ),
    ],
}

FAULTS = [fault for faults in TABLE.values() for fault in faults]


# -- the table in the documentation -----------------------------------------------------------------

DOCUMENT = Path(__file__).parents[2] / "docs/faults.md"
_SECTION = re.compile(r"(?s)(<!-- faults -->\n).*?(<!-- end of faults -->)")


def document() -> str:
    """Return the table in Markdown."""

    def lines() -> Iterator[str]:
        for title, faults in TABLE.items():
            yield f"\n| {title} | the caller gets | could the model have run | sent again | with `Retry()` |"
            yield "| --- | --- | --- | --- | --- |"
            for fault in faults:
                variants = ", ".join(name for name in fault.scripts if name)
                name = f"{fault.name} ({variants})" if variants else fault.name
                cells = (name, fault.gets(), fault.ran, fault.again, fault.tried_again())
                yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
        yield ""

    return "\n".join(lines())


def documented() -> str | None:
    """Return the documentation's table, or None if there is none."""
    found = _SECTION.search(DOCUMENT.read_text("utf-8"))
    return found and found[0]


def section() -> str:
    return f"<!-- faults -->\n{document()}\n<!-- end of faults -->"


if __name__ == "__main__":
    DOCUMENT.write_text(_SECTION.sub(lambda _: section(), DOCUMENT.read_text("utf-8")), "utf-8")
