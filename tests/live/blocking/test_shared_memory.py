"""Shared memory between threads and processes: no collisions, and nothing left by those that end or are killed."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import tritonhttp

from ...clients import run_in_threads, tensor, wait_until
from ...processes import exit_status, in_child
from ..regions import files, idle, load_sizes, nothing_left, placed, registered, sizes_inputs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the server runs on Linux")

#: A program that says what it has, and then waits to be killed.
PROGRAM = """
import sys, numpy as np, tritonhttp
client = tritonhttp.InferenceServerClient(
    {url!r}, shared_memory="auto", shared_memory_threshold=1, concurrency=2
)
def infer(array):
    given = tritonhttp.InferInput("INPUT0", array.shape, "FP32").set_data_from_numpy(array)
    return client.infer("identity_fp32", [given]).as_numpy("OUTPUT0")
{work}
"""
IN_A_REGION = """
with client.shared_memory(64) as region:
    print(region.name, flush=True)
    sys.stdin.read()
"""
WITH_RESULTS = """
kept = [infer(np.ones(1000, np.float32)) for _ in range(6)]
print("ready", flush=True)
sys.stdin.read()
"""
MANY_CALLS = """
for n in range(150):
    array = np.random.default_rng(n).random(n * 37 % 30_000 + 1, np.float32)
    assert infer(array).tobytes() == array.tobytes()
if {drop}:
    sys.exit()
client.close()
"""


@pytest.fixture(autouse=True)
def nothing_stays(triton_server):
    _ = triton_server.running  # skips where the server may be on another machine
    with nothing_left(triton_server.url):
        yield


@pytest.fixture
def auto(nothing_stays, make_client):
    return make_client(shared_memory="auto", shared_memory_threshold=1, concurrency=4)


def start(url, work):
    program = PROGRAM.format(url=url, work=work)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def infer(client, array):
    return client.infer("identity_fp32", [tensor("INPUT0", array)])


def test_what_killed_processes_leave_is_removed_by_the_next_client_and_nothing_of_the_living(
    triton_server, make_client
):
    url = triton_server.url
    processes = [start(url, work) for work in (IN_A_REGION, IN_A_REGION, WITH_RESULTS, IN_A_REGION)]
    try:
        for process in processes:
            assert process.stdout.readline()
        *killed, alive = processes
        pids = [process.pid for process in killed]
        # Not yet killed, and still there is nothing to be removed from the file system.
        assert all(files(process.pid) == set() for process in processes)
        assert all(registered(url, pid) for pid in pids)
        for process, number in zip(killed, (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL), strict=True):
            process.send_signal(number)
        for process in killed:
            process.wait(10)
        assert all(files(pid) == set() for pid in pids)
        assert len([name for pid in pids for name in registered(url, pid)]) >= 4
        with make_client().shared_memory(64):
            pass
        assert [name for pid in pids for name in registered(url, pid)] == []
        assert len(registered(url, alive.pid)) == 1
        alive.communicate("", timeout=10)
        assert alive.returncode == 0
        assert registered(url, alive.pid) == set()
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_a_client_on_the_transparent_path_removes_what_others_left_too(triton_server, auto):
    process = start(triton_server.url, WITH_RESULTS)
    assert process.stdout.readline()
    process.kill()
    process.communicate()
    assert registered(triton_server.url, process.pid)
    infer(auto, np.ones(100, np.float32))
    assert registered(triton_server.url, process.pid) == set()


def test_a_file_that_was_left_before_the_server_had_it_is_removed(triton_server, make_client):
    work = """
import os
from tritonhttp._regions.pool import BlockPool
lease = BlockPool(1 << 20).take(1000)
print(lease.block.name, flush=True)
os.kill(os.getpid(), 9)
"""
    process = start(triton_server.url, work)
    name = process.stdout.readline().strip()
    process.communicate()
    assert name
    assert files(process.pid) <= {name}  # tests beside this one may have removed it already
    with make_client().shared_memory(64):
        assert files(process.pid) == set()


def test_three_processes_at_once(triton_server):
    processes = [start(triton_server.url, MANY_CALLS.format(drop=n == 2)) for n in range(3)]
    for process in processes:
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert [files(process.pid) for process in processes] == [set()] * 3
    assert [registered(triton_server.url, process.pid) for process in processes[:2]] == [set()] * 2
    # Another process may have removed what the third left; none is there to remove what the last one leaves.
    last = start(triton_server.url, MANY_CALLS.format(drop=True))
    last.communicate(timeout=60)
    assert last.returncode == 0
    assert registered(triton_server.url, last.pid)
    with tritonhttp.InferenceServerClient(triton_server.url) as client, client.shared_memory(64):
        pass
    assert [registered(triton_server.url, process.pid) for process in (processes[2], last)] == [set()] * 2


def test_eight_threads_with_tensors_of_random_sizes(auto):
    def work(n):
        random = np.random.default_rng(n)
        kept = []
        for _ in range(200):
            array = random.random(int(10 ** random.uniform(0, 4.5)), np.float32)
            result = infer(auto, array).as_numpy("OUTPUT0")
            assert result.tobytes() == array.tobytes()
            kept.append((array, result))
            if len(kept) > 5:
                array, result = kept.pop(int(random.integers(len(kept))))
                assert result.tobytes() == array.tobytes()

    run_in_threads(work, range(8))
    blocks = idle(auto)
    pool = auto._sharing.pool
    assert len({block.name for block in blocks}) == len(blocks)
    assert pool._leased == {}
    assert pool.taken == sum(block.byte_size for block in blocks)


def test_regions_are_unregistered_by_others_all_the_time(auto, make_client):
    stop = threading.Event()
    other = make_client()

    def meddle():
        while not stop.wait(0.02):
            with contextlib.suppress(tritonhttp.ServerError):  # regions in use stay, all others go
                other.unregister_system_shared_memory()

    thread = threading.Thread(target=meddle)
    thread.start()

    def work(n):
        for i in range(50):
            array = np.full(100 + i, n, np.float32)
            assert infer(auto, array).as_numpy("OUTPUT0").tobytes() == array.tobytes()

    try:
        run_in_threads(work, range(4))
    finally:
        stop.set()
        thread.join()


def test_a_client_that_is_dropped_leaves_entries_that_the_next_one_removes(triton_server):
    before = registered(triton_server.url)
    client = tritonhttp.InferenceServerClient(
        triton_server.url, shared_memory="auto", shared_memory_threshold=1
    )
    for _ in range(3):
        result = infer(client, np.ones(500, np.float32))
    assert placed(result)
    del client
    gc.collect()
    assert files() == set()
    assert registered(triton_server.url) > before
    with tritonhttp.InferenceServerClient(triton_server.url) as other, other.shared_memory(64):
        pass
    assert registered(triton_server.url) == before
    assert result.as_numpy("OUTPUT0").sum() == 500


# -- forks


def test_a_child_keeps_its_arrays_while_the_parent_goes_on(auto):
    for _ in range(3):
        result = infer(auto, np.full(1000, 7, np.float32))
    kept = [result.as_numpy("OUTPUT0")]
    assert placed(result)
    go, begin = os.pipe()

    def child():
        os.read(go, 1)
        assert kept[0].tolist() == [7] * 1000
        for n in range(5):  # with regions of its own
            again = infer(auto, np.full(1000, n, np.float32))
            assert again.as_numpy("OUTPUT0").tolist() == [n] * 1000
        assert placed(again)
        auto.close()

    pid = in_child(child)
    del result, kept[:]
    for n in range(20):
        found = infer(auto, np.full(1000, n, np.float32)).as_numpy("OUTPUT0")
        assert found.tolist() == [n] * 1000
    os.write(begin, b"x")
    assert exit_status(pid) == 0
    assert infer(auto, np.full(1000, 3, np.float32)).as_numpy("OUTPUT0").tolist() == [3] * 1000
    assert placed(infer(auto, np.full(1000, 3, np.float32)))
    os.close(go)
    os.close(begin)


def test_a_child_that_exits_inside_the_block_ends_nothing(triton_server, make_client):
    client = make_client()

    with (
        client.shared_memory(64) as region,
        client.shared_memory(64, key=f"tritonhttp_f{os.getpid()}") as keyed,
    ):
        place = region.write(np.array([1.5, 2], np.float32))

        def child():
            # As the with statement does when the child leaves the block.
            for each in (region, keyed):
                assert list(each._close()) == []

        assert exit_status(in_child(child)) == 0
        assert registered(triton_server.url) >= {region.name, keyed.name}
        assert os.path.exists(f"/dev/shm/{keyed.key[1:]}")
        given = tritonhttp.InferInput("INPUT0", [2], "FP32").set_shared_memory_region(place)
        assert client.infer("identity_fp32", [given]).as_numpy("OUTPUT0").tolist() == [1.5, 2]
    assert not os.path.exists(f"/dev/shm/{keyed.key[1:]}")


# -- async_infer


@pytest.fixture
def sizes(nothing_stays, client):
    load_sizes(client)
    yield
    client.unload_model("sizes")


def test_async_infer_copies_its_arrays(auto, sizes):
    for _ in range(2):
        busy = [auto.async_infer("sizes", sizes_inputs(1, delay=0.2)) for _ in range(4)]
        large, small = np.full(1000, 5, np.float32), np.full(3, 6, np.float32)
        inputs = sizes_inputs(4, [large, small])
        outputs = [tritonhttp.InferRequestedOutput("JOINED"), tritonhttp.InferRequestedOutput("OUT")]
        parameters = {"a": 1}
        handle = auto.async_infer("sizes", inputs, outputs=outputs, parameters=parameters)
        large[:] = small[:] = 0
        inputs[0].set_data_from_numpy(np.array([9], np.int32))
        inputs.clear()
        outputs[1].set_shared_memory("none", 4)
        outputs.clear()
        parameters["timeout"] = 2  # which would be refused
        result = handle.get_result()
        assert result.as_numpy("JOINED").tolist() == [5] * 1000 + [6] * 3
        assert result.as_numpy("OUT").tolist() == [0, 1, 2, 3]
        for each in busy:
            each.get_result()


def test_async_infer_without_a_copy_reads_the_array_when_it_sends(auto):
    array = np.arange(1000, dtype=np.float32)
    handles = [auto.async_infer("identity_fp32", [tensor("INPUT0", array)], copy=False) for _ in range(20)]
    assert all(handle.get_result().as_numpy("OUTPUT0").tolist() == array.tolist() for handle in handles)


def test_async_infer_refuses_at_once_arguments_that_cannot_be_sent(auto):
    with pytest.raises(tritonhttp.InvalidRequest, match="reserved"):
        auto.async_infer(
            "identity_fp32", [tensor("INPUT0", np.zeros(1000, np.float32))], parameters={"priority": 1}
        )
    assert files() == set()


def test_async_infer_learns_of_large_outputs(make_client, sizes):
    client = make_client(shared_memory="auto", shared_memory_threshold=1000)
    for _ in range(4):
        result = client.async_infer("sizes", sizes_inputs(1000)).get_result()
    assert placed(result) == {"OUT", "FIXED"}


def test_closing_waits_for_what_async_infer_began(nothing_stays, make_client, sizes):
    client = make_client(shared_memory="auto", shared_memory_threshold=1, concurrency=2)
    handles = [
        client.async_infer("sizes", sizes_inputs(10, [np.ones(500)[:500].astype("f4")], 0.1))
        for _ in range(4)
    ]
    client.close()
    assert all(handle.get_result().as_numpy("JOINED").sum() == 500 for handle in handles)


def test_close_from_several_threads(make_client):
    client = make_client(shared_memory="auto", shared_memory_threshold=1)
    infer(client, np.ones(500, np.float32))
    run_in_threads(lambda n: client.close(), range(8))


def test_a_plugin_that_fails_at_the_end_leaves_no_connection(triton_server, make_client, open_descriptors):
    before = open_descriptors()
    client = make_client(shared_memory="auto", shared_memory_threshold=1)
    infer(client, np.ones(500, np.float32))

    def plugin(request):
        raise RuntimeError("of the plugin")

    client.register_plugin(plugin)
    with pytest.raises(RuntimeError, match="of the plugin"):
        client.close()
    assert open_descriptors() == before
    del client
    with tritonhttp.InferenceServerClient(triton_server.url) as other:
        wait_until(lambda: sweep(other))


def sweep(client):
    gc.collect()
    with client.shared_memory(64):
        return not registered_here(client) - 1


def registered_here(client):
    return len(
        [each for each in client.get_system_shared_memory_status() if f"-{os.getpid()}-" in each["name"]]
    )


def test_the_cost_of_the_option_is_none_without_it(triton_server):
    program = f"""
import sys, numpy as np, tritonhttp
with tritonhttp.InferenceServerClient({triton_server.url!r}) as client:
    given = tritonhttp.InferInput("INPUT0", [1000], "FP32").set_data_from_numpy(np.zeros(1000, np.float32))
    client.infer("identity_fp32", [given])
    client.async_infer("identity_fp32", [given]).get_result()
print([name for name in sys.modules if "regions" in name or name == "tritonhttp._regions.posix_memory"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# -- a server that ends


def test_a_server_that_is_killed_and_started_anew(start_server):
    server = start_server(models=["identity_fp32", "slow"])
    array = np.arange(1000, dtype=np.float32)
    with tritonhttp.InferenceServerClient(
        server.url, shared_memory="auto", shared_memory_threshold=1, concurrency=2, network_timeout=10
    ) as client:
        for _ in range(3):
            kept = infer(client, array)
        assert placed(kept)
        # In the middle of a call, whose input lies in a region.
        handle = client.async_infer("slow", [tensor("DELAY", np.array([5], np.float32))])
        time.sleep(0.3)
        with client.shared_memory(64) as region:
            server.kill()
            with pytest.raises(tritonhttp.ConnectionLost):
                handle.get_result(timeout=10)
            with pytest.raises(tritonhttp.ConnectRefused):
                infer(client, array)
            server.start()
            # Between calls: forgotten, registered again, unseen.
            for n in range(5):
                result = infer(client, array * n)
                assert result.as_numpy("OUTPUT0").tobytes() == (array * n).tobytes()
                assert placed(result)
            assert kept.as_numpy("OUTPUT0").tobytes() == array.tobytes()
            # An object's region is not made again: the key that the server would need is gone.
            given = tritonhttp.InferInput("INPUT0", [2], "FP32").set_shared_memory(region.name, 8)
            with pytest.raises(tritonhttp.ServerError, match=region.name):
                client.infer("identity_fp32", [given])
        known = {each["byte_size"] for each in client.get_system_shared_memory_status()}
        assert known == {1 << 16}
        del kept, result
    assert registered(server.url) == set()
    assert files() == set()
