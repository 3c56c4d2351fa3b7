"""generate and generate_stream on a real Triton: its decoupled model, and others."""

import gc
import json
import ssl
import time

import numpy as np
import pytest
import trustme

import tritonhttp
from tritonhttp import DeadlineExceeded, InvalidRequest, Retry, ServerError
from tritonhttp._wire.responses import Response, ResponseHead

from ...clients import tensor, wait_until


def values(stream):
    return [answer["OUT"] for answer in stream]


def taken(client):
    """Return how many connections are in use or idle."""
    return getattr(client, "_client", client)._transport.pool.taken


def check(client, model="repeat"):
    before = time.monotonic()
    assert values(client.generate_stream(model, {"IN": [4, 5]})) == [4, 5]
    assert time.monotonic() - before < 5


# -- generate


def test_generate_gives_the_one_answer(client):
    answer = client.generate("identity_bytes", {"INPUT0": ["größer", b"b"]}, "1", request_id="7")
    assert answer == {
        "id": "7",
        "model_name": "identity_bytes",
        "model_version": "1",
        "OUTPUT0": ["größer", "b"],
    }


@pytest.mark.parametrize(
    ("model", "array"),
    [
        ("identity_int32", np.array([2**31 - 1, -(2**31)], np.int32)),
        ("identity_uint64", np.array([2**64 - 1, 0], np.uint64)),
        ("identity_fp64", np.array([0.1, -1e300])),
        ("identity_bool", np.array([True, False])),
        ("identity_fp32", np.arange(3, dtype=np.float32)[::-1]),
        ("identity_int8", np.int8(-128)),
    ],
)
def test_arrays_and_scalars_come_back(client, model, array):
    answer = client.generate(model, {"INPUT0": array})
    np.testing.assert_array_equal(np.array(answer["OUTPUT0"], array.dtype), array)


def test_half_precision_is_refused_by_triton_itself(client):
    with pytest.raises(ServerError, match="FP16 data via JSON is not supported"):
        client.generate("identity_fp16", {"INPUT0": np.ones(2, np.float16)})


def test_generate_on_a_model_with_several_answers_gives_the_advice(client):
    with pytest.raises(ServerError, match=r"exactly 1 response.*\(use generate_stream, ") as caught:
        client.generate("repeat", {"IN": [1, 2]})
    assert caught.value.status() == "200"
    assert client.generate("repeat", {"IN": [1]})["OUT"] == 1


def test_infer_on_a_decoupled_model_gives_the_advice(client):
    with pytest.raises(ServerError, match=r"decoupled transaction policy \(use generate_stream, ") as caught:
        client.infer("repeat", [tensor("IN", np.array([1], np.int32))])
    assert caught.value.status() == "501"


def test_generate_of_an_unknown_model_is_the_servers_error(client):
    for call in (client.generate, lambda *args: list(client.generate_stream(*args))):
        with pytest.raises(ServerError, match="unknown model: 'nope'") as caught:
            call("nope", {})
        assert caught.value.status() == "404"
    with pytest.raises(InvalidRequest, match="mapping of names"):
        client.generate_stream("repeat", [1])


# -- streams


def test_a_thousand_answers_in_their_order_over_one_connection(client):
    for _ in range(2):
        stream = client.generate_stream("repeat", {"IN": np.arange(1000, dtype=np.int32)})
        assert values(stream) == list(range(1000))
        assert len(stream.times) == 1000
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.attempts == 1
        assert list(stream) == []
    assert client.is_server_live()
    assert client.stats().connections_opened == 1


def test_answers_come_as_the_model_gives_them(client):
    stream = client.generate_stream("repeat", {"IN": [1, 2, 3, 4], "DELAY": np.float32(0.1)})
    assert (stream.time_to_first, stream.times, stream.headers) == (None, [], {})
    arrived = []
    for _ in stream:
        arrived.append(time.monotonic())
    assert 0.1 <= stream.time_to_first < 1
    assert len(stream.intervals) == 3
    assert min(stream.intervals) > 0.05
    assert arrived[-1] - arrived[0] == pytest.approx(sum(stream.intervals), abs=0.05)


def test_an_error_comes_behind_the_answers_before_it(client):
    for _ in range(2):
        seen = []
        stream = client.generate_stream("repeat", {"IN": [1, 2, 3], "FAIL_AT": 2})
        with pytest.raises(ServerError, match="failed at 2, as asked") as caught:
            seen.extend(answer["OUT"] for answer in stream)
        assert seen == [1, 2]
        assert caught.value.status() == "200"
        assert list(stream) == []
    check(client)
    assert taken(client) == 1


@pytest.mark.parametrize("how", ["with", "close", "del", "collected"])
def test_leaving_early_frees_the_place_and_ends_the_work_of_the_model(client, how):
    stream = client.generate_stream("repeat", {"IN": list(range(1000)), "DELAY": 0.05})
    if how == "with":
        with stream as entered:
            assert next(entered)["OUT"] == 0
    else:
        assert next(stream)["OUT"] == 0
        if how == "close":
            stream.close()
            stream.close()
    if how in ("with", "close"):
        assert list(stream) == []
    if how == "collected":
        stream.itself = stream
    del stream
    if how == "with":
        del entered
    gc.collect()
    # There is one connection, and one instance of the model, which would be busy for 50 s.
    check(client)
    stats = client.stats()
    assert (stats.connections_opened, stats.connections_closed) == (2, 1)


def test_a_stream_that_was_never_begun_sends_nothing(client):
    stream = client.generate_stream("repeat", {"IN": [1]})
    stream.close()
    assert list(stream) == []
    del stream
    assert client.stats().requests == 0


def test_a_stream_whose_beginning_failed_is_not_begun_again(client):
    stream = client.generate_stream("nope", {})
    with pytest.raises(ServerError):
        next(stream)
    assert list(stream) == []
    assert client.stats().requests == 1


def test_idle_timeout_and_deadline_end_a_stream(client):
    slow = {"IN": [1, 2], "DELAY": 0.3}
    for options, limit in (
        ({"idle_timeout": 0.15}, "0.15 s"),
        ({"deadline": 0.15}, "the call's 0.15 s are over"),
    ):
        before = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=limit) as caught:
            list(client.generate_stream("repeat", slow, **options))
        assert 0.1 < time.monotonic() - before < 8
        assert caught.value.phase == "receive"
        check(client)
    stream = client.generate_stream("repeat", {"IN": [1, 2], "DELAY": 0.8}, deadline=1.2)
    assert next(stream)["OUT"] == 1
    with pytest.raises(DeadlineExceeded, match=r"the call's 1\.2 s are over"):
        next(stream)
    assert list(stream) == []
    check(client)
    # Each answer has its time; and a consumer that is slow takes none of it.
    seen = []
    for answer in client.generate_stream("repeat", {"IN": [1, 2], "DELAY": 0.1}, idle_timeout=0.6):
        seen.append(answer["OUT"])
        time.sleep(0.7)
    assert seen == [1, 2]
    with pytest.raises(InvalidRequest, match="idle_timeout"):
        client.generate_stream("repeat", {}, idle_timeout=-1)


def test_the_clients_own_limits_hold_for_streams(make_client):
    slow = {"IN": [1], "DELAY": 0.25}
    for options in ({"network_timeout": 0.15}, {"deadline": 0.15}):
        client = make_client(**options)
        with pytest.raises(DeadlineExceeded, match=r"0\.15 s"):
            list(client.generate_stream("repeat", slow))
        assert values(client.generate_stream("repeat", slow, idle_timeout=None, deadline=None)) == [1]


def test_a_closed_client_lets_an_open_stream_end(make_client):
    client = make_client()
    stream = client.generate_stream("repeat", {"IN": list(range(20)), "DELAY": 0.01})
    assert next(stream)["OUT"] == 0
    getattr(client, "_client", client)._transport.pool.close()
    assert values(stream) == list(range(1, 20))
    wait_until(lambda: taken(client) == 0)


def test_streams_and_calls_share_the_connections(make_client):
    client = make_client(concurrency=2)
    with client.generate_stream("repeat", {"IN": list(range(100)), "DELAY": 0.01}) as stream:
        for _ in range(5):
            next(stream)
            assert client.is_server_live()
    assert client.stats().connections_opened == 2


# -- what is sent, and who is told


def test_a_stream_sends_the_callers_options(gateway, watched):
    class Signs(tritonhttp.InferenceServerClientPlugin):
        def __call__(self, request):
            request.headers["X-Signed"] = "yes"

    watched.register_plugin(Signs())
    stream = watched.generate_stream(
        "repeat",
        {"IN": np.array([1, 2], np.int32)},
        "1",
        {"temperature": np.float32(0.5)},
        {"X-Own": "1"},
        {"tenant": "a b"},
        request_id="seven",
    )
    answers = list(stream)
    assert [answer["id"] for answer in answers] == ["seven", "seven"]
    assert gateway.last.target == "/v2/models/repeat/versions/1/generate_stream?tenant=a+b"
    assert json.loads(gateway.last.body) == {
        "id": "seven",
        "IN": [1, 2],
        "parameters": {"temperature": 0.5},
    }
    for name, value in {
        "Accept": "text/event-stream",
        "Content-Type": "application/json",
        "X-Own": "1",
        "X-Signed": "yes",
        "Accept-Encoding": None,
    }.items():
        assert gateway.last.get(name) == value


def test_streams_go_below_a_base_path(make_gateway, open_client):
    gateway = make_gateway(base_path="/some/base")
    check(open_client(gateway.url))
    assert gateway.last.target == "/some/base/v2/models/repeat/generate_stream"


def test_streams_go_over_tls(make_gateway, open_client):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    gateway = make_gateway(context=context)

    def trusting():
        trusts = ssl.create_default_context()
        authority.configure_trust(trusts)
        return trusts

    client = open_client(gateway.url, ssl=True, ssl_context_factory=trusting)
    numbers = list(range(800))
    for _ in range(2):
        assert values(client.generate_stream("repeat", {"IN": numbers})) == numbers
    with client.generate_stream("repeat", {"IN": numbers}) as stream:
        next(stream)
    check(client)
    assert gateway.connections <= 2  # one, where the whole of it had come when it was left


def test_the_beginning_of_a_stream_is_retried_and_hooks_are_told(make_gateway, open_client):
    busy = [(503, b'{"error": "busy"}')] * 2
    gateway = make_gateway(meddle=lambda seen: busy.pop() if busy else None)
    told = []
    client = open_client(
        gateway.url,
        retry=Retry(attempts=3, backoff=0.01),
        on_request=lambda call: told.append("request"),
        on_retry=lambda call, reason, delay: told.append("retry"),
        on_response=lambda call: told.append((call.action, call.status, call.attempts)),
    )
    with pytest.raises(ServerError, match="busy") as caught:
        list(client.generate_stream("repeat", {"IN": [1]}))
    assert caught.value.status() == "503"
    busy.append((503, b"{}"))
    stream = client.generate_stream("repeat", {"IN": [1, 2]}, idempotent=True)
    assert values(stream) == [1, 2]
    assert stream.attempts == 3
    assert told[-1][1:] == (200, 3)
    assert [each for each in told if each == "retry"] == ["retry"] * 2


def test_a_call_lasts_as_long_as_its_stream(make_client):
    told = []
    client = make_client(on_response=told.append)
    stream = client.generate_stream("repeat", {"IN": [1, 2, 3], "DELAY": 0.1})
    assert next(stream)["OUT"] == 1
    assert not told
    assert values(stream) == [2, 3]
    (call,) = told
    assert (call.action, call.status, call.error) == ("generate_stream", 200, None)
    assert 0.2 < call.seconds < 10
    assert call.response_bytes > 3 * len('data: {"OUT":1}')
    with client.generate_stream("repeat", {"IN": list(range(1000)), "DELAY": 0.05}) as stream:
        next(stream)
    assert told[1].error is None
    with pytest.raises(ServerError, match="failed at 2") as caught:
        list(client.generate_stream("repeat", {"IN": [1, 2, 3], "FAIL_AT": 2}))
    assert told[2].error is caught.value
    assert len(told) == 3
    check(client)


def test_streams_are_spread_over_several_servers(make_gateway, open_client):
    gateways = make_gateway(), make_gateway()
    client = open_client([gateway.url for gateway in gateways])
    for _ in range(4):
        check(client)
    assert all(gateway.seen for gateway in gateways)


def test_a_replaced_post_may_answer(make_client, client_kind):
    client = make_client()
    answer = Response(
        ResponseHead(200, {"content-type": "text/event-stream"}), b'data: {"OUT": 1}\n\ndata: {"OUT": 2}\n\n'
    )
    if client_kind == "asyncio":

        async def post(**_):
            return answer

        client._client._post = post
    else:
        client._post = lambda **_: answer
    assert values(client.generate_stream("repeat", {"IN": [7]})) == [1, 2]


def test_a_stream_is_logged(client, caplog):
    with caplog.at_level("DEBUG", "tritonhttp"):
        check(client)
    assert "generate_stream" in caplog.text
