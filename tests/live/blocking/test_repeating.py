"""Inferences that the extension repeats, on Triton: each result is like the first."""

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest

import tritonhttp
from tritonhttp import InferRequestedOutput, ServerError
from tritonhttp._repetition.repeater import REPEATS

from ...clients import tensor

pytestmark = pytest.mark.skipif(not REPEATS, reason="no extension was built")

#: Two arrays of one shape for each datatype, as random bits: NaN is among them.
DATATYPES = {
    "BOOL": bool,
    **{f"{kind}INT{bits}": f"{kind.lower()}int{bits}" for kind in ("", "U") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"float{bits}" for bits in (16, 32, 64)},
    "BF16": ml_dtypes.bfloat16,
}


def arrays(datatype, shape, count):
    random = np.random.default_rng(7)
    for _ in range(count):
        if datatype == "BYTES":
            yield np.array([random.bytes(5) for _ in range(np.prod(shape))], np.object_).reshape(shape)
        elif datatype == "BOOL":
            yield random.integers(0, 2, shape).astype(bool)
        else:
            dtype = np.dtype(DATATYPES[datatype])
            yield np.frombuffer(random.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)


def repeated(client):
    return client._transport.repeater.calls


def bits(array):
    return array.tolist() if array.dtype == np.object_ else array.tobytes()


def told(result):
    """Return all that a result tells beside its data."""
    return result.get_response(), result.outputs, result.headers, result.keys(), repr(result), result.attempts


@pytest.mark.parametrize("shape", [(3,), (1000,), (0,)], ids=str)
@pytest.mark.parametrize("datatype", [*DATATYPES, "BYTES"])
def test_every_datatype_is_repeated(client, datatype, shape):
    model = f"identity_{datatype.lower()}"
    first = None
    for n, array in enumerate(arrays(datatype, shape, 5)):
        given = tensor("INPUT0", array)
        assert given.datatype() == datatype
        result = client.infer(model, [given])
        assert repeated(client) == n
        got = result.as_numpy("OUTPUT0")
        assert (got.dtype, got.shape, bits(got)) == (array.dtype, shape, bits(array))
        assert got.flags.writeable
        first = first or result
        for made in (result, copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
            assert bits(made.as_numpy("OUTPUT0")) == bits(array)
            assert made.get_response() == first.get_response()
        assert told(result) == told(first)


def test_answers_in_json_are_repeated_as_long_as_their_length_is_the_same(client):
    outputs = [InferRequestedOutput("OUTPUT0", binary_data=False)]
    for n, (number, ended) in enumerate([(1, 0), (2, 1), (3, 2), (40, 2), (50, 3), (6, 3), (7, 4)]):
        given = tensor("INPUT0", np.full(3, number, np.int32), binary_data=False)
        result = client.infer("identity_int32", [given], outputs=outputs)
        assert result.as_numpy("OUTPUT0").tolist() == [number] * 3
        assert result.get_response()["outputs"][0]["data"] == [number] * 3
        assert (n, client._transport.repeater.ended) == (n, ended)


@pytest.mark.parametrize("named", [False, True])
def test_several_outputs_are_repeated(client, named):
    outputs = [InferRequestedOutput(name) for name in ("OUTPUT1", "OUTPUT0")] if named else None
    results = []
    for n in range(4):
        a, b = np.full((1, 16), n, np.int32), np.arange(16, dtype=np.int32).reshape(1, 16)
        results.append(client.infer("add_sub", [tensor("INPUT0", a), tensor("INPUT1", b)], outputs=outputs))
        assert results[-1]["OUTPUT0"].tolist() == (a + b).tolist()
        assert results[-1]["OUTPUT1"].tolist() == (a - b).tolist()
    assert repeated(client) == 3
    for n, result in enumerate(results):  # none of them is made of another's memory
        assert result["OUTPUT0"][0].tolist() == [n + each for each in range(16)]


def test_inferences_in_turn_with_other_requests(client):
    for n in range(20):
        for datatype, size in (("INT32", 4), ("FP32", 4), ("FP32", 30_000), ("INT32", 7)):
            array = np.full(size, n, DATATYPES[datatype])
            result = client.infer(f"identity_{datatype.lower()}", [tensor("INPUT0", array)])
            assert bits(result["OUTPUT0"]) == bits(array)
        assert client.is_server_live()
        assert client.get_model_metadata("identity_fp32")["name"] == "identity_fp32"
    assert client.stats().connections_opened == 1
    assert repeated(client) >= 3 * 19


def test_a_model_that_is_unloaded_and_loaded_between_inferences(client):
    given = [tensor("INPUT0", np.arange(3, dtype=np.uint16))]
    for _ in range(3):
        client.infer("identity_uint16", given)
    client.unload_model("identity_uint16")
    try:
        with pytest.raises(ServerError, match="identity_uint16") as caught:
            client.infer("identity_uint16", given)
        assert caught.value.status() in ("400", "404", "503")
        assert repeated(client) == 3
    finally:
        client.load_model("identity_uint16")
    for _ in range(3):
        assert client.infer("identity_uint16", given)["OUTPUT0"].tolist() == [0, 1, 2]
    assert client.stats().connections_opened == 1


def test_a_deadline_ends_a_repeated_inference(client):
    def slow(seconds, **options):
        return client.infer("slow", [tensor("DELAY", np.array([seconds], np.float32))], **options)

    for _ in range(3):
        slow(0, deadline=5)
    assert repeated(client) == 2
    with pytest.raises(tritonhttp.DeadlineExceeded, match=r"the call's 0\.2 s are over"):
        slow(1, deadline=0.2)
    assert repeated(client) == 3
    slow(0)


def test_a_restarted_server_is_found_again(start_server):
    server = start_server(models=["identity_fp32"])
    given = [tensor("INPUT0", np.arange(3, dtype=np.float32))]
    with tritonhttp.InferenceServerClient(server.url) as client:
        for _ in range(3):
            client.infer("identity_fp32", given)
        server.kill()
        with pytest.raises(tritonhttp.TransportError):
            client.infer("identity_fp32", given)
        server.start()
        for _ in range(3):
            assert client.infer("identity_fp32", given)["OUTPUT0"].tolist() == [0, 1, 2]
        assert repeated(client) >= 4
