"""A server that echoes the tensors it was sent, so that each answer shows its request."""

from __future__ import annotations

import json
import mmap
import os
import time
from typing import Any

from ..framing import JSON_SIZE, answer, chunks, inference_answer, number_in
from .servers import Peer

_PIECES = [b'data: {"text": "%d"}\n\n' % number for number in range(3)]
_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
#: The answers of each stream of `generate_stream`, and the values of those of `infer_stream`.
STREAMED = [{"text": str(number)} for number in range(3)]
COUNTED = [0, 1, 2]
METRICS = b"# TYPE echo counter\necho 1\n"
_OUTPUT = {"name": "OUTPUT0", "datatype": "INT32", "shape": [1]}
_RESULTS = [
    b"data: %b\n\n" % json.dumps({"model_name": "echo", "outputs": [{**_OUTPUT, "data": [number]}]}).encode()
    for number in COUNTED
]


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
        given = 0
        while (head := peer.read_head()) and (body := peer.read_body(head)) is not None:
            target = head.decode().split(" ", 2)[1]
            if target.endswith("_stream"):
                self._stream(peer, _RESULTS if target.endswith("/infer_stream") else _PIECES)
                continue
            alone = f"{JSON_SIZE}: 0\r\n".encode() in head
            json_size = 0 if alone else number_in(head, JSON_SIZE) or len(body)
            data = self._answer(target.split("?")[0], body, json_size)
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

    def _stream(self, peer: Peer, pieces: list[bytes]) -> None:
        head = _STREAM
        for each in (*pieces, b""):
            peer.send(head + chunks(each, end=b""))
            time.sleep(0.001)
            head = b""

    def _answer(self, target: str, body: bytes, json_size: int) -> bytes | None:
        if target.endswith("/infer"):
            if self.lose:
                self.lose -= 1
                return None
            try:
                if not json_size:  # the data alone
                    alone = {"name": "INPUT0", "datatype": "FP32", "shape": [len(body) // 4]}
                    return self._infer({"inputs": [alone]}, body)
                return self._infer(json.loads(body[:json_size]), body[json_size:])
            except KeyError:  # an abandoned request, whose region the next call had unregistered
                return None
        if "/systemsharedmemory/" in target:
            return self._share(target.split("/")[-3:], body)
        if target == "/metrics":
            return answer(METRICS)
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
        return inference_answer(head, data)

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
