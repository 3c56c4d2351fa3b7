"""Arguments of `infer` beside the tensors: outputs, classes, sequences, queueing, parameters, compression."""

import itertools
import json
import threading
import time

import numpy as np
import pytest

import tritonhttp
from tritonhttp import InferRequestedOutput

from ...clients import tensor

FLOATS = np.array([1.5, -2, 0], np.float32)


@pytest.fixture
def floats():
    return tensor("INPUT0", FLOATS)


# -- outputs


def test_without_outputs_all_of_them_come_as_binary(client):
    result = client.infer("summary", [tensor("VALUES", FLOATS)])
    outputs = result.get_response()["outputs"]
    assert {output["name"] for output in outputs} == {"COUNT", "MEAN", "SORTED", "TEXT"}
    assert all("binary_data_size" in output["parameters"] for output in outputs)
    assert result.as_numpy("COUNT").tolist() == [3]
    assert result.as_numpy("SORTED").tolist() == [-2, 0, 1.5]


def test_only_the_outputs_that_were_asked_for_come_each_in_its_form(client):
    outputs = [InferRequestedOutput("TEXT", binary_data=False), InferRequestedOutput("SORTED")]
    result = client.infer("summary", [tensor("VALUES", FLOATS)], outputs=outputs)
    assert result.as_numpy("TEXT").tolist() == ["3 values, mean -0.167"]
    assert result.as_numpy("SORTED").tolist() == [-2, 0, 1.5]
    assert result.as_numpy("COUNT") is None
    assert result.get_output("COUNT") is None


def test_json_and_binary_outputs_mix_whatever_their_order(client):
    for order in itertools.permutations(["COUNT", "SORTED", "TEXT"]):
        outputs = [InferRequestedOutput(name, binary_data=name != "SORTED") for name in order]
        result = client.infer("summary", [tensor("VALUES", FLOATS)], outputs=outputs)
        assert result.as_numpy("COUNT").tolist() == [3]
        assert result.as_numpy("SORTED").tolist() == [-2, 0, 1.5]
        assert result.as_numpy("TEXT").tolist() == [b"3 values, mean -0.167"]


def test_an_output_that_the_model_does_not_have_is_the_servers_error(client, floats):
    with pytest.raises(tritonhttp.ServerError, match="unexpected inference output 'NO_SUCH'"):
        client.infer("identity_fp32", [floats], outputs=[InferRequestedOutput("NO_SUCH")])


@pytest.mark.parametrize("binary_data", [True, False])
def test_class_count_gives_score_index_and_label_best_first(client, binary_data):
    image = tensor("IMAGE", np.random.default_rng(2).random((2, 64), np.float32))
    scores = client.infer("digits", [image]).as_numpy("SCORES")
    outputs = [InferRequestedOutput("SCORES", binary_data, class_count=3)]
    classes = client.infer("digits", [image], outputs=outputs).as_numpy("SCORES")
    assert classes.shape == (2, 3)
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    for row, expected in zip(classes, scores, strict=True):
        best = np.argsort(-expected)[:3]
        for text, index in zip(row, best, strict=True):
            text = text.decode() if binary_data else text
            score, found, label = text.split(":")
            assert (int(found), label) == (index, names[index])
            assert float(score) == pytest.approx(expected[index], abs=1e-5)


# -- identifiers


def test_the_request_id_comes_back(client, floats):
    assert client.infer("identity_fp32", [floats], request_id="call 7/ü").get_response()["id"] == "call 7/ü"
    assert "id" not in client.infer("identity_fp32", [floats]).get_response()


def test_the_model_version_is_asked_for(client, floats):
    answer = client.infer("identity_fp32", [floats], model_version="1").get_response()
    assert (answer["model_name"], answer["model_version"]) == ("identity_fp32", "1")
    with pytest.raises(tritonhttp.ServerError, match="version 9 is not found"):
        client.infer("identity_fp32", [floats], model_version="9")
    with pytest.raises(tritonhttp.InvalidRequest, match="model version must be a string"):
        client.infer("identity_fp32", [floats], model_version=True)
    for version in (1, "1", np.int64(1)):
        assert client.infer("identity_fp32", [floats], version).get_response()["model_version"] == "1"


# -- sequences

_numbers = itertools.count(1000)


def accumulate(client, value, sequence, **options):
    given = tensor("INPUT", np.array([[value]], np.int32))
    result = client.infer("sequence_accumulate", [given], sequence_id=sequence, **options)
    return int(result.as_numpy("OUTPUT")[0, 0])


@pytest.mark.parametrize(
    "make",
    [int, lambda n: n + 2**63, lambda n: f"text {n} ü", lambda n: str(n), np.int64],
    ids=["int", "64 bits", "text", "digits as text", "numpy"],
)
def test_a_sequence_adds_up_between_its_start_and_its_end(client, make):
    sequence = make(next(_numbers))
    assert accumulate(client, 5, sequence, sequence_start=True) == 5
    assert accumulate(client, 7, sequence) == 12
    assert accumulate(client, -2, sequence, sequence_end=True) == 10
    with pytest.raises(tritonhttp.ServerError, match="must specify the START flag"):
        accumulate(client, 1, sequence)


def test_sequences_of_two_ids_do_not_mix(client):
    one, other = next(_numbers), f"other {next(_numbers)}"
    for sequence, value in ((one, 1), (other, 100)):
        assert accumulate(client, value, sequence, sequence_start=True) == value
    assert accumulate(client, 1, one, sequence_end=True) == 2
    assert accumulate(client, 1, other, sequence_end=True) == 101


@pytest.mark.parametrize("none", [0, ""])
def test_no_sequence_id_means_no_sequence(client, floats, none):
    with pytest.raises(tritonhttp.ServerError, match="non-zero or non-empty correlation ID"):
        accumulate(client, 1, none, sequence_start=True)
    client.infer("identity_fp32", [floats], sequence_id=none, sequence_start=True, sequence_end=True)


# -- the server's queue


def delayed(rows, seconds):
    return tensor("DELAY", np.full((rows, 1), seconds, np.float32))


@pytest.fixture
def busy(make_client):
    """Keep the only instance of `batched` busy for two seconds, long enough on a machine under load too."""
    other = make_client()
    thread = threading.Thread(target=other.infer, args=("batched", [delayed(4, 2.0)]))
    thread.start()
    time.sleep(0.4)
    yield
    thread.join()


def test_a_request_of_higher_priority_overtakes(make_client, busy):
    client = make_client(concurrency=3)
    runs = {}

    def ask(name, priority):
        result = client.infer("batched", [delayed(4, 0.0)], priority=priority)
        runs[name] = int(result.as_numpy("RUN")[0, 0])

    threads = []
    for name, priority in (("default", 0), ("low", 3), ("high", 1)):
        threads.append(threading.Thread(target=ask, args=(name, priority)))
        threads[-1].start()
        time.sleep(0.3)
    for thread in threads:
        thread.join()
    assert runs["high"] < runs["default"] < runs["low"]


def test_a_request_that_waits_longer_than_its_timeout_is_rejected(make_client, busy):
    client = make_client()
    with pytest.raises(
        tritonhttp.ServerError, match=r"timeout expired \(timeout= is in microseconds"
    ) as caught:
        client.infer("batched", [delayed(1, 0.0)], timeout=1000)
    assert not isinstance(caught.value, tritonhttp.DeadlineExceeded)


def test_a_timeout_that_is_long_enough_lets_the_request_through(client):
    result = client.infer("batched", [delayed(2, 0.0)], timeout=30_000_000, priority=2)
    assert result.as_numpy("BATCH_SIZE").tolist() == [[2], [2]]


# -- parameters


@pytest.mark.parametrize(
    "key",
    [
        "sequence_id",
        "sequence_start",
        "sequence_end",
        "priority",
        "timeout",
        "headers",
        "binary_data_output",
        "triton_enable_empty_final_response",
        "triton_",
    ],
)
def test_reserved_parameters_are_refused_before_sending(watched, gateway, floats, key):
    with pytest.raises(tritonhttp.InvalidRequest, match=f'Parameter "{key}" is a reserved parameter'):
        watched.infer("identity_fp32", [floats], parameters={key: 1})
    assert gateway.seen == []


def test_parameters_of_a_call_reach_the_model(client):
    message = tensor("MESSAGE", np.array([b"as asked"], object))
    with pytest.raises(tritonhttp.ServerError) as caught:
        client.infer("fail", [message], parameters={"code": "UNAVAILABLE"})
    assert (caught.value.status(), caught.value.message()) == ("503", "as asked")
    with pytest.raises(tritonhttp.ServerError) as caught:
        client.infer("fail", [message], parameters={"code": "NOT_FOUND"})
    assert caught.value.status() == "404"


@pytest.mark.parametrize("value", [1, -(2**40), True, "text", np.int32(7), np.str_("t"), np.bool_(False)])
def test_parameters_of_the_protocols_types_are_taken(client, floats, value):
    parameters = {"own": value, "another": 1}
    result = client.infer("identity_fp32", [floats], parameters=parameters)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), FLOATS)
    assert parameters == {"own": value, "another": 1}


@pytest.mark.parametrize("value", [{"nested": 1}, [1, 2], None, {"a": float("nan")}])
def test_the_servers_refusal_of_a_nested_parameter_passes_through(client, floats, value):
    with pytest.raises(tritonhttp.ServerError, match="parameter 'own' has invalid type"):
        client.infer("identity_fp32", [floats], parameters={"own": value})


@pytest.mark.parametrize("value", [b"\xff", object(), {1, 2}, 1j])
def test_a_parameter_that_json_has_no_form_for_is_refused_before_sending(watched, gateway, floats, value):
    with pytest.raises(tritonhttp.InvalidRequest, match=f"'own'.*{type(value).__name__}"):
        watched.infer("identity_fp32", [floats], parameters={"own": value})
    assert gateway.seen == []


@pytest.mark.parametrize("way", ["binary", "json"])
def test_parameters_of_tensors_go_out_and_triton_takes_them(watched, gateway, way):
    given = {"content_type": "np", "count": 1, "share": 0.5, "flag": True}
    inputs = [tensor("INPUT0", FLOATS, binary_data=way == "binary").set_parameters(given)]
    outputs = [InferRequestedOutput("OUTPUT0").set_parameters({"kind": "x"})]
    for _ in range(2):  # the second time from what is remembered
        result = watched.infer("identity_fp32", inputs, outputs=outputs)
        np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), FLOATS)
        seen = gateway.seen[-1]
        sent = json.loads(seen.body[: int(seen.get("Inference-Header-Content-Length") or len(seen.body))])
        found = dict(sent["inputs"][0]["parameters"])
        assert found.pop("binary_data_size", None) == (12 if way == "binary" else None)
        assert found == given
        assert sent["outputs"][0]["parameters"] == {"binary_data": True, "kind": "x"}
    watched.infer("identity_fp32", [inputs[0].set_parameters({"count": True})])
    assert b'"count":true' in gateway.seen[-1].body


def test_a_result_without_parameters_has_none(client, floats):
    assert client.infer("identity_fp32", [floats]).parameters == {}


# -- raw requests


IDENTITY = b"""
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        found = [pb_utils.get_input_tensor_by_name(each, "IN").as_numpy() for each in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", each)]) for each in found]
"""


@pytest.fixture
def identity(client):
    """Load a model that returns its input, of this datatype, batch size and shape; unload it afterwards."""
    name = "raw_identity"

    def load(datatype, max_batch_size, *dims):
        described = {"data_type": f"TYPE_{datatype}", "dims": dims}
        config = {
            "backend": "python",
            "max_batch_size": max_batch_size,
            "input": [{"name": "IN", **described}],
            "output": [{"name": "OUT", **described}],
        }
        client.load_model(name, config=json.dumps(config), files={"file:1/model.py": IDENTITY})
        return name

    yield load
    client.unload_model(name)


@pytest.mark.parametrize("given", [FLOATS, FLOATS.tobytes(), FLOATS.astype(">f4"), FLOATS[:0], b""])
def test_a_raw_request_is_the_only_input(client, given):
    result = client.infer_raw("identity_fp32", given)
    assert result["OUTPUT0"].tolist() == ([*FLOATS] if len(given) else [])
    assert result["OUTPUT0"].dtype == np.float32


def test_a_large_raw_request_comes_back(client):
    array = np.random.default_rng(5).random(1 << 20, np.float32)
    np.testing.assert_array_equal(client.infer_raw("identity_fp32", array, "1")["OUTPUT0"], array)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_raw_request_may_be_compressed_both_ways(watched, gateway, algorithm):
    array = np.zeros(5000, np.float32)
    result = watched.infer_raw(
        "identity_fp32",
        array,
        headers={"X-Own": "1"},
        query_params={"a": 1},
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    np.testing.assert_array_equal(result["OUTPUT0"], array)
    assert result.headers["content-encoding"] == algorithm
    seen = gateway.seen[-1]
    assert (seen.get("X-Own"), seen.query, seen.get("Content-Encoding")) == ("1", [("a", "1")], algorithm)
    assert len(seen.body) < 1000


def test_a_raw_request_with_a_batch_is_one_item(client, identity):
    image = np.random.default_rng(2).random(64, np.float32)
    result = client.infer_raw("digits", image)
    np.testing.assert_array_equal(
        result["SCORES"], client.infer("digits", [tensor("IMAGE", image[np.newaxis])])["SCORES"]
    )
    with pytest.raises(tritonhttp.ServerError, match="Expected 256, got 512"):
        client.infer_raw("digits", np.zeros((2, 64), np.float32))
    assert client.infer_raw(identity("FP32", 4, -1), FLOATS)["OUT"].shape == (1, 3)


def test_one_dimension_of_a_raw_request_may_be_of_any_size(client, identity):
    array = np.arange(6, dtype=np.float32)
    assert client.infer_raw(identity("FP32", 0, -1, 2), array)["OUT"].shape == (3, 2)
    with pytest.raises(tritonhttp.ServerError, match="more than one variable-sized dimension"):
        client.infer_raw(identity("FP32", 0, -1, -1), array)


@pytest.mark.parametrize("max_batch_size", [0, 4])
def test_raw_bytes_are_the_one_element_of_a_string(client, identity, max_batch_size):
    name = identity("STRING", max_batch_size, 1)
    for given in (b"as \0 they \xff are", b"", bytearray(b"x" * 100_000)):
        assert client.infer_raw(name, given)["OUT"].ravel().tolist() == [bytes(given)]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("identity_bytes", r"must have input shape \[1\]"),
        ("add_sub", "must only have 1 input"),
        ("repeat", "use generate_stream"),
        ("no_such_model", "unknown model"),
    ],
)
def test_other_models_refuse_a_raw_request(client, model, words):
    with pytest.raises(tritonhttp.ServerError, match=words):
        client.infer_raw(model, b"\0\0\0\0")


def test_a_raw_request_is_repeated_as_any_other(open_client, gateway):
    client = open_client(gateway.url, retry=tritonhttp.Retry(attempts=2, backoff=0))
    gateway.refusals = [503]
    assert client.infer_raw("identity_fp32", FLOATS, idempotent=True).attempts == 2
    gateway.refusals = [503]
    with pytest.raises(tritonhttp.ServerError) as caught:
        client.infer_raw("identity_fp32", FLOATS, idempotent=False)
    assert (caught.value.status(), caught.value.attempts) == ("503", 1)


# -- compression


@pytest.mark.parametrize("response", [None, "gzip", "deflate"])
@pytest.mark.parametrize("request_", [None, "gzip", "deflate"])
def test_compression_in_either_direction_changes_nothing(watched, gateway, request_, response):
    array = np.tile(FLOATS, 2000)
    result = watched.infer(
        "identity_fp32",
        [tensor("INPUT0", array)],
        request_compression_algorithm=request_,
        response_compression_algorithm=response,
    )
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), array)
    assert result.as_numpy("OUTPUT0").flags.writeable
    assert gateway.last.get("Content-Encoding") == request_
    assert gateway.last.get("Accept-Encoding") == response
    assert (len(gateway.last.body) < 2000) is (request_ is not None)


@pytest.mark.parametrize("binary_output", [True, False])
def test_json_bodies_are_compressed_too(client, binary_output):
    result = client.infer(
        "identity_fp32",
        [tensor("INPUT0", FLOATS, binary_data=False)],
        outputs=[InferRequestedOutput("OUTPUT0", binary_output)],
        request_compression_algorithm="gzip",
        response_compression_algorithm="gzip",
    )
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), FLOATS)


def test_an_error_behind_compression_is_readable(client):
    message = tensor("MESSAGE", np.array([b"as asked"], object))
    with pytest.raises(tritonhttp.ServerError, match="as asked"):
        client.infer("fail", [message], response_compression_algorithm="gzip")


@pytest.mark.parametrize("where", ["request_compression_algorithm", "response_compression_algorithm"])
def test_an_unknown_compression_is_refused_before_sending(watched, gateway, floats, where):
    with pytest.raises(tritonhttp.InvalidRequest, match=r"'brotli'.*'gzip', 'deflate'"):
        watched.infer("identity_fp32", [floats], **{where: "brotli"})
    assert gateway.seen == []


# -- errors of models


def test_an_error_of_a_model_is_its_text(client):
    with pytest.raises(tritonhttp.ServerError) as caught:
        client.infer("fail", [tensor("MESSAGE", np.array(["it broke: ü \"'"], object))])
    assert caught.value.message() == "it broke: ü \"'"
    assert caught.value.status() == "500"
    assert client.infer("fail", [tensor("MESSAGE", np.array([""], object))]).as_numpy("OUTPUT") == [b"fine"]


def test_a_decoupled_model_cannot_be_asked_over_infer(client):
    with pytest.raises(tritonhttp.ServerError, match="decoupled") as caught:
        client.infer("repeat", [tensor("IN", np.array([1], np.int32))])
    assert caught.value.status() == "501"


def test_an_ensemble_answers_like_its_parts(client):
    pixels = np.random.default_rng(3).integers(0, 17, (3, 64), np.uint8)
    scores = client.infer("digits_ensemble", [tensor("PIXELS", pixels)]).as_numpy("SCORES")
    image = client.infer("digits_scale", [tensor("PIXELS", pixels)]).as_numpy("IMAGE")
    np.testing.assert_allclose(client.infer("digits", [tensor("IMAGE", image)]).as_numpy("SCORES"), scores)


def test_results_of_one_connection_come_in_order(client):
    for number in range(50):
        array = np.full(3, number, np.int64)
        assert client.infer("identity_int64", [tensor("INPUT0", array)]).as_numpy("OUTPUT0")[0] == number
