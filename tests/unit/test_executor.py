"""The threads of `async_infer`: few, in order, and never in the way of an exit, a fork or a dropped client."""

from __future__ import annotations

import gc
import math
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from fractions import Fraction
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

from tritonhttp.async_request import InferAsyncRequest, Pending
from tritonhttp.errors import InferenceServerException, InvalidRequest
from tritonhttp.executor import Executor


@pytest.fixture
def executor() -> Iterator[Executor]:
    executor = Executor(2)
    yield executor
    executor.shutdown(wait=True)


def test_tasks_begin_in_order_and_no_more_than_the_limit_at_a_time(executor: Executor) -> None:
    begun: SimpleQueue[int] = SimpleQueue()
    go_on = [threading.Event() for _ in range(5)]

    def work(number: int) -> None:
        begun.put(number)
        go_on[number].wait(10)

    for number in range(5):
        executor.submit(lambda number=number: work(number))  # type: ignore[misc]
    assert {begun.get(timeout=10), begun.get(timeout=10)} == {0, 1}
    for ended, next_one in [(1, 2), (0, 3), (2, 4)]:
        assert begun.empty()
        go_on[ended].set()
        assert begun.get(timeout=10) == next_one
    for event in go_on:
        event.set()


def test_a_thread_that_is_free_is_used_again() -> None:
    executor = Executor(8)
    names: SimpleQueue[str] = SimpleQueue()
    for _ in range(20):
        executor.submit(lambda: names.put(threading.current_thread().name))
        name = names.get(timeout=10)
        while not executor._free:
            pass  # the thread has still to say that it is free
        assert name == "tritonhttp_0"
    executor.shutdown(wait=True)


def test_without_a_further_thread_those_that_there_are_go_on(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    go_on, done = threading.Event(), SimpleQueue[int]()
    executor.submit(go_on.wait)  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        executor.submit(lambda: done.put(1))
        go_on.set()
        assert done.get(timeout=10) == 1
        alone = Executor(2)
        with pytest.raises(InferenceServerException, match=r"needs a thread, .*can't start new thread"):
            alone.submit(lambda: done.put(2))
    alone.submit(lambda: done.put(3))
    assert done.get(timeout=10) == 3
    alone.shutdown(wait=True)


def test_a_shutdown_waits_for_all_tasks_and_refuses_more() -> None:
    executor = Executor(1)
    begin, done = threading.Event(), []
    executor.submit(lambda: done.append(begin.wait(10)))
    executor.submit(lambda: done.append(True))
    executor.shutdown(wait=False)
    begin.set()
    executor.shutdown(wait=True)
    assert done == [True, True]
    with pytest.raises(InferenceServerException, match="closed"):
        executor.submit(lambda: None)


def test_an_idle_thread_keeps_no_task_alive(executor: Executor) -> None:
    class Held:
        pass

    held, done = Held(), threading.Event()
    gone = weakref.ref(held)
    executor.submit(lambda held=held: done.set())  # type: ignore[misc]
    del held
    assert done.wait(10)
    while not executor._free:
        pass
    assert gone() is None


def test_an_error_keeps_nothing_alive_but_itself() -> None:
    def fail() -> None:
        raise ValueError("as asked")

    gc.disable()
    try:
        pending = Pending(fail)  # type: ignore[arg-type]
        pending.run()
        gone = weakref.ref(pending)
        for _ in range(2):
            with pytest.raises(ValueError, match="as asked"):
                pending.get()
        del pending
        assert gone() is None
    finally:
        gc.enable()


def test_a_result_is_there_for_all_who_wait_and_at_once_behind_that() -> None:
    begin = threading.Event()
    pending = Pending(lambda: begin.wait(10))  # type: ignore[arg-type, return-value]
    with pytest.raises(InferenceServerException, match="failed to obtain"):
        InferAsyncRequest(pending).get_result(block=False)
    limit: Any
    for limit in (0.01, np.float32(0.01), Fraction(1, 100), -1):
        with pytest.raises(InferenceServerException, match="failed to obtain"):
            InferAsyncRequest(pending).get_result(timeout=limit)
    for limit in (True, "1", math.nan):
        with pytest.raises(InvalidRequest, match="timeout must be a number of seconds"):
            InferAsyncRequest(pending).get_result(timeout=limit)
    assert InferAsyncRequest(pending).done() is False
    found: SimpleQueue[object] = SimpleQueue()
    threads = [threading.Thread(target=lambda: found.put(pending.get(timeout=1e300))) for _ in range(4)]
    threads.append(threading.Thread(target=pending.run))
    for thread in threads:
        thread.start()
    begin.set()
    for thread in threads:
        thread.join()
    assert [found.get(timeout=10) for _ in range(4)] == [True] * 4
    assert pending.get(block=False) is True  # type: ignore[comparison-overlap]
    assert InferAsyncRequest(pending).done() is True


@pytest.mark.parametrize("ready", [False, True])
def test_done_asks_a_greenlet_whether_it_is_ready(ready: bool) -> None:
    class Greenlet:
        def ready(self) -> bool:
            return ready

    assert InferAsyncRequest(Greenlet()).done() is ready


EXIT = """
import time
from tritonhttp.executor import Executor
executor, idle = Executor(1), Executor(2)
idle.submit(lambda: None)
executor.submit(lambda: (time.sleep(0.3), print("first", flush=True)))
executor.submit(lambda: print("second", flush=True))
print("exit", flush=True)
"""


def test_the_interpreters_exit_waits_for_tasks_but_for_no_idle_thread() -> None:
    ran = subprocess.run([sys.executable, "-c", EXIT], capture_output=True, text=True, timeout=20)
    assert (ran.stdout.split(), ran.stderr, ran.returncode) == (["exit", "first", "second"], "", 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_the_exit_of_a_forked_child_waits_for_none_of_the_parents_threads() -> None:
    program = (
        f"import os, sys\n{EXIT}\nif os.fork() == 0: sys.exit(3)\nprint(os.wait()[1] >> 8, flush=True)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=20
    )
    assert (ran.stdout.split(), ran.returncode) == (["exit", "3", "first", "second"], 0)
