"""A process that forks while other threads are in calls: the child's calls are its own, the parent's go on."""

import threading
import time

import pytest

from ..clients import wait_until
from ..processes import exit_status, in_child, needs_fork
from .conftest import infer_large, metadata
from .faults import identity, trusting
from .servers import HEALTHY, answer, healthy, over_tls

pytestmark = needs_fork


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("phase", ["send", "receive"])
def test_a_child_forked_while_a_thread_is_in_a_call_makes_its_own_calls(
    serve, open_client, call, phase, encrypted
):
    go_on = threading.Event()

    def slow(peer):
        head = peer.read_head()
        if phase == "receive":
            peer.read_body(head)
        go_on.wait(20)
        if phase == "send":
            peer.read_body(head)
        peer.send(answer(HEALTHY))
        healthy(peer)

    scripts = [over_tls(identity(), script) if encrypted else script for script in (slow, healthy)]
    server = serve(*scripts, scripts[1])
    options = {"ssl": True, "ssl_context_factory": trusting} if encrypted else {}
    # The second caller waits in line for the only connection.
    client = open_client(server.url, **options)
    results = []
    callers = [
        threading.Thread(target=lambda: results.append(infer_large(client, deadline=20))),
        threading.Thread(target=lambda: results.append(metadata(client, deadline=20))),
    ]
    callers[0].start()
    wait_until(lambda: server.requests)
    callers[1].start()
    time.sleep(0.05)

    def in_the_child():
        for _ in range(2):
            assert call(client, deadline=5) == HEALTHY

    try:
        assert exit_status(in_child(in_the_child)) == 0
        assert not results
        assert server.connections == 2
    finally:
        go_on.set()
        for caller in callers:
            caller.join()
    assert results == [HEALTHY, HEALTHY]
    assert call(client, deadline=5) == HEALTHY
    assert server.connections == 2  # the child left the parent's connection alone
