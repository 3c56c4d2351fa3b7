"""Messages for the usual mistakes: they say what to do."""

import re

import numpy as np
import pytest

from tritonhttp import InferInput, InferRequestedOutput, InvalidRequest, Retry, ServerError
from tritonhttp.errors import TLSError

from ...clients import tensor

PIXELS = np.zeros((1, 64), np.float32)
IMAGE = tensor("IMAGE", PIXELS)


def made(datatype="FP32", shape=(1, 64)):
    return InferInput("IMAGE", shape, datatype).set_data_from_numpy(PIXELS)


REFUSED = {
    "numpy's name of a datatype": (lambda c: made("float32"), "no datatype 'float32', but BOOL, INT8"),
    "the configuration's name": (lambda c: made("TYPE_FP32"), "no datatype 'TYPE_FP32', but BOOL"),
    "a numpy type": (lambda c: made(np.float32), "no datatype <class 'numpy.float32'>, but BOOL"),
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


@pytest.mark.parametrize(
    ("base", "version"), [("/v2", ""), ("", "latest")], ids=["protocol in the URL", "a word as version"]
)
def test_a_path_that_the_server_does_not_have_says_where_to_look(open_client, triton_server, base, version):
    client = open_client(triton_server.url + base)
    words = "Not Found (the server has no such path: is the URL's base path right, is the model's version a number"
    with pytest.raises(ServerError, match=re.escape(words)):
        client.infer("digits", [IMAGE], version)


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
