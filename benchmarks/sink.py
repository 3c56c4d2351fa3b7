"""A v2 server that does as little as possible, so that a benchmark measures the client's own cost.

``python sink.py`` listens on two free ports of 127.0.0.1. The second one has TLS if ``--tls FOLDER`` names a
folder with ``server.pem``. It prints ``{"port": …, "tls_port": …}`` and ends with its standard input. It
understands Content-Length and keep-alive. The first request with a given head is computed: ``add_sub`` adds and
subtracts, every other model returns its inputs (INPUT7 as OUTPUT7). The answer's bytes are kept. Later requests
with the same head are discarded unread and get the same bytes.

It is one process with one epoll loop (40,000 small requests a second; a thread for each connection reached
28,000). While requests come it polls without sleeping, on its own core, so that a client pays neither for
waking the server nor for sharing a core with it. Without epoll it falls back to the default of ``selectors``.
"""

from __future__ import annotations

import array
import contextlib
import gzip
import json
import os
import selectors
import socket
import ssl
import struct
import sys
import threading
import time

SPIN_SECONDS = 0.02  # after the last event the loop polls this long before it sleeps
RECEIVE_BYTES = 1 << 20
HEAD_END = b"\r\n\r\n"
# Linux discards the bytes without copying them. Elsewhere, and under TLS, they are received and ignored.
DISCARD = getattr(socket, "MSG_TRUNC", 0) if sys.platform == "linux" else 0


def _headers(head: bytes) -> dict[bytes, bytes]:
    """Return the headers of a request head by lower-case name."""
    pairs = (line.partition(b":") for line in head.split(b"\r\n")[1:] if line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _tensors(body: bytes, json_length: int) -> tuple[dict, list[dict]]:
    """Return the request's JSON object and its inputs, each with ``raw`` bytes or ``data``."""
    request = json.loads(body[:json_length])
    offset = json_length
    for tensor in request["inputs"]:
        if size := tensor.get("parameters", {}).get("binary_data_size", 0):
            tensor["raw"] = body[offset : offset + size]
            offset += size
    return request, request["inputs"]


def _compute(model: str, inputs: list[dict]) -> list[dict]:
    """Return the outputs: sum and difference for ``add_sub``, else the inputs under their output names."""
    if model != "add_sub":
        return [{**tensor, "name": tensor["name"].replace("INPUT", "OUTPUT")} for tensor in inputs]
    a, b = (array.array("i", tensor["raw"]) for tensor in inputs)
    results = [x + y for x, y in zip(a, b, strict=True)], [x - y for x, y in zip(a, b, strict=True)]
    raws = [array.array("i", result).tobytes() for result in results]
    return [{**inputs[0], "name": f"OUTPUT{i}", "raw": raw} for i, raw in enumerate(raws)]


def answer(head: bytes, body: bytes) -> bytes:
    """Return the whole HTTP answer to one request."""
    target = head.split(b" ", 2)[1].decode()
    headers = _headers(head)
    if headers.get(b"content-encoding") == b"gzip":
        body = gzip.decompress(body)
    model = target.strip("/").split("/")[2]
    request, inputs = _tensors(body, int(headers.get(b"inference-header-content-length", len(body))))
    requested = {entry["name"]: entry.get("parameters", {}) for entry in request.get("outputs", ())}
    default = request.get("parameters", {}).get("binary_data_output", False)
    outputs, raws = [], []
    for tensor in _compute(model, inputs):
        name, raw = tensor["name"], tensor.get("raw")
        entry = {"name": name, "datatype": tensor["datatype"], "shape": tensor["shape"]}
        if requested.get(name, {}).get("binary_data", default):
            raw = struct.pack(f"<{len(tensor['data'])}f", *tensor["data"]) if raw is None else raw
            entry["parameters"] = {"binary_data_size": len(raw)}
            raws.append(raw)
        else:
            entry["data"] = tensor["data"] if raw is None else struct.unpack(f"<{len(raw) // 4}f", raw)
        outputs.append(entry)
    document = json.dumps(
        {"model_name": model, "model_version": "1", "outputs": outputs}, separators=(",", ":")
    ).encode()
    lines = ["HTTP/1.1 200 OK"]
    if raws:
        lines.append("Content-Type: application/octet-stream")
        lines.append(f"Inference-Header-Content-Length: {len(document)}")
    else:
        lines.append("Content-Type: application/json")
    content = b"".join([document, *raws])
    if b"gzip" in headers.get(b"accept-encoding", b"") and b"content-encoding" in headers:
        content = gzip.compress(content, 6)
        lines.append("Content-Encoding: gzip")
    lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join(lines).encode() + HEAD_END + content


class Connection:
    """One client's connection: it discards each request and sends the kept answer for its head."""

    buffer = memoryview(bytearray(RECEIVE_BYTES))  # shared: it holds nothing between two events
    answers: dict[bytes, tuple[int, memoryview]] = {}  # noqa: RUF012  shared on purpose: head -> body length, answer

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        self.sock = sock
        self.flags = 0 if isinstance(sock, ssl.SSLSocket) else DISCARD
        self.begun = b""  # the start of an incomplete head, or of a body that is computed with
        self.left = 0  # bytes of a known body still to be discarded
        self.reply = memoryview(b"")
        self.out = memoryview(b"")

    def ready(self) -> bool:
        """Continue as far as the socket allows; return False if the client is gone. SSL: until it would block."""
        if self.out:
            self._send()
        while not self.out:
            if self.left:
                received = self.sock.recv_into(self.buffer, min(self.left, RECEIVE_BYTES), self.flags)
                if not received:
                    return False
                self.left -= received
                if not self.left:
                    self._reply()
            else:
                received = self.sock.recv_into(self.buffer)
                if not received:
                    return False
                self._begin(self.begun + bytes(self.buffer[:received]))
            if self.flags and not self.left:
                return True  # the next wait reports more; saves a recv that would give EAGAIN
        return True

    def _begin(self, data: bytes) -> None:
        end = data.find(HEAD_END)
        head = data[: end + 4]
        if end < 0:
            self.begun = data
            return
        body = len(data) - len(head)
        if head not in self.answers:
            headers = _headers(head[:-4])
            length = int(headers.get(b"content-length", 0))
            if body < length:
                self.begun = self._gather(data, len(head) + length)
                data, self.begun = self.begun, b""
                body = length
            self.answers[head] = length, memoryview(answer(head[:-4], data[len(head) :]))
        self.begun = b""
        length, self.reply = self.answers[head]
        self.left = length - body
        if not self.left:
            self._reply()

    def _gather(self, data: bytes, total: int) -> bytes:
        """Receive the rest of a first request, blocking."""
        self.sock.settimeout(60)
        pieces, have = [data], len(data)
        while have < total and (piece := self.sock.recv(min(total - have, RECEIVE_BYTES))):
            pieces.append(piece)
            have += len(piece)
        self.sock.setblocking(False)
        return b"".join(pieces)

    def _reply(self) -> None:
        self.out = self.reply
        self._send()

    def _send(self) -> None:
        while self.out:
            self.out = self.out[self.sock.send(self.out[: 4 << 20]) :]


WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def serve(plain: socket.socket, secure: socket.socket, tls: ssl.SSLContext | None) -> None:
    """Answer requests forever."""
    selector = selectors.DefaultSelector()
    for listener in (plain, secure):
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ)
    spin = SPIN_SECONDS if (os.cpu_count() or 1) > 1 else 0.0
    busy_until = 0.0
    while True:
        events = selector.select(0 if time.monotonic() < busy_until else None)
        if not events:
            continue
        for key, _ in events:
            if key.data is None:
                with contextlib.suppress(OSError):
                    sock = key.fileobj.accept()[0]
                    if key.fileobj is secure and tls is not None:
                        sock.settimeout(5)
                        sock = tls.wrap_socket(sock, server_side=True)
                    selector.register(sock, selectors.EVENT_READ, Connection(sock))
                continue
            connection: Connection = key.data
            try:
                alive = connection.ready()
            except WOULD_BLOCK:
                alive = True
            except (OSError, ValueError, KeyError, IndexError) as error:
                if not isinstance(error, ConnectionError):
                    print(f"sink: {error!r}", file=sys.stderr)
                alive = False
            if not alive:
                selector.unregister(connection.sock)
                connection.sock.close()
                continue
            wanted = selectors.EVENT_WRITE if connection.out else selectors.EVENT_READ
            if wanted != key.events:
                selector.modify(connection.sock, wanted, connection)
        busy_until = time.monotonic() + spin


def main() -> None:
    """Open the two ports, print them, and serve until standard input ends."""
    tls = None
    if "--tls" in sys.argv:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(os.path.join(sys.argv[sys.argv.index("--tls") + 1], "server.pem"))
    plain, secure = (socket.create_server(("127.0.0.1", 0), backlog=256) for _ in range(2))
    print(
        json.dumps({"port": plain.getsockname()[1], "tls_port": secure.getsockname()[1]}),
        flush=True,
    )

    def end_with_parent() -> None:
        while os.read(0, 1024):
            pass
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        serve(plain, secure, tls)


if __name__ == "__main__":
    main()
