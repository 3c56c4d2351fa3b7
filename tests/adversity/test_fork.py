"""A process that forks while other threads are in calls: the child's calls are its own, the parent's go on."""

import os
import threading
import time
import traceback
import warnings

import pytest

from ..clients import wait_until
from .conftest import infer_large, metadata
from .faults import identity, trusting
from .servers import HEALTHY, answer, healthy, over_tls

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def status_of_child(work, seconds=20):
    """Return the exit status of a forked child that did the work; one that hangs is killed."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of a fork beside threads: that is what is tested
        pid = os.fork()
    if not pid:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "hangs"


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("phase", ["send", "receive"])
def test_a_fork_while_another_thread_is_in_a_call(serve, open_client, call, phase, encrypted):
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

    def in_child():
        for _ in range(2):
            assert call(client, deadline=5) == HEALTHY

    try:
        assert status_of_child(in_child) == 0
        assert not results
        assert server.connections == 2
    finally:
        go_on.set()
        for caller in callers:
            caller.join()
    assert results == [HEALTHY, HEALTHY]
    assert call(client, deadline=5) == HEALTHY
    assert server.connections == 2  # the child left the parent's connection alone
