"""Regions on a GPU: the logic with the host's memory, the real bindings as far as possible without a driver."""

from __future__ import annotations

import base64
import copy
import ctypes
import gc
import inspect
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tritonhttp.utils.cuda_shared_memory as cudashm
from tritonhttp.utils import InferenceServerException, _dlpack, serialize_byte_tensor
from tritonhttp.utils.cuda_shared_memory import CudaSharedMemoryException, CudaSharedMemoryRegion, _cuda

from ..clients import run_in_threads
from .host_cuda import HostCuda

FLOATS = np.arange(6, dtype=np.float32).reshape(2, 3)
NEWER = np.lib.NumpyVersion(np.__version__) >= "2.1.0"


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[HostCuda]:
    host = HostCuda()
    monkeypatch.setattr(cudashm, "load", lambda: host)
    yield host
    host.fail.clear()
    for region in cudashm.allocated_shared_memory_regions():
        cudashm.destroy_shared_memory_region(region)
    gc.collect()
    assert host.blocks == {}
    assert host.queued == []
    assert host.stack == []


Make = Callable[..., CudaSharedMemoryRegion]


@pytest.fixture
def make(cuda: HostCuda) -> Make:
    return lambda byte_size=64, device_id=0: cudashm.create_shared_memory_region("r", byte_size, device_id)


def raw(cuda: HostCuda, region: CudaSharedMemoryRegion) -> bytes:
    address = int.from_bytes(base64.b64decode(cudashm.get_raw_handle(region)), "little")
    return cuda.blocks[address].raw


def refused(reason: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    with pytest.raises(CudaSharedMemoryException) as caught:
        function(*arguments, **options)
    assert str(caught.value) == reason


def test_the_fake_has_exactly_the_calls_of_the_real_class() -> None:
    def calls(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in vars(kind).items()
            if not name.startswith("_") and inspect.isfunction(member)
        }

    stand_in = calls(HostCuda)
    del stand_in["note"]
    assert stand_in == calls(_cuda.Cuda)


# -- life of a region


def test_attributes_of_a_region(cuda: HostCuda) -> None:
    region = cudashm.create_shared_memory_region("io", np.int64(100), 1)  # type: ignore[arg-type, unused-ignore]
    assert (region.name, region.byte_size, region.device_id) == ("io", 100, 1)
    assert repr(region) == "CudaSharedMemoryRegion('io', byte_size=100, device_id=1)"
    assert cudashm.allocated_shared_memory_regions() == [region]
    assert cuda.log == [("allocate", 1, 100), ("ipc_handle", 1)]
    handle = cudashm.get_raw_handle(region)
    assert isinstance(handle, bytes)
    assert len(base64.b64decode(handle, validate=True)) == 64


def test_the_list_of_regions_is_the_callers(make: Make) -> None:
    region = make()
    cudashm.allocated_shared_memory_regions().clear()
    assert cudashm.allocated_shared_memory_regions() == [region]


@pytest.mark.parametrize(
    ("byte_size", "device_id", "reason"),
    [
        (0, 0, "byte_size is 0, expected a positive number"),
        (-1, 0, "byte_size is -1, expected a positive number"),
        (1.5, 0, "byte_size is 1.5, expected an int"),
        (8, "0", "device_id is '0', expected an int"),
        (8, 2, "device_id is 2, expected one of the 2 GPUs, which start at 0"),
        (8, -1, "device_id is -1, expected one of the 2 GPUs, which start at 0"),
        (1 << 30, 0, "cudaMalloc: cudaErrorMemoryAllocation: out of memory"),
    ],
)
def test_a_region_that_cannot_be_created_is_refused(
    cuda: HostCuda, byte_size: Any, device_id: Any, reason: str
) -> None:
    create = cudashm.create_shared_memory_region
    refused(f"unable to create cuda shared memory handle: {reason}", create, "r", byte_size, device_id)
    assert cudashm.allocated_shared_memory_regions() == []


def test_memory_is_freed_if_it_gets_no_handle(cuda: HostCuda, make: Make) -> None:
    cuda.fail["ipc_handle"] = "cudaIpcGetMemHandle: cudaErrorNotSupported: operation not supported"
    with pytest.raises(CudaSharedMemoryException, match=r"operation not supported$"):
        make()
    gc.collect()
    assert cuda.blocks == {}


def test_destroying_frees_on_the_regions_device(cuda: HostCuda, make: Make) -> None:
    region = make(64, 1)
    cudashm.destroy_shared_memory_region(region)
    assert cuda.blocks == {}
    assert cuda.log[-1] == ("free", 1)
    assert cudashm.allocated_shared_memory_regions() == []


@pytest.mark.parametrize(
    ("words", "call"),
    [
        ("unable to destroy the cuda shared memory region", cudashm.destroy_shared_memory_region),
        ("unable to get the raw handle of cuda shared memory", cudashm.get_raw_handle),
        (
            "unable to set values in cuda shared memory",
            lambda region: cudashm.set_shared_memory_region(region, [FLOATS]),
        ),
        (
            "unable to set values in cuda shared memory",
            lambda region: cudashm.set_shared_memory_region_from_dlpack(region, [FLOATS]),
        ),
        (
            "unable to get the contents of the cuda shared memory region",
            lambda region: cudashm.get_contents_as_numpy(region, np.float32, [1]),
        ),
        (
            "unable to make a tensor of the cuda shared memory region",
            lambda region: cudashm.as_shared_memory_tensor(region, "FP32", [1]),
        ),
    ],
)
def test_a_destroyed_region_and_anything_else_are_refused(
    make: Make, words: str, call: Callable[[Any], Any]
) -> None:
    region = make()
    cudashm.destroy_shared_memory_region(region)
    refused(f"{words}: {region!r} is destroyed", call, region)
    refused(f"{words}: expected a CudaSharedMemoryRegion, got 7", call, 7)


def test_one_of_many_threads_destroys(make: Make) -> None:
    for _ in range(50):
        region, errors = make(), []
        barrier = threading.Barrier(4)

        def destroy(region: CudaSharedMemoryRegion, errors: list[Exception] = errors) -> None:
            barrier.wait()  # noqa: B023
            try:
                cudashm.destroy_shared_memory_region(region)
            except CudaSharedMemoryException as error:
                errors.append(error)

        run_in_threads(destroy, [region] * 4)
        assert len(errors) == 3


def test_a_region_is_not_pickled_or_copied(make: Make) -> None:
    region = make()
    tensor = cudashm.as_shared_memory_tensor(region, "FP32", [1])
    for thing in (region, tensor):
        for attempt in (pickle.dumps, copy.deepcopy):
            with pytest.raises(CudaSharedMemoryException, match="another process opens it by get_raw_handle"):
                attempt(thing)


def test_memory_that_cannot_be_freed_is_logged(
    cuda: HostCuda, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    region = make()
    cuda.fail["free"] = "cudaFree: cudaErrorIllegalAddress: an illegal memory access was encountered"
    cudashm.destroy_shared_memory_region(region)
    del region
    gc.collect()
    assert "cudaErrorIllegalAddress" in caplog.text
    cuda.blocks.clear()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_frees_nothing(cuda: HostCuda, make: Make) -> None:
    region = make()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            cudashm.destroy_shared_memory_region(region)
            gc.collect()
            code = 0 if cuda.log[-1][0] == "ipc_handle" else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert cudashm.allocated_shared_memory_regions() == [region]


def test_nothing_is_freed_at_exit() -> None:
    """The driver frees it; its libraries may be unloaded by then."""
    program = """
import sys
sys.path.insert(0, sys.argv[1])
from host_cuda import HostCuda
import tritonhttp.utils.cuda_shared_memory as cudashm

class Loud(HostCuda):
    def free(self, address):
        sys.stdout.write("freed ")
        super().free(address)

host = Loud()
cudashm.load = lambda: host
kept = cudashm.create_shared_memory_region("kept", 8, 0)
gone = cudashm.create_shared_memory_region("gone", 8, 0)
tensor = cudashm.as_shared_memory_tensor(kept, "FP32", [2])
capsule = tensor.__dlpack__()
cudashm.destroy_shared_memory_region(gone)
sys.stdout.write("end")
"""
    command = [sys.executable, "-W", "error", "-c", program, os.path.dirname(__file__)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "freed end", "")


# -- numpy in and out


@pytest.mark.parametrize(
    "array",
    [
        FLOATS,
        FLOATS.T,
        FLOATS[:, ::2],
        FLOATS.astype(">f4"),
        np.array(7, np.int64),
        np.array([True, False]),
        np.arange(5, dtype=np.float16),
        np.empty((0, 3), np.float32),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
def test_arrays_come_back(cuda: HostCuda, make: Make, array: Any) -> None:
    region = make(64, 1)
    cudashm.set_shared_memory_region(region, [array])
    native = array.dtype.newbyteorder("=")
    assert raw(cuda, region)[: array.nbytes] == np.ascontiguousarray(array, native).tobytes()
    found = cudashm.get_contents_as_numpy(region, native, array.shape)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == native
    assert found.flags.writeable
    assert raw(cuda, region)[array.nbytes :] == b"\xee" * (64 - array.nbytes)


def test_several_arrays_are_written_one_after_the_other(cuda: HostCuda, make: Make) -> None:
    region = make()
    cudashm.set_shared_memory_region(region, (FLOATS, np.int16([1, 2]), np.empty(0), np.uint8([9])), offset=4)
    expected = FLOATS.tobytes() + b"\1\0\2\0" + b"\x09"
    assert raw(cuda, region)[4 : 4 + len(expected)] == expected
    assert cudashm.get_contents_as_numpy(region, "INT16", [2], offset=28).tolist() == [1, 2]
    assert cuda.log[-2:] == [("copy", 0, 4), ("synchronize", 0)]


def test_the_array_that_was_read_belongs_to_the_caller(make: Make) -> None:
    region = make()
    cudashm.set_shared_memory_region(region, [FLOATS])
    found = cudashm.get_contents_as_numpy(region, np.float32, [2, 3])
    found += 1
    cudashm.destroy_shared_memory_region(region)
    assert found.tolist() == (FLOATS + 1).tolist()


def test_only_the_wanted_bytes_are_copied(cuda: HostCuda, make: Make) -> None:
    region = make(1 << 20)
    cudashm.get_contents_as_numpy(region, np.float32, [2], offset=8)
    assert ("copy", 0, 8) in cuda.log


STRINGS = np.array([[b"a", b""], ["ä".encode(), b"\0\xff"]], np.object_)


@pytest.mark.parametrize("datatype", [np.object_, np.bytes_, "BYTES", object])
def test_bytes_come_back(make: Make, datatype: Any) -> None:
    region = make()
    cudashm.set_shared_memory_region(region, [FLOATS, serialize_byte_tensor(STRINGS)])
    found = cudashm.get_contents_as_numpy(region, datatype, [2, 2], offset=24)
    assert found.tolist() == STRINGS.tolist()


def test_bf16_comes_back(make: Make) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = np.array([1.5, -2], ml_dtypes.bfloat16)
    region = make()
    cudashm.set_shared_memory_region(region, [values])
    for datatype in ("BF16", ml_dtypes.bfloat16):
        assert cudashm.get_contents_as_numpy(region, datatype, [2]).tolist() == [1.5, -2]


@pytest.mark.parametrize(
    ("values", "options", "reason"),
    [
        ([np.zeros(9)], {}, "72 bytes at offset 0 are not within its 64 bytes"),
        ([np.zeros(4), np.zeros(5)], {}, "72 bytes at offset 0 are not within its 64 bytes"),
        ([np.zeros(8)], {"offset": 1}, "64 bytes at offset 1 are not within its 64 bytes"),
        ([FLOATS], {"offset": -1}, "24 bytes at offset -1 are not within its 64 bytes"),
        ([FLOATS], {"offset": "1"}, "the offset is '1', expected an int"),
        (
            [STRINGS],
            {},
            "an object array must hold one bytes object, as serialize_byte_tensor returns it; got 4 elements",
        ),
        ([FLOATS, np.array([(1, None)], "i4,O")], {}, None),
    ],
)
def test_arrays_that_do_not_fit_write_nothing(
    cuda: HostCuda, make: Make, values: list[Any], options: dict[str, Any], reason: str | None
) -> None:
    region = make()
    with pytest.raises(CudaSharedMemoryException) as caught:
        cudashm.set_shared_memory_region(region, values, **options)
    message = str(caught.value)
    assert message.startswith("unable to set values in cuda shared memory: ")
    assert reason is None or message.endswith(f": {reason}")
    assert raw(cuda, region) == b"\xee" * 64
    assert not [call for call in cuda.log if call[0] == "copy"]


@pytest.mark.parametrize("values", [FLOATS, "x", None, {1: FLOATS}])
def test_input_values_are_a_list(make: Make, values: Any) -> None:
    refused(
        "input_values must be specified as a list/tuple of numpy arrays",
        cudashm.set_shared_memory_region,
        make(),
        values,
    )


@pytest.mark.parametrize(
    ("datatype", "shape", "options", "reason"),
    [
        (np.float32, [17], {}, "68 bytes at offset 0 are not within its 64 bytes"),
        (np.float32, [16], {"offset": 4}, "64 bytes at offset 4 are not within its 64 bytes"),
        (np.float32, [-1], {}, "the shape is [-1], expected a list of sizes"),
        ("FP33", [1], {}, "unknown datatype 'FP33'"),
        ("BYTES", [2], {"offset": 8}, "the 56 bytes behind the offset hold no BYTES tensor of 2 elements"),
    ],
)
def test_a_tensor_that_cannot_be_read_is_refused_with_the_reason(
    make: Make, datatype: Any, shape: Any, options: dict[str, Any], reason: str
) -> None:
    refused(
        f"unable to get the contents of the cuda shared memory region: {reason}",
        cudashm.get_contents_as_numpy,
        make(),
        datatype,
        shape,
        **options,
    )


def test_cudas_errors_keep_their_name_and_text(cuda: HostCuda, make: Make) -> None:
    region = make()
    text = "cudaMemcpyAsync: cudaErrorInvalidValue: invalid argument"
    cuda.fail["copy"] = text
    for words, call, arguments in [
        ("set values in cuda shared memory", cudashm.set_shared_memory_region, ([FLOATS],)),
        ("set values in cuda shared memory", cudashm.set_shared_memory_region_from_dlpack, ([FLOATS],)),
        (
            "get the contents of the cuda shared memory region",
            cudashm.get_contents_as_numpy,
            (np.float32, [1]),
        ),
    ]:
        refused(f"unable to {words}: {text}", call, region, *arguments)


# -- DLPack in


class OnDevice:
    """A tensor of another library on a device, which records what it is asked for."""

    def __init__(self, cuda: HostCuda, array: Any, device: tuple[int, int], newest: bool = True) -> None:
        self.cuda, self.device, self.newest = cuda, device, newest
        self.array = array
        self.asked: list[tuple[Any, ...]] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, stream: Any = None, **options: Any) -> Any:
        if options and not self.newest:
            raise TypeError("unexpected keyword argument")
        self.asked.append((stream, self.cuda.stack[-1:]))
        return _dlpack.export(self.array, self.device, max_version=options.get("max_version"))


@pytest.mark.parametrize("newest", [True, False])
@pytest.mark.parametrize("kind", [_dlpack.CUDA, _dlpack.CUDA_MANAGED])
def test_the_copy_of_a_tensor_on_a_gpu_waits_in_its_stream(
    cuda: HostCuda, make: Make, kind: int, newest: bool
) -> None:
    region = make(64, 0)
    tensor = OnDevice(cuda, FLOATS, (kind, 1), newest)
    cudashm.set_shared_memory_region_from_dlpack(region, [tensor])
    # Its library gets the legacy default stream while its own device is current, and the copy uses that stream.
    assert tensor.asked == [(1, [1])]
    assert cuda.log[-2:] == [("copy", 1, 24), ("synchronize", 1)]
    assert raw(cuda, region)[:24] == FLOATS.tobytes()


@pytest.mark.parametrize("kind", [_dlpack.CPU, _dlpack.CUDA_HOST])
def test_a_tensor_on_the_host_has_no_stream(cuda: HostCuda, make: Make, kind: int) -> None:
    region = make(64, 1)
    tensor = OnDevice(cuda, FLOATS, (kind, 0))
    cudashm.set_shared_memory_region_from_dlpack(region, [tensor], offset=8)
    assert tensor.asked == [(None, [])]
    assert cuda.log[-2:] == [("copy", 1, 24), ("synchronize", 1)]
    assert raw(cuda, region)[8:32] == FLOATS.tobytes()


def test_a_capsule_from_a_gpu_waits_for_all_work_of_that_gpu(cuda: HostCuda, make: Make) -> None:
    region = make()
    capsule = _dlpack.export(FLOATS.copy(), (_dlpack.CUDA, 1))
    cudashm.set_shared_memory_region_from_dlpack(region, [capsule])
    assert ("synchronize_device", 1) in cuda.log
    assert cuda.log[-2:] == [("copy", 1, 24), ("synchronize", 1)]
    assert raw(cuda, region)[:24] == FLOATS.tobytes()


def test_tensors_of_several_devices_are_written_one_after_the_other(cuda: HostCuda, make: Make) -> None:
    region = make()
    empty = np.empty((0, 2), np.float32)
    tensors = [FLOATS, OnDevice(cuda, np.int16([1, 2]), (2, 1)), empty, np.uint8([3]).__dlpack__()]
    cudashm.set_shared_memory_region_from_dlpack(region, iter(tensors))
    assert raw(cuda, region)[:29] == FLOATS.tobytes() + b"\1\0\2\0\3"
    cudashm.set_shared_memory_region_from_dlpack(region, np.uint8([7, 8]))
    assert raw(cuda, region)[:2] == b"\7\x08"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([np.zeros(9)], "72 bytes at offset 0 are not within its 64 bytes"),
        ([np.zeros(4), np.zeros(5)], "72 bytes at offset 0 are not within its 64 bytes"),
        (
            [np.zeros(1), FLOATS.T],
            "input_values[1]: expected a tensor contiguous in C order, got shape (3, 2) with strides (1, 3)",
        ),
        (
            [np.zeros(1), 7],
            "input_values[1]: expected a tensor with __dlpack__, or its capsule, not consumed; got 7",
        ),
        (7, "input_values is 7, expected a list of tensors"),
    ],
)
def test_tensors_that_are_refused_write_nothing(cuda: HostCuda, make: Make, values: Any, reason: str) -> None:
    region = make()
    refused(
        f"unable to set values in cuda shared memory: {reason}",
        cudashm.set_shared_memory_region_from_dlpack,
        region,
        values,
    )
    assert raw(cuda, region) == b"\xee" * 64


def test_devices_other_than_cudas_are_refused(cuda: HostCuda, make: Make) -> None:
    refused(
        "unable to set values in cuda shared memory: input_values[0]: expected a tensor on the host or on a CUDA"
        " device, got one on DLPack's device (10, 0)",
        cudashm.set_shared_memory_region_from_dlpack,
        make(),
        [OnDevice(cuda, FLOATS, (10, 0))],
    )


# -- DLPack out


def test_a_tensor_of_a_region_shares_its_memory(cuda: HostCuda, make: Make) -> None:
    region = make(64, 1)
    tensor = cudashm.as_shared_memory_tensor(region, "FP32", [2, 3], offset=8)
    assert tensor.__dlpack_device__() == (2, 1)
    assert repr(tensor) == "SharedMemoryTensor(FP32, [2, 3], device_id=1)"
    for stream in (None, 1, 2, -1, 12345):
        found = _dlpack._open(tensor.__dlpack__(stream=stream))
        assert found.data == next(iter(cuda.blocks)) + 8
        assert (found.device.type, found.device.id) == (2, 1)
        assert (found.dtype.code, found.dtype.bits, found.dtype.lanes) == (2, 32, 1)
        assert found.shape[:2] == [2, 3]
    assert tensor.__dlpack__(1) is not None  # as in the reference, by position
    assert cuda.log[-1][0] == "ipc_handle"  # nothing was copied


def test_a_tensor_of_a_region_is_copied_into_another(cuda: HostCuda, make: Make) -> None:
    source, target = make(64, 0), make(64, 1)
    cudashm.set_shared_memory_region(source, [FLOATS])
    tensor = cudashm.as_shared_memory_tensor(source, np.float32, (2, 3))
    cudashm.set_shared_memory_region_from_dlpack(target, [tensor])
    assert raw(cuda, target)[:24] == FLOATS.tobytes()


KINDS = {
    "BOOL": (6, 8), "INT8": (0, 8), "INT16": (0, 16), "INT32": (0, 32), "INT64": (0, 64), "UINT8": (1, 8),
    "UINT16": (1, 16), "UINT32": (1, 32), "UINT64": (1, 64), "FP16": (2, 16), "FP32": (2, 32), "FP64": (2, 64),
    "BF16": (4, 16),
}  # fmt: skip


@pytest.mark.parametrize("datatype", KINDS)
def test_every_datatype_has_its_kind(make: Make, datatype: str) -> None:
    region = make()
    tensor = cudashm.as_shared_memory_tensor(region, datatype, [1, 3])
    dtype = _dlpack._open(tensor.__dlpack__()).dtype
    assert (dtype.code, dtype.bits) == KINDS[datatype]
    assert repr(tensor).startswith(f"SharedMemoryTensor({datatype}, [1, 3]")


def test_the_dtype_of_bf16_is_known(make: Make) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    tensor = cudashm.as_shared_memory_tensor(make(), ml_dtypes.bfloat16, [2])
    assert _dlpack._open(tensor.__dlpack__()).dtype.code == 4


@pytest.mark.parametrize(
    ("datatype", "shape", "options", "reason"),
    [
        ("FP32", [17], {}, "68 bytes at offset 0 are not within its 64 bytes"),
        ("FP32", [1], {"offset": 2}, "the offset is 2, expected a multiple of 4"),
        ("BYTES", [1], {}, "datatype is 'BYTES', expected one of the protocol's other than BYTES"),
        (np.complex64, [1], {}, None),
        (">f4", [1], {}, "datatype is '>f4', expected one of the protocol's other than BYTES"),
        ("FP33", [1], {}, "unknown datatype 'FP33'"),
        ("FP32", None, {}, "the shape is None, expected a list of sizes"),
        ("FP32", [1] * 70, {}, None),
    ],
)
def test_an_impossible_tensor_is_refused_with_the_reason(
    make: Make, datatype: Any, shape: Any, options: dict[str, Any], reason: str | None
) -> None:
    with pytest.raises(CudaSharedMemoryException) as caught:
        cudashm.as_shared_memory_tensor(make(), datatype, shape, **options)
    assert str(caught.value).startswith("unable to make a tensor of the cuda shared memory region: ")
    assert reason is None or str(caught.value).endswith(f": {reason}")


@pytest.mark.parametrize("version", [None, (1, 0)])
def test_memory_lives_as_long_as_any_object_made_of_it(
    cuda: HostCuda, make: Make, version: tuple[int, int] | None
) -> None:
    region = make()
    cudashm.set_shared_memory_region(region, [FLOATS])
    tensor = cudashm.as_shared_memory_tensor(region, "FP32", [2, 3])
    cudashm.destroy_shared_memory_region(region)
    del region
    capsule = tensor.__dlpack__(max_version=version)
    del tensor
    gc.collect()
    assert cuda.used == 64
    borrowed = _dlpack.borrow(capsule)
    assert ctypes.string_at(borrowed.address, borrowed.byte_size) == FLOATS.tobytes()
    del capsule, borrowed
    gc.collect()
    assert cuda.used == 0


@pytest.mark.skipif(not NEWER, reason="numpy.from_dlpack asks for a device since 2.1")
@pytest.mark.parametrize("datatype", ["FP32", "BOOL", "UINT64"])
def test_numpy_gets_a_copy_on_the_host(cuda: HostCuda, make: Make, datatype: str) -> None:
    region = make()
    values = np.array([[1, 0, 1]], cudashm._contents.triton_to_np_dtype(datatype))
    cudashm.set_shared_memory_region(region, [values], offset=8)
    tensor = cudashm.as_shared_memory_tensor(region, datatype, [1, 3], offset=8)
    found = np.from_dlpack(tensor, device="cpu")  # type: ignore[call-overload, unused-ignore]
    cudashm.set_shared_memory_region(region, [np.zeros(8)])
    cudashm.destroy_shared_memory_region(region)
    np.testing.assert_array_equal(found, values)
    assert found.dtype == values.dtype
    del tensor
    gc.collect()
    assert cuda.used == 0
    assert found.tolist() == values.tolist()


def test_a_copy_on_the_host_keeps_its_kind_and_its_memory(make: Make) -> None:
    region = make()
    cudashm.set_shared_memory_region(region, [np.uint16([1, 2, 3])])
    capsule = cudashm.as_shared_memory_tensor(region, "BF16", [3]).__dlpack__(dl_device=(1, 0), copy=True)
    found = _dlpack._open(capsule)
    assert (found.device.type, found.dtype.code) == (1, 4)
    gc.collect()
    borrowed = _dlpack.borrow(capsule)
    assert ctypes.string_at(borrowed.address, 6) == b"\1\0\2\0\3\0"


def test_numpy_itself_refuses_memory_of_a_gpu(make: Make) -> None:
    with pytest.raises((BufferError, RuntimeError)):
        np.from_dlpack(cudashm.as_shared_memory_tensor(make(), "FP32", [1]))


@pytest.mark.parametrize(
    "options",
    [
        {"copy": True},
        {"dl_device": (2, 0), "copy": True},
        {"dl_device": (1, 0), "copy": False},
        {"dl_device": (2, 1)},
    ],
)
def test_impossible_options_of_dlpack_raise_buffer_error(make: Make, options: dict[str, Any]) -> None:
    tensor = cudashm.as_shared_memory_tensor(make(), "FP32", [1])
    with pytest.raises(BufferError, match=r"^a region on device \(2, 0\) is shown there without a copy"):
        tensor.__dlpack__(**options)
    assert tensor.__dlpack__(dl_device=(2, 0), copy=False) is not None


def test_thousands_of_tensors_leave_nothing(cuda: HostCuda, make: Make) -> None:
    region = make()
    memory = region._memory
    before = sys.getrefcount(memory)
    for _ in range(5000):
        tensor = cudashm.as_shared_memory_tensor(region, "FP32", [2, 3])
        tensor.__dlpack__()
        tensor.__dlpack__(max_version=(1, 0))
        tensor.__dlpack__(dl_device=(1, 0))
        cudashm.set_shared_memory_region_from_dlpack(region, [tensor, tensor.__dlpack__()])
        cuda.log.clear()
    del tensor
    gc.collect()
    assert sys.getrefcount(memory) == before
    del memory


# -- missing bindings, drivers and GPUs


def test_the_exception_is_one_of_the_tree() -> None:
    assert issubclass(CudaSharedMemoryException, InferenceServerException)
    assert CudaSharedMemoryException("x").message() == "x"
    assert str(pickle.loads(pickle.dumps(CudaSharedMemoryException("x")))) == "x"


@pytest.fixture
def not_loaded() -> Iterator[None]:
    _cuda.load.cache_clear()
    yield
    _cuda.load.cache_clear()


def hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)


BINDINGS = ("cuda.bindings", "cuda.bindings.runtime", "cuda.bindings.driver", "cuda.cudart", "cuda.cuda")


@pytest.mark.usefixtures("not_loaded")
def test_the_error_for_missing_bindings_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, *BINDINGS)
    with pytest.raises(CudaSharedMemoryException) as caught:
        cudashm.create_shared_memory_region("r", 8, 0)
    assert str(caught.value).startswith(
        "unable to create cuda shared memory handle: CUDA shared memory needs the package cuda-bindings:"
        " pip install 'tritonhttp[cuda]' ("
    )
    assert cudashm.allocated_shared_memory_regions() == []


def test_importing_loads_no_bindings() -> None:
    program = (
        "import sys, tritonhttp.utils.cuda_shared_memory as c\n"
        "assert c.allocated_shared_memory_regions() == []\n"
        "sys.exit(any(name.split('.')[0] == 'cuda' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-W", "error", "-c", program], timeout=60).returncode == 0


class Fake:
    """Bindings that return what CUDA returns: a tuple of the error and the results."""

    class CUresult(int):
        pass

    class cudaError_t(int):
        pass

    def __init__(self, **results: Any) -> None:
        self.results = results
        self.called: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> tuple[Any, ...]:
            self.called.append((name, *arguments))
            error, *found = self.results.get(name, (0,))
            kind = (
                self.CUresult if name.startswith("cu") and not name.startswith("cuda") else self.cudaError_t
            )
            return (kind(error), *found)

        call.__name__ = name
        return call


WORDS = {
    "cuGetErrorName": (0, b"CUDA_ERROR_NO_DEVICE"),
    "cuGetErrorString": (0, b"no CUDA-capable device is detected"),
}


def test_the_error_without_a_gpu_has_cudas_words() -> None:
    with pytest.raises(_cuda.CudaError) as caught:
        _cuda.Cuda(Fake(), Fake(cuInit=(100,), **WORDS))
    assert str(caught.value) == "cuInit: CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected"


def test_an_error_without_words_has_its_number() -> None:
    with pytest.raises(_cuda.CudaError, match=r"^cuInit: error 4711$"):
        _cuda.Cuda(Fake(), Fake(cuInit=(4711,), cuGetErrorName=(1, None), cuGetErrorString=(1, None)))


def test_a_device_is_current_only_inside_the_block_and_its_context_is_retained_once() -> None:
    driver = Fake(cuDeviceGet=(0, 41), cuDevicePrimaryCtxRetain=(0, "context"))
    cuda = _cuda.Cuda(Fake(), driver)
    driver.called.clear()
    for _ in range(2):
        with cuda.device(1):
            assert driver.called[-1] == ("cuCtxPushCurrent", "context")
        assert driver.called[-1] == ("cuCtxPopCurrent",)
    with pytest.raises(ZeroDivisionError), cuda.device(1):
        raise ZeroDivisionError
    assert driver.called[-1] == ("cuCtxPopCurrent",)
    assert [each for each in driver.called if "Retain" in each[0]] == [("cuDevicePrimaryCtxRetain", 41)]


def test_a_forked_child_raises_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = _cuda.Cuda(Fake(), Fake())
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(_cuda.CudaError, match="spawn"), cuda.device(0):
        pass


# -- the real bindings

try:
    from cuda.bindings import driver as real_driver
    from cuda.bindings import runtime as real_runtime

    WITHOUT_GPU = int(real_runtime.cudaGetDeviceCount()[0]) != 0
except ImportError:
    real_driver = real_runtime = None  # type: ignore[assignment, unused-ignore]
    WITHOUT_GPU = True

with_bindings = pytest.mark.skipif(real_runtime is None, reason="needs cuda-bindings")
without_gpu = pytest.mark.skipif(not WITHOUT_GPU, reason="there is a GPU: tests/gpu")


@pytest.fixture
def uninitialised() -> _cuda.Cuda:
    """The real calls, on a machine where cuInit fails."""
    cuda = object.__new__(_cuda.Cuda)
    cuda._runtime, cuda._driver = real_runtime, real_driver
    return cuda


@with_bindings
@without_gpu
@pytest.mark.usefixtures("not_loaded")
def test_without_a_driver_the_real_bindings_error_becomes_ours() -> None:
    with pytest.raises(CudaSharedMemoryException) as caught:
        cudashm.create_shared_memory_region("r", 8, 0)
    assert "needs NVIDIA's driver, which did not load: " in str(caught.value) or "cuInit: CUDA_ERROR_" in str(
        caught.value
    )
    assert isinstance(caught.value.__cause__, _cuda.CudaError)


@with_bindings
@without_gpu
@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("cudaMalloc", lambda cuda: cuda.allocate(8)),
        ("cudaFree", lambda cuda: cuda.free(256)),
        ("cudaIpcGetMemHandle", lambda cuda: cuda.ipc_handle(256)),
        ("cudaMemcpyAsync", lambda cuda: cuda.copy(256, 512, 8)),
        ("cudaStreamSynchronize", lambda cuda: cuda.synchronize()),
        ("cudaDeviceSynchronize", lambda cuda: cuda.synchronize_device()),
    ],
)
def test_the_real_runtime_takes_our_arguments_and_names_its_error(
    uninitialised: _cuda.Cuda, function: str, call: Callable[[_cuda.Cuda], Any]
) -> None:
    with pytest.raises(_cuda.CudaError, match=rf"^{function}: cudaError\w+: \w+"):
        call(uninitialised)


@with_bindings
def test_the_real_handle_is_64_bytes(uninitialised: _cuda.Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = real_runtime.cudaIpcMemHandle_t()
    ctypes.memmove(handle.getPtr(), bytes(range(64)), 64)
    success = real_runtime.cudaError_t.cudaSuccess
    monkeypatch.setattr(uninitialised, "_runtime", Fake())
    monkeypatch.setattr(
        uninitialised._runtime, "cudaIpcGetMemHandle", lambda _: (success, handle), raising=False
    )
    assert uninitialised.ipc_handle(256) == bytes(range(64))
    assert real_runtime.CUDA_IPC_HANDLE_SIZE == _cuda._IPC_HANDLE_SIZE
    assert real_runtime.cudaStreamLegacy == _cuda.LEGACY_STREAM


@with_bindings
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("cuInit", 1),
        ("cuDeviceGetCount", 0),
        ("cuDeviceGet", 1),
        ("cuDevicePrimaryCtxRetain", 1),
        ("cuCtxPushCurrent", 1),
        ("cuCtxPopCurrent", 0),
        ("cuGetErrorName", 1),
        ("cuGetErrorString", 1),
    ],
)
def test_the_real_driver_has_the_functions(name: str, parameters: int) -> None:
    assert len(inspect.signature(getattr(real_driver, name)).parameters) == parameters
