"""A server whose answers show which request they belong to: it gives back the tensors that it was sent."""

from __future__ import annotations

import json
import mmap
import os
import time
from typing import Any

from .servers import Peer, answer

_PIECES = [b'data: {"text": "%d"}\n\n' % number for number in range(3)]
_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
#: What each stream gives.
STREAMED = [{"text": str(number)} for number in range(3)]


class Echo:
    """The script of every connection: OUTPUT0 is INPUT0, for the same and for other requests.

    Attributes
    ----------
    lose : int
        So many of the next inferences are lost: the connection is closed in place of an answer.
    varied : bool
        Whether each answer has another layout than the one before.
    closes_every : int
        How many answers a connection gives before it is closed, which the last of them announces; 0: any number.
    """

    def __init__(self) -> None:
        self.lose = 0
        self.varied = False
        self.closes_every = 0
        self._answers = 0
        self._regions: dict[str, mmap.mmap] = {}

    def __call__(self, peer: Peer) -> None:
        received, given = b"", 0
        while True:
            while (end := received.find(b"\r\n\r\n")) < 0:
                piece = peer.sock.recv(1 << 16)
                if not piece:
                    return
                received += piece
            target = received[:end].decode().split(" ", 2)[1]
            sizes = {"content-length": 0, "inference-header-content-length": 0}
            for line in received[:end].decode().lower().split("\r\n")[1:]:
                name, _, value = line.partition(": ")
                if name in sizes:
                    sizes[name] = int(value)
            length, json_size = sizes.values()
            received = received[end + 4 :]
            while len(received) < length:
                piece = peer.sock.recv(1 << 20)
                if not piece:
                    return
                received += piece
            body, received = received[:length], received[length:]
            if target.endswith("/generate_stream"):
                self._stream(peer)
                continue
            data = self._answer(target.split("?")[0], body, json_size or length)
            if data is None:
                return
            given += 1
            if given == self.closes_every:
                data = data.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
            peer.send(data)
            if given == self.closes_every:
                return

    def close(self) -> None:
        while self._regions:
            self._regions.popitem()[1].close()

    def _stream(self, peer: Peer) -> None:
        head = _STREAM
        for each in (*_PIECES, b""):
            peer.send(head + b"%x\r\n%s\r\n" % (len(each), each))
            time.sleep(0.001)
            head = b""

    def _answer(self, target: str, body: bytes, json_size: int) -> bytes | None:
        if target.endswith("/infer"):
            if self.lose:
                self.lose -= 1
                return None
            try:
                return self._infer(json.loads(body[:json_size]), body[json_size:])
            except KeyError:  # a request that was given up, whose region the next call has had forgotten
                return None
        if "/systemsharedmemory/" in target:
            return self._share(target.split("/")[-3:], body)
        return answer({"name": "echo"}) if target.startswith("/v2") else None

    def _infer(self, request: Any, data: bytes) -> bytes:
        (tensor,) = request["inputs"]
        data = self._placed(tensor, data)
        output = {"name": "OUTPUT0", "datatype": tensor["datatype"], "shape": tensor["shape"]}
        asked = request.get("outputs") or [{}]
        name = asked[0].get("parameters", {}).get("shared_memory_region")
        if name:
            where = asked[0]["parameters"]
            offset = where.get("shared_memory_offset", 0)
            self._regions[name][offset : offset + len(data)] = data
            output["parameters"] = {**where, "shared_memory_byte_size": len(data)}
            data = b""
        else:
            output["parameters"] = {"binary_data_size": len(data)}
        self._answers += 1
        head = {"model_name": "echo", "model_version": "1", "outputs": [output]}
        if self.varied:
            head["model_version"] = "1" * (1 + self._answers % 3)
        encoded = json.dumps(head).encode()
        return answer(encoded + data, headers=f"Inference-Header-Content-Length: {len(encoded)}\r\n")

    def _placed(self, tensor: Any, data: bytes) -> bytes:
        where = tensor.get("parameters", {})
        if "shared_memory_region" not in where:
            return data
        offset = where.get("shared_memory_offset", 0)
        region = self._regions[where["shared_memory_region"]]
        return region[offset : offset + where["shared_memory_byte_size"]]

    def _share(self, path: list[str], body: bytes) -> bytes:
        _, name, action = path
        if action == "register":
            asked = json.loads(body)
            file = os.open(f"/dev/shm{asked['key']}", os.O_RDWR)
            self._regions[name] = mmap.mmap(file, asked["byte_size"])
            os.close(file)
        elif action == "unregister":
            if name in self._regions:
                self._regions.pop(name).close()
        else:
            return answer([])
        return answer({})
