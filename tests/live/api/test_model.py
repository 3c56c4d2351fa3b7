"""Models as functions of arrays on a real Triton, also as a server of JSON only by way of a gateway."""

import json
import sys
import time
from contextlib import suppress

import ml_dtypes
import numpy as np
import pytest

from tritonhttp import InferenceServerException, InvalidRequest, ServerError, TensorInfo
from tritonhttp._clients.blocking.model import Outputs

from ...clients import run_in_threads
from .test_infer_tensors import SAMPLES

A = np.arange(16, dtype=np.int32).reshape(1, 16)
B = np.full((1, 16), 3, np.int32)


def test_a_model_is_a_function(client):
    model = client.model("add_sub")
    outputs = model(INPUT0=A, INPUT1=B)
    assert isinstance(outputs, Outputs)
    assert {name: array.tolist() for name, array in outputs.items()} == {
        "OUTPUT0": (A + B).tolist(),
        "OUTPUT1": (A - B).tolist(),
    }
    assert outputs.result.get_response()["model_name"] == "add_sub"
    only = model({"INPUT0": A, "INPUT1": B}, outputs=["OUTPUT1"], request_id="7", parameters={"own": 1})
    assert list(only) == ["OUTPUT1"]
    assert only.result.get_response()["id"] == "7"


def test_a_model_describes_its_inputs_and_outputs(client):
    model = client.model("summary", "1").refresh()
    assert model.signature.inputs == (
        TensorInfo("VALUES", "FP32", (-1,)),
        TensorInfo("WEIGHTS", "FP32", (-1,), optional=True),
    )
    assert repr(model) == (
        "<Model 'summary' version 1: VALUES FP32[-1], WEIGHTS FP32[-1] (optional)"
        " -> COUNT INT64[1], MEAN FP32[1], SORTED FP32[-1], TEXT BYTES[1]>"
    )
    assert "<td>optional</td>" in model._repr_html_()
    assert client.model("add_sub").refresh().signature.max_batch_size == 8


def test_optional_inputs_may_be_left_out(client):
    model = client.model("summary")
    assert model(VALUES=[1, 2])["MEAN"].tolist() == [1.5]
    assert model(VALUES=[1, 2], WEIGHTS=[3, 1])["MEAN"].tolist() == [1.25]
    assert model(VALUES=[1, 2], WEIGHTS=None)["MEAN"].tolist() == [1.5]
    found = model.batched(VALUES=[1, 2], WEIGHTS=None, max_batch=2, outputs=["SORTED"])
    assert found["SORTED"].tolist() == [1, 2]
    (found,) = model.map([{"VALUES": [1, 2], "WEIGHTS": None}])
    assert found["MEAN"].tolist() == [1.5]
    assert model(VALUES=5)["TEXT"].tolist() == [b"1 values, mean 5.000"]


@pytest.mark.parametrize("datatype", sorted(SAMPLES))
def test_every_datatype_comes_back(client, datatype):
    array = SAMPLES[datatype]
    found = client.model(f"identity_{datatype.lower()}")(INPUT0=array)["OUTPUT0"]
    assert found.dtype == array.dtype
    assert found.tobytes() == array.tobytes()
    assert found.flags.writeable


@pytest.mark.parametrize(
    "texts",
    [["ä", b"\0\xff\0"], np.array([b"ab", b"c"]), np.array(["ä", "c"]), np.array(["ä", b"\xff"], object)],
)
def test_text_of_every_kind_comes_back(client, texts):
    found = client.model("identity_bytes")(INPUT0=texts)["OUTPUT0"]
    assert found.tolist() == [text.encode() if isinstance(text, str) else bytes(text) for text in texts]


def test_numpy_strings_of_any_length_come_back(client):
    dtype = getattr(getattr(np, "dtypes", None), "StringDType", None)
    if dtype is None:
        pytest.skip("numpy 1.26 has none")
    result = client.model("identity_bytes")(INPUT0=np.array(["ä", "a long one" * 9], dtype())).result
    assert result.as_numpy("OUTPUT0", dtype=dtype()).tolist() == ["ä", "a long one" * 9]
    assert result.as_numpy("OUTPUT0", dtype=str).dtype.kind == "U"


def test_inputs_that_do_not_fit_are_not_sent(gateway, watched):
    model = watched.model("add_sub").refresh()
    for given, words in [
        ({"INPUT0": A}, "input 'INPUT1' is missing"),
        ({"INPUT0": A, "INPUT1": B, "INPUT2": B}, "it has no input 'INPUT2'"),
        ({"INPUT0": A, "INPUT1": B[0]}, r"expected INT32 of shape \[-1, 16\]"),
        ({"INPUT0": A, "INPUT1": B.astype("i8")}, "expected INT32, got INT64"),
        ({"INPUT0": np.repeat(A, 9, 0), "INPUT1": np.repeat(B, 9, 0)}, "expected at most 8 rows, got 9"),
        ({"INPUT0": np.repeat(A, 2, 0), "INPUT1": B}, "the same number of rows"),
    ]:
        with pytest.raises(InvalidRequest, match=words):
            model(given)
    assert not any(seen.path.endswith("/infer") for seen in gateway.seen)


def test_a_call_may_ask_for_casts_and_classes(client):
    model = client.model("digits")
    pixels = np.zeros((2, 64))
    with pytest.raises(InvalidRequest, match="cast=True"):
        model(IMAGE=pixels)
    assert model(IMAGE=pixels, cast=True)["SCORES"].shape == (2, 10)
    best = model({"IMAGE": pixels}, cast=True, classes=3)["SCORES"]
    assert best.shape == (2, 3)
    assert best[0, 0].count(b":") == 2


@pytest.mark.parametrize("datatype", sorted(SAMPLES))
def test_classes_are_requested_only_where_triton_has_them(client, datatype):
    numbers = datatype.startswith(("INT", "UINT")) or datatype in ("FP32", "FP64")
    model, array = client.model(f"identity_{datatype.lower()}"), SAMPLES[datatype].ravel()
    for outputs in (["OUTPUT0"], None):
        if numbers:
            assert model({"INPUT0": array}, classes=1, outputs=outputs)["OUTPUT0"][0].count(b":") == 1
        else:
            with pytest.raises(InvalidRequest, match=f"output 'OUTPUT0' is {datatype}"):
                model({"INPUT0": array}, classes=1, outputs=outputs)
    with pytest.raises(InvalidRequest, match="output 'OUTPUT0' .*an input has no elements|is " + datatype):
        model({"INPUT0": array[:0]}, classes=1)
    assert client.is_server_live()


def test_outputs_without_classes_come_whole(client):
    found = client.model("summary")({"VALUES": [1, 5], "WEIGHTS": None}, classes=1)
    assert found["TEXT"].tolist() == [b"2 values, mean 3.000"]
    assert found["SORTED"].tolist() == [b"5.000000:1"]


def test_a_frame_that_a_filter_left_empty_gives_empty_outputs(client):
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    frame = {"IMAGE": [[0.0] * 64, [1.0] * 64], "id": [1, 2]}
    columns = [
        pandas.DataFrame(frame).query("id > 2")["IMAGE"],
        polars.DataFrame(frame).filter(polars.col("id") > 2)["IMAGE"],
    ]
    for column in columns:
        for found in (client.model("digits")(column), client.model("digits").batched(IMAGE=column)):
            assert [(name, found[name].shape, found[name].dtype) for name in found] == [
                ("SCORES", (0, 10), np.float32)
            ]


@pytest.mark.parametrize("concurrency", [1, 4])
def test_large_batches_are_split_and_joined_in_order(make_client, concurrency):
    client = make_client(concurrency=concurrency)
    rows = np.arange(16 * 101, dtype=np.int32).reshape(101, 16)
    found = client.model("add_sub").batched({"INPUT0": rows, "INPUT1": rows[::-1].copy()}, max_batch=7)
    assert found["OUTPUT0"].tolist() == (rows + rows[::-1]).tolist()
    assert found["OUTPUT1"].tolist() == (rows - rows[::-1]).tolist()
    plain = client.model("identity_bytes").batched({"INPUT0": list("abcde")}, max_batch=2)
    assert plain["OUTPUT0"].tolist() == [b"a", b"b", b"c", b"d", b"e"]


def test_a_model_without_a_row_for_each_row_cannot_be_joined(client):
    with pytest.raises(
        InferenceServerException, match=r"output 'COUNT': expected 2 rows, one for each input row"
    ):
        client.model("summary").batched({"VALUES": [1, 2, 3, 4]}, max_batch=2, outputs=["COUNT"])


def test_a_part_that_fails_is_the_error_of_all(make_gateway, open_client):
    def fail_at_20(seen):
        return (500, b'{"error": "not 20"}') if np.float32(20).tobytes() in seen.body else None

    gateway = make_gateway(meddle=fail_at_20)
    client = open_client(gateway.url, concurrency=2)
    with pytest.raises(ServerError, match="not 20"):
        client.model("identity_fp32").batched({"INPUT0": list(range(200))}, max_batch=2)
    assert client.is_server_live()
    time.sleep(0.2)  # what was on its way has arrived; the other parts would have, too
    sent = [seen for seen in gateway.seen if seen.path.endswith("/infer")]
    assert 11 <= len(sent) < 20, "what was in flight, and no more"


def test_a_map_keeps_inferences_in_flight_and_their_order(make_client):
    client = make_client(concurrency=4)
    model = client.model("slow").refresh()
    delays = [0.4, 0.0, 0.3, 0.2, 0.3, 0.1, 0.3]
    found = [outputs["OUTPUT"].item() for outputs in model.map({"DELAY": [delay]} for delay in delays)]
    assert client.stats().connections_opened > 1, "one after the other they would take the same one"
    assert found == [np.float32(delay) for delay in delays]


@pytest.mark.parametrize("in_flight", [4, "auto"])
def test_a_map_without_order_yields_what_is_there(make_client, in_flight):
    model = make_client(concurrency=4).model("slow").refresh()
    delays = [0.5, 0.0, 0.05, 0.0, 0.05, 0.0, 0.0, 0.0]
    items = [{"DELAY": [delay]} for delay in delays]
    found = list(model.map(items, in_flight=in_flight, ordered=False))
    assert all(outputs["OUTPUT"].item() == np.float32(delays[outputs.index]) for outputs in found)
    assert sorted(outputs.index for outputs in found) == list(range(8))
    assert found[0].index != 0


def test_a_map_without_order_gives_errors_with_their_items_number(make_client):
    items = [{"X": [1]}, {"INPUT0": np.float32([2])}, {"INPUT0": np.float32([3])}]
    model = make_client(concurrency=2).model("identity_fp32")
    found = list(model.map(items, ordered=False, return_exceptions=True, in_flight="auto"))
    assert sorted(each.index for each in found) == [0, 1, 2]
    assert [type(each).__name__ for each in sorted(found, key=lambda each: each.index)] == [
        "InvalidRequest",
        "Outputs",
        "Outputs",
    ]


@pytest.mark.parametrize("ordered", [True, False])
def test_a_map_finds_how_many_may_be_in_flight(make_client, ordered):
    model = make_client(concurrency=8).model("add_sub")
    values = np.zeros((1, 16), np.int32)
    items = ({"INPUT0": values, "INPUT1": values + n} for n in range(400))
    found = [
        (outputs.index, int(outputs["OUTPUT0"][0, 0]))
        for outputs in model.map(items, in_flight="auto", ordered=ordered)
    ]
    assert sorted(found) == [(n, n) for n in range(400)]
    assert found == sorted(found) or not ordered


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_map_of_many_items_whose_arrays_are_used_again(make_client, concurrency):
    values, many = np.zeros((1, 16), np.int32), np.zeros(1 << 15, np.int32)
    add_sub = make_client(concurrency=concurrency).model("add_sub")
    large = make_client(concurrency=concurrency).model("identity_int32")

    def small_items():
        for number in range(300):
            values[:] = number
            yield {"INPUT0": values, "INPUT1": values}

    def large_items():
        for number in range(40):
            many[:] = number
            yield {"INPUT0": many}

    found = [outputs["OUTPUT0"].tolist() for outputs in add_sub.map(small_items(), in_flight=16)]
    assert found == [[[2 * number] * 16] for number in range(300)]
    sums = [outputs["OUTPUT0"].mean() for outputs in large.map(large_items(), in_flight=8)]
    assert sums == list(range(40))


def test_an_item_that_fails_costs_no_other(make_gateway, open_client):
    def fail_at_20(seen):
        return (500, b'{"error": "not 20"}') if np.float32(20).tobytes() in seen.body else None

    model = open_client(make_gateway(meddle=fail_at_20).url, concurrency=4).model("identity_fp32")
    items = [{"INPUT0": [number]} for number in range(40)]
    items[30] = {"INPUT0": ["thirty"]}
    found = list(model.map(items, return_exceptions=True))
    assert [index for index, each in enumerate(found) if isinstance(each, Exception)] == [20, 30]
    assert (type(found[20]), type(found[30])) == (ServerError, InvalidRequest)
    assert [found[index]["OUTPUT0"].item() for index in range(20)] == list(range(20))

    outputs = model.map(items, in_flight=8)
    assert [next(outputs)["OUTPUT0"].item() for _ in range(20)] == list(range(20))
    with pytest.raises(ServerError, match="not 20"):
        next(outputs)


def accumulated(sequence, *values):
    return [sequence(INPUT=value)["OUTPUT"].item() for value in values]


def test_sequences_keep_their_states_apart(client):
    model = client.model("sequence_accumulate")
    with model.sequence() as first, model.sequence("by name") as second, model.sequence(2**63 + 1) as third:
        assert accumulated(first, 1, 2) == [1, 3]
        assert accumulated(second, 10, 20) == [10, 30]
        assert accumulated(third, 100) == [100]
        assert accumulated(first, 3) == [6]
        assert accumulated(second, 30) == [60]


def test_leaving_ends_a_sequence_also_after_an_exception(client):
    model = client.model("sequence_accumulate")
    for divisor in (1, 0):
        with suppress(ZeroDivisionError), model.sequence(4711) as sequence:
            assert accumulated(sequence, 1)[0] / divisor == 1
        with pytest.raises(ServerError, match="must specify the START flag"):
            client.infer(
                "sequence_accumulate",
                [first_input(np.array([[1]], np.int32))],
                sequence_id=4711,
            )


def test_the_last_call_may_end_a_sequence(gateway, watched):
    with watched.model("sequence_accumulate").sequence() as sequence:
        sequence(INPUT=1)
        assert sequence(INPUT=2, end=True)["OUTPUT"].item() == 3
    assert len([seen for seen in gateway.seen if seen.path.endswith("/infer")]) == 2


def first_input(array):
    from tritonhttp import InferInput

    return InferInput.from_numpy("INPUT", array)


def test_a_reloaded_model_is_read_again(start_server, open_client):
    client = open_client(start_server(models=["identity_fp32"]).url)
    model = client.model("identity_fp32")
    assert model(INPUT0=[1, 2])["OUTPUT0"].tolist() == [1, 2]
    config = dict(client.get_model_config("identity_fp32"))
    for tensor in config["input"] + config["output"]:
        tensor["data_type"] = "TYPE_FP64"
    client.load_model("identity_fp32", config=json.dumps(config))
    assert model(INPUT0=np.array([1.0, 2.0]))["OUTPUT0"].dtype == np.float64
    client.unload_model("identity_fp32")
    with pytest.raises(ServerError, match="unknown model"):
        model(INPUT0=np.array([1.0, 2.0]))


def test_one_model_serves_many_threads(make_client):
    model = make_client(concurrency=4).model("add_sub")

    def work(seed):
        a = np.full((1, 16), seed, np.int32)
        for _ in range(20):
            assert model(INPUT0=a, INPUT1=a)["OUTPUT0"].tolist() == (2 * a).tolist()

    run_in_threads(work, range(8))


def test_an_unknown_model_is_the_servers_error(client):
    with pytest.raises(ServerError, match="unknown model"):
        client.model("nonesuch")(X=1)


# -- a server that speaks JSON only


def json_only(seen):
    """Refuse binary tensors as MLServer does, and describe the server without that extension."""
    if seen.get("Inference-Header-Content-Length"):
        return 422, b'{"detail": [{"loc": ["body"], "msg": "not JSON"}]}'
    if seen.path == "/v2":
        return 200, b'{"name": "mlserver", "version": "0", "extensions": []}'
    if seen.path.endswith("/config"):
        return 404, b'{"detail": "Not Found"}'
    return None


@pytest.mark.parametrize("binary_data", [None, False])
def test_a_server_of_json_only_is_sent_json(make_gateway, open_client, binary_data):
    gateway = make_gateway(meddle=json_only)
    client = open_client(gateway.url, binary_data=binary_data)
    model = client.model("add_sub")
    for _ in range(2):
        assert model(INPUT0=A, INPUT1=B)["OUTPUT0"].tolist() == (A + B).tolist()
    assert client.model("identity_bytes")(INPUT0=["ä"])["OUTPUT0"].tolist() == ["ä"]
    assert client.model("identity_fp64")(INPUT0=[np.nan, 1.5])["OUTPUT0"].tolist()[1] == 1.5
    posts = [seen for seen in gateway.seen if seen.method == "POST"]
    refused = [seen for seen in posts if seen.get("Inference-Header-Content-Length")]
    assert [len(posts), len(refused)] == ([5, 1] if binary_data is None else [4, 0])
    assert not any(b"binary_data_output" in seen.body for seen in posts if seen not in refused)
    result = client.infer("add_sub", [plain("INPUT0", A), plain("INPUT1", B)])
    assert "data" in result.get_output("OUTPUT0")


def test_binary_data_true_is_never_replaced_by_json(make_gateway, open_client):
    client = open_client(make_gateway(meddle=json_only).url, binary_data=True)
    with pytest.raises(ServerError, match="body: not JSON"):
        client.model("add_sub")(INPUT0=A, INPUT1=B)


def plain(name, array):
    from tritonhttp import InferInput

    return InferInput.from_numpy(name, array, binary_data=False)


# -- results


def test_results_are_read_by_name(client):
    result = client.model("summary")(VALUES=[3, 1, 2]).result
    assert "SORTED" in result
    assert "Q" not in result
    assert set(result) == {"COUNT", "MEAN", "SORTED", "TEXT"}
    assert len(result) == 4
    assert result["SORTED"].tolist() == [1, 2, 3]
    assert TensorInfo("SORTED", "FP32", (3,)) in result.outputs
    with pytest.raises(KeyError, match="no output 'Q'; there are: "):
        result["Q"]
    own = result.as_numpy("SORTED", copy=True)
    assert not np.shares_memory(own, result["SORTED"])
    assert result.as_numpy("SORTED", dtype=np.float64).dtype == np.float64
    assert result.as_numpy("TEXT", dtype=str).tolist() == ["3 values, mean 2.000"]
    with pytest.raises(InvalidRequest, match="output 'TEXT' is no array of int32"):
        result.as_numpy("TEXT", dtype=np.int32)


def test_results_go_to_other_libraries_without_a_copy(client, monkeypatch):
    result = client.model("identity_fp32")(INPUT0=np.arange(1000, dtype=np.float32)).result
    assert np.shares_memory(np.from_dlpack(result.as_dlpack("OUTPUT0")), result["OUTPUT0"])
    monkeypatch.setitem(sys.modules, "torch", np)
    assert np.shares_memory(result.as_torch("OUTPUT0"), result["OUTPUT0"])
    numbers = np.arange(1000).astype(ml_dtypes.bfloat16)
    borrowed = client.model("identity_bf16")(INPUT0=numbers).result.as_dlpack("OUTPUT0")
    assert borrowed.__dlpack_device__() == (1, 0)
    echoed = client.model("identity_bf16")(INPUT0=borrowed)["OUTPUT0"]
    assert echoed.tobytes() == numbers.tobytes()
