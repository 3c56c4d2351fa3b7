"""Regions of system shared memory: registered, unregistered, read and written by inferences."""

import mmap
import os
import secrets
import sys
from base64 import b64encode
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import tritonhttp
from tritonhttp import InferInput, InferRequestedOutput

from ...clients import tensor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the server runs on Linux")

FLOATS = np.array([1.5, -2, 0, 7], np.float32)


class Region:
    """A memory object and a mapping of it."""

    def __init__(self, name, size):
        self.name = name
        self.key = f"/{name}"
        self.size = size
        path = Path("/dev/shm") / name
        with path.open("w+b") as file:
            os.ftruncate(file.fileno(), size)
            self.map = mmap.mmap(file.fileno(), size)
        self.path = path

    def array(self, dtype, count, offset=0):
        return np.frombuffer(self.map, dtype, count, offset)


@pytest.fixture
def make_region(client, triton_server):
    """Make registered regions; after the test each is unregistered and removed."""
    _ = triton_server.running  # skips where the server may be on another machine
    made = []

    @contextmanager
    def removed(region):
        try:
            yield region
        finally:
            client.unregister_system_shared_memory(region.name)
            region.path.unlink(missing_ok=True)

    def make(size=256, register=True):
        context = removed(Region(f"tritonhttp_test_{os.getpid()}_{secrets.token_hex(4)}", size))
        made.append(context)
        region = context.__enter__()
        if register:
            client.register_system_shared_memory(region.name, region.key, size)
        return region

    yield make
    for context in reversed(made):
        context.__exit__(None, None, None)


def test_a_registered_region_shows_in_the_status_until_it_is_unregistered(client, make_region):
    page = mmap.ALLOCATIONGRANULARITY  # the server maps from the offset on
    region = make_region(2 * page, register=False)
    assert client.register_system_shared_memory(region.name, region.key, 192, offset=page) is None
    described = {"name": region.name, "key": region.key, "offset": page, "byte_size": 192}
    assert client.get_system_shared_memory_status(region.name) == [described]
    assert described in client.get_system_shared_memory_status()
    assert client.unregister_system_shared_memory(region.name) is None
    with pytest.raises(tritonhttp.ServerError, match=region.name) as caught:
        client.get_system_shared_memory_status(region.name)
    assert caught.value.status() == "404"


def test_without_a_name_all_regions_are_unregistered(client, make_region):
    first, second = make_region(), make_region()
    assert {each["name"] for each in client.get_system_shared_memory_status()} >= {first.name, second.name}
    client.unregister_system_shared_memory()
    assert client.get_system_shared_memory_status() == []


def test_a_region_without_a_memory_object_is_refused(client):
    with pytest.raises(
        tritonhttp.ServerError, match="Unable to open shared memory region: '/tritonhttp_none'"
    ):
        client.register_system_shared_memory("none", "/tritonhttp_none", 8)


def test_a_name_that_is_taken_is_refused(client, make_region):
    region = make_region()
    with pytest.raises(tritonhttp.ServerError, match=region.name):
        client.register_system_shared_memory(region.name, region.key, region.size)


def test_an_input_is_read_from_a_region_at_its_offset(client, make_region):
    region = make_region()
    region.array(np.float32, 4, 32)[:] = FLOATS
    given = InferInput("INPUT0", [4], "FP32").set_shared_memory(region.name, 16, offset=32)
    result = client.infer("identity_fp32", [given], outputs=[InferRequestedOutput("OUTPUT0")])
    assert result.as_numpy("OUTPUT0").tolist() == FLOATS.tolist()


def test_an_output_in_a_region_is_written_there_and_does_not_come_back(client, make_region):
    region = make_region()
    output = InferRequestedOutput("OUTPUT0")
    output.set_shared_memory(region.name, 16, offset=64)
    result = client.infer("identity_fp32", [tensor("INPUT0", FLOATS)], outputs=[output])
    assert region.array(np.float32, 4, 64).tolist() == FLOATS.tolist()
    assert result.as_numpy("OUTPUT0") is None
    described = result.get_output("OUTPUT0")
    assert (described["shape"], described["datatype"]) == ([4], "FP32")
    assert "data" not in described
    output.unset_shared_memory()
    result = client.infer("identity_fp32", [tensor("INPUT0", FLOATS * 2)], outputs=[output])
    assert result.as_numpy("OUTPUT0").tolist() == (FLOATS * 2).tolist()
    assert region.array(np.float32, 4, 64).tolist() == FLOATS.tolist()


@pytest.mark.parametrize("other", ["binary", "json", "region"])
def test_regions_and_other_forms_mix_in_one_call(client, make_region, other):
    region = make_region()
    a, b = np.arange(16, dtype=np.int32).reshape(1, 16), np.full((1, 16), 100, np.int32)
    region.array(np.int32, 16)[:] = a
    region.array(np.int32, 16, 64)[:] = b
    first = InferInput("INPUT0", [1, 16], "INT32").set_shared_memory(region.name, 64)
    second = InferInput("INPUT1", [1, 16], "INT32")
    if other == "region":
        second.set_shared_memory(region.name, 64, offset=64)
    else:
        second.set_data_from_numpy(b, binary_data=other == "binary")
    placed = InferRequestedOutput("OUTPUT1")
    placed.set_shared_memory(region.name, 64, offset=128)
    result = client.infer("add_sub", [first, second], outputs=[placed, InferRequestedOutput("OUTPUT0")])
    assert result.as_numpy("OUTPUT0").tolist() == (a + b).tolist()
    assert result.as_numpy("OUTPUT1") is None
    assert region.array(np.int32, 16, 128).tolist() == (a - b).ravel().tolist()


def test_a_region_that_is_too_small_is_refused(client, make_region):
    region = make_region(16)
    output = InferRequestedOutput("OUTPUT0")
    output.set_shared_memory(region.name, 8)
    with pytest.raises(tritonhttp.ServerError, match="shared memory size"):
        client.infer("identity_fp32", [tensor("INPUT0", FLOATS)], outputs=[output])
    given = InferInput("INPUT0", [4], "FP32").set_shared_memory(region.name, 16, offset=8)
    with pytest.raises(tritonhttp.ServerError, match=region.name):
        client.infer("identity_fp32", [given])


def test_an_unknown_region_is_refused(client):
    given = InferInput("INPUT0", [4], "FP32").set_shared_memory("no_such_region", 16)
    with pytest.raises(tritonhttp.ServerError, match="no_such_region") as caught:
        client.infer("identity_fp32", [given])
    assert caught.value.status() == "404"


def test_classes_cannot_be_placed_in_a_region():
    with pytest.raises(tritonhttp.InvalidRequest, match="classification"):
        InferRequestedOutput("SCORES", class_count=2).set_shared_memory("region", 16)


def test_cuda_regions_of_a_server_without_gpu(client):
    assert client.get_cuda_shared_memory_status() == []
    assert client.unregister_cuda_shared_memory() is None
    assert client.unregister_cuda_shared_memory("none") is None
    with pytest.raises(tritonhttp.ServerError, match="none"):
        client.get_cuda_shared_memory_status("none")


@pytest.mark.parametrize("handle", [b"AAAA", "AAAA"], ids=["bytes", "str"])
def test_a_cuda_region_is_refused_by_a_server_without_gpu(client, handle):
    with pytest.raises(tritonhttp.ServerError) as caught:
        client.register_cuda_shared_memory("cuda_region", handle, 0, 64)
    assert caught.value.status() == "400"
    assert "cuda" in caught.value.message().lower()


def test_a_cuda_region_with_a_handle_of_full_length_is_refused_as_well(client):
    with pytest.raises(tritonhttp.ServerError, match=r"^\[400\] failed to register shared memory region: "):
        client.register_cuda_shared_memory("cuda_region", b64encode(bytes(range(64))), 0, 64)
    assert client.get_cuda_shared_memory_status() == []
