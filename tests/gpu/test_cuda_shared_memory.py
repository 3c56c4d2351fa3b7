"""Regions on a real GPU: numpy, torch, CuPy and JAX in and out, another process, and a Triton where there is one.

Where CUDA can't be used all of it is skipped, with the reason. `TRITON_URL` names the Triton, which has to run on
this machine, see the same GPUs and have the models of `tritonhttp.testing`; without it one is started here.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import tritonhttp.aio
import tritonhttp.utils.cuda_shared_memory as cudashm
from tritonhttp import InferenceServerClient, InferInput, InferRequestedOutput, ServerError
from tritonhttp.testing import TritonServer
from tritonhttp.utils import serialize_byte_tensor
from tritonhttp.utils.cuda_shared_memory import CudaSharedMemoryException, _cuda

try:
    DEVICES = _cuda.load().device_count()
except _cuda.CudaError as error:
    pytest.skip(f"no GPU to test on: {error}", allow_module_level=True)

from cuda.bindings import driver, runtime

HERE = Path(__file__).parent
FLOATS = np.arange(6, dtype=np.float32).reshape(2, 3)
MIB = 1 << 20


@pytest.fixture(params=range(DEVICES))
def device(request):
    return request.param


@pytest.fixture
def make(device):
    """Make regions; behind the test they are destroyed."""
    made = []

    def make(byte_size=MIB, device_id=device):
        made.append(cudashm.create_shared_memory_region("gpu_region", byte_size, device_id))
        return made[-1]

    yield make
    for region in made:
        if region in cudashm.allocated_shared_memory_regions():
            cudashm.destroy_shared_memory_region(region)


def free_memory(device_id):
    gc.collect()
    with _cuda.load().device(device_id):
        error, free, _ = runtime.cudaMemGetInfo()
    assert int(error) == 0
    return free


# -- memory and devices


def test_memory_is_taken_and_given_back(make, device):
    make(1)  # whatever CUDA sets aside for itself
    before = free_memory(device)
    region = make(256 * MIB)
    assert before - free_memory(device) >= 256 * MIB
    tensor = cudashm.as_shared_memory_tensor(region, "FP32", [4])
    cudashm.destroy_shared_memory_region(region)
    assert before - free_memory(device) >= 256 * MIB
    del tensor
    assert free_memory(device) >= before


def test_many_regions_leave_nothing(make, device):
    make(1)
    before = free_memory(device)
    for _ in range(300):
        region = cudashm.create_shared_memory_region("passing", 8 * MIB, device)
        cudashm.set_shared_memory_region(region, [FLOATS])
        cudashm.destroy_shared_memory_region(region)
    assert free_memory(device) >= before


def test_too_large_a_region_is_refused_in_cudas_words(make):
    with pytest.raises(
        CudaSharedMemoryException, match=r"cudaMalloc: cudaErrorMemoryAllocation: out of memory$"
    ):
        make(1 << 50)


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(
        CudaSharedMemoryException, match=f"device_id is {DEVICES}, expected one of the {DEVICES}"
    ):
        cudashm.create_shared_memory_region("none", 8, DEVICES)


def test_the_current_device_and_context_stay(make):
    def current():
        return int(driver.cuCtxGetCurrent()[1]), runtime.cudaGetDevice()

    def work():
        before = current()
        region = make()
        cudashm.set_shared_memory_region(region, [FLOATS])
        cudashm.get_contents_as_numpy(region, np.float32, [2, 3])
        cudashm.destroy_shared_memory_region(region)
        del region
        gc.collect()
        return before, current()

    with ThreadPoolExecutor(1) as pool:  # each thread has its own, and a new one has none
        before, after = pool.submit(work).result()
    assert before == after
    assert before[0] == 0


def test_the_runtime_sees_the_device_inside_the_block(device):
    with _cuda.load().device(device):
        error, current = runtime.cudaGetDevice()
        assert (int(error), current) == (0, device)


@pytest.mark.skipif(DEVICES < 2, reason="needs two GPUs")
def test_no_context_comes_to_be_on_a_device_that_was_not_asked_for():
    program = """
import tritonhttp.utils.cuda_shared_memory as cudashm
from cuda.bindings import driver
region = cudashm.create_shared_memory_region("r", 1024, 1)
cudashm.destroy_shared_memory_region(region)
active = [driver.cuDevicePrimaryCtxGetState(number)[2] for number in (0, 1)]
assert active == [0, 1], active
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


# -- numpy


@pytest.mark.parametrize("count", [1, 1000, 5_000_000])
def test_arrays_come_back(make, count):
    array = np.random.default_rng(0).random(count)
    region = make(array.nbytes + 8)
    cudashm.set_shared_memory_region(region, [array], offset=8)
    found = cudashm.get_contents_as_numpy(region, np.float64, [count], offset=8)
    np.testing.assert_array_equal(found, array)


def test_strings_come_back(make):
    strings = np.array([b"a", b"", b"\0\xff"], np.object_)
    region = make()
    cudashm.set_shared_memory_region(region, [FLOATS, serialize_byte_tensor(strings)])
    assert cudashm.get_contents_as_numpy(region, "BYTES", [3], offset=24).tolist() == strings.tolist()


def test_a_write_past_the_end_changes_nothing(make):
    region = make(32)
    cudashm.set_shared_memory_region(region, [np.zeros(32, np.uint8)])
    with pytest.raises(CudaSharedMemoryException, match="33 bytes at offset 0"):
        cudashm.set_shared_memory_region(region, [np.ones(32, np.uint8), np.ones(1, np.uint8)])
    assert not cudashm.get_contents_as_numpy(region, np.uint8, [32]).any()


def test_threads_share_regions(make):
    region = make(8 * MIB)
    values = np.arange(MIB // 8, dtype=np.float64)

    def work(number):
        for turn in range(30):
            mine = values + 1000 * number + turn
            cudashm.set_shared_memory_region(region, [mine], offset=number * MIB)
            found = cudashm.get_contents_as_numpy(region, np.float64, [values.size], offset=number * MIB)
            np.testing.assert_array_equal(found, mine)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_a_forked_child_is_told_to_spawn(make):
    region = make()
    assert cudashm.get_contents_as_numpy(region, np.uint8, [1]).size == 1
    child = os.fork()
    if not child:
        try:
            cudashm.get_contents_as_numpy(region, np.uint8, [1])
        except CudaSharedMemoryException as error:
            os._exit("forked" not in str(error))
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    cudashm.set_shared_memory_region(region, [FLOATS])  # the parent's goes on
    np.testing.assert_array_equal(cudashm.get_contents_as_numpy(region, np.float32, [2, 3]), FLOATS)


# -- another process, which does what a server does

OPENER = """
import base64, ctypes, sys
import numpy as np
from cuda.bindings import runtime

def call(function, *arguments):
    error, *found = function(*arguments)
    assert int(error) == 0, (function, error)
    return found[0] if found else None

call(runtime.cudaSetDevice, int(sys.argv[2]))
handle = runtime.cudaIpcMemHandle_t()
ctypes.memmove(handle.getPtr(), base64.b64decode(sys.argv[1]), 64)
address = call(runtime.cudaIpcOpenMemHandle, handle, runtime.cudaIpcMemLazyEnablePeerAccess)
data = np.empty(6, np.float32)
kind = runtime.cudaMemcpyKind.cudaMemcpyDefault
call(runtime.cudaMemcpy, data.ctypes.data, address, data.nbytes, kind)
data *= 10
call(runtime.cudaMemcpy, address, data.ctypes.data, data.nbytes, kind)
call(runtime.cudaDeviceSynchronize)
call(runtime.cudaIpcCloseMemHandle, address)
"""


def test_another_process_opens_the_raw_handle(make, device):
    region = make()
    cudashm.set_shared_memory_region(region, [FLOATS])
    raw_handle = cudashm.get_raw_handle(region)
    assert len(base64.b64decode(raw_handle)) == 64
    command = [sys.executable, "-c", OPENER, raw_handle.decode(), str(device)]
    subprocess.run(command, check=True, timeout=120)
    found = cudashm.get_contents_as_numpy(region, np.float32, [2, 3])
    np.testing.assert_array_equal(found, FLOATS * 10)


# -- torch


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    return torch


def test_a_torch_tensor_is_written(torch, make, device):
    region = make()
    tensors = [
        torch.arange(6, dtype=torch.float32, device=f"cuda:{device}").reshape(2, 3),
        torch.tensor([True, False], device=f"cuda:{device}"),
        torch.arange(4, dtype=torch.bfloat16).pin_memory(),
        torch.arange(3, dtype=torch.int16),
    ]
    cudashm.set_shared_memory_region_from_dlpack(region, tensors)
    expected = b"".join(bytes(each.cpu().view(torch.uint8).flatten().tolist()) for each in tensors)
    assert cudashm.get_contents_as_numpy(region, np.uint8, [len(expected)]).tobytes() == expected


@pytest.mark.parametrize("as_capsule", [False, True])
def test_work_in_a_stream_of_torch_is_waited_for(torch, make, device, as_capsule):
    region = make(4 * MIB)
    with torch.cuda.device(device):
        tensor = torch.zeros(MIB, dtype=torch.float32, device="cuda")
        stream = torch.cuda.Stream()
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(500_000_000)  # cycles: some tenths of a second
            tensor.fill_(7)
            value = torch.utils.dlpack.to_dlpack(tensor) if as_capsule else tensor
            cudashm.set_shared_memory_region_from_dlpack(region, [value])
    assert (cudashm.get_contents_as_numpy(region, np.float32, [MIB]) == 7).all()


def test_copies_are_done_when_the_call_returns(torch, make, device):
    region = make(2048 * MIB)
    tensor = torch.ones(512 * MIB, dtype=torch.float32, device=f"cuda:{device}")
    torch.cuda.synchronize()
    cudashm.set_shared_memory_region_from_dlpack(region, [tensor])  # takes a millisecond
    with _cuda.load().device(device):
        (error,) = runtime.cudaStreamQuery(_cuda.LEGACY_STREAM)
    assert int(error) == 0, "not cudaErrorNotReady"


def test_torch_works_in_the_region(torch, make, device):
    region = make()
    cudashm.set_shared_memory_region(region, [FLOATS])
    tensor = torch.from_dlpack(cudashm.as_shared_memory_tensor(region, "FP32", [2, 3]))
    assert tensor.device == torch.device("cuda", device)
    assert tensor.tolist() == FLOATS.tolist()
    tensor += 1
    torch.cuda.synchronize(device)
    np.testing.assert_array_equal(cudashm.get_contents_as_numpy(region, np.float32, [2, 3]), FLOATS + 1)
    cudashm.destroy_shared_memory_region(region)
    row = tensor[1]
    del tensor, region
    gc.collect()
    assert row.tolist() == (FLOATS[1] + 1).tolist()


@pytest.mark.parametrize("datatype", ["BF16", "BOOL", "FP16", "INT8", "UINT8", "INT64"])
def test_torch_sees_the_datatype(torch, make, datatype):
    names = {"BF16": "bfloat16", "BOOL": "bool", "FP16": "float16"}
    tensor = torch.from_dlpack(cudashm.as_shared_memory_tensor(make(), datatype, [1, 2], offset=16))
    assert str(tensor.dtype) == f"torch.{names.get(datatype, datatype.lower())}"
    assert tensor.shape == (1, 2)


@pytest.mark.skipif(DEVICES < 2, reason="needs two GPUs")
def test_a_tensor_of_another_gpu_goes_in(torch, make, device):
    region = make(4 * MIB)
    tensor = torch.full((MIB,), 3.0, device=f"cuda:{(device + 1) % DEVICES}")
    cudashm.set_shared_memory_region_from_dlpack(region, [tensor])
    assert (cudashm.get_contents_as_numpy(region, np.float32, [MIB]) == 3).all()


# -- CuPy


def test_cupy_arrays_go_in_and_out(make, device):
    cupy = pytest.importorskip("cupy")
    region = make()
    with cupy.cuda.Device(device):
        with cupy.cuda.Stream(non_blocking=True):
            cudashm.set_shared_memory_region_from_dlpack(region, [cupy.arange(6, dtype=cupy.float32) * 2])
        tensor = cupy.from_dlpack(cudashm.as_shared_memory_tensor(region, "FP32", [6]))
        assert tensor.tolist() == [0, 2, 4, 6, 8, 10]
        tensor[0] = 9
        cupy.cuda.get_current_stream().synchronize()
    assert cudashm.get_contents_as_numpy(region, np.float32, [1]).tolist() == [9]


# -- JAX


def test_jax_arrays_go_in_and_out(make, device, monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax = pytest.importorskip("jax")
    try:
        gpu = jax.devices("gpu")[device]
    except RuntimeError as error:
        pytest.skip(f"this JAX has no CUDA: {error}")
    region = make()
    with jax.default_device(gpu):
        square = jax.jit(lambda x: x @ x)(jax.numpy.full((512, 512), 0.5))
        cudashm.set_shared_memory_region_from_dlpack(region, [square])
    assert (cudashm.get_contents_as_numpy(region, "FP32", [512, 512]) == 128).all()
    tensor = jax.dlpack.from_dlpack(cudashm.as_shared_memory_tensor(region, "FP32", [512, 512]))
    assert tensor.devices() == {gpu}
    assert float(tensor.sum()) == 128 * 512 * 512


# -- Triton


@pytest.fixture(scope="module")
def gpu_client():
    """A client of a Triton whose model `identity_gpu` refuses tensors that are on the host."""
    if os.environ.get("TRITON_URL"):
        pytest.skip("needs a Triton of the tests' own")
    with TritonServer(HERE / "models") as server, InferenceServerClient(server.url) as client:
        yield client


@contextmanager
def registered(client, region):
    """Let the server know the region for as long as the block runs."""
    raw_handle = cudashm.get_raw_handle(region)
    client.register_cuda_shared_memory(region.name, raw_handle, region.device_id, region.byte_size)
    try:
        yield
    finally:
        client.unregister_cuda_shared_memory(region.name)


def tensors(count, offset):
    """Return an input at the start of the region "gpu_region", and an output at an offset."""
    given = InferInput("INPUT0", [count], "FP32").set_shared_memory("gpu_region", 4 * count)
    placed = InferRequestedOutput("OUTPUT0")
    placed.set_shared_memory("gpu_region", 4 * count, offset=offset)
    return [given], [placed]


def test_a_model_on_the_gpu_works_in_the_region(torch, make, device, gpu_client):
    region = make(16 * MIB)
    inputs, outputs = tensors(MIB, 8 * MIB)
    with registered(gpu_client, region):
        for turn in range(5):
            data = torch.full((MIB,), float(turn), device=f"cuda:{device}")
            cudashm.set_shared_memory_region_from_dlpack(region, [data])
            gpu_client.infer("identity_gpu", inputs, outputs=outputs)
            found = torch.from_dlpack(cudashm.as_shared_memory_tensor(region, "FP32", [MIB], offset=8 * MIB))
            assert bool((found == turn).all())


def test_the_model_knows_where_its_input_is(gpu_client):
    given = InferInput("INPUT0", [6], "FP32").set_data_from_numpy(FLOATS.ravel())
    with pytest.raises(ServerError, match="INPUT0 is on the host"):
        gpu_client.infer("identity_gpu", [given])


def test_a_server_reads_and_writes_the_region(make, device, triton_client):
    region = make(1024)
    name = f"gpu_region_{device}"
    try:
        triton_client.register_cuda_shared_memory(name, cudashm.get_raw_handle(region), device, 1024)
    except ServerError as error:
        pytest.skip(f"the server takes no CUDA regions: {error}")
    try:
        (described,) = triton_client.get_cuda_shared_memory_status(name)
        assert (described["device_id"], described["byte_size"]) == (device, 1024)
        cudashm.set_shared_memory_region(region, [FLOATS.ravel()])
        given = InferInput("INPUT0", [6], "FP32").set_shared_memory(name, 24)
        placed = InferRequestedOutput("OUTPUT0")
        placed.set_shared_memory(name, 24, offset=512)
        triton_client.infer("identity_fp32", [given], outputs=[placed])
        found = cudashm.get_contents_as_numpy(region, np.float32, [2, 3], offset=512)
        np.testing.assert_array_equal(found, FLOATS)
    finally:
        triton_client.unregister_cuda_shared_memory(name)


def test_a_server_reads_and_writes_the_region_for_the_asyncio_client(make, device, triton_server):
    region = make()
    cudashm.set_shared_memory_region(region, [FLOATS])

    async def work():
        inputs, outputs = tensors(6, 512)
        async with tritonhttp.aio.InferenceServerClient(triton_server.url) as client:
            await client.register_cuda_shared_memory(
                "gpu_region", cudashm.get_raw_handle(region), device, MIB
            )
            try:
                await client.infer("identity_fp32", inputs, outputs=outputs)
            finally:
                await client.unregister_cuda_shared_memory("gpu_region")

    asyncio.run(work())
    found = cudashm.get_contents_as_numpy(region, np.float32, [2, 3], offset=512)
    np.testing.assert_array_equal(found, FLOATS)


def test_a_program_for_tritonclient_uses_cuda_regions(triton_server):
    reference = os.environ.get("TRITONCLIENT_PYTHON")
    if not reference:
        pytest.skip("needs TRITONCLIENT_PYTHON, an interpreter with tritonclient[http]: run `make gpu`")
    program = str(HERE / "programs" / "cuda_shared_memory.py")
    environment = {**os.environ, "TRITON": triton_server.url}

    def run(*command):
        ran = subprocess.run(
            [*command, program], capture_output=True, text=True, env=environment, timeout=120
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.splitlines()

    assert run(sys.executable, "-m", "tritonhttp.as_tritonclient") == run(reference)
