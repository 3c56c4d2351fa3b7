"""Every datatype, form and memory layout of a tensor arrives at the server as it was, and comes back so."""

import ml_dtypes
import numpy as np
import pytest

import tritonhttp
from tritonhttp import InferInput, InferRequestedOutput

from ...clients import tensor

SAMPLES = {
    "BOOL": np.array([True, False, True]),
    "INT8": np.array([-128, 0, 127], np.int8),
    "INT16": np.array([-(2**15), 0, 2**15 - 1], np.int16),
    "INT32": np.array([-(2**31), 0, 2**31 - 1], np.int32),
    "INT64": np.array([-(2**63), 0, 2**63 - 1], np.int64),
    "UINT8": np.array([0, 1, 255], np.uint8),
    "UINT16": np.array([0, 1, 2**16 - 1], np.uint16),
    "UINT32": np.array([0, 1, 2**32 - 1], np.uint32),
    "UINT64": np.array([0, 1, 2**64 - 1], np.uint64),
    "FP16": np.array([0.1, -65504, np.nan, np.inf], np.float16),
    "BF16": np.array([0.1, -3e38, np.nan, np.inf], ml_dtypes.bfloat16),
    "FP32": np.array([0.1, -3.4e38, np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32),
    "FP64": np.array([0.1, -1.7e308, np.nan, np.inf, -np.inf, -0.0, 5e-324], np.float64),
}
JSON_CAPABLE = sorted(set(SAMPLES) - {"FP16", "BF16"})


def identity(client, given, binary_output=True, **options):
    """Send the input to the identity of its datatype, and return what comes back."""
    model = f"identity_{given.datatype().lower()}"
    outputs = [InferRequestedOutput("OUTPUT0", binary_output)]
    result = client.infer(model, [given], outputs=outputs, **options)
    assert ("data" in result.get_output("OUTPUT0")) is not binary_output
    return result.as_numpy("OUTPUT0")


def assert_same(got, expected):
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    assert got.flags.writeable
    assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("datatype", sorted(SAMPLES))
def test_every_datatype_travels_as_binary_bit_for_bit(client, datatype):
    array = SAMPLES[datatype]
    given = tensor("INPUT0", array)
    assert given.datatype() == datatype
    assert_same(identity(client, given), array)


@pytest.mark.parametrize("binary_output", [True, False])
@pytest.mark.parametrize("binary_input", [True, False])
@pytest.mark.parametrize("datatype", JSON_CAPABLE)
def test_json_and_binary_mix_in_both_directions(client, datatype, binary_input, binary_output):
    array = SAMPLES[datatype]
    got = identity(client, tensor("INPUT0", array, binary_data=binary_input), binary_output)
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("binary_output", [True, False])
@pytest.mark.parametrize("binary_input", [True, False])
@pytest.mark.parametrize("datatype", [*JSON_CAPABLE, "BYTES"])
def test_tensors_without_elements_keep_dtype_and_shape(client, datatype, binary_input, binary_output):
    array = np.empty(0, tritonhttp.triton_to_np_dtype(datatype))
    got = identity(client, tensor("INPUT0", array, binary_data=binary_input), binary_output)
    assert (got.dtype, got.shape) == (array.dtype, (0,))


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_tensors_without_elements_travel_as_binary(client, datatype):
    array = np.empty(0, SAMPLES[datatype].dtype)
    assert_same(identity(client, tensor("INPUT0", array)), array)


def read_only(array):
    array.flags.writeable = False
    return array


BASE = np.arange(-6, 6, dtype=np.int32)
LAYOUTS = {
    "strided": BASE[::2],
    "reversed": BASE[::-1],
    "a column": np.arange(12, dtype=np.int32).reshape(4, 3)[:, 1],
    "broadcast": np.broadcast_to(np.int32(7), (5,)),
    "big-endian": BASE.astype(">i4"),
    "big-endian, strided": BASE.astype(">i4")[1::3],
    "explicit little-endian": BASE.astype("<i4"),
    "read-only": read_only(BASE.copy()),
    "not aligned": np.frombuffer(b"x" + BASE.tobytes(), np.int32, offset=1),
    "over bytes": np.frombuffer(BASE.tobytes(), np.int32),
}


@pytest.mark.parametrize("binary_data", [True, False])
@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_every_memory_layout_arrives_right(client, layout, binary_data):
    array = LAYOUTS[layout]
    expected = np.array(array.tolist(), np.int32)
    assert_same(identity(client, tensor("INPUT0", array, binary_data=binary_data)), expected)


@pytest.mark.parametrize("binary_data", [True, False])
@pytest.mark.parametrize(
    "arrange",
    [
        np.asfortranarray,
        lambda a: np.ascontiguousarray(a[:, ::-1])[:, ::-1],
        lambda a: np.ascontiguousarray(a.T).T,
    ],
    ids=["Fortran", "rows reversed in memory", "transposed"],
)
def test_two_dimensional_layouts_arrive_in_c_order(client, arrange, binary_data):
    a = np.arange(32, dtype=np.int32).reshape(2, 16)
    inputs = [
        tensor("INPUT0", arrange(a), binary_data=binary_data),
        tensor("INPUT1", np.zeros_like(a), binary_data=binary_data),
    ]
    assert_same(client.infer("add_sub", inputs).as_numpy("OUTPUT0"), a)


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP64", "UINT64"])
def test_other_widths_arrive_right_from_strided_memory(client, datatype):
    array = np.repeat(SAMPLES[datatype], 2)[::2]
    assert_same(identity(client, tensor("INPUT0", array)), SAMPLES[datatype])


def test_an_array_without_dimensions_is_sent_and_the_server_judges(client):
    given = tensor("INPUT0", np.array(3, np.float32))
    assert given.shape() == []
    with pytest.raises(tritonhttp.ServerError, match=r"unexpected shape for input 'INPUT0'.*got \[\]"):
        identity(client, given)


def test_scalars_of_numpy_in_an_object_array_are_their_text(client):
    array = np.array([np.float32(1.5), np.int64(7), np.bool_(True), np.str_("s"), np.bytes_(b"b")], object)
    assert identity(client, tensor("INPUT0", array)).tolist() == [b"1.5", b"7", b"True", b"s", b"b"]


BYTES_KINDS = {
    "bytes": (np.array([b"a", b"", b"\x00\xff", b"tail\x00"], object), [b"a", b"", b"\x00\xff", b"tail\x00"]),
    "str": (np.array(["a", "é", "", "😀"], object), [b"a", "é".encode(), b"", "😀".encode()]),
    "anything": (np.array([1, 2.5, None, True], object), [b"1", b"2.5", b"None", b"True"]),
    "mixed": (np.array([b"\xfe", "x", 3], object), [b"\xfe", b"x", b"3"]),
    "fixed-width bytes": (np.array([b"ab", b"c"], "S4"), [b"ab", b"c"]),
    "fixed-width text": (np.array(["ab", "ü"], "U4"), [b"ab", "ü".encode()]),
    "strided": (np.array([b"a", b"b", b"c"], object)[::2], [b"a", b"c"]),
    "long": (np.array([b"x" * 100_000], object), [b"x" * 100_000]),
}


@pytest.mark.parametrize("kind", sorted(BYTES_KINDS))
def test_bytes_elements_of_every_kind_arrive_as_their_bytes(client, kind):
    array, expected = BYTES_KINDS[kind]
    got = identity(client, tensor("INPUT0", array))
    assert got.dtype == np.object_
    assert got.tolist() == expected


@pytest.mark.parametrize("kind", sorted(set(BYTES_KINDS) - {"bytes", "mixed"}))
def test_bytes_elements_that_are_text_travel_as_json(client, kind):
    array, expected = BYTES_KINDS[kind]
    given = tensor("INPUT0", array, binary_data=False)
    assert identity(client, given, binary_output=True).tolist() == expected
    assert identity(client, given, binary_output=False).tolist() == [text.decode() for text in expected]


def test_json_text_that_needs_escapes_arrives_as_it_is(client):
    texts = ['quote " backslash \\', "line\nfeed\ttab", "\x01\x1f", "\u2028</script>", "NaN", "null"]
    given = tensor("INPUT0", np.array(texts, object), binary_data=False)
    assert identity(client, given, binary_output=False).tolist() == texts


def test_bytes_that_are_no_text_are_refused_as_json_with_advice(watched, gateway):
    with pytest.raises(tritonhttp.InvalidRequest, match=r"binary_data=True.*'INPUT0'"):
        tensor("INPUT0", np.array([b"ok", b"\xff"], object), binary_data=False)
    assert gateway.seen == []


def test_a_json_output_that_holds_no_text_says_how_to_ask_for_it(client):
    given = tensor("INPUT0", np.array([b"\xff\xfe"], object))
    with pytest.raises(tritonhttp.ProtocolError, match="binary_data=True"):
        identity(client, given, binary_output=False)
    assert identity(client, given).tolist() == [b"\xff\xfe"]


def test_bf16_as_json_is_refused_before_sending_with_advice(watched, gateway):
    with pytest.raises(tritonhttp.InvalidRequest, match=r"BF16.*binary_data=True"):
        tensor("INPUT0", SAMPLES["BF16"], binary_data=False)
    assert gateway.seen == []


def test_bf16_from_float32_is_refused_and_names_ml_dtypes():
    with pytest.raises(tritonhttp.InvalidRequest, match=r"ml_dtypes\.bfloat16"):
        InferInput("INPUT0", [1], "BF16").set_data_from_numpy(np.ones(1, np.float32))


def test_the_servers_refusal_of_fp16_as_json_passes_through(client):
    given = tensor("INPUT0", SAMPLES["FP16"], binary_data=False)
    with pytest.raises(
        tritonhttp.ServerError, match="receiving FP16 data via JSON is not supported"
    ) as caught:
        identity(client, given)
    assert caught.value.status() == "400"
    with pytest.raises(tritonhttp.ServerError, match="sending FP16 data via JSON is not supported"):
        identity(client, tensor("INPUT0", SAMPLES["FP16"]), binary_output=False)


def test_nan_and_infinities_go_out_in_json_as_the_server_reads_them(watched, gateway):
    array = np.array([1, np.nan, np.inf, -np.inf], np.float32)
    got = identity(watched, tensor("INPUT0", array, binary_data=False), binary_output=False)
    np.testing.assert_array_equal(got, array)
    assert b"NaN" in gateway.last.body
    assert b"-Infinity" in gateway.last.body
    assert b"null" not in gateway.last.body


def test_a_large_tensor_comes_back_whole(client):
    array = np.random.default_rng(1).standard_normal(8_000_000, np.float32)
    got = identity(client, tensor("INPUT0", array))
    assert_same(got, array)
    assert got.flags.aligned


def test_outputs_are_aligned_and_do_not_share_memory(client):
    values = np.arange(1000, 0, -1, dtype=np.float32)
    result = client.infer("summary", [tensor("VALUES", values)])
    for name in ("COUNT", "MEAN", "SORTED"):
        array = result.as_numpy(name)
        assert array.flags.aligned
        assert array.flags.writeable
        array[...] = 0
    assert result.as_numpy("TEXT").tolist() == [b"1000 values, mean 500.500"]
    assert not result.as_numpy("SORTED").any()


@pytest.mark.parametrize(
    ("declared", "array", "match"),
    [
        (([3], "FP32"), np.zeros(3, np.float64), "FP64.*expected FP32"),
        (([3], "FP32"), np.zeros(4, np.float32), r"\[4,?\].*expected \[3\]"),
        (([2, 3], "FP32"), np.zeros((3, 2), np.float32), r"\[3, 2\].*expected \[2, 3\]"),
        (([3], "FP32"), np.zeros(3, np.complex64), "complex64"),
        (([3], "FP32"), [1.0, 2.0, 3.0], "must be a numpy array, got list"),
        (([3], "BYTES"), np.zeros(3, np.int8), "INT8.*expected BYTES"),
    ],
)
def test_an_array_of_another_dtype_or_shape_is_refused_with_both_named(declared, array, match):
    given = InferInput("INPUT0", *declared)
    with pytest.raises(tritonhttp.InvalidRequest, match=match) as caught:
        given.set_data_from_numpy(array)
    assert "INPUT0" in caught.value.message()


def test_an_input_without_data_is_refused_before_sending(watched, gateway):
    with pytest.raises(tritonhttp.InvalidRequest, match="'INPUT0' has no data"):
        watched.infer("identity_fp32", [InferInput("INPUT0", [1], "FP32")])
    assert gateway.seen == []


def test_an_input_that_the_model_may_miss_can_be_left_out(client):
    values = tensor("VALUES", np.array([1, 3], np.float32))
    assert client.infer("summary", [values]).as_numpy("MEAN").tolist() == [2.0]
    weights = tensor("WEIGHTS", np.array([3, 1], np.float32))
    assert client.infer("summary", [weights, values]).as_numpy("MEAN").tolist() == [1.5]


def test_infer_reads_the_array_when_it_sends(client):
    array = np.zeros(3, np.float32)
    given, copied = tensor("INPUT0", array), tensor("INPUT0", array, copy=True)
    array[:] = [1, 2, 3]
    assert identity(client, given).tolist() == [1, 2, 3]
    assert identity(client, copied).tolist() == [0, 0, 0]
    array[0] = 9
    assert identity(client, given).tolist() == [9, 2, 3]


@pytest.mark.parametrize("datatype", ["BYTES", "FP32"])
def test_json_and_bytes_are_encoded_when_they_are_set(client, datatype):
    array = np.array([b"a"], object) if datatype == "BYTES" else np.array([1], np.float32)
    expected = array.tolist()
    given = tensor("INPUT0", array, binary_data=datatype == "BYTES")
    array[0] = 5
    assert identity(client, given).tolist() == expected


def test_an_input_is_reused_with_new_data_and_a_new_shape(client):
    given = InferInput("INPUT0", [2], "FP32")
    for size in (2, 5, 0, 1):
        array = np.arange(size, dtype=np.float32)
        assert given.set_shape((size,)) is given
        assert given.set_data_from_numpy(array) is given
        assert identity(client, given).tolist() == array.tolist()
