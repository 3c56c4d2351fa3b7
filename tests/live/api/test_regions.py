"""Regions as objects on a real Triton: writing, reading, refusals, and that nothing is left behind."""

import subprocess
import sys

import numpy as np
import pytest

import tritonhttp
from tritonhttp import InferInput, InferRequestedOutput
from tritonhttp.regions import RegionSlice
from tritonhttp.utils.shared_memory import SharedMemoryException

from ..regions import files, nothing_left, registered

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the server runs on Linux")

FLOATS = np.array([1.5, -2, 0, 7], np.float32)


@pytest.fixture(autouse=True)
def nothing_stays(triton_server):
    _ = triton_server.running  # skips where the server may be on another machine
    with nothing_left(triton_server.url):
        yield


@pytest.fixture
def client(nothing_stays, make_client):
    return make_client()


def given(name, place):
    return InferInput(name, list(place.shape), place.datatype).set_shared_memory_region(place)


def wanted(name, place):
    output = InferRequestedOutput(name)
    output.set_shared_memory_region(place)
    return output


def test_several_tensors_in_and_out_of_one_region(client, triton_server):
    a, b = np.arange(16, dtype=np.int32).reshape(1, 16), np.full((1, 16), 100, np.int32)
    with client.shared_memory(4 * 64 + 64) as region:
        assert registered(triton_server.url) >= {region.name}
        assert files() == set()  # its key is removed, as nobody attaches
        region.write(np.zeros(3, np.uint8))
        first, second = region.write(a), region.write(b)
        assert (first.offset, second.offset) == (64, 128)
        sums, differences = region.reserve(64), region.reserve(64)
        result = client.infer(
            "add_sub",
            [given("INPUT0", first), given("INPUT1", second)],
            outputs=[wanted("OUTPUT0", sums), wanted("OUTPUT1", differences)],
        )
        assert result.as_numpy("OUTPUT0") is None
        assert sums.view("INT32", [1, 16]).tolist() == (a + b).tolist()
        kept = differences.view(np.int32, (1, 16))
        assert first.view().tolist() == region.view("INT32", [1, 16], 64).tolist() == a.tolist()
        assert repr(region) == f"<Region {region.name!r}, 320 of 320 bytes taken>"
    assert kept.tolist() == (a - b).tolist()  # arrays outlive the region
    assert region.byte_size == 0
    with pytest.raises(SharedMemoryException, match="destroyed"):
        region.view("INT32", [1])
    with pytest.raises(SharedMemoryException, match="the region has ended with its block"):
        region.write(a)


@pytest.mark.parametrize(
    "array",
    [
        np.array([b"", "zwölf".encode(), b"\0\xff" * 300], np.object_),
        np.array(["eins", "zwölf"]),
    ],
    ids=["objects", "str"],
)
def test_bytes_go_in_and_out_of_a_region(client, array):
    with client.shared_memory(4096) as region:
        source, target = region.write(array), region.reserve(2048)
        client.infer("identity_bytes", [given("INPUT0", source)], outputs=[wanted("OUTPUT0", target)])
        wants = [text.encode() if isinstance(text, str) else text for text in array.tolist()]
        assert target.view("BYTES", array.shape).tolist() == source.view().tolist() == wants


@pytest.mark.parametrize(
    "array",
    [
        FLOATS.astype(">f4"),
        np.repeat(FLOATS, 2)[::2],
        np.array(3, np.float32),
        np.zeros((0, 2), np.float32),
        np.zeros(0, np.object_),
    ],
    ids=str,
)
def test_arrays_of_any_memory_order_or_none_go_into_a_region(client, array):
    with client.shared_memory(64) as region:
        place = region.write(array)
        assert place.view().dtype == array.dtype.newbyteorder("<")
        assert place.view().tolist() == array.tolist()


def test_bf16_goes_in_and_out_of_a_region(client):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = FLOATS.astype(ml_dtypes.bfloat16)
    with client.shared_memory(256) as region:
        source, target = region.write(array), region.reserve(8)
        client.infer("identity_bf16", [given("INPUT0", source)], outputs=[wanted("OUTPUT0", target)])
        assert target.view("BF16", [4]).tolist() == array.tolist()


def test_a_region_is_used_again_after_reset(client):
    with client.shared_memory(16) as region:
        for factor in range(3):
            region.reset()
            place = region.write(FLOATS * factor)
            result = client.infer("identity_fp32", [given("INPUT0", place)])
            assert result.as_numpy("OUTPUT0").tolist() == (FLOATS * factor).tolist()


def test_tensors_that_do_not_fit_are_refused(client):
    with client.shared_memory(72) as region:
        region.write(FLOATS)
        with pytest.raises(SharedMemoryException, match="16 bytes do not fit: 8 of the region's 72 are left"):
            region.write(FLOATS)
        place = region.reserve(8)  # the refused tensor took no room
        assert place.offset == 64
        region.reset()
        place = region.reserve(8)
        with pytest.raises(SharedMemoryException, match="a tensor of 12 bytes"):
            place.view("FP32", [3])
        with pytest.raises(SharedMemoryException, match="not within"):
            region.view("FP32", [19])
        region.reset()
        words = region.write(np.array([b"abcdefgh"], object))
        with pytest.raises(SharedMemoryException, match="a tensor of 12 bytes"):
            RegionSlice(region, words.offset, 8).view("BYTES", [1])


def test_wrong_arguments_are_refused(client):
    for options in ({"byte_size": 0}, {"byte_size": -1}, {"byte_size": 1.5}, {"byte_size": 8, "key": ""}, {}):
        with pytest.raises(SharedMemoryException, match=r"byte_size|key"), client.shared_memory(**options):
            pytest.fail("it was made")
    none = client.shared_memory(key="tritonhttp_none")
    with pytest.raises(SharedMemoryException, match="'/tritonhttp_none'"), none:
        pytest.fail("it was found")
    with client.shared_memory(64) as region:
        with pytest.raises(SharedMemoryException, match="expected a numpy array, got list"):
            region.write([1.0])
        with pytest.raises(SharedMemoryException, match="complex128"):
            region.write(np.zeros(1, np.complex128))
        with pytest.raises(SharedMemoryException, match="nothing was written"):
            region.reserve(8).view()
        for size in (1.5, "8"):
            with pytest.raises(SharedMemoryException, match="expected an int"):
                region.reserve(size)
        with pytest.raises(SharedMemoryException, match="do not fit"):
            region.reserve(-8)


def test_another_tensor_than_the_one_written_is_refused(client):
    with client.shared_memory(64) as region:
        place = region.write(FLOATS)
        for shape, datatype in (([2, 2], "FP32"), ([4], "INT32")):
            with pytest.raises(
                tritonhttp.InvalidRequest, match=r"what was written there is FP32 of shape \[4\]"
            ):
                InferInput("INPUT0", shape, datatype).set_shared_memory_region(place)
        with pytest.raises(tritonhttp.InvalidRequest, match="classification"):
            InferRequestedOutput("OUTPUT0", class_count=2).set_shared_memory_region(place)


def test_another_process_attaches_by_the_key(client, triton_server):
    key = f"tritonhttp_test_{np.random.default_rng().integers(1 << 62)}"
    with client.shared_memory(64, key=key) as region:
        place = region.write(FLOATS)
        with pytest.raises(SharedMemoryException, match="exists"), client.shared_memory(64, key=f"/{key}"):
            pytest.fail("it was made twice")
        program = f"""
import tritonhttp
with tritonhttp.InferenceServerClient({triton_server.url!r}) as client:
    with client.shared_memory(key={key!r}) as region:
        assert region.byte_size == 64
        region.view("FP32", [4])[:] *= 2
        given = tritonhttp.InferInput("INPUT0", [4], "FP32").set_shared_memory(region.name, 16)
        print(client.infer("identity_fp32", [given]).as_numpy("OUTPUT0").tolist())
"""
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
        )
        assert (done.stdout, done.stderr) == (f"{(FLOATS * 2).tolist()}\n", "")
        assert place.view().tolist() == (FLOATS * 2).tolist()
        with client.shared_memory(key=key) as again:
            assert again.name != region.name
            assert again.view("FP32", [4]).tolist() == (FLOATS * 2).tolist()
    with pytest.raises(SharedMemoryException, match=key), client.shared_memory(key=key):
        pytest.fail("its key stayed")


def test_an_error_inside_the_block_passes_through(client, triton_server):
    before = registered(triton_server.url)

    def block():
        with client.shared_memory(64):
            assert len(registered(triton_server.url) - before) == 1
            raise RuntimeError("of the block")

    with pytest.raises(RuntimeError, match="of the block"):
        block()
    assert registered(triton_server.url) == before


def test_the_error_of_a_server_that_refuses_names_it_and_nothing_is_left(make_gateway, open_client):
    refusing = make_gateway(
        meddle=lambda seen: (500, b'{"error": "not here"}') if seen.path.endswith("/register") else None
    )
    with pytest.raises(tritonhttp.ServerError, match="not here"), open_client(refusing.url).shared_memory(64):
        pytest.fail("it was made")
    assert [seen.path for seen in refusing.seen if "unregister" in seen.path] == []


def test_a_region_that_was_unregistered_by_others_ends_without_an_error(client):
    with client.shared_memory(64) as region:
        client.unregister_system_shared_memory(region.name)
        place = region.write(FLOATS)
        with pytest.raises(tritonhttp.ServerError, match=region.name):
            client.infer("identity_fp32", [given("INPUT0", place)])
