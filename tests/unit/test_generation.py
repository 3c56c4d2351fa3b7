"""The parts of streams, without a socket: answers from bytes, open bodies, and requests."""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tritonhttp import InferInput, InvalidRequest, ProtocolError, ServerError
from tritonhttp._protocol import generation
from tritonhttp._protocol.generation import AnswerReader, StreamBase, as_result
from tritonhttp._protocol.inference import Inference
from tritonhttp._protocol.operations import generate, generate_stream
from tritonhttp._wire.compression import Decompressor
from tritonhttp._wire.http1 import ResponseReader
from tritonhttp._wire.responses import Response, ResponseHead

EVENTS = "text/event-stream; charset=utf-8"


def take_all(answers: AnswerReader) -> tuple[list[Any], Exception | None]:
    """Take what is there, and the error behind it."""
    taken: list[Any] = []
    try:
        while (answer := answers.take()) is not None:
            taken.append(answer)
    except (ServerError, ProtocolError) as error:
        assert answers.ended
        assert answers.take() is None
        return taken, error
    return taken, None


def read(data: bytes, content_type: str = EVENTS, encoding: str | None = None, size: int = 10**6) -> Any:
    answers = AnswerReader(0.0, content_type, encoding)
    for start in range(0, len(data), size):
        answers.feed(data[start : start + size], 1.0)
    answers.end(2.0)
    return take_all(answers)


@pytest.mark.parametrize("size", [1, 3, 10**6])
@pytest.mark.parametrize(
    ("data", "content_type", "taken", "error", "match"),
    [
        (b'data: {"a": 1}\n\ndata: {"a": NaN}\n\n', EVENTS, 2, None, ""),
        (b"", EVENTS, 0, None, ""),
        (b": only a comment\n\n", EVENTS, 0, None, ""),
        (b'data: {"a": 1}\n\ndata: {"error": "no"}\n\ndata: {"a": 2}\n\n', EVENTS, 1, ServerError, "no"),
        (b'data: {"a": 1}\n\nevent: error\ndata: broken\n\n', EVENTS, 1, ServerError, "broken"),
        (b'event: error\ndata: {"message": "no"}\n\n', EVENTS, 0, ServerError, "message"),
        (b'data: {"error": "o", "model_name": "m"}\n\n', EVENTS, 1, None, ""),
        (b'data: {"a": 1}\n\ndata: {"a"', EVENTS, 1, ProtocolError, "middle of an event"),
        (b'data: {"a": 1}\n\ndata: {"a": 2}\n', EVENTS, 1, ProtocolError, "middle of an event"),
        (b'data: {"a": 1}\n\ndata: [DONE]\n\n', EVENTS, 1, ProtocolError, "expected JSON, got 6 bytes"),
        (b'data: {"a": 1}\n\ndata: [1]\n\n', EVENTS, 1, ProtocolError, "expected a JSON object, got list"),
        (b"data:\n\n", EVENTS, 0, ProtocolError, "expected JSON, got 0 bytes"),
        (b'{"a": 1}', "application/json", 1, None, ""),
        (b'{"error": "no"}', "application/json", 0, ServerError, "no"),
        (b'{"error": "no"}', EVENTS, 0, ServerError, "no"),
        (b'{"error": "no"}', "", 0, ServerError, "no"),
        (b"[1]", EVENTS, 0, ProtocolError, "expected a JSON object, got list"),
        (b"<html>log in", "text/html", 0, ProtocolError, "got 12 bytes that begin with '<html>log in'"),
        (b"", "application/json", 0, ProtocolError, "got 0 bytes"),
    ],
)
def test_a_streams_body_becomes_answers_and_an_error(
    size: int, data: bytes, content_type: str, taken: int, error: Any, match: str
) -> None:
    answers, raised = read(data, content_type, size=size)
    assert len(answers) == taken
    assert all(isinstance(each, dict) for each in answers)
    if error is None:
        assert raised is None
    else:
        assert isinstance(raised, error)
        assert match in str(raised)
        assert isinstance(raised, ProtocolError) or raised.status() == "200"


def test_answers_know_when_they_came() -> None:
    answers = AnswerReader(10.0, EVENTS)
    answers.feed(b'data: {"a": 1}\n\ndata: {"a"', 11.0)
    answers.feed(b": 2}\n\n: comment\n\n", 13.5)
    answers.end(99.0)
    assert answers.times == [1.0, 3.5]
    stream = StreamBase(None, None)
    assert (stream.times, stream.time_to_first, stream.intervals) == ([], None, [])
    stream._reader = answers
    assert (stream.times, stream.time_to_first, stream.intervals) == ([1.0, 3.5], 1.0, [2.5])
    stream.times.clear()
    assert stream.times == [1.0, 3.5]


@pytest.mark.parametrize("content_type", [EVENTS, "application/json"])
def test_an_answer_has_a_limit_and_those_before_it_are_given(
    monkeypatch: pytest.MonkeyPatch, content_type: str
) -> None:
    monkeypatch.setattr(generation, "_LIMIT", 1000)
    good = b'data: {"a": 1}\n\n' * 100 if content_type == EVENTS else b""
    answers, raised = read(good + b'data: {"a": "' + b"x" * 1200, content_type)
    assert len(answers) == good.count(b"\n\n")
    assert isinstance(raised, ProtocolError)
    assert "more than 1000 bytes" in str(raised)


@pytest.mark.parametrize("size", [1, 7, 10**6])
@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP ", "deflate", "identity", ""])
def test_compressed_streams_are_read(encoding: str, size: int) -> None:
    data = b"".join(b'data: {"a": %d}\n\n' % number for number in range(500))
    sent = data
    if "gzip" in encoding.lower():
        sent = gzip.compress(data)
    elif encoding == "deflate":
        sent = zlib.compress(data)
    answers, raised = read(sent, encoding=encoding, size=size)
    assert raised is None
    assert answers == [{"a": number} for number in range(500)]


def test_a_compressed_event_is_there_when_its_coder_was_flushed() -> None:
    coder = zlib.compressobj(wbits=31)
    answers = AnswerReader(0.0, EVENTS, "gzip")
    for number in range(3):
        answers.feed(coder.compress(b'data: {"a": %d}\n\n' % number) + coder.flush(zlib.Z_SYNC_FLUSH), number)
        assert answers.take() == {"a": number}
    assert answers.times == [0, 1, 2]


def test_damaged_compression_is_refused_after_the_answers_before_it() -> None:
    sent = gzip.compress(b'data: {"a": 1}\n\n' * 10_000)
    answers, raised = read(sent[:-20], encoding="gzip")
    assert 0 < len(answers) <= 10_000
    assert "ended before its coding did" in str(raised)
    answers, raised = read(b"data: {}\n\n", encoding="gzip")
    assert answers == []
    assert "not valid gzip" in str(raised)
    for encoding in ("br", "gzip, br"):
        with pytest.raises(ProtocolError, match=f"Content-Encoding '{encoding}': expected gzip, deflate"):
            AnswerReader(0.0, EVENTS, encoding)


@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_no_answer_behind_the_first_member_is_dropped(size: int) -> None:
    events = [b'data: {"a": %d}\n\n' % number for number in range(50)]
    sent = b"".join(map(gzip.compress, events)) + bytes(10)
    assert read(sent, encoding="gzip", size=size) == ([{"a": number} for number in range(50)], None)
    for end, says in ((b"garbage", "not valid gzip"), (gzip.compress(events[0])[:-9], "ended before its")):
        answers, raised = read(sent + end, encoding="gzip", size=size)
        assert len(answers) >= 50
        assert says in str(raised)


def test_one_piece_is_read_a_slice_at_a_time() -> None:
    event = b'data: {"a": 1}\n\n'
    sent = gzip.compress(event * 100_000 + b": x\n" * 100_000 + event)
    answers = AnswerReader(0.0, EVENTS, "gzip")
    answers.feed(sent, 1.0)
    answers.end(2.0)
    assert 0 < len(answers.times) < 10_000
    taken = 0
    while not answers.behind:
        assert answers.take() == {"a": 1}
        taken += 1
    assert taken == len(answers.times)
    assert len(take_all(answers)[0]) == 100_001 - taken
    assert set(answers.times) == {1.0}
    assert not answers.behind


def test_a_closed_reader_reads_no_further() -> None:
    answers = AnswerReader(0.0, EVENTS, "gzip")
    answers.feed(gzip.compress(b'data: {"a": 1}\n\n' * 100_000), 1.0)
    answers.close()
    answers.go_on()
    assert (answers.take(), answers.behind) == (None, False)


def test_the_limit_of_a_stream_holds_for_what_comes_out() -> None:
    answers = AnswerReader(0.0, EVENTS, "gzip", limit=160)
    answers.feed(gzip.compress(b'data: {"a": 1}\n\n' * 10), 1.0)
    assert len(take_all(answers)[0]) == 10
    answers.feed(gzip.compress(b"\n"), 1.0)
    assert "the limit of 160 bytes" in str(take_all(answers)[1])


def test_a_bomb_is_decompressed_a_little_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "_LIMIT", 5 << 20)
    bomb = gzip.compress(b"data: " + b"x" * (1 << 24))
    stream = Decompressor("gzip")
    sizes = [len(piece) for piece in stream.feed(bomb)]
    assert max(sizes) <= 1 << 20
    assert sum(sizes) == 6 + (1 << 24)
    assert not stream.pending
    answers, raised = read(bomb, encoding="gzip")
    assert answers == []
    assert "more than 5242880 bytes" in str(raised)


# -- open bodies ------------------------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\n"
BODY = b"0123456789"
FRAMED = {
    "a length": OK + b"Content-Length: 10\r\n\r\n" + BODY,
    "no length": OK + b"\r\n" + BODY,
    "chunks": OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\n012\r\n7\r\n3456789\r\n0\r\n\r\n",
    "interim": b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 10\r\n\r\n" + BODY,
}


def reader_of_stream() -> ResponseReader:
    reader = ResponseReader()
    reader.start()
    reader.stream()
    return reader


def give(reader: ResponseReader, data: bytes) -> bool:
    reader.get_buffer()[: len(data)] = data
    return reader.received(len(data))


@pytest.mark.parametrize("name", FRAMED)
def test_an_open_body_comes_in_pieces_wherever_it_is_cut(name: str) -> None:
    data = FRAMED[name]
    for size in range(1, len(data) + 1):
        reader, taken = reader_of_stream(), b""
        for start in range(0, len(data), size):
            there = give(reader, data[start : start + size])
            assert there == (reader.response is not None)
            if there:
                assert reader.open
                taken += reader.take()
        if name == "no length":
            assert not reader.ended
            assert reader.received_eof()
        assert taken == BODY
        assert reader.ended
        assert reader.take() == b""
        assert reader.reusable == (name != "no length")
        # The next response is a plain one.
        reader.start()
        assert give(reader, FRAMED["a length"])
        assert not reader.open
        assert reader.response is not None
        assert bytes(reader.response.body) == BODY


def test_an_empty_open_body_ends_at_once() -> None:
    reader = reader_of_stream()
    assert give(reader, OK + b"Content-Length: 0\r\n\r\n")
    assert reader.ended
    assert reader.take() == b""
    assert reader.reusable


@pytest.mark.parametrize("status", ["404 Not Found", "503 Service Unavailable", "204 No Content"])
def test_only_a_success_is_open(status: str) -> None:
    reader = reader_of_stream()
    length = b"" if "204" in status else b"Content-Length: 2\r\n"
    assert give(reader, f"HTTP/1.1 {status}\r\n".encode() + length + b"\r\n" + b"{}"[: len(length)])
    assert not reader.open
    assert reader.response is not None
    assert reader.response.status_code == int(status[:3])


@pytest.mark.parametrize(
    ("data", "progress"),
    [
        (OK + b"Content-Length: 10\r\n\r\n01234", "5 of 10 bytes of the response's body"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n01234", "an incomplete body"),
    ],
)
def test_an_open_body_that_is_cut(data: bytes, progress: str) -> None:
    reader = reader_of_stream()
    assert give(reader, data)
    assert reader.take() == b"01234"
    assert not reader.received_eof()
    assert not reader.ended
    assert progress in reader.progress()


@pytest.mark.parametrize("size", [1, 10**6])
def test_a_damaged_chunk_is_an_error_after_those_before_it(size: int) -> None:
    data = OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\nzz\r\n"
    reader = reader_of_stream()
    for start in range(0, len(data), size):
        give(reader, data[start : start + size])
    assert reader.take() == b"01234"
    for _ in range(2):
        with pytest.raises(ProtocolError, match="chunk size"):
            reader.take()
    assert not reader.ended


def test_an_open_body_has_the_limit_of_any_other() -> None:
    reader = ResponseReader(max_body=8)
    reader.start()
    reader.stream()
    assert give(reader, OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n")
    assert give(reader, b"5\r\n56789\r\n")
    assert reader.take() == BODY
    with pytest.raises(ProtocolError, match="the limit is 8"):
        reader.take()


def test_bytes_after_an_open_body_spend_the_connection() -> None:
    reader = reader_of_stream()
    give(reader, FRAMED["chunks"] + OK)
    assert reader.take() == BODY
    assert reader.ended
    assert not reader.reusable


# -- requests ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (np.int32(5), 5),
        (np.float16(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("ä"), "ä"),
        (np.bytes_(b"b"), "b"),
        (np.array(7), 7),
        (np.arange(6, dtype=">i4")[::2], [0, 2, 4]),
        (np.arange(4, dtype=np.uint8).reshape(2, 2).T, [[0, 2], [1, 3]]),
        (np.array([0.5, 1], np.float16), [0.5, 1.0]),
        (np.array([0.5, 1], ml_dtypes.bfloat16), [0.5, 1.0]),
        (ml_dtypes.bfloat16(1.5), 1.5),
        (np.array([True, False]), [True, False]),
        (np.array(["a", b"b", 3], object), ["a", "b", 3]),
        (np.array([b"ab", b"c"]), ["ab", "c"]),
        (np.array(["ab", "ä"]), ["ab", "ä"]),
        (np.zeros((0, 3)), []),
        (np.array([2**63 - 1, -(2**63)]), [2**63 - 1, -(2**63)]),
        (bytearray(b"ab"), "ab"),
        (memoryview(b"ab"), "ab"),
        (["a", (b"b", [np.int8(1)])], ["a", ["b", [1]]]),
        ({"a": np.arange(2), "b": b"c"}, {"a": [0, 1], "b": "c"}),
        ("text", "text"),
    ],
    ids=repr,
)
def test_values_of_inputs_become_json(value: Any, sent: Any) -> None:
    (body,) = generate("m", {"IN": value}, "", None, "", None).body
    assert json.loads(bytes(body)) == {"IN": sent}


def test_nan_and_infinity_travel_as_triton_writes_them() -> None:
    (body,) = generate("m", {"IN": np.array([np.nan, np.inf])}, "", None, "", None).body
    first, second = json.loads(bytes(body))["IN"]
    assert math.isnan(first)
    assert second == math.inf


def test_generate_makes_its_request() -> None:
    operation = generate_stream("m", {"IN": 1}, "3", {"top_k": np.int64(5)}, "id", None, 2.0)
    assert (operation.method, operation.path) == ("POST", "v2/models/m/versions/3/generate_stream")
    assert json.loads(bytes(operation.body[0])) == {"id": "id", "IN": 1, "parameters": {"top_k": 5}}
    assert dict(operation.headers) == {"Accept": "text/event-stream"}
    assert (operation.streamed, operation.idle, operation.idempotent) == (True, 2.0, None)
    plain = generate("m", {}, "", {}, "", True)
    assert (plain.path, plain.streamed, plain.idempotent) == ("v2/models/m/generate", False, True)
    assert bytes(plain.body[0]) == b"{}"


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        ([("IN", 1)], "mapping of names to values, got list"),
        ("IN", "mapping of names to values, got str"),
        ({"id": 1}, "'id' cannot be the name of an input"),
        ({"parameters": {}}, "'parameters' cannot be the name"),
        ({5: 1}, "5 cannot be the name"),
        ({"IN": b"\xff"}, "input 'IN' has bytes that are not UTF-8"),
        ({"IN": np.array([b"\xff"], object)}, "input 'IN' has bytes that are not UTF-8"),
        ({"IN": {1, 2}}, "input 'IN' is a set"),
        ({"IN": np.array([1j])}, "input 'IN' is a complex"),
    ],
)
def test_inputs_that_cannot_be_sent_are_refused(inputs: Any, match: str) -> None:
    for make in (
        lambda: generate("m", inputs, "", None, "", None),
        lambda: generate_stream("m", inputs, "", None, "", None, None),
    ):
        with pytest.raises(InvalidRequest, match=match):
            make()


def test_the_advice_for_models_with_other_than_one_answer() -> None:
    message = "generate expects model to produce exactly 1 response, use generate stream"
    with pytest.raises(ServerError, match=r"\(use generate_stream, "):
        generate("m", {}, "", None, "", None).decode(
            Response(ResponseHead(200, {}), json.dumps({"error": message}).encode())
        )


# -- results of inferences --------------------------------------------------------------------------

RESULT = b'{"id": "7", "outputs": [{"name": "y", "datatype": "INT32", "shape": [1], "data": [%d]}]}'


def results(*events: bytes) -> tuple[list[Any], Exception | None]:
    answers = AnswerReader(0.0, EVENTS, interpret=as_result)
    answers.response = Response(ResponseHead(200, {"x": "y", "content-encoding": "gzip"}), b"")
    answers.feed(b"".join(b"data: %b\n\n" % event for event in events), 1.0)
    answers.end(2.0)
    return take_all(answers)


def test_results_come_one_after_the_other() -> None:
    taken, error = results(RESULT % 1, RESULT % 2)
    assert error is None
    assert [each["y"].tolist() for each in taken] == [[1], [2]]
    assert taken[0].headers == {"x": "y", "content-encoding": "gzip"}
    assert taken[0].get_response()["id"] == "7"


@pytest.mark.parametrize(
    ("event", "kind", "match"),
    [
        (b'{"text": "a"}', ProtocolError, "expected outputs, got an object with .*text"),
        (b'{"outputs": [1]}', ProtocolError, "expected an output with a name"),
        (b"[]", ProtocolError, "expected a JSON object, got list"),
        (b'{"error": "no"}', ServerError, "no"),
    ],
)
def test_what_is_no_result_is_an_error_in_its_place(event: bytes, kind: type[Exception], match: str) -> None:
    taken, error = results(RESULT % 1, event, RESULT % 2)
    assert len(taken) == 1
    assert type(error) is kind
    assert re.search(match, str(error))


def test_a_stream_of_results_is_asked_for_as_an_inference() -> None:
    array = np.arange(2, dtype=np.int32)
    inputs = [InferInput.from_numpy("x", array, binary_data=False), InferInput.from_numpy("z", array)]
    operation = Inference(
        "m", inputs, "2", request_id="7", parameters={"a": 1}, binary=False
    ).streamed_answers(3.0)
    assert (operation.method, operation.path) == ("POST", "v2/models/m/versions/2/infer_stream")
    assert (operation.streamed, operation.idle, operation.idempotent) == (True, 3.0, None)
    array += 5
    head, tensor = operation.body
    assert json.loads(head)["parameters"] == {"a": 1}
    assert json.loads(head)["inputs"][0]["data"] == [0, 1]
    assert bytes(tensor) == np.arange(2, dtype=np.int32).tobytes()
    assert dict(operation.headers) == {
        "Accept": "text/event-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }
    assert operation.content_type == "application/octet-stream"
    only = Inference("m", inputs[:1], binary=False).streamed_answers(None)
    assert only.content_type == "application/json"
    assert set(json.loads(only.body[0])) == {"inputs"}
