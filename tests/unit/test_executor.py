"""The threads of `async_infer`: few, in order, and never in the way of an exit, a fork or a dropped client."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import math
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

from tritonhttp import InferResult
from tritonhttp._clients.blocking.async_request import InferAsyncRequest, Pending
from tritonhttp._clients.blocking.executor import Executor
from tritonhttp.errors import InferenceServerException, InvalidRequest, RequestCancelled

from ..clients import wait_until


def submit(executor: Executor, task: Callable[[], object]) -> None:
    executor.accept(task)  # type: ignore[arg-type]
    executor.put(task)  # type: ignore[arg-type]
    executor.hire()


def pending_of(task: Callable[[], object]) -> Pending:
    return Pending(task, None, lambda pending: AssertionError())  # type: ignore[arg-type]


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
        submit(executor, lambda number=number: work(number))  # type: ignore[misc]
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
        submit(executor, lambda: names.put(threading.current_thread().name))
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
    submit(executor, go_on.wait)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        submit(executor, lambda: done.put(1))
        go_on.set()
        assert done.get(timeout=10) == 1
        alone = Executor(2)
        pending = pending_of(lambda: done.put(2))
        with pytest.raises(InferenceServerException, match=r"needs a thread, .*can't start new thread"):
            submit(alone, pending.run)
        assert pending.withdraw()
    submit(alone, lambda: done.put(3))
    assert done.get(timeout=10) == 3
    alone.shutdown(wait=True)


def test_a_shutdown_waits_for_all_tasks_and_refuses_more() -> None:
    executor = Executor(1)
    begin, done = threading.Event(), []
    submit(executor, lambda: done.append(begin.wait(10)))
    submit(executor, lambda: done.append(True))
    executor.shutdown(wait=False)
    begin.set()
    executor.shutdown(wait=True)
    assert done == [True, True]
    with pytest.raises(InferenceServerException, match="closed"):
        submit(executor, lambda: None)


@pytest.mark.parametrize("count", [1, 3])
def test_a_shutdown_ends_all_threads(count: int) -> None:
    executor, barrier = Executor(count), threading.Barrier(count + 1)
    for _ in range(count):
        submit(executor, lambda: barrier.wait(10))
    barrier.wait(10)
    assert len(executor._threads) == count
    ends = [threading.Thread(target=executor.shutdown, kwargs={"wait": True}) for _ in range(3)]
    for thread in ends:
        thread.start()
    for thread in ends:
        thread.join(10)
    assert not any(thread.is_alive() for thread in (*ends, *executor._threads))
    executor.shutdown(wait=True)
    executor.hire()
    assert len(executor._threads) == count, "a closed executor starts no thread"


def test_a_shutdown_before_any_task() -> None:
    executor = Executor(2)
    executor.shutdown(wait=True)
    with pytest.raises(InferenceServerException, match="closed"):
        executor.accept(lambda: None)
    assert not executor._threads


@contextlib.contextmanager
def starting_slowly(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Keep threads of the executor from starting; give what tells that one begins to, and what lets it."""
    begun, go_on = threading.Event(), threading.Event()
    start = threading.Thread.start

    def slowly(thread: threading.Thread) -> None:
        if thread.name.startswith("tritonhttp_"):
            begun.set()
            assert go_on.wait(10)
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", slowly)
        try:
            yield begun, go_on
        finally:
            go_on.set()


def test_a_thread_that_is_being_started_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    executor, done = Executor(1), SimpleQueue[int]()
    with starting_slowly(monkeypatch) as (begun, go_on):
        executor.put(lambda: done.put(1))
        hiring = threading.Thread(target=executor.hire)
        hiring.start()
        assert begun.wait(10)
        submit(executor, lambda: done.put(2))  # does not wait for the other
        assert done.empty()
        go_on.set()
        hiring.join(10)
    assert [done.get(timeout=10), done.get(timeout=10)] == [1, 2]
    assert len(executor._threads) == 1
    assert not executor._starting
    executor.shutdown(wait=True)


def test_two_threads_are_started_at_once(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    barrier = threading.Barrier(3)
    with starting_slowly(monkeypatch) as (begun, go_on):
        executor.put(lambda: barrier.wait(10))  # type: ignore[arg-type, return-value]
        hiring = threading.Thread(target=executor.hire)
        hiring.start()
        assert begun.wait(10)
        go_on.set()
        submit(executor, lambda: barrier.wait(10))
        hiring.join(10)
    barrier.wait(10)
    assert {thread.name for thread in executor._threads} == {"tritonhttp_0", "tritonhttp_1"}


def test_a_task_without_a_thread_is_run_by_the_next_thread(executor: Executor) -> None:
    """An interrupt came between the two."""
    done = SimpleQueue[int]()
    executor.put(lambda: done.put(1))
    submit(executor, lambda: done.put(2))
    assert [done.get(timeout=10), done.get(timeout=10)] == [1, 2]


def test_a_withdrawn_task_holds_nothing_up(executor: Executor) -> None:
    done = SimpleQueue[int]()
    pending = pending_of(lambda: done.put(1))
    executor.put(pending.run)
    assert pending.withdraw()
    submit(executor, lambda: done.put(2))
    assert done.get(timeout=10) == 2
    assert done.empty()
    assert not pending.ready()


def test_an_interrupt_while_a_thread_starts_leaves_the_executor_in_order(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    done = SimpleQueue[int]()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(KeyboardInterrupt):
            submit(executor, lambda: done.put(1))
    assert not executor._starting
    assert executor._lock.acquire(blocking=False)
    executor._lock.release()
    submit(executor, lambda: done.put(2))
    assert [done.get(timeout=10), done.get(timeout=10)] == [1, 2]


def test_a_thread_that_started_counts_though_an_interrupt_came(monkeypatch: pytest.MonkeyPatch) -> None:
    executor, start = Executor(1), threading.Thread.start
    begun, go_on, done = threading.Event(), threading.Event(), SimpleQueue[int]()

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    def work() -> None:
        begun.set()
        go_on.wait(10)
        done.put(1)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            submit(executor, work)
    assert begun.wait(10)
    submit(executor, lambda: done.put(2))
    assert len(executor._threads) == 1
    threading.Timer(0.05, go_on.set).start()
    executor.shutdown(wait=True)
    assert [done.get(block=False), done.get(block=False)] == [1, 2]


@pytest.mark.parametrize("point", range(3))
def test_a_signal_handler_may_use_the_executor(executor: Executor, point: int) -> None:
    """On the thread that holds its lock."""
    done = SimpleQueue[int]()
    with executor._lock:
        if point == 0:
            submit(executor, lambda: done.put(1))
        executor.put(lambda: done.put(2))
        if point == 1:
            executor.hire()
    if point != 1:
        executor.hire()
    assert done.get(timeout=10) == (1 if point == 0 else 2)
    if point == 2:
        with executor._lock:
            executor.shutdown(wait=True)


def test_a_submission_without_a_thread_withdraws_no_task_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    executor, go_on, done = Executor(2), threading.Event(), SimpleQueue[int]()
    submit(executor, lambda: go_on.wait(10))

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pending = pending_of(lambda: done.put(1))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        executor.put(pending.run)
        executor.hire()
    assert not executor._starting
    go_on.set()
    assert done.get(timeout=10) == 1
    assert not pending.withdraw()
    executor.shutdown(wait=True)


def test_a_task_is_carried_out_or_withdrawn_but_never_both() -> None:
    """Whichever comes first decides; withdrawing again gives the same answer."""
    found = set()
    for turn in range(300):
        ran: list[int] = []
        pending = pending_of(lambda ran=ran: ran.append(1))
        barrier = threading.Barrier(2)

        def run(pending: Pending = pending, barrier: threading.Barrier = barrier, turn: int = turn) -> None:
            barrier.wait(10)
            for _ in range(turn % 7):
                pass
            pending.run()
            pending.run()

        thread = threading.Thread(target=run)
        thread.start()
        barrier.wait(10)
        withdrawn = pending.withdraw()
        thread.join(10)
        assert pending.withdraw() is withdrawn
        assert ran == ([] if withdrawn else [1])
        assert pending.ready() is not withdrawn
        found.add(withdrawn)
    assert found


@pytest.mark.parametrize("withdrawn", [False, True])
def test_a_task_is_run_or_withdrawn_by_whoever_comes_first(withdrawn: bool) -> None:
    ran: list[int] = []
    pending = pending_of(lambda: ran.append(1))
    if withdrawn:
        assert pending.withdraw()
    pending.run()
    assert [pending.withdraw(), pending.withdraw()] == [withdrawn] * 2
    pending.run()
    assert ran == ([] if withdrawn else [1])


def test_a_task_that_is_in_the_queue_twice_runs_once() -> None:
    """As where a signal handler is served in the middle of the serving of its sequence."""
    executor, go_on, ran = Executor(2), threading.Event(), list[int]()

    def work() -> None:
        ran.append(1)
        go_on.wait(10)

    pending, done = pending_of(work), SimpleQueue[int]()
    for _ in range(2):
        submit(executor, pending.run)
    submit(executor, lambda: done.put(1))
    assert done.get(timeout=10) == 1, "the other thread has passed it over"
    assert ran == [1]
    go_on.set()
    executor.shutdown(wait=True)
    assert ran == [1]


def test_an_idle_thread_keeps_no_task_alive(executor: Executor) -> None:
    class Held:
        pass

    held, done = Held(), threading.Event()
    gone = weakref.ref(held)
    submit(executor, lambda held=held: done.set())  # type: ignore[misc]
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
        pending = pending_of(fail)
        pending.run()
        gone = weakref.ref(pending)
        for _ in range(2):
            with pytest.raises(ValueError, match="as asked"):
                pending.get()
        del pending
        assert gone() is None
    finally:
        gc.enable()


def test_a_result_wakes_all_waiters_and_later_ones_do_not_wait() -> None:
    begin = threading.Event()
    pending = pending_of(lambda: begin.wait(10))
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
def test_done_works_on_a_greenlet(ready: bool) -> None:
    class Greenlet:
        def ready(self) -> bool:
            return ready

    assert InferAsyncRequest(Greenlet()).done() is ready


RESULT = InferResult.from_response_body(b'{"outputs":[]}')


def test_the_first_outcome_counts_and_whoever_ends_a_task_tells() -> None:
    """A task that is cancelled while it runs has ended, and what it gives afterwards is dropped."""
    begun, go_on, stopped = threading.Event(), threading.Event(), list[Pending]()

    def work() -> Any:
        begun.set()
        go_on.wait(10)
        return "late"

    pending = Pending(work, stop=stopped.append)
    handle, told = InferAsyncRequest(pending), list[object]()
    handle.add_done_callback(told.append)
    assert (handle._state, handle.running()) == ("PENDING", False)
    thread = threading.Thread(target=pending.run)
    thread.start()
    assert begun.wait(10)
    assert (handle._state, handle.running()) == ("RUNNING", True)
    assert repr(handle).endswith(": running>")
    assert handle.cancel()
    assert stopped == [pending]
    assert told == [handle]
    go_on.set()
    thread.join()
    assert (handle._state, handle.cancelled(), told) == ("CANCELLED_AND_NOTIFIED", True, [handle])
    with pytest.raises(RequestCancelled):
        handle.get_result()
    assert pending._outcomes[1:] == []


def test_a_task_ends_with_its_result_or_is_cancelled_but_never_both() -> None:
    """Each callback and each waiter is told once, whoever comes first."""
    found = set()
    for turn in range(300):
        pending = pending_of(lambda: "result")
        handle, told, barrier = InferAsyncRequest(pending), list[object](), threading.Barrier(3)

        def run(pending: Pending = pending, barrier: threading.Barrier = barrier, turn: int = turn) -> None:
            barrier.wait(10)
            for _ in range(turn % 50):
                pass
            pending.run()

        def listen(
            handle: InferAsyncRequest = handle,
            barrier: threading.Barrier = barrier,
            told: list[object] = told,
        ) -> None:
            barrier.wait(10)
            for _ in range(3):
                handle.add_done_callback(told.append)
            assert concurrent.futures.wait([handle], 10).done == {handle}
            assert list(concurrent.futures.as_completed([handle], 10)) == [handle]

        threads = [threading.Thread(target=run), threading.Thread(target=listen)]
        for thread in threads:
            thread.start()
        barrier.wait(10)
        cancelled = handle.cancel()
        for thread in threads:
            thread.join(10)
        assert handle.cancelled() is cancelled
        assert told == [handle] * 3
        if not cancelled:
            assert pending.get() == "result"  # type: ignore[comparison-overlap]
        found.add(cancelled)
    assert found


@pytest.mark.parametrize("outcome", ["result", "error", "cancelled"])
def test_a_future_that_concurrent_futures_and_asyncio_understand(outcome: str) -> None:
    error = ValueError("as asked")

    def work() -> Any:
        if outcome == "error":
            raise error
        return RESULT

    async def awaited(handle: InferAsyncRequest) -> Any:
        return await asyncio.wrap_future(handle)

    pending = Pending(work)
    handle = InferAsyncRequest(pending)
    if outcome == "cancelled":
        assert handle.cancel()
    pending.run()
    assert concurrent.futures.wait([handle], 0).done == {handle}
    if outcome == "result":
        assert (handle._state, handle._result, handle._exception) == ("FINISHED", RESULT, None)
        assert asyncio.run(awaited(handle)) is RESULT
    elif outcome == "error":
        assert (handle._state, handle._result, handle._exception) == ("FINISHED", None, error)
        assert handle.exception() is error
        assert repr(handle).endswith(": failed with ValueError>")
        with pytest.raises(ValueError, match="as asked"):
            asyncio.run(awaited(handle))
    else:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(awaited(handle))


def test_a_handle_of_another_library_is_no_future_and_says_so() -> None:
    class Greenlet:
        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            raise ValueError("as asked")

        def ready(self) -> bool:
            return False

    handle = InferAsyncRequest(Greenlet())
    assert (handle.cancel(), handle.cancelled(), handle.running(), handle.done()) == (
        False,
        False,
        True,
        False,
    )
    assert isinstance(handle.exception(), ValueError)
    waits: list[Callable[[], object]] = [
        lambda: handle.add_done_callback(lambda ended: None),
        lambda: concurrent.futures.wait([handle]),
    ]
    for use in waits:
        with pytest.raises(InvalidRequest, match=r"made of a .*Greenlet"):
            use()
    with pytest.raises(AttributeError, match="'nothing'"):
        handle.nothing  # noqa: B018


EXIT = """
import time
from tritonhttp._clients.blocking.executor import Executor
executor, idle = Executor(1), Executor(2)
def submit(executor, task):
    executor.accept(task)
    executor.put(task)
    executor.hire()
submit(idle, lambda: None)
submit(executor, lambda: (time.sleep(0.3), print("first", flush=True)))
submit(executor, lambda: print("second", flush=True))
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
    # A child that waited for them would never end.
    assert (sorted(ran.stdout.split()), ran.returncode) == (["3", "exit", "first", "second"], 0)


@pytest.mark.parametrize("what", ["accept", "submit", "put", "drop", "shutdown"])
def test_tasks_come_and_go_while_an_interrupted_thread_holds_the_lock(executor: Executor, what: str) -> None:
    """The handler that interrupted it may wait for the lock under which they come."""
    options = {"wait": False} if what == "shutdown" else {}
    arguments: tuple[Any, ...] = () if what == "shutdown" else (lambda: None,)
    thread = threading.Thread(target=getattr(executor, what), args=arguments, kwargs=options, daemon=True)
    with executor._lock:
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
    if what == "accept":
        executor.drop(arguments[0])


def test_a_task_accepted_during_a_shutdown_is_run_or_refused() -> None:
    for _ in range(300):
        executor = Executor(1)
        ran: list[int] = []
        task = partial(ran.append, 1)
        go = threading.Barrier(2)

        def close(executor: Executor = executor, go: threading.Barrier = go) -> None:
            go.wait(10)
            executor.shutdown(wait=True)

        closing = threading.Thread(target=close, daemon=True)
        closing.start()
        go.wait(10)
        try:
            executor.accept(task)
        except InferenceServerException:
            accepted = False
        else:
            accepted = True
            executor.put(task)
            executor.hire()
        closing.join(10)
        assert not closing.is_alive()
        wait_until(lambda: len(ran) == accepted)  # noqa: B023


def test_the_threads_of_a_dropped_executor_end_after_its_tasks() -> None:
    """A signal handler may make an executor while the one that it interrupted is being made."""
    executor = Executor(2)
    go_on, ran = threading.Event(), []
    for number in range(3):
        submit(executor, lambda number=number: (go_on.wait(10), ran.append(number)))  # type: ignore[misc]
    running = executor._threads
    wait_until(lambda: len(running) == 2)
    threads = list(running)
    del executor
    gc.collect()
    go_on.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert sorted(ran) == [0, 1, 2]
