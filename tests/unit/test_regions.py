"""Names, the pool and the flows of shared memory, without a server: tests answer the operations."""

import gc
import json
import os
import re
import subprocess
import sys
import threading
import time
from itertools import pairwise

import numpy as np
import pytest

from tritonhttp import (
    InferInput,
    InferRequestedOutput,
    InferResult,
    Retry,
    ServerError,
    errors,
)
from tritonhttp._calls.dispatch import Dispatch
from tritonhttp._calls.safety import may_run_twice
from tritonhttp._clients.blocking.drive import drive as perform_steps
from tritonhttp._protocol.inference import Inference
from tritonhttp._protocol.operations import Operation
from tritonhttp._regions import auto, names, pool, region, registrations, sizes
from tritonhttp._regions import posix_memory as memory
from tritonhttp._regions.pool import BlockPool
from tritonhttp._transport.policy import moment
from tritonhttp._wire.responses import Response, ResponseHead
from tritonhttp.events import Call, Hooks

from ..clients import tensor
from .conftest import interrupted_everywhere
from .test_refusals import IN_PROCESS, SWITCHED_OFF

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /dev/shm and /proc")

PAGE = 1 << 16


# -- names


class Holder:
    pass


def test_a_name_is_unguessable_and_belongs_to_its_holder():
    holder = Holder()
    mine, other = names.claim(holder), names.claim(holder)
    drawn = {name.rpartition("-")[2] for name in (mine, other)}
    assert len(drawn) == 2
    assert all(re.fullmatch("[0-9a-f]{16}", each) for each in drawn), "64 bits of the system's randomness"
    assert len(mine) < 200
    assert mine.startswith(names.PREFIX)
    assert not names.is_left_behind(mine)
    del holder
    gc.collect()
    assert names.is_left_behind(mine)


def name_of(owner, **changes):
    parts = {
        "machine": names._machine(os.getpid()),
        "pid": owner,
        "started": names._start_time(owner),
        "random": "ab" * 8,
    }
    return names.PREFIX + "-".join(str(part) for part in (parts | changes).values())


@pytest.fixture
def process():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process


def test_only_an_ended_process_has_left_its_names_behind(process):
    name = name_of(process.pid)
    assert not names.is_left_behind(name)
    # The pid now belongs to a process that started at another time.
    assert names.is_left_behind(name_of(process.pid, started="1"))
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert names.is_left_behind(name)  # a zombie
    process.wait()
    assert names.is_left_behind(name)


def test_names_of_unknown_owners_are_left_alone(process):
    pid = process.pid
    dead = {"started": names._start_time(pid)}
    process.communicate(b"\n")
    assert names.is_left_behind(name_of(pid, **dead))
    boot, _, namespace = names._machine(os.getpid()).partition(".")
    for changes in (
        {"machine": f"{boot}.1"},  # another pid namespace
        {"machine": f"{boot[::-1]}.{namespace}"},  # another boot, or another machine
        {"machine": "0"},
        {"started": "0"},
        {"pid": "x"},
        {"pid": "-1"},
        {"pid": "9" * 30},
        {"pid": 1, "started": names._start_time(1)},
    ):
        assert not names.is_left_behind(name_of(pid, **(dead | changes))), changes
    for name in (
        "",
        "tritonhttp-region",
        names.PREFIX,
        f"{names.PREFIX}1",
        "other",
        f"x{name_of(pid, **dead)}",
    ):
        assert not names.is_left_behind(name)


def test_only_files_of_ended_processes_are_removed(process):
    holder = Holder()
    kept = [names.claim(holder), name_of(process.pid), name_of(process.pid, machine="0", started="1")]
    dead = [name_of(process.pid, started="1")]
    made = [memory.create(f"/{name}", 8) for name in kept + dead]
    try:
        names.remove_files()
        assert [os.path.exists(f"/dev/shm/{name}") for name in kept + dead] == [True, True, True, False]
    finally:
        for each in made:
            memory.unlink(each.identity)


def test_a_machine_without_proc_removes_nothing(monkeypatch):
    names._machine.cache_clear()
    real = open
    monkeypatch.setattr(
        "builtins.open",
        lambda path, *args, **options: (
            real("/nowhere") if str(path).startswith("/proc") else real(path, *args, **options)
        ),
    )
    holder = Holder()
    name = names.claim(holder)
    assert name.startswith(f"{names.PREFIX}0-{os.getpid()}-0-")
    del holder
    gc.collect()
    assert not names.is_left_behind(name)
    monkeypatch.undo()
    names._machine.cache_clear()


# -- the pool


def taken(some, size=1, register=True):
    lease = some.take(size)
    if lease is not None and register:
        lease.block.registered = True
        lease.block.unlink()
    return lease


def files():
    return {
        name
        for name in os.listdir("/dev/shm")
        if name.startswith(f"{names.PREFIX}{names._machine(os.getpid())}-{os.getpid()}-")
    }


def test_a_block_returns_when_the_last_array_over_it_is_freed():
    some = BlockPool(PAGE)
    lease = taken(some, 100)
    block = lease.block
    array = np.ndarray((10,), np.float32, lease.buffer, 0)
    del lease
    kept = memoryview(array[2:4])
    del array
    assert some.take(100) is None
    kept.release()
    again = some.take(100)
    assert again.block is block
    assert some.taken == PAGE


def test_the_smallest_fitting_block_is_taken_unless_far_too_large():
    some = BlockPool(1 << 30)
    leases = {size: taken(some, size) for size in (PAGE, 4 * PAGE, 64 * PAGE)}
    blocks = {size: lease.block for size, lease in leases.items()}
    leases.clear()
    assert some.take(3 * PAGE).block is blocks[4 * PAGE]
    assert some.take(8 * PAGE).block not in blocks.values()
    assert some.take(40 * PAGE).block is blocks[64 * PAGE]


def test_idle_blocks_make_room_only_if_that_is_enough():
    some = BlockPool(4 * PAGE)
    leases = [taken(some, PAGE) for _ in range(3)]
    del leases[1:]
    assert some.take(4 * PAGE) is None
    assert len(some._idle) == 2
    assert some.take(3 * PAGE) is None  # until the server has forgotten two others
    doomed = some.doomed()
    assert len(doomed) == 2
    for _ in range(3):
        some.settle(doomed, doomed)  # the server refuses
        assert some.taken == 3 * PAGE
        assert some.take(3 * PAGE) is None
        assert set(some.doomed()) == set(doomed)
    some.settle(doomed, [])
    assert some.taken == PAGE
    assert some.take(3 * PAGE).block.byte_size == 3 * PAGE
    assert some.taken == 4 * PAGE


def test_blocks_idle_for_long_are_given_back(monkeypatch):
    some = BlockPool(1 << 30)
    now = time.monotonic()
    monkeypatch.setattr(pool.time, "monotonic", lambda: now)
    first, second = taken(some), taken(some)
    blocks = [first.block, second.block]
    del first
    assert some.doomed() == []
    now += pool._MAX_IDLE - 1
    del second
    assert some.doomed() == []
    now += 2
    doomed = some.doomed()
    assert doomed == blocks[:1]
    some.settle(doomed, [])
    assert some.taken == PAGE
    assert taken(some).block is blocks[1]


def test_spent_forgotten_and_unregistered_blocks_are_not_used_again():
    some = BlockPool(1 << 30)
    spent, old, unknown = taken(some), taken(some), taken(some, register=False)
    blocks = [each.block for each in (spent, old, unknown)]
    spent.block.spent = True
    name = unknown.block.name
    assert files() == {name}
    some.forget(0)
    some.forget(0)  # by another call at the same time
    assert some._generation == 1
    del spent, old, unknown
    fresh = taken(some)
    assert fresh.block not in blocks
    doomed = some.doomed()
    assert set(doomed) == set(blocks[:2])
    assert some.taken == 3 * PAGE
    some.settle(doomed, [])
    assert some.taken == PAGE
    del doomed
    del blocks
    gc.collect()
    assert files() == set()


def test_a_closed_pool_leases_nothing_and_returns_the_registered_blocks():
    some = BlockPool(1 << 30)
    leased, idle, unknown = taken(some), taken(some), taken(some, register=False)
    known = {leased.block, idle.block}
    del idle
    assert set(some.close()) == known
    assert some.take(1) is None
    assert some.close() == []
    del unknown


def test_a_child_unlinks_nothing_of_its_parent():
    some = BlockPool(1 << 30)
    lease = some.take(1)
    pid = os.fork()
    if pid == 0:
        lease.block.unlink()
        os._exit(0)
    os.waitpid(pid, 0)
    assert files() == {lease.block.name}
    lease.block.unlink()
    lease.block.unlink()
    assert files() == set()


def test_a_pool_serves_many_threads():
    some = BlockPool(64 * PAGE)

    def work(n):
        for i in range(300):
            lease = taken(some, (i * 977 * n) % (3 * PAGE) + 1)
            if lease is not None:
                array = np.ndarray(1, np.int64, lease.buffer, 0)
                array[0] = n
                del lease
                assert array[0] == n

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    some.collect()
    some.settle(some.doomed(), [])
    assert some._leased == {}
    assert some.taken == sum(block.byte_size for block in some._idle)
    some.close()


@pytest.mark.parametrize("size", [1, PAGE, PAGE + 1, 10**6, 64 << 20, (64 << 20) + 1])
def test_sizes_are_rounded_by_at_most_an_eighth(size):
    rounded = pool._rounded(size)
    assert size <= rounded <= max(size * 9 / 8 + 1, PAGE * -(-size // PAGE))
    assert rounded % PAGE == 0


# -- flows


class Server:
    """Answer operations as Triton does: regions, and one model with an output of `size` elements."""

    def __init__(self):
        self.regions = set()
        self.asked = []
        self.fails = {}
        self.size = 100
        self.declared = -1

    def __call__(self, operation):
        path = operation.path
        verb = path.rpartition("/")[2]
        self.asked.append(verb)
        if verb in self.fails:
            raise self.fails[verb]
        if verb == "register":
            self.regions.add(path.split("/")[3])
            return None
        if verb == "unregister":
            self.regions.discard(path.split("/")[3])
            return None
        if verb == "status":
            return [{"name": name} for name in sorted(self.regions)]
        if verb == "config":
            return {"max_batch_size": 0}
        if verb != "infer":
            return {"outputs": [{"name": "OUT", "datatype": "FP32", "shape": [self.declared]}]}
        return self.infer(operation)

    def infer(self, operation):
        operation = written(operation)
        request = json.loads(bytes(operation.body[0]))
        used = [each["parameters"] for each in (*request["inputs"], *request.get("outputs", ()))]
        regions = [each["shared_memory_region"] for each in used if "shared_memory_region" in each]
        for name in regions:
            if name not in self.regions:
                raise ServerError(f"Unable to find shared memory region: '{name}'", "404")
        output = {"name": "OUT", "datatype": "FP32", "shape": [self.size]}
        (asked,) = request.get("outputs") or [{"parameters": {}}]
        room = asked["parameters"].get("shared_memory_byte_size")
        if room is None:
            return result(
                {"outputs": [{**output, "parameters": {"binary_data_size": self.size * 4}}]}, self.size * 4
            )
        if room < self.size * 4:
            raise ServerError(
                f"shared memory size specified with the request for output 'OUT' ({room} bytes) should be at least"
                f" {self.size * 4} bytes to hold the results",
                "500",
            )
        return result({"outputs": [output]}, 0)


def result(answer, size):
    head = json.dumps(answer).encode()
    headers = {"inference-header-content-length": str(len(head))}
    return InferResult(Response(ResponseHead(200, headers), head + bytes(size)), False)


def drive(flow, server):
    """Carry a flow out as a client does."""
    try:
        operation = next(flow)
        while True:
            try:
                answer = server(operation)
            except BaseException as error:
                operation = flow.throw(error)
            else:
                operation = flow.send(answer)
    except StopIteration as end:
        return end.value


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def sharing():
    sharing = auto.Sharing(1, 1 << 30)
    yield sharing
    drive(sharing.close(), Server())
    gc.collect()
    assert files() == set()


def arguments(array, outputs=None, idempotent=None, sequence=0):
    inputs = [tensor("IN", array)]
    return Inference("model", inputs, "", outputs, sequence_id=sequence, idempotent=idempotent)


def written(operation):
    return operation.written() if isinstance(operation, Inference) else operation


def infer(sharing, server, array=None, **options):
    given = np.ones(50, np.float32) if array is None else array
    flow = sharing.infer(arguments(given, **options))
    return None if flow is None else drive(flow, server)


def test_the_requests_of_the_first_calls(sharing, server):
    infer(sharing, server)
    assert server.asked == ["model", "config", "register", "status", "infer"]
    server.asked.clear()
    infer(sharing, server)
    assert server.asked == ["infer"]
    server.asked.clear()
    assert infer(sharing, server)._placed
    assert server.asked == ["register", "infer"]  # a block for the output, too
    server.asked.clear()
    assert infer(sharing, server)._placed
    assert server.asked == ["infer"]
    assert len(server.regions) == 2


def test_regions_that_the_server_forgot_are_replaced(sharing, server):
    for _ in range(3):
        infer(sharing, server)
    server.regions.clear()
    server.asked.clear()
    assert infer(sharing, server, idempotent=False) is not None
    assert server.asked == ["infer", *["unregister"] * (len(server.asked) - 3), "register", "infer"]
    assert server.regions == {block.name for block in sharing.pool._leased}


def test_a_server_that_forgets_at_once_is_given_up_after_three_calls(sharing, server, caplog):

    def forgetful(operation):
        return None if operation.path.endswith("/register") else server(operation)

    flows = [sharing.infer(arguments(np.ones(50, np.float32))) for _ in range(4)]
    for flow in flows[:3]:
        assert drive(flow, forgetful)
    assert sharing.infer(arguments(np.ones(50, np.float32))) is None
    assert len(caplog.records) == 1
    flows.clear()


def own_words(message, status):
    """Return an error as Triton gives one."""
    return ServerError(message, status, json.dumps({"error": message}))


@pytest.mark.parametrize(
    ("error", "refused", "known"),
    [
        (own_words("Unable to open shared memory region", "500"), True, False),
        (own_words("no such shared memory", "404"), True, False),
        (own_words("failed to map", "400"), True, False),
        (ServerError("", "501"), True, True),
        (own_words(SWITCHED_OFF, "501"), True, False),
        (own_words(IN_PROCESS, "503"), True, False),
        # May come from a gateway.
        (own_words("no memory here", "500"), False, False),
        (ServerError("no", "404", "<html>shared memory</html>"), False, False),
        (ServerError("no", "403"), False, False),
        (ServerError("", "404", ""), False, False),
        (ServerError("", "500", ""), False, True),
        (ServerError("busy", "503"), False, True),
        (own_words("not ready", "503"), False, True),
        (ServerError("no", "503", "<html>shared memory is not supported</html>"), False, True),
        (errors.ConnectRefused("no"), False, False),
        (errors.DeadlineExceeded("late"), False, True),
        (errors.ConnectionLost("lost"), False, True),
    ],
)
def test_registrations_that_fail(sharing, server, error, refused, known):
    server.fails["register"] = error
    assert not infer(sharing, server)._placed
    assert (infer(sharing, server) is None) == refused
    assert files() == set()
    sharing.pool.collect()
    # Blocks that the server may have are unregistered before the next is registered.
    assert ("unregister" in server.asked) == (known and not refused)
    assert len(sharing.pool.close()) == known


@pytest.mark.parametrize(("words", "status"), [(SWITCHED_OFF, "501"), (IN_PROCESS, "503")])
def test_a_server_that_shares_nothing_is_asked_once(sharing, server, caplog, words, status):
    server.declared = server.size
    server.fails["register"] = own_words(words, status)
    assert infer(sharing, server) is not None
    assert server.asked.count("register") == 1
    assert all(infer(sharing, server) is None for _ in range(11))
    (record,) = caplog.records
    assert "the server shares no memory with clients" in record.getMessage()
    assert words in record.getMessage()
    server.asked.clear()
    drive(sharing.close(), server)
    assert server.asked == []


@pytest.mark.parametrize(("words", "status"), [(SWITCHED_OFF, "501"), (IN_PROCESS, "503")])
@pytest.mark.parametrize("snapshot", [False, True])
@pytest.mark.parametrize("first", ["register", "infer"])
def test_a_server_restarted_without_shared_memory(sharing, server, caplog, words, status, snapshot, first):
    given = np.arange(50, dtype=np.float32)
    kept = [infer(sharing, server, given) for _ in range(3)]
    if first == "infer":
        kept.clear()  # so that no new block has to be registered
    refusal = own_words(words, status)
    server.fails |= {"register": refusal, "unregister": refusal}
    sent = []

    def restarted(operation):
        if isinstance(operation, Inference) and any(each._region for each in operation.inputs):
            raise refusal
        if isinstance(operation, Inference):
            sent.extend(bytes(each._buffer()) for each in operation.inputs)
        return server(operation)

    flow = sharing.infer(arguments(given), snapshot=snapshot)
    if snapshot:
        given = given.copy()
    server.asked.clear()
    assert drive(flow, restarted) is not None
    assert ("register" in server.asked) == (first == "register")
    assert sent == [given.tobytes()]
    assert infer(sharing, server) is None
    assert len(caplog.records) == 1
    flow = refusal.__traceback__ = None
    kept.clear()
    gc.collect()
    sharing.pool.collect()
    assert sharing.pool.taken == 0
    server.asked.clear()
    drive(sharing.close(), server)
    assert server.asked == []


def test_regions_of_a_server_that_shares_nothing_are_forgotten(sharing, server):
    """Where the first to notice is what makes the server forget a block."""
    infer(sharing, server)
    sharing.pool.forget(sharing.pool._generation)
    server.fails["unregister"] = own_words(SWITCHED_OFF, "501")
    gc.collect()
    sharing.pool.collect()
    assert sharing.pool.has_doomed
    infer(sharing, server)
    assert not sharing.pool.has_doomed


def test_a_gateway_that_is_busy_costs_two_requests_a_call(sharing, server):
    server.fails = dict.fromkeys(("register", "unregister"), ServerError("busy", "503", "<html>"))
    for _ in range(12):
        server.asked.clear()
        assert infer(sharing, server) is not None
    assert server.asked.count("unregister") <= 1
    assert server.asked.count("register") == 1


def test_attaching_to_a_server_that_shares_nothing_is_tried_once():
    asked = []

    def refuses(operation):
        asked.append(operation.path)
        raise own_words(SWITCHED_OFF, "501")

    made = region.Region(64, "/tritonhttp-test-refused")
    try:
        attached = region.Region(None, "/tritonhttp-test-refused")
        with pytest.raises(ServerError):
            drive(attached._open(), refuses)
        assert len(asked) == 1
        drive(attached._close(), refuses)
        assert len(asked) == 1
    finally:
        made._registered = False
        drive(made._close(), refuses)


@pytest.mark.parametrize(
    ("errors_in_a_row", "refused"),
    [
        ([own_words("no", "404"), ServerError("", "500", ""), ServerError("", "403", "")], True),
        ([ServerError("", "404", ""), None, ServerError("", "404", ""), ServerError("", "404", "")], False),
        ([ServerError("", "503", "")] * 5, False),
    ],
    ids=["three", "one between", "busy"],
)
def test_a_stray_refusal_ends_nothing_and_the_third_in_a_row_does(sharing, server, errors_in_a_row, refused):
    for error in errors_in_a_row:
        server.fails = {} if error is None else {"register": error}
        sharing.pool.forget(sharing.pool._generation)  # each call needs a new block
        assert infer(sharing, server, idempotent=False) is not None
    server.fails = {}
    assert (infer(sharing, server) is None) == refused


def test_a_stray_refusal_does_not_lower_the_limit(sharing, server):
    infer(sharing, server)
    server.fails["register"] = ServerError("", "404", "")
    for _ in range(3):
        assert sharing.pool.limit == 1 << 30
        infer(sharing, server, np.ones(100_000, np.float32))
    assert sharing.pool.limit == PAGE
    assert infer(sharing, server) is not None, "registered blocks stay in use"


def test_a_block_that_was_not_registered_leaves_no_file(sharing, server):
    server.declared = server.size  # so that the output gets one, too
    server.fails["register"] = ServerError("no", "500")
    assert not infer(sharing, server)._placed
    assert len(sharing.pool._leased) == 2
    assert files() == set()


def test_a_registration_that_is_cancelled_leaves_no_block_behind(sharing, server):
    server.fails["register"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        infer(sharing, server)
    sharing.pool.collect()
    assert sharing.pool._idle == []
    assert files() == set()
    del server.fails["register"]
    server.asked.clear()
    infer(sharing, server)
    assert server.asked == ["unregister", "register", "status", "infer"]


def test_cancelled_calls_lose_no_block(sharing, server):
    for _ in range(2):
        infer(sharing, server)
    server.fails["infer"] = KeyboardInterrupt()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            infer(sharing, server)
    del server.fails["infer"]
    before = set(server.regions)
    server.fails["unregister"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        infer(sharing, server)
    del server.fails["unregister"]
    infer(sharing, server)
    assert not before & server.regions
    assert not sharing.pool._doomed


def test_blocks_in_use_are_unregistered_later(sharing, server):
    kept = [infer(sharing, server) for _ in range(4)]
    server.fails["infer"] = errors.DeadlineExceeded("late")
    with pytest.raises(errors.DeadlineExceeded):
        infer(sharing, server)
    del server.fails["infer"]
    before = sharing.pool.taken
    server.fails["unregister"] = ServerError("in use", "400")
    for _ in range(3):
        infer(sharing, server)
    assert server.asked.count("unregister") >= 2
    held = sharing.pool.taken
    assert held > before - PAGE
    for _ in range(5):
        server.fails["infer"] = errors.DeadlineExceeded("late")
        with pytest.raises(errors.DeadlineExceeded):
            infer(sharing, server)
        del server.fails["infer"]
    del server.fails["unregister"]
    kept.clear()
    infer(sharing, server)
    sharing.pool.collect()
    used = [*sharing.pool._idle, *sharing.pool._leased]
    assert sharing.pool.taken == sum(block.byte_size for block in used)
    assert server.regions == {block.name for block in used}


def test_one_region_in_use_at_close_does_not_keep_the_others(sharing, server):
    kept = [infer(sharing, server) for _ in range(4)]
    assert len(server.regions) >= 3
    used = sorted(server.regions)[0]

    def refuses(operation):
        if used in operation.path:
            raise ServerError("in use", "400")
        return server(operation)

    drive(sharing.close(), refuses)
    assert server.regions == {used}
    kept.clear()


@pytest.mark.parametrize("error", [errors.ConnectRefused("gone"), errors.DeadlineExceeded("late")], ids=repr)
def test_a_server_that_has_ended_is_asked_twice_at_close(sharing, server, error):
    kept = [infer(sharing, server) for _ in range(4)]
    server.asked.clear()
    server.fails["unregister"] = error
    drive(sharing.close(), server)
    assert server.asked == ["unregister"] * 2
    kept.clear()


@pytest.mark.parametrize(
    "error",
    [errors.ConnectionLost("cut"), errors.ProtocolError("garbage"), errors.ConnectRefused("a moment")],
    ids=repr,
)
@pytest.mark.parametrize("number", [0, 5, 11])
def test_a_connection_that_breaks_at_close_leaves_no_region(sharing, server, error, number):
    kept = [infer(sharing, server) for _ in range(13)]
    assert len(server.regions) >= 12
    asked = []

    def breaks(operation):
        asked.append(operation.path)
        if len(asked) == number + 1:
            raise error
        return server(operation)

    drive(sharing.close(), breaks)
    assert server.regions == set()
    kept.clear()


def test_a_region_whose_connection_always_breaks_does_not_keep_the_others(sharing, server):
    kept = [infer(sharing, server) for _ in range(13)]
    cursed = sorted(server.regions)[3]

    def breaks(operation):
        if cursed in operation.path:
            raise errors.ConnectionLost("cut")
        return server(operation)

    drive(sharing.close(), breaks)
    assert server.regions == {cursed}
    kept.clear()


def test_an_answer_of_an_unknown_datatype_reaches_the_caller(sharing, server):
    server.infer = lambda operation: result(
        {
            "outputs": [
                {"name": "OUT", "datatype": "NEW", "shape": [1], "parameters": {"binary_data_size": 4}}
            ]
        },
        4,
    )
    for _ in range(4):
        assert infer(sharing, server).get_output("OUT")["datatype"] == "NEW"


def test_sizes_are_learnt_from_a_server_without_metadata(sharing, server):
    server.fails["model"] = ServerError("no such endpoint", "404")
    for _ in range(4):
        found = infer(sharing, server)
    assert server.asked.count("model") == 1
    assert found._placed


def test_without_metadata_outputs_that_are_not_placed_are_asked_for_as_well(sharing, server):
    server.fails["model"] = ServerError("no such endpoint", "404")
    requests = []
    text = {"name": "TEXT", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 8}}

    def infers(operation):
        operation = written(operation)
        request = json.loads(bytes(operation.body[0]))
        requests.append([each["name"] for each in request.get("outputs", ())])
        out = {"name": "OUT", "datatype": "FP32", "shape": [50]}
        if not requests[-1]:
            return result({"outputs": [{**out, "parameters": {"binary_data_size": 200}}, text]}, 208)
        return result({"outputs": [out, text]}, 8)

    server.infer = infers
    for _ in range(4):
        found = infer(sharing, server)
    assert set(found._placed) == {"OUT"}
    assert requests == [[], [], ["OUT", "TEXT"], ["OUT", "TEXT"]]


def test_a_pool_full_of_abandoned_blocks_recovers(server):
    sharing = auto.Sharing(1, 2 * PAGE)
    server.fails["infer"] = errors.DeadlineExceeded("late")
    for _ in range(2):
        with pytest.raises(errors.DeadlineExceeded):
            infer(sharing, server)
        server.fails["unregister"] = ServerError("in use", "400")
    del server.fails["infer"]
    server.asked.clear()
    infer(sharing, server)
    assert "register" not in server.asked  # no room
    del server.fails["unregister"]
    infer(sharing, server)
    assert "register" in server.asked
    drive(sharing.close(), server)
    assert server.regions == set()


@pytest.mark.parametrize("metadata", [None, [], {}, {"outputs": None}, {"outputs": [{"name": "OUT"}]}])
def test_malformed_metadata_are_ignored(sharing, server, metadata):
    def answers(operation):
        return metadata if operation.path.endswith("/model") else server(operation)

    for _ in range(2):
        assert not drive(sharing.infer(arguments(np.ones(50, np.float32))), answers)._placed


def test_remembered_sizes_are_bounded(sharing, server, monkeypatch):
    monkeypatch.setattr(sizes, "_MAX_FORMS", 8)
    for n in range(1, 30):
        infer(sharing, server, np.ones(n, np.float32))
        assert len(sharing.sizes._learnt) <= 8


@pytest.mark.parametrize("listed", [None, {}, [{}], [{"name": 7}], ["x"], [None]])
def test_a_malformed_status_ends_the_sweep(listed):
    flow = region.sweep()
    next(flow)
    with pytest.raises(StopIteration):
        flow.send(listed)


def test_a_sweep_goes_on_behind_a_region_that_is_in_use(process):
    dead = [name_of(process.pid, started=str(n), random="ab") for n in (1, 2)]
    flow = region.sweep()
    next(flow)
    asked = [flow.send([{"name": name} for name in ("other", dead[0], name_of(process.pid), dead[1])])]
    asked.append(flow.throw(ServerError("in use", "400")))
    with pytest.raises(StopIteration):
        flow.send(None)
    assert [operation.path.split("/")[3] for operation in asked] == dead


def test_only_sizes_that_all_answers_had_are_expected():
    known = sizes.OutputSizes()
    known._declared["model", ""] = []
    form = sizes.Form(("model", ""), (("IN", "FP32", (1,)),), None)

    def answer(size, padding=0):
        described = {"datatype": "FP32", "parameters": {"padding": "x" * padding}}
        fixed = {"name": "FIXED", "shape": [2], **described}
        return result({"outputs": [{"name": "OUT", "shape": [size], **described}, fixed]}, 0)

    expected = [{}, {"OUT": 20, "FIXED": 8}, {"OUT": 0, "FIXED": 8}, {"OUT": 0, "FIXED": 8}]
    for size, each in zip((5, 5, 3, 3), expected, strict=True):
        known.learn(form, answer(size))
        assert known.expected(form, True) == (each, bool(each))
    assert known._learnt[form].last is not None
    own = answer(5, padding=1 << 13)
    known.learn(form, own)
    assert known._learnt[form].last is not own._layout, "it would keep the answer's JSON"


def test_arguments_that_cannot_be_sent_take_no_memory(sharing):
    for given in ([7], 7, None, [InferInput("IN", [1], "FP32")]):
        flow = sharing.infer(Inference("model", given))
        assert flow is None
    flow = sharing.infer(arguments(np.ones(50), outputs=[InferRequestedOutput("OUT"), 3]), snapshot=True)
    assert flow is None
    assert sharing.pool.taken == 0


# -- runs that outlast their call


class Triton:
    """Answers as Triton does, and really reads and writes the regions: OUT is IN, as declared.

    `outcomes` are those of the next inferences: a gateway's status or an error on the way back, while the run
    goes on until `finish`; an error of the server; an error before anything is sent.
    """

    def __init__(self):
        self.regions = {}
        self.outcomes = []
        self.asked = []
        self.late = []
        self.used = []
        self.seen = []
        self.room = True

    def respond(self, operation):
        *_, name, verb = ("", *operation.path.split("/"))
        self.asked.append(verb)
        if verb == "register":
            if not self.room:
                return self.answer(b"", 404)
            self.regions[name] = memory.attach(f"/{name}")
        elif verb == "unregister":
            if name in self.used:
                return self.answer({"error": f"Cannot unregister region '{name}': it is in use"}, 400)
            self.regions.pop(name, None)
        elif verb == "status":
            return self.answer([{"name": each} for each in self.regions])
        elif verb == "config":
            return self.answer({"max_batch_size": 0})
        elif verb == "model":
            return self.answer({"outputs": [{"name": "OUT", "datatype": "FP32", "shape": [50]}]})
        elif verb == "infer":
            return self.infer(operation)
        return self.answer({})

    def answer(self, body, status=200, data=b"", **headers):
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return Response(ResponseHead(status, headers), text + data)

    def infer(self, operation):
        operation = written(operation)
        request = json.loads(bytes(operation.body[0]))
        placed = [each["parameters"] for each in (*request["inputs"], *request.get("outputs", ()))]
        regions = [each["shared_memory_region"] for each in placed if "shared_memory_region" in each]
        maps = {name: self.regions[name].map for name in regions}

        def run():
            source, *_ = request["inputs"]
            place = source["parameters"].get("shared_memory_region")
            data = bytes(operation.body[1] if place is None else maps[place][:200])
            self.seen.append(float(np.frombuffer(data, np.float32)[7]))
            (out,) = request.get("outputs") or [{"parameters": {}}]
            region = out["parameters"].get("shared_memory_region")
            output = {"name": "OUT", "datatype": "FP32", "shape": [50]}
            if region is not None:
                maps[region][:200] = data
                return self.answer({"outputs": [output]})
            head = {"outputs": [{**output, "parameters": {"binary_data_size": 200}}]}
            size = str(len(json.dumps(head)))
            return self.answer(head, data=data, inference_header_content_length=size)

        outcome = self.outcomes.pop(0) if self.outcomes else None
        if outcome is None:
            return run()
        if isinstance(outcome, errors.ConnectError):
            raise outcome
        if isinstance(outcome, bytes):
            return self.answer(outcome, 400)
        self.late.append(run)
        self.used += regions
        if isinstance(outcome, int):
            return self.answer(b"<html>nothing is heard of it</html>", outcome)
        raise outcome

    def finish(self):
        """Finish the abandoned runs."""
        for run in self.late:
            run()
        self.late, self.used = [], []


class Through:
    """Carries out flows as a client does, with or without a dispatch."""

    def __init__(self, triton, watched, retry=None):
        self.triton = triton
        self.dispatch = Dispatch("a", retry, "least_outstanding", Hooks()) if watched or retry else None
        self.sharing = auto.Sharing(1, 1 << 30)

    def perform(self, operation):
        if self.dispatch is None:
            return operation.decode(self.triton.respond(operation))
        until = moment(time.monotonic(), 30.0)
        call = Call(operation.method, "")
        steps = self.dispatch.tries(operation, call, until, time.monotonic, print)
        return operation.decode(perform_steps(steps, self.step))

    def step(self, step):
        return self.perform(step) if isinstance(step, Operation) else self.triton.respond(step[1])

    def infer(self, value, idempotent=True, **options):
        given = arguments(np.full(50, value, np.float32), idempotent=idempotent, **options)
        flow = self.sharing.infer(given)
        return perform_steps(flow, self.perform)

    def free(self):
        gc.collect()
        self.sharing.pool.collect()
        return set(self.sharing.pool._idle)


def lost(resendable=False):
    error = errors.ConnectionLost("the connection broke", phase="receive")
    error.resendable = resendable
    return error


RETRY = Retry(attempts=2, backoff=0, on=(408, 429, 502, 503, 504, "lost", "connect", "timeout"))
FIRSTS = {
    "retry, lost": (RETRY, False, lost),
    "retry, lost on a used connection": (RETRY, False, lambda: lost(resendable=True)),
    "retry, silent": (RETRY, False, lambda: errors.DeadlineExceeded("nothing moved", phase="receive")),
    **{
        f"retry, {status}": (RETRY, False, lambda status=status: status)
        for status in (408, 429, 502, 503, 504)
    },
    "unseen": (None, False, lambda: lost(resendable=True)),
    "unseen, watched": (None, True, lambda: lost(resendable=True)),
}
#: The outcome of the second try, and the error that the caller gets; None: a result.
SECONDS = {
    "fine": (lambda: None, None),
    "refused": (lambda: b'{"error": "no"}', ServerError),
    "refused by a gateway": (lambda: 403, ServerError),
    "no connection": (lambda: errors.ConnectRefused("gone"), errors.ConnectRefused),
    "cancelled": (KeyboardInterrupt, KeyboardInterrupt),
    "late": (lambda: errors.DeadlineExceeded("late", phase="receive"), errors.DeadlineExceeded),
    "lost again": (lost, errors.ConnectionLost),
}


@pytest.mark.parametrize("room", [True, False], ids=["", "no room for another output"])
@pytest.mark.parametrize("second", SECONDS)
@pytest.mark.parametrize("first", FIRSTS)
def test_an_abandoned_run_reads_and_writes_no_memory_of_later_calls(first, second, room):
    triton = Triton()
    retry, watched, error = FIRSTS[first]
    client = Through(triton, watched, retry)
    for value in (1, 2):
        assert client.infer(value).as_numpy("OUT").tolist() == [value] * 50
    before = client.free()
    assert len(before) == 2
    triton.seen.clear()
    outcome, expected = SECONDS[second]
    triton.outcomes = [error(), outcome()]
    triton.room = room
    kept = {}
    if expected is None:
        kept[3] = client.infer(3)
        assert kept[3].attempts == 2
        assert bool(kept[3]._placed) == room
    else:
        with pytest.raises(expected) as caught:
            client.infer(3)
        if expected is not KeyboardInterrupt:
            assert caught.value.attempts == 2
    triton.room = True
    assert triton.asked.count("infer") == 4
    kept |= {value: client.infer(value) for value in (4, 5, 6)}
    assert not before & client.free()
    triton.seen.clear()
    triton.finish()
    assert triton.seen == [3.0] * len(triton.seen) != []
    for value, result in kept.items():
        assert result.as_numpy("OUT").tolist() == [value] * 50
    # The server forgets that memory once it is done with it.
    client.infer(7)
    assert not {block.name for block in before} & set(triton.regions)
    kept.clear()
    caught = result = None
    perform_steps(client.sharing.close(), client.perform)
    assert triton.regions == {}


@pytest.mark.parametrize("watched", [False, True])
def test_blocks_are_used_again_after_a_certain_end(watched):
    triton = Triton()
    client = Through(triton, watched)
    client.infer(1)
    client.infer(2)
    before = client.free()
    for outcome, error in (
        (b'{"error": "no"}', ServerError),
        (errors.ConnectRefused("gone"), errors.ConnectRefused),
        (None, None),
    ):
        triton.outcomes = [outcome]
        if error is None:
            client.infer(3)
        else:
            with pytest.raises(error):
                client.infer(3)
        assert client.free() == before
    triton.outcomes = [errors.ConnectRefused("for a moment"), None]
    client = Through(triton, False, RETRY)
    client.infer(1)
    before = client.free()
    triton.outcomes = [errors.ConnectRefused("for a moment"), None]
    assert client.infer(4).attempts == 2
    assert client.free() == before
    assert triton.asked.count("unregister") == 0


@pytest.mark.parametrize("status", [400, 404, 500])
def test_an_error_that_may_be_a_gateways_leaves_the_blocks_spent(status):
    triton = Triton()
    client = Through(triton, False)
    client.infer(1)
    before = client.free()
    triton.outcomes = [status]
    with pytest.raises(ServerError):
        client.infer(2)
    assert not client.free() & before


@pytest.mark.parametrize("options", [{"idempotent": None}, {"idempotent": False}, {"sequence": 5}], ids=str)
@pytest.mark.parametrize("first", FIRSTS)
def test_a_call_that_is_not_idempotent_is_not_sent_again(first, options):
    triton = Triton()
    retry, watched, error = FIRSTS[first]
    client = Through(triton, watched, retry)
    client.infer(1)
    before = client.free()
    triton.outcomes = [error()]
    with pytest.raises(errors.InferenceServerException):
        client.infer(2, **options)
    assert triton.asked.count("infer") == 2
    assert not client.free() & before


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("first", FIRSTS)
def test_an_inference_into_a_region_of_the_callers_is_not_sent_again(first, cuda):
    retry, watched, error = FIRSTS[first]
    output = InferRequestedOutput("OTHER")
    output.set_shared_memory("gpu" if cuda else "own", 200)
    operation = arguments(np.ones(50, np.float32), [output], idempotent=True)
    assert not may_run_twice(operation)
    assert may_run_twice(arguments(np.ones(50, np.float32), [InferRequestedOutput("OUT")], idempotent=True))
    triton = Triton()
    triton.regions["own"] = triton.regions["gpu"] = memory.create(f"/{name_of(os.getpid())}", 200)
    memory.unlink(triton.regions["own"].identity)
    client = Through(triton, watched, retry)
    triton.outcomes = [error()]
    with pytest.raises(errors.InferenceServerException):
        client.infer(2, outputs=[output])
    assert triton.asked.count("infer") == 1
    if retry is not None:
        triton.outcomes = [errors.ConnectRefused("for a moment"), b'{"error": "no"}']
        with pytest.raises(ServerError) as caught:
            client.infer(2, outputs=[output])
        assert caught.value.attempts == 2


def test_a_call_is_sent_no_more_often_than_retry_allows():
    for on in ((), (503,), ("lost",), ("lost", 503)):
        for attempts in (1, 2, 3):
            triton = Triton()
            client = Through(triton, False, Retry(attempts=attempts, backoff=0, on=on))
            client.infer(1)
            triton.outcomes = [lost(resendable=True), 503, 503, 503, 503]
            with pytest.raises(errors.InferenceServerException) as caught:
                client.infer(2)
            assert triton.asked.count("infer") - 1 == caught.value.attempts <= attempts


# -- exceptions at any point


@pytest.mark.parametrize("ending", ["fine", "retried", "refused"])
def test_an_interrupt_at_any_line_loses_no_bytes_and_no_block_is_used_twice(ending):
    triton = Triton()
    client = Through(triton, True, RETRY)
    client.infer(1)
    some = client.sharing.pool

    def run():
        triton.outcomes = {"fine": [], "retried": [503], "refused": [b'{"error": "no"}']}[ending]
        try:
            client.infer(2)
        except ServerError:
            assert ending == "refused"

    runs = 0
    for _ in interrupted_everywhere(run, auto, pool, registrations, sizes):
        runs += 1
        triton.late, triton.used, triton.outcomes = [], [], []
        results = {value: client.infer(value) for value in (4, 5)}
        for value, result in results.items():
            assert result.as_numpy("OUT").tolist() == [value] * 50
        del results, result
        gc.collect()
        some._collect()
        some._scan()
        assert some._leased == {}
        client.infer(6)
        gc.collect()
        some._collect()
        blocks = {*some._idle, *some._doomed}
        assert some.taken == sum(block.byte_size for block in blocks)
        assert {block.name for block in blocks if block.registered} >= set(triton.regions)
    assert runs > 50
    perform_steps(client.sharing.close(), client.perform)
    assert triton.regions == {}


def test_a_signal_handler_may_take_a_block_while_another_is_taken(monkeypatch):
    some = BlockPool(1 << 30)
    first = taken(some)
    block = first.block
    del first
    gc.collect()
    inner = []
    real = pool.Lease

    def handled(block):
        if not inner:
            inner.append(None)
            inner[0] = some.take(1)
        return real(block)

    monkeypatch.setattr(pool, "Lease", handled)
    outer = some.take(1)
    assert inner[0].block is block
    assert outer.block is not block
    assert some.taken == 2 * PAGE


def test_a_doomed_block_is_handed_out_to_one_caller_at_a_time():
    some = BlockPool(1 << 30)
    lease = taken(some)
    block, lease.block.spent = lease.block, True
    del lease
    first = some.doomed()
    assert first == [block]
    assert some.doomed() == []
    del first  # interrupted before the server was asked
    again = some.doomed()
    assert again == [block]
    some.settle(again, again)
    assert some.doomed() == [block]


def test_a_block_leased_during_a_fork_is_not_used_again(sharing, server):
    for _ in range(3):
        infer(sharing, server)
    before = set(sharing.pool._idle)

    def forks(operation):
        if operation.path.endswith("/infer"):
            sharing.pool.retire_leased()
        return server(operation)

    drive(sharing.infer(arguments(np.ones(50, np.float32))), forks)
    gc.collect()
    sharing.pool.collect()
    assert not before & set(sharing.pool._idle)


def test_a_signal_handler_may_reserve_a_place_while_another_is_reserved(monkeypatch):
    some = region.Region(1000, None)
    real, begun, inner = region.aligned, [], []

    def handled(size):
        offset = real(size)
        if len(begun) < 3:
            begun.append(None)
            inner.append(some.reserve(10))
        return offset

    monkeypatch.setattr(region, "aligned", handled)
    places = [some.reserve(100), *inner, some.reserve(0), some.reserve(30)]
    taken = sorted((each.offset, each.offset + each.byte_size) for each in places if each.byte_size)
    assert len(taken) == 5
    assert all(end <= start for (_, end), (start, _) in pairwise(taken))
    some.reset()
    assert some.reserve(1000).offset == 0
    perform_steps(some._close(), Triton().respond)
