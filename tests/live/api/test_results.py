"""Results and inputs as objects: contents, copies, and the owner of their memory."""

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest

import tritonhttp
from tritonhttp import InferRequestedOutput

from ...clients import tensor

VALUES = np.array([3, 1, 2], np.float32)
COPIES = {
    "deepcopy": copy.deepcopy,
    **{f"pickle {n}": lambda it, n=n: pickle.loads(pickle.dumps(it, n)) for n in (2, 4, 5)},
}


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES.keys())
@pytest.mark.parametrize("binary_data", [True, False])
def test_a_copy_of_a_result_holds_the_same_and_shares_nothing(client, make, binary_data):
    outputs = [InferRequestedOutput(name, binary_data) for name in ("SORTED", "TEXT")]
    result = client.infer("summary", [tensor("VALUES", VALUES)], outputs=outputs, request_id="7")
    twin = make(result)
    assert type(twin) is tritonhttp.InferResult
    assert twin.get_response() == result.get_response()
    assert twin.get_response()["id"] == "7"
    result.as_numpy("SORTED")[:] = 0
    assert twin.as_numpy("SORTED").tolist() == [1, 2, 3]
    assert twin.as_numpy("TEXT").tolist() == result.as_numpy("TEXT").tolist()
    assert twin.as_numpy("SORTED").flags.writeable
    assert twin.as_numpy("NO_SUCH") is None


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES.keys())
def test_a_copy_of_an_input_is_sent_like_the_original(client, make):
    array = VALUES[::-1]
    for given, expected in [
        (tensor("INPUT0", array), VALUES[::-1]),
        (tensor("INPUT0", array, binary_data=False), VALUES[::-1]),
        (tensor("INPUT0", np.array([b"a", "ü"], object)), np.array([b"a", "ü".encode()], object)),
        (tensor("INPUT0", VALUES.astype(ml_dtypes.bfloat16)), VALUES.astype(ml_dtypes.bfloat16)),
        (tensor("INPUT0", np.empty(0, np.float32)), np.empty(0, np.float32)),
    ]:
        twin = make(given)
        assert (twin.name(), twin.shape(), twin.datatype()) == (given.name(), given.shape(), given.datatype())
        model = f"identity_{given.datatype().lower()}"
        got = client.infer(model, [twin]).as_numpy("OUTPUT0")
        assert got.dtype == expected.dtype
        assert got.tolist() == expected.tolist()


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES.keys())
def test_a_copy_of_an_input_does_not_see_later_changes(client, make):
    array = VALUES.copy()
    twin = make(tensor("INPUT0", array))
    array[:] = 0
    assert client.infer("identity_fp32", [twin]).as_numpy("OUTPUT0").tolist() == VALUES.tolist()


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES.keys())
def test_a_requested_output_and_a_region_survive_a_copy(make):
    output = InferRequestedOutput("A", False, 2)
    assert make(output)._get_tensor() == output._get_tensor()
    given = tritonhttp.InferInput("A", [1], "FP32").set_shared_memory("region", 4, offset=8)
    assert make(given)._get_tensor() == given._get_tensor()


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES.keys())
def test_errors_of_the_server_survive_a_copy(client, make):
    with pytest.raises(tritonhttp.ServerError) as caught:
        client.get_model_metadata("no_such_model")
    error, twin = caught.value, make(caught.value)
    assert type(twin) is tritonhttp.ServerError
    assert (str(twin), twin.status(), twin.debug_details()) == (
        str(error),
        error.status(),
        error.debug_details(),
    )
    assert twin.headers == error.headers


def test_as_numpy_gives_the_same_array_each_time(client):
    result = client.infer("identity_fp32", [tensor("INPUT0", VALUES)])
    assert result.as_numpy("OUTPUT0") is result.as_numpy("OUTPUT0")


def test_an_array_outlives_its_result_and_its_client(make_client):
    client = make_client()
    array = client.infer("identity_fp32", [tensor("INPUT0", np.arange(100_000, dtype=np.float32))]).as_numpy(
        "OUTPUT0"
    )
    for _ in range(20):
        client.infer("identity_fp32", [tensor("INPUT0", np.zeros(100_000, np.float32))])
    client.close()
    assert array[-1] == 99_999
    assert array.sum() == np.arange(100_000, dtype=np.float32).sum()


def test_a_result_of_an_unknown_name_is_none(client):
    result = client.infer("identity_fp32", [tensor("INPUT0", VALUES)])
    assert result.as_numpy("INPUT0") is None
    assert result.get_output("INPUT0") is None
    assert result.get_output("OUTPUT0")["shape"] == [3]
    assert result.get_response()["model_name"] == "identity_fp32"


def test_reprs_name_what_they_hold(client):
    given = tensor("INPUT0", VALUES)
    result = client.infer("identity_fp32", [given])
    assert repr(given) == "InferInput('INPUT0', [3], 'FP32')"
    assert "OUTPUT0" in repr(result)
    assert "identity_fp32" in repr(result)


def test_verbose_shows_requests_and_responses_but_no_secret(make_client, capsys):
    client = make_client(verbose=True)
    client.is_server_live(headers={"Authorization": "Bearer s3cret", "X-Api-Key": "s3cret"})
    client.infer("identity_fp32", [tensor("INPUT0", VALUES)])
    shown = capsys.readouterr().out
    assert "/v2/health/live" in shown
    assert "/v2/models/identity_fp32/infer" in shown
    assert "OUTPUT0" in shown
    assert "s3cret" not in shown


def test_without_verbose_nothing_is_printed(client, capsys):
    client.infer("identity_fp32", [tensor("INPUT0", VALUES)])
    with pytest.raises(tritonhttp.ServerError):
        client.get_model_metadata("no_such_model")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
