"""Models as functions on every server; where it has no binary tensors, that is found out and JSON is used."""

from __future__ import annotations

import numpy as np
import pytest

import tritonhttp

from .cases import SIXTEEN, VALUES


def test_a_model_is_a_function(client):
    model = client.model("add_sub")
    outputs = model(INPUT0=SIXTEEN, INPUT1=SIXTEEN)
    np.testing.assert_array_equal(outputs["OUTPUT0"], SIXTEEN * 2)
    np.testing.assert_array_equal(outputs["OUTPUT1"], SIXTEEN * 0)
    assert set(model(INPUT0=SIXTEEN, INPUT1=SIXTEEN, outputs=["OUTPUT1"])) == {"OUTPUT1"}
    assert "INPUT0 INT32[-1, 16]" in repr(model)
    assert "OUTPUT1 INT32[-1, 16]" in repr(model)


@pytest.mark.parametrize("datatype", VALUES)
def test_a_model_sends_the_form_that_the_server_takes(client, server, datatype):
    values, kind = VALUES[datatype], server.kind
    if datatype not in kind.binary | kind.json:
        pytest.skip(f"{kind.name} has no {datatype}")
    array = client.model(f"identity_{datatype.lower()}")(INPUT0=values)["OUTPUT0"]
    assert array.dtype == values.dtype
    texts = [each.encode() if isinstance(each, str) else each for each in array.ravel().tolist()]
    assert texts == values.tolist()


def test_json_is_used_only_where_it_must_be(make_client, server):
    client = make_client()
    for name in ("identity_fp32", "identity_int32"):  # found out once for the client
        outputs = client.model(name)(INPUT0=VALUES[name[9:].upper()])
        assert ("data" in outputs.result.get_output("OUTPUT0")) is not bool(server.kind.binary)


@pytest.mark.parametrize("binary_data", [True, False])
def test_a_client_may_say_which_form_to_send(make_client, server, binary_data):
    model = make_client(binary_data=binary_data).model("identity_fp32")
    if binary_data and not server.kind.binary:
        with pytest.raises(tritonhttp.ServerError):
            model(INPUT0=VALUES["FP32"])
        return
    outputs = model(INPUT0=VALUES["FP32"])
    assert outputs["OUTPUT0"].ravel().tolist() == VALUES["FP32"].tolist()
    assert ("data" not in outputs.result.get_output("OUTPUT0")) is binary_data


def test_inputs_that_do_not_fit_are_refused_before_sending(client):
    model = client.model("add_sub")
    for inputs, match in (
        ({"INPUT0": SIXTEEN}, "INPUT1"),
        ({"INPUT0": SIXTEEN, "INPUT1": SIXTEEN[:, :8]}, "16"),
        ({"INPUT0": SIXTEEN, "INPUT1": SIXTEEN.astype(np.float64)}, "INT32"),
        ({"INPUT0": SIXTEEN, "INPUT1": SIXTEEN, "INPUT2": SIXTEEN}, "INPUT2"),
    ):
        with pytest.raises(tritonhttp.InvalidRequest, match=match):
            model(inputs)


def test_many_rows_go_in_parts(make_client):
    rows = np.arange(100 * 16, dtype=np.int32).reshape(-1, 16)
    model = make_client(concurrency=4).model("add_sub")
    joined = model.batched({"INPUT0": rows, "INPUT1": rows}, max_batch=8)
    np.testing.assert_array_equal(joined["OUTPUT0"], rows * 2)


def test_the_models_own_error_is_not_taken_for_a_server_without_binary_tensors(client, server):
    model = client.model("fail")
    with pytest.raises(tritonhttp.ServerError, match="out of order") as caught:
        model(MESSAGE=["out of order"])
    assert caught.value.status() == "500"
