"""The order in which calls reach the server: a line as it was made, the requests of a sequence one by one."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any

import numpy as np
import pytest

import tritonhttp.aio
from tritonhttp import (
    ConnectionLost,
    DeadlineExceeded,
    InferenceServerClient,
    InferenceServerClientPlugin,
    Retry,
    ServerError,
)

from ..clients import run_in_threads, tensor, wait_until
from .conftest import stream
from .servers import HEALTHY, answer
from .test_repeating import GOOD

GIVEN = np.array([1.0, 2.0, 3.0], np.float32)
#: A call that takes so long is stuck.
STUCK = 10.0

_holds: list[threading.Event] = []
_tasks: list[Future[Any]] = []


@pytest.fixture(autouse=True)
def _settled(open_client: Any) -> Iterator[None]:
    """End what a test that fails half-way has left under way."""
    yield
    for event in _holds:
        event.set()
    for task in _tasks:
        task.cancel()
    _holds.clear()
    _tasks.clear()


class Line:
    """Answers, and notes in which order requests came.

    The name of an inference is its id, or else its model; that of another request is the end of its path.

    Parameters
    ----------
    pause : float
        Seconds that each answer takes.
    fails : mapping
        What goes wrong, by the request's name: "500" or "close".
    """

    def __init__(self, pause=0.0, fails=None):
        self.arrived = []
        self.pause = pause
        self.fails = fails or {}
        #: The names of requests that came while another one of their sequence was without its answer.
        self.crossed = []
        #: The most requests without an answer at a time.
        self.peak = 0
        #: Requests by these names are not answered before their event is set.
        self.held = {}
        self._under_way = Counter()
        self._lock = threading.Lock()

    def hold(self, *names):
        event = threading.Event()
        _holds.append(event)
        self.held.update(dict.fromkeys(names, event))
        return event

    def __call__(self, peer):
        while (request := self._read(peer)) is not None:
            name, sequence, good = request
            with self._lock:
                self.arrived.append(name)
                if sequence[1] and self._under_way[sequence]:
                    self.crossed.append(name)
                self._under_way[sequence] += 1
                self.peak = max(self.peak, self._under_way.total())
            if name in self.held:
                self.held[name].wait(STUCK)
            time.sleep(self.pause)
            with self._lock:  # before the client can know that it is its next request's turn
                self._under_way[sequence] -= 1
            fault = self.fails.get(name)
            if fault == "close":
                return
            peer.send(answer({"error": "as asked"}, "500 Oops") if fault == "500" else good)

    def _read(self, peer):
        head = peer.read_head()
        body = peer.read_body(head) if head else None
        if body is None:
            return None
        path = head.split()[1].decode().partition("?")[0].split("/")
        if path[-1] != "infer":
            name = path[-2] if path[-1].startswith("generate") else path[-1]
            return name, (path[-1], None), answer(HEALTHY)
        model, asked = path[path.index("models") + 1], {}
        if body.startswith(b"{"):  # and not compressed
            asked, _ = json.JSONDecoder().raw_decode(body.decode("latin-1"))
        sequence = model, asked.get("parameters", {}).get("sequence_id")
        return asked.get("id") or model, sequence, GOOD


def inputs():
    return [tensor("INPUT0", GIVEN)]


def begin(client, model="m", **options):
    """Begin an inference, by `async_infer` or as a task of the event loop; return what waits for its result."""
    if isinstance(client, InferenceServerClient):
        return partial(client.async_infer(model, inputs(), **options).get_result, timeout=STUCK)
    call = client._client.infer(model, inputs(), **options)
    future = asyncio.run_coroutine_threadsafe(call, client._loop)
    _tasks.append(future)

    def result():
        return future.result(STUCK)

    result.cancel = future.cancel
    return result


def finish(results):
    """Wait for results, and check them."""
    for result in results:
        assert result().as_numpy("OUTPUT0").tolist() == GIVEN.tolist()


def ordered(client, names, model="m", sequence="s", **options):
    """Begin the inferences of one sequence, each with its name as its id."""
    return [begin(client, model, request_id=name, sequence_id=sequence, **options) for name in names]


# -- one line


class _Plugin(InferenceServerClientPlugin):
    def __call__(self, request):
        request.headers["X-Plugin"] = "1"


#: Options of a call, and of the client. "learnt": the extension takes the requests over.
WAYS = {
    "plain": ({}, {}),
    "learnt": ({}, {}),
    "headers": ({"headers": {"X-A": "1"}}, {}),
    "query": ({"query_params": {"a": "1"}}, {}),
    "deadline": ({"deadline": STUCK}, {}),
    "compressed": ({"request_compression_algorithm": "gzip"}, {}),
    "retry": ({}, {"retry": Retry()}),
    "hooks": ({}, {"on_request": lambda call: None, "on_response": lambda call: None}),
    "plugin": ({}, {}),
}

#: Calls that may wait behind `async_infer` in the line, by name.
BEHIND = {
    "infer": lambda client, name, **options: client.infer(name, inputs(), **options),
    "live": lambda client, name, **options: client.is_server_live(),
    "metadata": lambda client, name, **options: client.get_model_metadata(name),
    "generate": lambda client, name, **options: client.generate(name, {}),
    "stream": lambda client, name, **options: stream(client),
}


@pytest.mark.parametrize("client_kind", ["blocking"])
@pytest.mark.parametrize("way", WAYS)
def test_later_calls_wait_behind_async_infer(serve, open_client, way):
    line = Line(pause=0.002)
    options, of_client = WAYS[way]
    client = open_client(serve(*[line] * 20).url, **of_client)
    if way == "plugin":
        client.register_plugin(_Plugin())
    rounds = 10
    if way == "learnt":
        for n in range(rounds):
            for name in (f"a{n}", f"b{n}", f"c{n}"):
                finish([lambda name=name: client.infer(name, inputs())] * 3)
        line.arrived.clear()
    results, expected = [], []
    kinds = [*BEHIND, "infer", "infer"]
    for n in range(rounds):
        kind = kinds[n % len(kinds)]
        results += [begin(client, f"a{n}", **options), begin(client, f"b{n}", **options)]
        BEHIND[kind](client, f"c{n}", **options)
        expected += [f"a{n}", f"b{n}", {"live": "live", "stream": "healthy"}.get(kind, f"c{n}")]
    finish(results)
    assert line.arrived == expected


def test_inferences_over_one_connection_arrive_in_order(serve, open_client):
    line = Line()
    client = open_client(serve(*[line] * 20).url, concurrency=1)
    names = [str(n) for n in range(30)]
    finish([begin(client, name) for name in names])
    assert line.arrived == names


@pytest.mark.parametrize("client_kind", ["blocking"])
def test_a_later_call_of_another_thread_waits_its_turn(serve, open_client):
    line = Line()
    go_on = line.hold("0")
    client = open_client(serve(*[line] * 20).url)
    results = [begin(client, str(n)) for n in range(5)]
    found = []
    thread = threading.Thread(target=lambda: found.append(client.infer("5", inputs())))
    thread.start()
    time.sleep(0.1)  # let it come to the line's end
    results.append(begin(client, "6"))
    go_on.set()
    thread.join(STUCK)
    finish([*results, found.pop])
    assert line.arrived == [str(n) for n in range(7)]


@pytest.mark.parametrize("client_kind", ["blocking"])
@pytest.mark.parametrize("concurrency", [1, 4, 16])
def test_two_hundred_inferences_stay_within_concurrency(serve, open_client, concurrency):
    line = Line(pause=0.001)
    server = serve(*[line] * 20)
    client = open_client(server.url, concurrency=concurrency)
    names = [str(n) for n in range(200)]
    finish([begin(client, name) for name in names])
    assert sorted(line.arrived) == sorted(names)
    assert line.peak <= concurrency
    assert server.connections <= concurrency
    if concurrency == 1:
        assert line.arrived == names


@pytest.mark.parametrize("client_kind", ["blocking"])
@pytest.mark.parametrize("sequence", [0, "s"])
def test_fewer_threads_than_connections_keep_the_order(serve, open_client, sequence):
    line = Line(pause=0.002)
    client = open_client(serve(*[line] * 20).url, concurrency=4, max_greenlets=1)
    names = [str(n) for n in range(20)]
    finish(ordered(client, names, sequence=sequence))
    assert line.arrived == names
    assert line.peak == 1
    # The other connections are for the other calls.
    go_on = line.hold("held")
    results = ordered(client, ["held", "behind"], sequence=sequence)
    wait_until(lambda: "held" in line.arrived)
    finish([lambda: client.infer("m", inputs(), deadline=5)])
    assert "behind" not in line.arrived
    go_on.set()
    finish(results)


@pytest.mark.parametrize("client_kind", ["blocking"])
@pytest.mark.parametrize("sequence", [0, "s"])
@pytest.mark.parametrize("limits", [{}, {"concurrency": 4}, {"concurrency": 4, "max_greenlets": 1}], ids=repr)
def test_close_waits_for_what_was_begun(serve, open_client, limits, sequence):
    line = Line(pause=0.005)
    client = open_client(serve(*[line] * 20).url, **limits)
    names = [str(n) for n in range(20)]
    handles = [client.async_infer("m", inputs(), request_id=name, sequence_id=sequence) for name in names]
    client.close()
    assert all(handle.done() for handle in handles)
    finish([handle.get_result for handle in handles])
    assert sorted(line.arrived) == sorted(names)


# -- sequences


@pytest.mark.parametrize("concurrency", [2, 8])
@pytest.mark.parametrize("way", ["plain", "headers", "retry", "hooks"])
def test_a_sequence_goes_out_one_by_one(serve, open_client, way, concurrency):
    line = Line(pause=0.001)
    options, of_client = WAYS[way]
    client = open_client(serve(*[line] * 20).url, concurrency=concurrency, **of_client)
    names = [str(n) for n in range(40)]
    finish(ordered(client, names, **options))
    assert line.arrived == names
    assert line.crossed == []


@pytest.mark.parametrize("client_kind", ["asyncio"])
def test_gathered_tasks_of_a_sequence_go_out_one_by_one(serve):
    line = Line(pause=0.001)
    server = serve(*[line] * 20)
    names = [str(n) for n in range(40)]

    async def run():
        async with tritonhttp.aio.InferenceServerClient(server.url, conn_limit=8) as client:
            await asyncio.gather(
                *(client.infer("m", inputs(), request_id=name, sequence_id=7) for name in names)
            )

    asyncio.run(run())
    assert line.arrived == names
    assert line.crossed == []


@pytest.mark.parametrize("client_kind", ["blocking"])
@pytest.mark.parametrize("concurrency", [1, 2, 8])
def test_infer_waits_its_turn_in_a_sequence_of_async_infer(serve, open_client, concurrency):
    line = Line(pause=0.002)
    client = open_client(serve(*[line] * 20).url, concurrency=concurrency)
    names = [str(n) for n in range(24)]
    results = []
    for n, name in enumerate(names):
        if n % 4 == 3:
            client.infer("m", inputs(), request_id=name, sequence_id="s")
        else:
            results += ordered(client, [name])
    finish(results)
    assert line.arrived == names
    assert line.crossed == []


@pytest.mark.parametrize("several", [False, True], ids=["one server", "two servers"])
def test_sequences_side_by_side_each_keep_their_order(serve, open_client, several):
    lines = [Line(pause=0.002) for _ in range(2)]
    urls = [serve(*[line] * 20).url for line in lines]
    client = open_client(urls if several else urls[0], concurrency=4)
    names = {sequence: [f"{sequence}-{n}" for n in range(15)] for sequence in ("a", "b", "c", "d")}
    results = []
    for n, each in enumerate(zip(*names.values(), strict=True)):
        for name in each:
            ends = {"sequence_start": n == 0, "sequence_end": n == 14}
            results += ordered(client, [name], sequence=name[0], **ends)
    finish(results)
    assert [line.crossed for line in lines] == [[], []]
    for sequence, expected in names.items():
        came = [[name for name in line.arrived if name[0] == sequence] for line in lines]
        assert sorted(came) == [[], expected]


@pytest.mark.parametrize("other", [("m", "other"), ("another", "s"), ("m", 0)], ids=repr)
@pytest.mark.parametrize("way", ["begun", "waited for"])
def test_another_sequence_does_not_wait(serve, open_client, other, way):
    line = Line()
    names = [str(n) for n in range(6)]
    go_on = line.hold(*names)
    client = open_client(serve(*[line] * 20).url, concurrency=2)
    results = ordered(client, names)
    wait_until(lambda: line.arrived)
    model, sequence = other
    options = {"request_id": "beside", "sequence_id": sequence, "deadline": 5}
    try:
        if way == "begun":
            finish([begin(client, model, **options)])
        else:
            client.infer(model, inputs(), **options)
        assert line.arrived == ["0", "beside"]
    finally:
        go_on.set()
    finish(results)
    assert line.arrived == ["0", "beside", *names[1:]]


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("way", ["plain", "hooks"])
def test_a_failed_inference_does_not_hold_up_the_next(serve, open_client, way, concurrency):
    line = Line(fails={"2": "500", "4": "close", "5": "close"})
    go_on = line.hold("7")
    client = open_client(serve(*[line] * 20).url, concurrency=concurrency, **WAYS[way][1])
    names = [str(n) for n in range(10)]
    errors = {"2": ServerError, "4": ConnectionLost, "5": ConnectionLost, "7": DeadlineExceeded}
    results = [
        *ordered(client, names[:7], deadline=STUCK),
        *ordered(client, names[7:8], deadline=1),
        *ordered(client, names[8:], deadline=STUCK),
    ]
    try:
        for name, result in zip(names, results, strict=True):
            if name in errors:
                with pytest.raises(errors[name]):
                    result()
            else:
                finish([result])
    finally:
        go_on.set()
    assert line.arrived == names


@pytest.mark.parametrize("way", ["plain", "headers", "retry", "hooks"])
def test_a_deadline_that_passes_in_the_line_of_a_sequence(serve, open_client, within, way):
    line = Line()
    go_on = line.hold("0")
    options, of_client = WAYS[way]
    client = open_client(serve(*[line] * 20).url, concurrency=3, **of_client)
    first = ordered(client, ["0"], **options)
    wait_until(lambda: line.arrived)
    try:
        with within(0.25):
            (late,) = ordered(client, ["late"], deadline=0.3, **options)
            behind = ordered(client, ["1", "2"], **options)
            with pytest.raises(DeadlineExceeded):
                late()
        with within(0.15), pytest.raises(DeadlineExceeded):
            client.infer("m", inputs(), sequence_id="s", request_id="later", deadline=0.2, **options)
        assert line.arrived == ["0"]
    finally:
        go_on.set()
    finish([*first, *behind, *ordered(client, ["3"], **options)])
    assert line.arrived == ["0", "1", "2", "3"]


@pytest.mark.parametrize("client_kind", ["blocking"])
def test_the_deadline_of_async_infer_passes_in_the_line(serve, open_client, within):
    """Also if the result is never asked for: a call past its deadline is not sent when its turn comes."""
    line = Line()
    go_on = line.hold("0")
    client = open_client(serve(*[line] * 20).url)
    first = begin(client, "0")
    wait_until(lambda: line.arrived)
    with within(0.15):
        late = begin(client, "late", deadline=0.2)
        behind = begin(client, "1")
        with pytest.raises(DeadlineExceeded):
            late()
    go_on.set()
    finish([first, behind])
    assert line.arrived == ["0", "1"]


@pytest.mark.parametrize("client_kind", ["asyncio"])
def test_a_cancelled_task_does_not_hold_up_the_next(serve, open_client):
    line = Line()
    names = [str(n) for n in range(6)]
    go_on = line.hold(*names[:3])
    client = open_client(serve(*[line] * 20).url, concurrency=4)
    results = ordered(client, names)
    wait_until(lambda: line.arrived)
    for position in (1, 4, 0):  # two in the line, and the one that is under way
        results[position].cancel()
    wait_until(lambda: line.arrived == ["0", "2"])
    go_on.set()
    finish(results[position] for position in (2, 3, 5))
    for position in (0, 1, 4):
        with pytest.raises(CancelledError):
            results[position]()
    assert line.arrived == ["0", "2", "3", "5"]


@pytest.mark.parametrize("client_kind", ["blocking"])
@pytest.mark.parametrize(
    "limits", [{"concurrency": 1}, {"concurrency": 4}, {"concurrency": 4, "max_greenlets": 1}], ids=repr
)
def test_threads_that_share_a_sequence_take_turns(serve, open_client, limits):
    line = Line(pause=0.001)
    client = open_client(serve(*[line] * 20).url, **limits)
    results = []

    def work(who):
        for n in range(8):
            if n == 5:
                client.infer("m", inputs(), request_id=f"{who}{n}", sequence_id="s", deadline=STUCK)
            else:
                results.extend(ordered(client, [f"{who}{n}"], deadline=STUCK))

    run_in_threads(work, "abcd")
    finish(results)
    for who in "abcd":
        assert [name for name in line.arrived if name[0] == who] == [f"{who}{n}" for n in range(8)]
    assert line.crossed == []
