"""Messages for the usual mistakes: they say what to do."""

import re

import numpy as np
import pytest

from tritonhttp import (
    DeadlineExceeded,
    InferenceServerException,
    InferInput,
    InferRequestedOutput,
    InvalidRequest,
    Retry,
    ServerError,
)
from tritonhttp.auth import BearerAuth
from tritonhttp.errors import TLSError

from ...clients import tensor, wait_until

PIXELS = np.zeros((1, 64), np.float32)
IMAGE = tensor("IMAGE", PIXELS)


def made(datatype="FP32", shape=(1, 64)):
    return InferInput("IMAGE", shape, datatype).set_data_from_numpy(PIXELS)


REFUSED = {
    "numpy's name of a datatype": (lambda c: made("float32"), "no datatype 'float32'; did you mean 'FP32'"),
    "the configuration's name": (lambda c: made("TYPE_FP32"), "no datatype 'TYPE_FP32'; did you mean 'FP32'"),
    "a numpy type": (lambda c: made(np.float32), "no datatype <class 'numpy.float32'>; did you mean 'FP32'"),
    "shape and datatype swapped": (lambda c: made([1, 64], "FP32"), "a shape must be .* got 'FP32'"),
    "a handle for a region's name": (
        lambda c: InferInput("IMAGE", [1, 64], "FP32").set_shared_memory(object(), 256),
        "region_name must be the name of a registered region, got <object",
    ),
    "headers as pairs": (
        lambda c: c.infer("digits", [IMAGE], headers=[("a", "b")]),
        "headers must be a mapping of names to values, got list",
    ),
    "a query as text": (
        lambda c: c.infer("digits", [IMAGE], query_params="a=1"),
        "query_params must be a mapping of names to values, got str",
    ),
    "seconds where microseconds are meant": (
        lambda c: c.infer("digits", [IMAGE], timeout=0.5),
        r"timeout must be a whole number of microseconds \(deadline= is in seconds\), 0 or more; got 0.5",
    ),
    "a negative priority": (lambda c: c.infer("digits", [IMAGE], priority=-1), "priority must be .* got -1"),
    "a number as request_id": (
        lambda c: c.infer("digits", [IMAGE], request_id=5),
        "request_id must be a str, got 5",
    ),
    "a fraction as sequence_id": (
        lambda c: c.infer("digits", [IMAGE], sequence_id=1.5),
        "sequence_id must be a whole number, 0 or more; got 1.5",
    ),
    "a plugin that is none": (
        lambda c: c.register_plugin("token"),
        "a plugin must be callable .* got 'token'",
    ),
    "a negative class_count": (
        lambda c: InferRequestedOutput("SCORES", class_count=-1),
        "class_count must be a whole number, 0 or more; got -1",
    ),
    "a plugin's class": (
        lambda c: c.register_plugin(BearerAuth),
        r"got <class .*BearerAuth'>: make an object of it, BearerAuth\(…\)",
    ),
    "the name of a method for all servers": (
        lambda c: c.on_each("is_server_live"),
        "on_each takes a function of one server's client, such as .*; got 'is_server_live'",
    ),
    "a region in place of a place in it": (
        lambda c: InferRequestedOutput("SCORES").set_shared_memory_region("region"),
        r"expected a slice from a region's write\(\) or reserve\(\), got 'region'",
    ),
    "parameters as text": (
        lambda c: c.infer("digits", [IMAGE], parameters="a"),
        "parameters must be a mapping, got str",
    ),
    "settings as a list": (lambda c: c.update_log_settings(["x"]), "settings must be a mapping .* got list"),
    "text for a time": (lambda c: c.wait_until_ready("60"), "timeout must be a number of seconds"),
    "batches of a model without them": (
        lambda c: c.model("identity_fp32").batched({"INPUT0": PIXELS[0]}),
        "model 'identity_fp32' has no max_batch_size: give max_batch, the most rows for one inference",
    ),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_refused_argument_says_what_was_expected(client, mistake):
    make, words = REFUSED[mistake]
    with pytest.raises(InvalidRequest, match=words):
        make(client)
    assert client.infer("digits", [IMAGE], priority=np.int64(1), timeout=np.uint8(0), request_id="one")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"retry": 3}, r"retry must be a Retry, such as Retry\(attempts=3\); got 3"),
        ({"url": ["a:1", "b:1"], "balancing": "random"}, "balancing must be one of .* got 'random'"),
    ],
)
def test_a_client_that_cannot_work_is_refused(open_client, options, words):
    with pytest.raises(InvalidRequest, match=words):
        open_client(**{"url": "localhost:8000", **options})


#: What a beginner writes, and what the message must say of it.
ADVISED = {
    "an array": (
        lambda c: c.infer("digits", PIXELS),
        "got ndarray",
        "InferInput.from_numpy",
        "client.model('digits')",
    ),
    "a dict": (
        lambda c: c.infer("digits", {"IMAGE": PIXELS}),
        "got dict",
        "InferInput.from_numpy",
        "client.model(",
    ),
    "a list of arrays": (lambda c: c.infer("digits", [PIXELS]), "got ndarray", "InferInput.from_numpy"),
    "no inputs": (lambda c: c.infer("digits", None), "got NoneType", "InferInput.from_numpy"),
    "one input without a list": (lambda c: c.infer("digits", IMAGE), "got InferInput", "put it into a list"),
    "an iterator of inputs": (lambda c: c.infer("digits", iter([IMAGE])), "make a list"),
    "names as outputs": (
        lambda c: c.infer("digits", [IMAGE], outputs=["SCORES"]),
        "InferRequestedOutput('SCORES')",
    ),
    "a name as outputs": (
        lambda c: c.infer("digits", [IMAGE], outputs="SCORES"),
        "InferRequestedOutput('SCORES')",
    ),
    "inputs first": (lambda c: c.infer([IMAGE], "digits"), "model_name must be a str", "InferInput('IMAGE'"),
    "a list as data": (
        lambda c: InferInput("A", [1], "FP32").set_data_from_numpy([1.0]),
        "list",
        "from_numpy(name",
    ),
    "a dict as data": (
        lambda c: InferInput("A", [1], "FP32").set_data_from_numpy({"a": 1}),
        "dict",
        "client.model(",
    ),
    "an array as shape": (
        lambda c: InferInput("IMAGE", PIXELS, "FP32").set_data_from_numpy(PIXELS),
        "InferInput.from_numpy(name, array)",
    ),
    "an array for a name": (
        lambda c: InferInput.from_numpy(PIXELS, "IMAGE"),
        "name of an input",
        "(name, array)",
    ),
    "an InferInput for a model": (
        lambda c: c.model("digits")(IMAGE=IMAGE),
        "the array itself",
        "client.infer(",
    ),
    "an input's name in lower case": (
        lambda c: c.model("digits")(image=PIXELS),
        "no input 'image'",
        "mean 'IMAGE'?",
    ),
    "a region that is not registered": (
        lambda c: c.infer("digits", [InferInput("IMAGE", [1, 64], "FP32").set_shared_memory("none", 256)]),
        "register_system_shared_memory(name, key, byte_size)",
    ),
    "a region's name for its key": (
        lambda c: c.register_system_shared_memory("/key", "name", 256),
        "takes the region's name first, then its key",
    ),
    "statistics of an unknown model": (
        lambda c: c.get_inference_statistics("no_model"),
        "client.models() lists the models",
    ),
    "a misspelled option": (
        lambda c: c.model("digits")(IMAGE=PIXELS, deadlin=5),
        "mean the option 'deadline'?",
    ),
    "a misspelled option after a value": (
        lambda c: c.model("digits")(PIXELS, deadlin=5),
        "mean the option 'deadline'?",
    ),
    "the reference's name of an option": (
        lambda c: c.model("digits")(PIXELS, class_count=3),
        "mean the option 'classes'?",
    ),
    "the reference's parameter for inputs": (
        lambda c: c.model("digits")(inputs={"IMAGE": PIXELS}),
        "model({'name': array})",
    ),
    "a version in a call": (
        lambda c: c.model("digits")(IMAGE=PIXELS, model_version="1"),
        "client.model(name, version)",
    ),
    "two inputs by position": (
        lambda c: c.model("add_sub")(PIXELS, PIXELS),
        "got 2 inputs by position",
        "model(name=array, …)",
    ),
    "two inputs of batched by position": (
        lambda c: c.model("add_sub").batched(PIXELS, PIXELS),
        "got 2 inputs by position",
    ),
    "one item without its batch": (
        lambda c: c.model("digits")(PIXELS[0]),
        "got shape [64]; [None] after a value makes a batch of it",
    ),
    "a file's name": (
        lambda c: c.model("digits")("seven.png"),
        "got BYTES (a str); a file's content has to be read first",
    ),
    "the bytes of an array": (
        lambda c: c.model("digits")(PIXELS.tobytes()),
        "(a bytes); np.frombuffer(value, 'float32')",
    ),
    "a generator for an array": (
        lambda c: c.model("digits")(each for each in PIXELS),
        "got a generator",
        "list(…) makes a list of it",
    ),
    "rows as dicts": (
        lambda c: c.model("digits")([{"IMAGE": PIXELS[0]}]),
        "inputs by name are one mapping",
    ),
    "requested outputs for names": (
        lambda c: c.model("digits")(PIXELS, outputs=[InferRequestedOutput("SCORES")]),
        "did you mean ['SCORES']?",
    ),
    "one mapping for a map": (
        lambda c: list(c.model("digits").map({"IMAGE": PIXELS})),
        "for one inference call the model; batched() splits",
    ),
    "inputs of a map as keywords": (
        lambda c: list(c.model("digits").map(IMAGE=[PIXELS])),
        "map has no option 'IMAGE'",
        "batched() splits one array",
    ),
    "an option of a map that does not exist": (
        lambda c: list(c.model("digits").map([PIXELS], dealine=3)),
        "mean the option 'deadline'?",
    ),
    "a datatype as dtype": (
        lambda c: c.infer("digits", [IMAGE]).as_numpy("SCORES", dtype="FP32"),
        "one of numpy's, got 'FP32'; did you mean 'float32'?",
    ),
    "another library's method of a client": (lambda c: c.predict("digits", PIXELS), "use client.model(name)"),
    "a method of the client for gRPC": (lambda c: c.start_stream(), "over HTTP generate_stream(…)"),
    "a method that has another name": (lambda c: c.list_models(), "use client.models()"),
    "a property of other models": (lambda c: c.model("digits").inputs, "model.signature has its inputs"),
    "the configuration of a model": (lambda c: c.model("digits").config, "use client.get_model_config("),
    "a method of results for outputs": (
        lambda c: c.model("digits")(PIXELS).as_numpy("SCORES"),
        "use outputs[name]",
    ),
    "an output as an attribute of a result": (
        lambda c: c.infer("digits", [IMAGE]).SCORES,
        "write result['SCORES']",
    ),
    "another library's method of a result": (
        lambda c: c.infer("digits", [IMAGE]).json(),
        "result.get_response() is the JSON",
    ),
    "output for outputs": (
        lambda c: c.model("digits")(IMAGE=PIXELS, output=["SCORES"]),
        "the option 'outputs'?",
    ),
    "an option of batched": (lambda c: c.model("digits").batched(PIXELS, maxbatch=3), "'max_batch'?"),
    "an output's name in lower case": (
        lambda c: c.model("digits")(IMAGE=PIXELS, outputs=["scores"]),
        "no output 'scores'",
        "did you mean 'SCORES'?",
    ),
    "one output without a list": (
        lambda c: c.model("digits")(PIXELS, outputs="SCORES"),
        "did you mean ['SCORES']?",
    ),
    "an attribute for an output": (
        lambda c: c.model("digits")(IMAGE=PIXELS).SCORES,
        "write outputs['SCORES']",
    ),
    "a method of other models": (lambda c: c.model("digits").predict(PIXELS), "call the model itself"),
    "another version": (
        lambda c: c.infer("digits", [IMAGE], "7"),
        "version 7 is not found",
        "get_model_metadata('digits')",
    ),
    "a word as version": (lambda c: c.infer("digits", [IMAGE], "latest"), "is the model's version a number"),
    "an unknown model": (lambda c: c.infer("digit", [IMAGE]), "get_model_repository_index()", "load_model"),
    "an unknown input": (
        lambda c: c.infer("digits", [tensor("PIXELS", PIXELS)]),
        "get_model_metadata",
        "client.model(",
    ),
    "an unknown output": (
        lambda c: c.infer("digits", [IMAGE], outputs=[InferRequestedOutput("LABEL")]),
        "output 'LABEL'",
        "get_model_metadata",
    ),
    "a folder that is not there": (lambda c: c.load_model("digitz"), "no such folder", "the server's log"),
    "a dict as configuration": (
        lambda c: c.load_model("digits", config={}),
        "config must be a str that holds JSON",
    ),
}


@pytest.mark.parametrize("mistake", ADVISED)
def test_a_message_names_the_way_out(client, mistake):
    make, *words = ADVISED[mistake]
    with pytest.raises(InferenceServerException) as caught:
        make(client)
    assert [each for each in words if each not in str(caught.value)] == [], str(caught.value)


#: Attributes that do not exist, and the name that the message must ask for.
MISSPELLED = {
    "a client's method": (lambda c: c.get_server_metdata, "'get_server_metadata'?"),
    "a client's method in another case": (lambda c: c.isServerReady, "'is_server_ready'?"),
    "a model's property": (lambda c: c.model("digits").signatur, "'signature'?"),
    "a method of a result": (lambda c: c.infer("digits", [IMAGE]).as_nump, "'as_numpy'?"),
    "a method of outputs": (lambda c: c.model("digits")(PIXELS).clases, "'classes'?"),
}


@pytest.mark.parametrize("mistake", MISSPELLED)
def test_a_misspelled_attribute_is_asked_for(client, mistake):
    get, words = MISSPELLED[mistake]
    with pytest.raises(AttributeError, match=re.escape(f"did you mean {words}")):
        get(client)


def test_names_that_the_client_knows_are_compared_without_a_request(watched, gateway):
    watched.get_model_repository_index()
    watched.model("digits")(IMAGE=PIXELS)
    for call, words in (
        (lambda: watched.infer("Digit", [IMAGE]), "did you mean 'digits'?"),
        (lambda: watched.infer("add_sum", [IMAGE]), "did you mean 'add_sub'?"),
        (lambda: watched.get_trace_settings("ad_sub"), "did you mean 'add_sub'?"),
        (lambda: watched.infer("digits", [tensor("image", PIXELS)]), "did you mean 'IMAGE'?"),
        (
            lambda: watched.infer("digits", [IMAGE], outputs=[InferRequestedOutput("SCORE")]),
            "did you mean 'SCORES'?",
        ),
    ):
        before = len(gateway.seen)
        with pytest.raises(ServerError, match=re.escape(words)):
            call()
        assert len(gateway.seen) == before + 1


def test_a_model_that_is_not_loaded_says_how_to_load_it(client):
    client.unload_model("identity_uint16")
    try:
        wait_until(lambda: not client.is_model_ready("identity_uint16"))
        with pytest.raises(ServerError, match=r"no available versions \(it is not loaded: ") as caught:
            client.infer("identity_uint16", [IMAGE])
        words = str(caught.value).partition("it is not loaded: ")[2]
        assert "load_model" in words
        assert "wait_until_ready" in words
        assert words.count("get_model_repository_index") == 1  # one advice
        with pytest.raises(ServerError, match=r"unknown model : .*\(client\.get_model_repository_index\(\)"):
            client.get_trace_settings("identity_uint16")
    finally:
        client.load_model("identity_uint16")


@pytest.mark.parametrize("base", ["/v2", "/v2/", "/v2/models/digits"])
def test_a_url_with_the_protocols_path_says_so(open_client, triton_server, base):
    client = open_client(triton_server.url + base)
    for call in (client.get_server_metadata, lambda: client.infer("digits", [IMAGE])):
        with pytest.raises(ServerError, match="drop /v2"):
            call()
    with pytest.raises(DeadlineExceeded, match="drop /v2"):
        client.wait_until_ready(0.01)
    with pytest.warns(UserWarning, match="not ready: .*drop /v2"):
        assert not client.is_server_ready()


def test_the_port_of_the_metrics_says_so(open_client, triton_server):
    client = open_client(triton_server.metrics_url.removesuffix("/metrics"))
    for call in (
        client.get_server_metadata,
        lambda: client.infer("digits", [IMAGE]),
        lambda: client.model("digits")(IMAGE=PIXELS),
    ):
        with pytest.raises(InferenceServerException, match=r"port of the metrics, 8002 on Triton.*8000"):
            call()
    for probe in (client.is_server_live, client.is_server_ready, lambda: client.is_model_ready("digits")):
        with pytest.warns(UserWarning, match="port of the metrics, 8002 on Triton"):
            assert probe()  # as the reference answers
    with pytest.raises(DeadlineExceeded, match="port of the metrics, 8002 on Triton"):
        client.wait_until_ready(0.01)


def test_the_port_for_http_is_not_taken_for_that_of_the_metrics(client, recwarn):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    client.wait_until_ready(20, "digits")
    assert [each for each in recwarn if "metrics" in str(each.message)] == []


def test_with_several_servers_every_error_names_the_one_that_answered(open_client, triton_server):
    port = triton_server.url.rpartition(":")[2]
    client = open_client([triton_server.url, f"localhost:{port}"], concurrency=2)
    with pytest.raises(
        ServerError, match=rf"POST http://(127\.0\.0\.1|localhost):{port}/v2/models/no_model/infer"
    ) as caught:
        client.infer("no_model", [IMAGE])
    assert caught.value.message().startswith("Request for unknown model")
    with (
        pytest.raises(ServerError, match=f":{port}/v2/models/repeat/generate_stream"),
        client.generate_stream("repeat", {"IN": [1, 2], "FAIL_AT": 1}) as stream,
    ):
        list(stream)
    with pytest.raises(ServerError) as caught:
        open_client(triton_server.url).infer("no_model", [IMAGE])
    assert "http://" not in str(caught.value)  # the reference's words, where there is one server


def test_https_to_a_port_without_tls_says_so(open_client, triton_server):
    client = open_client(f"https://{triton_server.url}")
    port = triton_server.url.rpartition(":")[2]
    with pytest.raises(
        TLSError, match=rf"handshake .* failed: .*does port {port} speak TLS, or is it http://"
    ):
        client.get_server_metadata()


def place(error):
    return error.method, error.url, error.attempts


@pytest.mark.parametrize("headers", [None, {"x-own": "1"}], ids=["plain", "with headers"])
def test_an_answer_with_an_error_names_the_request(client, headers):
    base = f"http://{client.servers[0]}/v2"
    with pytest.raises(ServerError) as caught:
        client.infer("no_model", [IMAGE], headers=headers)
    assert place(caught.value) == ("POST", f"{base}/models/no_model/infer", 1)
    with pytest.raises(ServerError) as caught:
        client.get_model_metadata("no_model", "1", headers=headers, query_params=headers)
    query = "?x-own=1" if headers else ""
    assert place(caught.value) == ("GET", f"{base}/models/no_model/versions/1{query}", 1)


@pytest.mark.parametrize("refused", [0, 1])
def test_a_success_with_an_error_inside_names_the_request(make_gateway, open_client, refused):
    answers = iter([(503, b"later")] * refused + [(200, b'{"error": "in vain"}')])
    gateway = make_gateway(meddle=lambda seen: next(answers) if seen.body else None)
    client = open_client(gateway.url, retry=Retry(attempts=2, backoff=0) if refused else None)
    with pytest.raises(ServerError, match="in vain") as caught:
        client.infer("digits", [IMAGE], idempotent=True)
    assert place(caught.value) == ("POST", f"http://{gateway.url}/v2/models/digits/infer", 1 + refused)


def test_an_error_in_a_stream_names_the_request(client):
    with (
        pytest.raises(ServerError) as caught,
        client.generate_stream("repeat", {"IN": [1, 2], "FAIL_AT": 1}) as stream,
    ):
        list(stream)
    assert place(caught.value)[1].endswith("/models/repeat/generate_stream")
