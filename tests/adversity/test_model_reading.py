"""Many first calls of one model at once: one of them reads it, and the others wait for that."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tritonhttp import DeadlineExceeded, ServerError

from ..clients import wait_until
from ..framing import answer

CALLS = 24
METADATA = {
    "name": "m",
    "versions": ["1"],
    "platform": "p",
    "inputs": [{"name": "X", "datatype": "FP32", "shape": [1]}],
    "outputs": [{"name": "Y", "datatype": "FP32", "shape": [1]}],
}
OUTPUT = {"name": "Y", "datatype": "FP32", "shape": [1], "data": [1]}
PATHS = {
    "/v2": {"name": "s", "version": "0", "extensions": []},
    "/v2/models/m": METADATA,
    "/v2/models/m/config": {"max_batch_size": 0},
    "/v2/models/m/infer": {"model_name": "m", "model_version": "1", "outputs": [OUTPUT]},
}


class Reading:
    """Answers for one model; the first reading waits until all calls are there."""

    def __init__(self):
        self.refusals = []
        self.go_on = threading.Event()
        self.paths = []

    def __call__(self, peer):
        while head := peer.read_head():
            peer.read_body(head)
            path = head.split()[1].decode()
            self.paths.append(path)
            if path == "/v2/models/m":
                assert self.go_on.wait(10)
                if self.refusals and (refusal := self.refusals.pop(0)):
                    peer.send(answer({"error": "refused"}, refusal))
                    continue
            peer.send(answer(json.dumps(PATHS[path]).encode()))

    def count(self, path):
        return self.paths.count(path)


@pytest.fixture
def reading(serve):
    reading = Reading()
    reading.url = serve(*[reading] * (2 * CALLS)).url
    yield reading
    reading.go_on.set()


def calls(client, reading, call):
    """Make many calls at once, while the first of them reads the model."""
    with ThreadPoolExecutor(CALLS) as threads:
        started = [threads.submit(call, number) for number in range(CALLS)]
        wait_until(lambda: reading.count("/v2/models/m") > 0)
        time.sleep(0.1)  # the others come too
        reading.go_on.set()
        return [each.exception(20) or each.result() for each in started]


def test_a_stampede_reads_the_model_once(reading, open_client):
    client = open_client(reading.url, concurrency=CALLS)
    found = calls(client, reading, lambda _: client.model("m")(X=[1])["Y"].tolist())
    assert found == [[1]] * CALLS
    assert [reading.count(path) for path in PATHS] == [1, 1, 1, CALLS]


def test_a_reading_that_fails_fails_for_all_that_wait(reading, open_client):
    client = open_client(reading.url, concurrency=CALLS)
    reading.refusals += ["503 Service Unavailable"]
    found = calls(client, reading, lambda _: client.model("m")(X=[1]))
    assert {(type(error), error.status()) for error in found} == {(ServerError, "503")}
    assert len({*map(id, found)}) == CALLS, "each call has an error of its own"
    assert reading.count("/v2/models/m") == 1
    assert client.model("m")(X=[1])["Y"].tolist() == [1]


def test_another_calls_credentials_and_time_are_its_own(reading, open_client):
    client = open_client(reading.url, concurrency=CALLS)
    reading.refusals += ["401 Unauthorized"]
    found = calls(client, reading, lambda _: client.model("m")(X=[1])["Y"].tolist())
    assert sorted(isinstance(each, ServerError) for each in found) == [False] * (CALLS - 1) + [True]
    assert reading.count("/v2/models/m") == 2


def test_a_call_waits_for_another_ones_reading_no_longer_than_its_deadline(reading, open_client):
    client = open_client(reading.url, concurrency=2)
    first = threading.Thread(target=lambda: client.model("m")(X=[1]))
    first.start()
    wait_until(lambda: reading.count("/v2/models/m") > 0)
    with pytest.raises(DeadlineExceeded, match="while waiting for another call that reads the model"):
        client.model("m")(X=[1], deadline=0.1)
    reading.go_on.set()
    first.join()
    assert reading.count("/v2/models/m") == 1


def test_a_reader_that_runs_out_of_time_leaves_it_to_the_next(reading, open_client):
    client = open_client(reading.url, concurrency=2)
    found = []
    second = threading.Thread(target=lambda: found.append(client.model("m")(X=[1])["Y"].tolist()))
    started = time.monotonic()

    def follow():
        wait_until(lambda: reading.count("/v2/models/m") > 0)
        second.start()

    threading.Thread(target=follow).start()
    with pytest.raises(DeadlineExceeded):
        client.model("m")(X=[1], deadline=0.3)
    assert time.monotonic() - started < 5
    reading.go_on.set()
    second.join()
    assert found == [[1]]


def test_a_refresh_reads_what_changed_before_it(reading, open_client):
    client = open_client(reading.url, concurrency=CALLS)
    reading.go_on.set()
    model = client.model("m")
    model.refresh()
    model.refresh()
    assert reading.count("/v2/models/m") == 2
