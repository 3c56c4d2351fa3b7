"""The transparent path of shared memory on a real Triton: the same results as over HTTP."""

import contextlib
import copy
import gc
import http.client
import json
import logging
import os
import pickle
import sys
import threading

import numpy as np
import pytest

import tritonhttp
import tritonhttp._regions.pool as pools
from tritonhttp import InferRequestedOutput
from tritonhttp.utils import triton_to_np_dtype

from ...clients import tensor, wait_until
from ..regions import (
    INPUTS,
    files,
    idle,
    load_sizes,
    nothing_left,
    placed,
    registered,
    runs,
    sizes_inputs,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the server runs on Linux")

RANDOM = np.random.default_rng(5)
BLOCK = 1 << 16


@pytest.fixture(scope="module")
def sizes(triton_server):
    """Have the server load the model of that name."""
    _ = triton_server.running  # skips where the server may be on another machine
    with tritonhttp.InferenceServerClient(triton_server.url) as client:
        load_sizes(client)
        yield "sizes"
        client.unload_model("sizes")


@pytest.fixture
def nothing_stays(triton_server, sizes):
    with nothing_left(triton_server.url):
        yield


@pytest.fixture
def make_auto(nothing_stays, make_client):
    """Make clients that use shared memory for every tensor with data."""

    def make(**options):
        return make_client(**{"shared_memory": "auto", "shared_memory_threshold": 1, **options})

    return make


@pytest.fixture
def auto(make_auto):
    return make_auto()


@pytest.fixture
def plain(nothing_stays, make_client):
    return make_client()


def same(found, wanted):
    """Compare two results as a caller sees them."""
    assert found.get_response() == wanted.get_response()
    for name in [output["name"] for output in wanted.get_response()["outputs"]]:
        assert found.get_output(name) == wanted.get_output(name)
        ours, theirs = found.as_numpy(name), wanted.as_numpy(name)
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert ours.flags.writeable
        assert ours.flags.aligned
        assert ours.flags.c_contiguous
        if ours.dtype == np.object_:
            assert ours.tolist() == theirs.tolist()
        else:
            assert ours.tobytes() == theirs.tobytes()


def random_array(datatype, shape):
    if datatype == "BYTES":
        words = [RANDOM.bytes(n % 40) for n in range(int(np.prod(shape)))]
        return np.array([*words, None], object)[:-1].reshape(shape)
    dtype = np.dtype(triton_to_np_dtype(datatype))
    if datatype == "BOOL":
        return RANDOM.integers(0, 2, shape).astype(bool)
    return np.frombuffer(RANDOM.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)


DATATYPES = ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"]
DATATYPES += ["FP16", "FP32", "FP64", "BF16", "BYTES"]


@pytest.mark.parametrize("datatype", DATATYPES)
def test_results_are_the_same_bit_for_bit(auto, plain, datatype):
    if datatype == "BF16":
        pytest.importorskip("ml_dtypes")
    name = {"BOOL": "bool", "BYTES": "bytes"}.get(datatype, datatype.lower())
    for size in (0, 1, 1001):
        for turn in range(4):
            inputs = [tensor("INPUT0", random_array(datatype, (size,)))]
            result = auto.infer(f"identity_{name}", inputs)
            same(result, plain.infer(f"identity_{name}", inputs))
            # Sizes are learnt from the third call on, those of strings never.
            assert bool(placed(result)) == (size > 0 and turn >= 2 and datatype != "BYTES")


def test_parameters_of_tensors_go_with_them_to_shared_memory(make_auto, gateway, open_client):
    auto = open_client(gateway.url, shared_memory="auto", shared_memory_threshold=1)
    given = [tensor("INPUT0", RANDOM.random(100, np.float32)).set_parameters({"a": 1})]
    outputs = [InferRequestedOutput("OUTPUT0").set_parameters({"b": True})]
    for _ in range(4):
        result = auto.infer("identity_fp32", given, outputs=outputs)
    assert placed(result)
    sent = json.loads([seen for seen in gateway.seen if seen.path.endswith("/infer")][-1].body)
    for each, own in ((sent["inputs"][0], {"a": 1}), (sent["outputs"][0], {"b": True})):
        assert own.items() <= each["parameters"].items()
        assert "shared_memory_region" in each["parameters"]
    auto.close()


@pytest.mark.parametrize("form", ["strided", "fortran", "big-endian", "read-only", "subclass"])
def test_every_memory_layout_of_an_input_arrives(auto, plain, form):
    array = RANDOM.integers(-(1 << 31), 1 << 31, (64, 16)).astype(np.int32)
    array = {
        "strided": array[::-2],
        "fortran": np.asfortranarray(array),
        "big-endian": array.astype(">i4"),
        "read-only": np.broadcast_to(array[0], (8, 16)),
        "subclass": array[:8].view(np.ma.MaskedArray),
    }[form][:8]
    # A separate array for the second input, so that it stays C-contiguous.
    inputs = [
        tritonhttp.InferInput("INPUT0", array.shape, "INT32").set_data_from_numpy(array),
        tensor("INPUT1", np.ones((8, 16), np.int32)),
    ]
    result = auto.infer("add_sub", inputs)
    assert placed(result) == {"OUTPUT0", "OUTPUT1"}  # the metadata and the batch fix their sizes
    same(result, plain.infer("add_sub", inputs))


def test_many_inputs_around_the_threshold_arrive(make_auto, plain, sizes):
    auto = make_auto(shared_memory_threshold=4000)
    arrays = [RANDOM.random(n * 100 + 90 + n % 3, np.float32) for n in range(INPUTS)]
    for _ in range(4):
        inputs = sizes_inputs(1001, arrays)
        result = auto.infer(sizes, inputs)
        same(result, plain.infer(sizes, inputs))
    assert placed(result) == {"OUT", "JOINED"}
    assert result.as_numpy("JOINED").tolist() == np.concatenate(arrays).tolist()


@pytest.mark.parametrize("given", ["binary", "json", "region"])
def test_other_forms_of_inputs_in_the_same_call(auto, plain, given):
    a, b = np.arange(16, dtype=np.int32).reshape(1, 16), np.full((1, 16), 7, np.int32)
    with plain.shared_memory(64) as region:
        second = tritonhttp.InferInput("INPUT1", [1, 16], "INT32")
        if given == "region":
            second.set_shared_memory_region(region.write(b))
        else:
            second.set_data_from_numpy(b, binary_data=given == "binary")
        for _ in range(3):
            same(
                auto.infer("add_sub", [tensor("INPUT0", a), second]),
                plain.infer("add_sub", [tensor("INPUT0", a), second]),
            )


def test_other_forms_of_outputs_in_the_same_call(auto, plain, sizes):
    inputs = sizes_inputs(300, [np.ones(200, np.float32)])
    for outputs, wanted in (
        (["OUT"], {"OUT"}),
        (["JOINED", "FIXED"], {"JOINED", "FIXED"}),
        ([("OUT", False), "JOINED"], {"JOINED"}),
        ([("OUT", True, 2), "FIXED"], {"FIXED"}),
        ([], {"OUT", "FIXED", "JOINED"}),
    ):
        for _ in range(3):
            asked = [
                InferRequestedOutput(*each) if isinstance(each, tuple) else InferRequestedOutput(each)
                for each in outputs
            ]
            result = auto.infer(sizes, inputs, outputs=asked)
            same(result, plain.infer(sizes, inputs, outputs=asked))
        assert placed(result) == wanted


def test_an_output_in_the_callers_own_region(auto, sizes):
    with auto.shared_memory(1200) as region:
        place = region.reserve(1200)
        output = InferRequestedOutput("OUT")
        output.set_shared_memory_region(place)
        inputs = sizes_inputs(300, [np.ones(200, np.float32)])
        for _ in range(3):
            place.view("FP32", [300])[:] = 0
            result = auto.infer(sizes, inputs, outputs=[output, InferRequestedOutput("JOINED")])
            assert result.as_numpy("OUT") is None
            assert place.view("FP32", [300]).tolist() == list(range(300))
        assert placed(result) == {"JOINED"}
        # Errors about the caller's own place reach the caller.
        before = runs(auto, sizes)
        with pytest.raises(tritonhttp.ServerError, match="'OUT'"):
            auto.infer(sizes, sizes_inputs(301), outputs=[output, InferRequestedOutput("FIXED")])
        assert runs(auto, sizes) == before + 1


@pytest.mark.parametrize("request_coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_coding", [None, "gzip"])
def test_compressed_responses_are_not_placed(auto, plain, request_coding, response_coding):
    inputs = [tensor("INPUT0", np.arange(500, dtype=np.float32))]
    options = {
        "request_compression_algorithm": request_coding,
        "response_compression_algorithm": response_coding,
    }
    for _ in range(4):
        result = auto.infer("identity_fp32", inputs, **options)
        same(result, plain.infer("identity_fp32", inputs, **options))
    assert bool(placed(result)) == (response_coding is None)


def test_options_and_ids_pass_through(auto, plain):
    inputs = [tensor("INPUT0", np.arange(500, dtype=np.float32))]
    for _ in range(3):
        result = auto.infer("identity_fp32", inputs, "1", request_id="7", priority=0, parameters={"a": 1})
        same(result, plain.infer("identity_fp32", inputs, "1", request_id="7", parameters={"a": 1}))


def test_a_sequence_keeps_its_state(auto):
    for n, total in enumerate((5, 10, 15)):
        result = auto.infer(
            "sequence_accumulate",
            [tensor("INPUT", np.array([[5]], np.int32))],
            sequence_id=71,
            sequence_start=n == 0,
            sequence_end=n == 2,
        )
        assert result.as_numpy("OUTPUT").tolist() == [[total]]


def test_errors_are_the_same(auto, plain):
    for model, inputs in (
        ("no_such_model", [tensor("INPUT0", np.zeros(500, np.float32))]),
        ("identity_fp32", [tensor("INPUT0", np.zeros(500, np.int32))]),
        ("identity_fp32", [tensor("OTHER", np.zeros(500, np.float32))]),
        ("identity_fp32", [tritonhttp.InferInput("INPUT0", [500], "FP32")]),
        ("identity_fp32", []),
        ("identity_fp32", [7]),
        ("fail", [tensor("INPUT0", np.zeros(500, np.float32))]),
    ):
        errors = []
        for client in (plain, auto):
            with pytest.raises(tritonhttp.InferenceServerException) as caught:
                client.infer(model, inputs)
            errors.append((type(caught.value), str(caught.value)))
        assert errors[0] == errors[1]
    assert files() == set()  # the file of a block that was never registered is removed


# -- outputs


def test_large_outputs_of_small_inputs_are_placed(make_auto, plain, sizes):
    auto = make_auto(shared_memory_threshold=1000)
    for turn in range(6):
        result = auto.infer(sizes, sizes_inputs(1000))
        same(result, plain.infer(sizes, sizes_inputs(1000)))
        # The first call shows that the outputs are large; then metadata tell their sizes, then earlier answers.
        assert placed(result) == [set(), {"FIXED"}, {"FIXED"}][min(turn, 2)] | (
            {"OUT"} if turn >= 3 else set()
        )


def test_an_output_of_varying_size_does_not_keep_others_from_being_placed(auto, plain, sizes):
    for count in (10, 20, 30, 40):
        inputs = sizes_inputs(count, [np.ones(300, np.float32)])
        result = auto.infer(sizes, inputs)
        same(result, plain.infer(sizes, inputs))
    assert placed(result) == {"FIXED", "JOINED"}


def test_an_output_smaller_than_learnt_is_placed_only_once_more(auto, sizes):
    for turn, count in enumerate((100, 100, 90, 100, 100)):
        result = auto.infer(sizes, sizes_inputs(count))
        assert result.as_numpy("OUT").tolist() == list(range(count))
        assert ("OUT" in placed(result)) == (turn == 2)


@pytest.mark.parametrize("idempotent", [None, True])
def test_an_output_larger_than_learnt_makes_the_model_run_again_unseen(auto, plain, sizes, idempotent):
    for _ in range(3):
        result = auto.infer(sizes, sizes_inputs(100), idempotent=idempotent)
    assert "OUT" in placed(result)
    before = runs(auto, sizes)
    result = auto.infer(sizes, sizes_inputs(10_000), idempotent=idempotent)
    assert runs(auto, sizes) == before + 2
    same(result, plain.infer(sizes, sizes_inputs(10_000)))
    for _ in range(4):  # learnt sizes are not used again, for any shapes; declared sizes are
        result = auto.infer(sizes, sizes_inputs(10, [np.ones(8, np.float32)]), idempotent=idempotent)
        assert placed(result) == {"FIXED"}
    assert runs(auto, sizes) == before + 7


@pytest.mark.parametrize("options", [{"idempotent": False}, {"sequence_id": 5}], ids=str)
def test_learnt_sizes_are_not_used_for_calls_that_must_not_run_twice(auto, sizes, options):
    before = runs(auto, sizes)
    for turn in range(5):
        result = auto.infer(sizes, sizes_inputs(100 + 1000 * turn), **options)
        assert placed(result) == {"FIXED"}
        assert result.as_numpy("OUT").size == 100 + 1000 * turn
    assert runs(auto, sizes) == before + 5


@pytest.mark.parametrize("options", [{"idempotent": False}, {"sequence_id": "a"}], ids=str)
def test_wrong_metadata_raise_an_error_with_advice_for_calls_that_must_not_run_twice(auto, sizes, options):
    assert placed(auto.infer(sizes, sizes_inputs(1), **options)) == {"FIXED"}
    before = runs(auto, sizes)
    with pytest.raises(tritonhttp.ServerError, match=r"'FIXED'.*not asked for again over HTTP") as caught:
        auto.infer(sizes, sizes_inputs(1, lie=True), **options)
    assert caught.value.status() == "500"
    assert runs(auto, sizes) == before + 1
    result = auto.infer(sizes, sizes_inputs(1, lie=True), **options)
    assert result.as_numpy("FIXED").tolist() == list(range(1000))
    assert placed(result) == set()


def test_wrong_metadata_make_other_calls_run_again_unseen(auto, sizes):
    before = runs(auto, sizes)
    for _ in range(2):
        assert auto.infer(sizes, sizes_inputs(1, lie=True)).as_numpy("FIXED").tolist() == list(range(1000))
    assert runs(auto, sizes) == before + 3


# -- results


def keepers():
    return {
        "array": lambda array: array,
        "slice": lambda array: array[10:20][::2],
        "view": lambda array: array.view(np.uint8)[40:80].view(np.float32),
        "reshaped": lambda array: array.reshape(10, -1)[1],
        "memoryview": lambda array: memoryview(array)[10:20],
        "dlpack": lambda array: np.from_dlpack(array)[10:20],
        "frombuffer": lambda array: np.frombuffer(array, np.float32)[10:20],
    }


@pytest.mark.parametrize("keeper", sorted(keepers()))
def test_a_block_is_used_again_when_the_last_reference_to_its_result_is_gone(auto, keeper):
    array = np.arange(100, dtype=np.float32)

    def call(factor=1):
        return auto.infer("identity_fp32", [tensor("INPUT0", array * factor)])

    for _ in range(2):
        call()
    pool = auto._sharing.pool
    result = call(3)
    assert placed(result) == {"OUTPUT0"}
    kept = keepers()[keeper](result.as_numpy("OUTPUT0"))
    del result
    gc.collect()
    wanted = np.array(kept).tolist()
    for factor in range(4, 8):
        call(factor)
    assert np.array(kept).tolist() == wanted
    assert pool.taken == 3 * BLOCK  # one for inputs, two for outputs: the kept one and another
    del kept
    assert (len(idle(auto)), len(pool._leased)) == (3, 0)
    call()
    assert pool.taken == 3 * BLOCK


def test_results_can_be_pickled_and_copied(auto, plain):
    array = np.arange(1000, dtype=np.float32)
    for _ in range(3):
        result = auto.infer("identity_fp32", [tensor("INPUT0", array)])
    assert placed(result)
    wanted = plain.infer("identity_fp32", [tensor("INPUT0", array)])
    copies = [pickle.loads(pickle.dumps(result)), copy.deepcopy(result), copy.copy(result)]
    result.as_numpy("OUTPUT0")[:2] = -1
    for each in copies[:2]:
        same(each, wanted)
    assert copies[2].as_numpy("OUTPUT0")[0] == -1
    assert repr(result) == repr(wanted)


def test_a_small_answer_does_not_keep_a_large_block(auto, sizes):
    for _ in range(2):
        auto.infer(sizes, sizes_inputs(100_000))
    result = auto.infer(sizes, sizes_inputs(10))
    assert result.as_numpy("OUT").tolist() == list(range(10))
    assert result.as_numpy("OUT").base is None


def test_a_kept_error_keeps_no_block(auto, sizes):
    for _ in range(2):
        auto.infer(sizes, sizes_inputs(1, [np.ones(100, np.float32)]))
    with pytest.raises(tritonhttp.ServerError) as caught:
        auto.infer(sizes, sizes_inputs(-5, [np.ones(100, np.float32)]))
    assert idle(auto)
    assert auto._sharing.pool._leased == {}
    assert caught.value.status() == "500"


# -- without shared memory


def check(client, count=3, size=1000):
    """Run a few inferences; return whether any of them used shared memory."""
    found = False
    for n in range(count):
        array = np.full(size, n, np.float32)
        result = client.infer("identity_fp32", [tensor("INPUT0", array)])
        assert result.as_numpy("OUTPUT0").tolist() == array.tolist()
        found = found or bool(placed(result))
    return found or bool(client._sharing and idle(client))


def test_past_the_limit_tensors_travel_over_http(make_auto, triton_server):
    auto = make_auto(shared_memory_limit=3 * BLOCK)
    kept = []
    for n in range(8):
        result = auto.infer("identity_fp32", [tensor("INPUT0", np.full(100, n, np.float32))])
        kept.append(result)
        assert auto._sharing.pool.taken <= 3 * BLOCK
    assert [bool(placed(each)) for each in kept] == [False, False, True, True, *[False] * 4]
    assert [each.as_numpy("OUTPUT0")[99] for each in kept] == list(range(8))
    sizes = {each["byte_size"] for each in auto.get_system_shared_memory_status()}
    assert sizes == {BLOCK}
    # A tensor that can never fit leaves the other blocks alone.
    before = idle(auto)
    assert before
    check(auto, 1, 1_000_000)
    assert idle(auto) == before
    kept.clear()
    assert check(auto)


@pytest.mark.parametrize("how", ["room", "allocate", "missing"])
def test_without_room_tensors_travel_over_http(make_auto, monkeypatch, how):
    if how == "room":
        real = os.statvfs
        monkeypatch.setattr(
            os, "statvfs", lambda path: os.statvfs_result([*real(path)[:4], 3, *real(path)[5:]])
        )
    elif how == "allocate":

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", full)
    else:
        real_isdir = os.path.isdir
        monkeypatch.setattr(os.path, "isdir", lambda path: path != "/dev/shm" and real_isdir(path))
    auto = make_auto()
    assert (auto._sharing is None) == (how == "missing")
    assert not check(auto)
    if how != "missing":
        assert auto._sharing.pool.taken == 0
    assert files() == set()


def refuse(seen):
    if seen.path.endswith("/register"):
        return 500, b'{"error": "there is no shared memory here"}'
    return None


def elsewhere(seen):
    """Make the server look for an object that does not exist, as on another machine."""
    seen.body = seen.body.replace(b"/tritonhttp-region-", b"/elsewherehttp-re-n")
    return


@pytest.mark.parametrize("meddle", [refuse, elsewhere])
def test_a_server_that_refuses_is_asked_once_and_logged_once(
    nothing_stays, make_gateway, open_client, caplog, meddle
):
    gateway = make_gateway(meddle=meddle)
    auto = open_client(gateway.url, shared_memory="auto", shared_memory_threshold=1)
    with caplog.at_level(logging.INFO, "tritonhttp"):
        inputs = [tensor("INPUT0", np.ones((2, 16), np.int32)), tensor("INPUT1", np.ones((2, 16), np.int32))]
        for _ in range(3):  # with placed outputs, too
            assert auto.infer("add_sub", inputs).as_numpy("OUTPUT0").tolist() == [[2] * 16] * 2
        assert not check(auto)
    asked = [seen.path for seen in gateway.seen]
    assert len([path for path in asked if path.endswith("/register")]) == 1
    assert [path for path in asked if "unregister" in path] == []
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "tensors travel over HTTP" in record.getMessage()
    assert ("no shared memory here" if meddle is refuse else "Unable to open") in record.getMessage()
    gc.collect()
    assert files() == set()


def test_a_server_that_refuses_later_is_warned_of_once(nothing_stays, make_gateway, open_client, caplog):
    full = threading.Event()
    gateway = make_gateway(meddle=lambda seen: refuse(seen) if full.is_set() else None)
    auto = open_client(gateway.url, shared_memory="auto", shared_memory_threshold=1)
    assert check(auto, 6)
    full.set()
    assert check(auto, 3)  # registered blocks stay in use
    assert caplog.records == []
    check(auto, 3, 100_000)
    assert len(caplog.records) == 1


def test_a_gateways_errors_do_not_end_the_use_of_shared_memory(nothing_stays, make_gateway, open_client):
    trouble = threading.Event()
    trouble.set()
    gateway = make_gateway(
        meddle=lambda seen: (
            (503, b"<html>busy</html>") if seen.path.endswith("/register") and trouble.is_set() else None
        )
    )
    auto = open_client(gateway.url, shared_memory="auto", shared_memory_threshold=1)
    assert not check(auto)
    trouble.clear()
    assert check(auto)


def test_several_servers_behind_one_address_get_tensors_over_http(
    nothing_stays, make_gateway, open_client, caplog
):
    """Here: registrations go to a server that is not the one that infers."""
    gateway = make_gateway(meddle=lambda seen: (200, b"") if seen.path.endswith("register") else None)
    auto = open_client(gateway.url, shared_memory="auto", shared_memory_threshold=1)
    assert not check(auto, 5)
    assert len([seen for seen in gateway.seen if seen.path.endswith("/register")]) == 8
    assert len(caplog.records) == 1


@pytest.mark.parametrize("url", ["192.0.2.1:8000", "triton.example:8000", "https://[2001:db8::1]:8000"])
def test_no_other_machine_is_asked(open_client, url):
    assert open_client(url, shared_memory="auto")._sharing is None


@pytest.mark.parametrize(
    "options",
    [
        {"shared_memory": "on"},
        {"shared_memory": True},
        {"shared_memory": "auto", "shared_memory_threshold": 0},
        {"shared_memory": "auto", "shared_memory_limit": 1.5},
        {"shared_memory": "auto", "shared_memory_limit": -1},
    ],
    ids=str,
)
def test_options_that_cannot_be_used_are_named(client_kind, options):
    from ...clients import KINDS

    with pytest.raises(tritonhttp.InvalidRequest, match=list(options)[-1]):
        KINDS[client_kind]("localhost:8000", **options)


def test_without_the_option_nothing_changes(nothing_stays, gateway, watched):
    for _ in range(3):
        watched.infer("identity_fp32", [tensor("INPUT0", np.zeros(500_000, np.float32))])
    assert {seen.path for seen in gateway.seen} == {"/v2/models/identity_fp32/infer"}
    assert watched._sharing is None


def test_small_tensors_cause_no_other_requests(nothing_stays, gateway, open_client):
    auto = open_client(gateway.url, shared_memory="auto")
    for _ in range(3):
        auto.infer("identity_fp32", [tensor("INPUT0", np.zeros(1000, np.float32))])
    assert {seen.path for seen in gateway.seen} == {"/v2/models/identity_fp32/infer"}


def test_regions_that_somebody_unregisters_are_registered_again(auto, plain, sizes):
    before = runs(auto, sizes)
    for n in range(6):
        array = np.full(500, n, np.float32)
        result = auto.infer(sizes, sizes_inputs(1, [array]), idempotent=False)
        assert result.as_numpy("JOINED").tolist() == array.tolist()
        plain.unregister_system_shared_memory()
    assert runs(auto, sizes) == before + 6
    assert len(placed(result)) == 1


def test_headers_and_query_of_the_call_go_with_all_of_its_requests(nothing_stays, gateway, open_client):
    auto = open_client(gateway.url, shared_memory="auto", shared_memory_threshold=1)
    inputs = [tensor("INPUT0", np.ones((2, 16), np.int32)), tensor("INPUT1", np.ones((2, 16), np.int32))]
    auto.infer("add_sub", inputs, headers={"X-Own": "1"}, query_params={"a": "b"})
    assert len(gateway.seen) > 3
    assert {(seen.get("X-Own"), *seen.query) for seen in gateway.seen} == {("1", ("a", "b"))}


def test_the_block_of_an_abandoned_call_is_not_used_until_the_server_is_done(make_auto, triton_server, sizes):
    auto = make_auto(network_timeout=0.4)
    array = np.ones(500, np.float32)
    assert auto.infer(sizes, sizes_inputs(1, [array])).as_numpy("JOINED").tolist() == array.tolist()
    before = {each.name for each in idle(auto)}
    assert before
    with pytest.raises(tritonhttp.DeadlineExceeded):
        auto.infer(sizes, sizes_inputs(1, [array], delay=0.8))
    gc.collect()
    wait_until(lambda: runs_to_the_end(triton_server))
    for n in range(3):
        assert (
            auto.infer(sizes, sizes_inputs(1, [array * n])).as_numpy("JOINED").tolist()
            == (array * n).tolist()
        )
    used = {each.name for each in idle(auto)}
    assert used
    assert not before & used
    wait_until(lambda: not before & registered(triton_server.url))


def runs_to_the_end(server):
    with tritonhttp.InferenceServerClient(server.url) as client:
        client.infer("sizes", sizes_inputs(1))
    return True


def test_closing_leaves_nothing_while_results_are_kept(auto, triton_server, client_kind):
    before = registered(triton_server.url)
    for _ in range(3):
        result = auto.infer("identity_fp32", [tensor("INPUT0", np.ones(500, np.float32))])
    assert registered(triton_server.url) > before
    auto.close()
    assert registered(triton_server.url) == before
    assert result.as_numpy("OUTPUT0").sum() == 500
    if client_kind == "asyncio":
        return  # the adapter has closed its event loop
    with pytest.raises(tritonhttp.InferenceServerException, match="closed"):
        auto.infer("identity_fp32", [tensor("INPUT0", np.ones(500, np.float32))])


def test_block_sizes_are_shared_by_similar_tensors(auto):
    for size in range(70_000, 80_000, 500):
        check(auto, 1, size // 4)
    assert len(idle(auto)) <= 4
    assert pools._rounded(70_000) == 1 << 17


# -- runs that outlast their call


@pytest.fixture(scope="module")
def side_by_side(triton_server):
    """Have the server load a model like `sizes` that runs several requests at a time."""
    _ = triton_server.running
    with tritonhttp.InferenceServerClient(triton_server.url) as client:
        load_sizes(client, "side_by_side", instance_group=[{"kind": "KIND_CPU", "count": 3}])
        yield "side_by_side"
        client.unload_model("side_by_side")


class Meddler:
    """Passes an inference on to the server, and gives the client another outcome while it runs."""

    def __init__(self, url, folder=None):
        self.url = url
        self.folder = folder
        self.answers = []
        self.running = None
        self.status = None
        self.refuses_regions = False

    def __call__(self, seen):
        if self.refuses_regions and seen.path.endswith("/register"):
            return 404, b""
        if not self.answers or not seen.path.endswith("/infer"):
            return None
        found, late = self.answers.pop(0)
        if late:
            self.running = threading.Thread(target=self.pass_on, args=(seen,))
            self.running.start()
            # Before that the client could have the server forget the regions that the run will use.
            wait_until((self.folder / "begun").exists)
        if found is None:
            raise ConnectionError("cut")
        return found

    def pass_on(self, seen):
        size = int(seen.get("Inference-Header-Content-Length"))
        head = json.loads(seen.body[:size])
        head.setdefault("parameters", {})["folder"] = str(self.folder)
        head = json.dumps(head).encode()
        upstream = http.client.HTTPConnection(self.url, timeout=40)
        with contextlib.closing(upstream):
            headers = {"Inference-Header-Content-Length": str(len(head))}
            upstream.request("POST", seen.path, head + seen.body[size:], headers)
            self.status = upstream.getresponse().status

    def finish(self):
        assert self.running.is_alive()
        (self.folder / "end").touch()
        self.running.join()
        assert self.status == 200


@pytest.mark.parametrize("second", ["fine", "refused", "refused by a gateway"])
@pytest.mark.parametrize("first", ["cut", "cut on a used connection", 502, 503, 504])
def test_an_abandoned_run_overwrites_no_memory_of_later_calls(
    nothing_stays, side_by_side, make_gateway, open_client, triton_server, tmp_path, first, second
):
    meddler = Meddler(triton_server.url, tmp_path)
    gateway = make_gateway(meddle=meddler)
    used = first == "cut on a used connection"
    auto = open_client(
        gateway.url,
        shared_memory="auto",
        shared_memory_threshold=1000,
        retry=None if used else tritonhttp.Retry(attempts=2, backoff=0),
        keep_alive=used,
    )

    def infer(value):
        inputs = sizes_inputs(1, [np.full(500, value, np.float32)])
        return auto.infer(side_by_side, inputs, idempotent=True)

    for value in (1, 2, 3):
        result = infer(value)
    assert placed(result) == {"FIXED", "JOINED"}
    del result
    meddler.answers.append(((first, b"<html>trouble</html>") if isinstance(first, int) else None, True))
    if second != "fine":
        meddler.answers.append(
            ((500, b'{"error": "no"}') if second == "refused" else (403, b"<html>"), False)
        )
        with pytest.raises(tritonhttp.ServerError) as caught:
            infer(9)
        assert caught.value.attempts == 2
        kept = {}
    else:
        kept = {9: infer(9)}
        assert kept[9].attempts == 2
        assert "JOINED" in placed(kept[9])
    pool = auto._sharing.pool
    spent = {block.name for block in pool._blocks if block.spent}
    assert len(spent) == (3 if second == "refused by a gateway" else 2)
    kept |= {value: infer(value) for value in (4, 5, 6)}
    meddler.finish()
    for value, result in kept.items():
        assert result.as_numpy("JOINED").tolist() == [value] * 500
    assert not spent & {block.name for block in idle(auto)}
    wait_until(lambda: bool(infer(7)) and not spent & registered(triton_server.url))


def test_a_repeated_run_without_room_gets_its_outputs_over_http(
    nothing_stays, side_by_side, make_gateway, open_client, triton_server
):
    meddler = Meddler(triton_server.url)
    gateway = make_gateway(meddle=meddler)
    retry = tritonhttp.Retry(attempts=2, backoff=0)
    auto = open_client(gateway.url, shared_memory="auto", shared_memory_threshold=1000, retry=retry)

    def infer(value):
        inputs = sizes_inputs(1, [np.full(500, value, np.float32)])
        return auto.infer(side_by_side, inputs, idempotent=True, headers={"X-Own": "1"})

    for value in (1, 2, 3):
        infer(value)
    meddler.answers.append(((503, b""), False))
    meddler.refuses_regions = True
    result = infer(4)
    assert (placed(result), result.attempts) == (set(), 2)
    assert result.as_numpy("JOINED").tolist() == [4] * 500
    meddler.refuses_regions = False
    assert placed(infer(5)) == {"FIXED", "JOINED"}


# -- a server that ends


def test_a_server_restarted_between_two_calls(start_server, open_client):
    server = start_server(models=["identity_fp32"])
    auto = open_client(server.url, shared_memory="auto", shared_memory_threshold=1)
    assert check(auto, 4)
    kept = auto.infer("identity_fp32", [tensor("INPUT0", np.full(1000, 9, np.float32))])
    assert placed(kept)
    server.kill()
    with pytest.raises(tritonhttp.ConnectRefused):
        check(auto, 1)
    server.start()
    assert check(auto, 4)
    assert runs(auto, "identity_fp32") == 4  # each call has run once
    assert kept.as_numpy("OUTPUT0").tolist() == [9] * 1000
    auto.close()
    assert registered(server.url) == set()
    assert files() == set()


def test_a_server_that_has_ended_before_close(start_server, open_client, caplog):
    server = start_server(models=["identity_fp32"])
    auto = open_client(server.url, shared_memory="auto", shared_memory_threshold=1)
    assert check(auto)
    with auto.shared_memory(64) as region:
        place = region.write(np.ones(4, np.float32))
        server.kill()
    assert place.byte_size == 16
    (record,) = caplog.records
    assert f"region {region.name} stays registered" in record.getMessage()
    auto.close()  # without an error
    assert files() == set()
