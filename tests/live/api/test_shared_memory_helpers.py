"""The helpers of `tritonhttp.utils.shared_memory` with a real server: tensors that never travel."""

import os
import secrets
import sys
from pathlib import Path

import numpy as np
import pytest

import tritonhttp
import tritonhttp.utils.shared_memory as shm
from tritonhttp import InferInput, InferRequestedOutput
from tritonhttp.utils import serialize_byte_tensor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the server runs on Linux")

FLOATS = np.array([1.5, -2, 0, 7], np.float32)


@pytest.fixture
def make_region(client, triton_server):
    """Make registered regions; after the test they are unregistered and destroyed."""
    _ = triton_server.running  # skips where the server may be on another machine
    prefix = f"tritonhttp_test_{os.getpid()}_{secrets.token_hex(4)}"
    made = []

    def make(byte_size):
        name = f"{prefix}_{len(made)}"
        handle = shm.create_shared_memory_region(name, f"/{name}", byte_size, create_only=True)
        made.append(handle)
        client.register_system_shared_memory(handle.name, handle.key, handle.byte_size)
        return handle

    yield make
    for handle in made:
        client.unregister_system_shared_memory(handle.name)
        if handle.byte_size:
            shm.destroy_shared_memory_region(handle)
    assert list(Path("/dev/shm").glob(f"{prefix}*")) == []
    assert not {each["name"] for each in client.get_system_shared_memory_status()} & {
        handle.name for handle in made
    }


def given(name, array, datatype, handle, offset=0, byte_size=None):
    size = array.nbytes if byte_size is None else byte_size
    return InferInput(name, list(array.shape), datatype).set_shared_memory(handle.name, size, offset)


def placed(name, handle, byte_size, offset=0):
    output = InferRequestedOutput(name)
    output.set_shared_memory(handle.name, byte_size, offset)
    return output


def test_a_region_is_registered_with_what_its_handle_says(client, make_region):
    handle = make_region(100)
    described = {"name": handle.name, "key": handle.key, "offset": 0, "byte_size": 100}
    assert client.get_system_shared_memory_status(handle.name) == [described]


def test_input_and_output_lie_in_regions(client, make_region):
    source, target = make_region(64), make_region(64)
    shm.set_shared_memory_region(source, [FLOATS])
    scores = shm.get_contents_as_numpy(target, np.float32, FLOATS.shape, offset=16)
    result = client.infer(
        "identity_fp32",
        [given("INPUT0", FLOATS, "FP32", source)],
        outputs=[placed("OUTPUT0", target, 16, 16)],
    )
    assert result.as_numpy("OUTPUT0") is None
    assert scores.tolist() == FLOATS.tolist()


def test_two_inputs_set_at_once_and_two_outputs_in_one_region(client, make_region):
    handle = make_region(4 * 64)
    a, b = np.arange(16, dtype=np.int32).reshape(1, 16), np.full((1, 16), 100, np.int32)
    shm.set_shared_memory_region(handle, [a, b])
    inputs = [given("INPUT0", a, "INT32", handle), given("INPUT1", b, "INT32", handle, 64)]
    outputs = [placed("OUTPUT0", handle, 64, 128), placed("OUTPUT1", handle, 64, 192)]
    for factor in (1, 3):  # the regions stay, only their contents change
        shm.set_shared_memory_region(handle, (a * factor,))
        client.infer("add_sub", inputs, outputs=outputs)
        total = shm.get_contents_as_numpy(handle, np.int32, [1, 16], 128)
        assert total.tolist() == (a * factor + b).tolist()
        difference = shm.get_contents_as_numpy(handle, "INT32", [1, 16], 192)
        assert difference.tolist() == (a * factor - b).tolist()


def test_big_endian_arrays_arrive_right(client, make_region):
    handle = make_region(16)
    shm.set_shared_memory_region(handle, [FLOATS.astype(">f4")])
    result = client.infer("identity_fp32", [given("INPUT0", FLOATS, "FP32", handle)])
    assert result.as_numpy("OUTPUT0").tolist() == FLOATS.tolist()


def test_bf16_goes_through_regions(client, make_region):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = FLOATS.astype(ml_dtypes.bfloat16)
    handle = make_region(16)
    shm.set_shared_memory_region(handle, [array])
    client.infer(
        "identity_bf16", [given("INPUT0", array, "BF16", handle)], outputs=[placed("OUTPUT0", handle, 8, 8)]
    )
    assert shm.get_contents_as_numpy(handle, ml_dtypes.bfloat16, [4], 8).tolist() == array.tolist()


def test_bytes_go_through_regions(client, make_region):
    strings = np.array([b"", "zwölf".encode(), b"\0\xff", b"x" * 1000], object)
    serialized = serialize_byte_tensor(strings)
    size = len(serialized.item())
    source, target = make_region(4096), make_region(4096)
    shm.set_shared_memory_region(source, [np.array([9], np.uint8), serialized])
    shm.set_shared_memory_region(target, [np.full(4096, 255, np.uint8)])
    client.infer(
        "identity_bytes",
        [given("INPUT0", strings, "BYTES", source, 1, size)],
        outputs=[placed("OUTPUT0", target, 2000, 8)],
    )
    found = shm.get_contents_as_numpy(target, np.object_, strings.shape, 8)
    assert found.tolist() == strings.tolist()


def test_the_server_and_views_keep_a_region_destroyed_while_registered(client, make_region):
    handle = make_region(64)
    shm.set_shared_memory_region(handle, [FLOATS])
    view = shm.get_contents_as_numpy(handle, np.float32, [4], 16)
    shm.destroy_shared_memory_region(handle)
    assert not Path("/dev/shm", handle.key[1:]).exists()
    client.infer(
        "identity_fp32",
        [given("INPUT0", FLOATS, "FP32", handle)],
        outputs=[placed("OUTPUT0", handle, 16, 16)],
    )
    assert view.tolist() == FLOATS.tolist()


def test_a_key_without_slash_is_found_by_the_server_too(client, triton_server):
    _ = triton_server.running
    name = f"tritonhttp_test_{os.getpid()}_{secrets.token_hex(4)}"
    handle = shm.create_shared_memory_region(name, name, 16)
    try:
        shm.set_shared_memory_region(handle, [FLOATS])
        for key in (name, f"/{name}"):
            client.register_system_shared_memory(name, key, 16)
            try:
                result = client.infer("identity_fp32", [given("INPUT0", FLOATS, "FP32", handle)])
            finally:
                client.unregister_system_shared_memory(name)
            assert result.as_numpy("OUTPUT0").tolist() == FLOATS.tolist()
    finally:
        shm.destroy_shared_memory_region(handle)


def test_sizes_beyond_the_region_are_refused_by_client_and_server(client, make_region):
    handle = make_region(8)
    with pytest.raises(shm.SharedMemoryException, match="16 bytes at offset 0 are not within its 8 bytes"):
        shm.set_shared_memory_region(handle, [FLOATS])
    with pytest.raises(tritonhttp.ServerError):
        client.infer("identity_fp32", [given("INPUT0", FLOATS, "FP32", handle)])
