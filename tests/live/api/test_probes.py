"""What a server says of itself: a check that says why, its models, and waiting for them."""

import time

import numpy as np
import pytest

import tritonhttp
from tritonhttp import Health, ModelStatus

from ...clients import tensor, wait_until

BROKEN = '{"backend": "no_such_backend"}'


@pytest.fixture
def broken(client):
    """A model that the server cannot load, for one test."""
    name = "identity_uint64"
    client.unload_model(name)
    wait_until(lambda: ModelStatus(name, "1", "UNAVAILABLE", "unloaded") in client.models())
    try:
        with pytest.raises(tritonhttp.ServerError, match="no_such_backend"):
            client.load_model(name, config=BROKEN)
        yield name
    finally:
        client.load_model(name)


def test_a_server_that_is_well(client):
    found = client.check()
    assert found
    assert (found.live, found.ready, found.reason, found.model) == (True, True, "", None)
    name, version = found.version.split()
    assert name == "triton"
    assert version[0].isdigit()
    assert 0 < found.latency < 10


@pytest.mark.parametrize("version", ["", "1", 1])
def test_a_model_that_is_well(client, version):
    found = client.check("digits", model_version=version)
    assert found
    assert found.model == ModelStatus("digits", str(version), "READY")


@pytest.mark.parametrize(
    ("name", "version", "words"),
    [
        ("digit", "", "the server's repository has no model 'digit'; did you mean 'digits'"),
        ("digits", 7, "the server has no version '7' of model 'digits', but 1"),
    ],
)
def test_a_model_that_does_not_exist(client, name, version, words):
    found = client.check(name, model_version=version)
    assert not found
    assert (found.live, found.ready, found.model.ready) == (True, True, False)
    assert words in found.reason


def test_a_model_that_cannot_be_loaded_keeps_the_server_from_being_ready(client, broken):
    found = client.check(broken)
    assert (found.live, found.ready, bool(found)) == (True, False, False)
    assert (found.model.name, found.model.version, found.model.state) == (broken, "1", "UNAVAILABLE")
    assert "no_such_backend" in found.model.reason
    reason = client.check().reason
    assert reason.startswith(
        f"the server is live, but not ready: model {broken!r} version 1 is UNAVAILABLE ("
    )
    assert client.check("digits")
    with pytest.raises(
        tritonhttp.DeadlineExceeded, match=r"not ready; model 'identity_.* UNAVAILABLE \(Inval"
    ):
        client.wait_until_ready(0.2, broken)
    with pytest.raises(tritonhttp.DeadlineExceeded, match=r"the server .* not ready; .*'identity_uint64'"):
        client.wait_until_ready(0.2)


def test_the_port_of_the_metrics_is_no_server(open_client, triton_server):
    client = open_client(triton_server.metrics_url.removesuffix("/metrics"))
    with pytest.warns(UserWarning, match="port of the metrics"):
        assert client.is_server_live()
    found = client.check("digits")
    assert not found
    assert not found.live
    assert "is this the port of the metrics, 8002 on Triton?" in found.reason


def test_a_gateway_without_the_server_behind_it(make_gateway, open_client):
    gateway = make_gateway(base_path="/triton")
    found = open_client(gateway.url.removesuffix("/triton")).check()
    assert not found.live
    assert found.reason.startswith("a gateway or another program answers, but has no inference server")
    assert "[404] no such gateway" in found.reason
    assert open_client(gateway.url).check("digits")


def test_what_a_check_is_given_arrives_with_each_request(watched, gateway):
    options = {"headers": {"X-Own": "1"}, "query_params": {"a": "b"}}
    assert not watched.check("no_such_model", **options)
    assert [seen.path for seen in gateway.seen] == [
        "/v2/health/live",
        "/v2",
        "/v2/health/ready",
        "/v2/models/no_such_model/ready",
        "/v2/repository/index",
    ]
    assert {(seen.get("X-Own"), seen.target.partition("?")[2]) for seen in gateway.seen} == {("1", "a=b")}


def test_a_plugin_that_fails_is_a_reason(client):
    class Plugin(tritonhttp.InferenceServerClientPlugin):
        def __call__(self, request):
            raise LookupError("no token")

    client.register_plugin(Plugin())
    assert client.check().reason == "LookupError: no token"


@pytest.mark.parametrize(
    ("given", "options"),
    [
        (("",), {}),
        ((5,), {}),
        (("m",), {"model_version": 1.5}),
        ((), {"model_version": True}),
        ((), {"headers": ["x"]}),
        ((), {"headers": {"a": "b\nc"}}),
        ((), {"query_params": "a=b"}),
        ((), {"deadline": "5"}),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(client, given, options):
    with pytest.raises(tritonhttp.InvalidRequest):
        client.check(*given, **options)


def test_a_closed_client_says_so(client_kind, make_client):
    client = make_client()
    close = client.close if client_kind == "blocking" else client.__getattr__("close")  # leave its loop open
    close()
    assert client.check() == Health(False, False, "", None, "the client is closed")


def test_models_are_listed(client):
    models = client.models()
    assert isinstance(models, list)
    assert ModelStatus("add_sub", "1", "READY") in models
    assert all(each.ready for each in models if each.name.startswith("identity"))
    assert repr(models).splitlines()[0].split() == ["name", "version", "state", "reason"]
    assert "<td>add_sub</td><td>1</td><td>READY</td>" in models._repr_html_()
    assert [each.name for each in models] == sorted(
        each["name"] for each in client.get_model_repository_index()
    )


def test_a_list_of_models_knows_their_names(client):
    models = client.models()
    assert "digits" in models
    assert models[0] in models
    assert "digit" not in models
    assert None not in models


def test_a_name_that_the_repository_does_not_have_is_an_error_at_once(client):
    began = time.monotonic()
    with pytest.raises(tritonhttp.ServerError, match="no model 'digit'; did you mean 'digits'") as caught:
        client.wait_until_ready(60, "digit")
    assert caught.value.status() == "404"
    assert time.monotonic() - began < 10


def test_of_several_servers_each_may_have_the_model(make_gateway, open_client):
    """The index is that of all of them; where one does not answer, nobody knows."""
    without = make_gateway(meddle=lambda seen: (200, b"[]") if seen.path.endswith("/index") else None)
    other = make_gateway()
    client = open_client([without.url, other.url])
    client.wait_until_ready(60, "digits")
    for _ in range(4):
        reason = client.check("digits", model_version="2").reason
        assert reason == "the server has no version '2' of model 'digits', but 1"
    with pytest.raises(tritonhttp.ServerError, match="no model 'digit'"):
        client.wait_until_ready(60, "digit")
    other.meddle = lambda seen: (503, b"") if seen.path.endswith("/index") else None
    with pytest.raises(tritonhttp.DeadlineExceeded, match=r"last answer: not ready$"):
        client.wait_until_ready(0.2, "digit")
    assert set(client.on_each(lambda one: one.check())) == {without.url, other.url}


def test_classes_of_each_row(client):
    pixels = np.zeros((2, 64), np.float32)
    outputs = [tritonhttp.InferRequestedOutput("SCORES", class_count=3)]
    result = client.infer("digits", [tensor("IMAGE", pixels)], outputs=outputs)
    rows = result.classes("SCORES")
    assert [len(row) for row in rows] == [3, 3]
    for row, texts in zip(rows, result["SCORES"].tolist(), strict=True):
        for (score, index, label), text in zip(row, texts, strict=True):
            assert text == f"{score:.6f}:{index}:{label}".encode()
    assert client.model("digits")(IMAGE=pixels, classes=3).classes("SCORES") == rows
    outputs = [tritonhttp.InferRequestedOutput("SCORES", class_count=1, binary_data=False)]
    as_json = client.infer("digits", [tensor("IMAGE", pixels)], outputs=outputs)
    assert as_json.classes("SCORES") == [row[:1] for row in rows]
    with pytest.raises(tritonhttp.InvalidRequest, match=r"'SCORES' is no classification: .* got FP32"):
        client.infer("digits", [tensor("IMAGE", pixels)]).classes("SCORES")


def test_classes_of_a_model_without_labels(client):
    given = [tensor(name, np.arange(16, dtype=np.int32).reshape(1, 16)) for name in ("INPUT0", "INPUT1")]
    outputs = [tritonhttp.InferRequestedOutput("OUTPUT0", class_count=2)]
    found = client.infer("add_sub", given, outputs=outputs).classes("OUTPUT0")
    assert found == [[(30.0, 15, ""), (28.0, 14, "")]]


def test_counters_as_a_dict(client):
    client.is_server_live()
    counters = client.stats().as_dict()
    assert counters["requests"] == client.stats().requests == 1
    assert counters["connections_open"] == 1
    assert set(counters) == {*tritonhttp.Stats.__dataclass_fields__, "connections_open"}


def test_a_stream_shows_where_it_is(client, triton_server):
    def state():
        head, _, words = repr(stream).rpartition(": ")
        url = f"http://{triton_server.url}/v2/models/repeat/generate_stream"
        assert head == f"<GenerateStream of 'repeat' at {url}"
        return words.removesuffix(">")

    stream = client.generate_stream("repeat", {"IN": [1, 2, 3]})
    assert state() == "not begun"
    assert list(stream)
    assert state() == "ended, 3 answers"
    stream.close()
    assert state() == "ended, 3 answers"
    stream = client.generate_stream("repeat", {"IN": [1, 2], "DELAY": [0.3]})
    with stream:
        next(stream)
        assert state() == "open, 1 answer"
    assert state() == "closed, 1 answer"
    stream = client.generate_stream("repeat", {"IN": [1, 2], "FAIL_AT": 1})
    with pytest.raises(tritonhttp.ServerError):
        list(stream)
    assert state() == "failed, 1 answer"
    stream = client.generate_stream("repeat", {"IN": [1]})
    stream.close()
    assert state() == "closed"


def test_a_stream_hides_credentials_and_says_nothing_of_a_server_not_chosen(open_client, triton_server):
    client = open_client([triton_server.url, triton_server.url.replace("127.0.0.1", "localhost")])
    stream = client.generate_stream("repeat", {"IN": [1]}, query_params={"token": "secret", "a": 1})
    assert repr(stream) == "<GenerateStream of 'repeat': not begun>"
    list(stream)
    assert "?token=***&a=1: ended" in repr(stream)
