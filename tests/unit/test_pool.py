"""Which connection carries the next request: decided without a socket."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tritonhttp.transport.pool import OPEN, WAIT, Pool


def test_places_are_opened_up_to_the_limit() -> None:
    pool: Pool[str, str] = Pool(2)
    assert [pool.take(), pool.take(), pool.take()] == [OPEN, OPEN, WAIT]
    assert pool.taken == 2


def test_the_connection_used_last_comes_first() -> None:
    pool: Pool[str, str] = Pool(2)
    pool.take(), pool.take()
    assert pool.give_back("a") is None
    assert pool.give_back("b") is None
    assert [pool.take(), pool.take(), pool.take()] == ["b", "a", WAIT]


def test_the_connection_idle_longest_is_dropped_first() -> None:
    pool: Pool[str, str] = Pool(2)
    pool.take(), pool.take()
    pool.give_back("a"), pool.give_back("b")
    assert pool.drop_oldest() == "a"
    assert [pool.take(), pool.take(), pool.take()] == ["b", OPEN, WAIT]


def test_a_spent_connection_frees_its_place() -> None:
    pool: Pool[str, str] = Pool(1)
    pool.take()
    assert pool.give_back(None) is None
    assert pool.taken == 0
    assert pool.take() is OPEN


def test_who_waits_first_is_served_first() -> None:
    pool: Pool[str, str] = Pool(1)
    pool.take()
    for waiter in ("first", "second", "third"):
        assert pool.take() is WAIT
        pool.wait(waiter)
    assert pool.give_back("a") == "first"
    assert pool.give_back(None) == "second", "a place without a connection is a place"
    assert pool.give_back("b") == "third"
    assert pool.give_back("b") is None
    assert pool.idle == ["b"]
    assert pool.taken == 1


def test_nothing_is_kept_from_who_waits() -> None:
    pool: Pool[str, str] = Pool(1)
    pool.take()
    pool.wait("first")
    assert not pool.keep("a")
    assert pool.give_back("a") == "first"
    assert pool.keep("a")
    assert pool.idle == ["a"]


def test_who_leaves_is_not_served() -> None:
    pool: Pool[str, str] = Pool(1)
    pool.take()
    pool.wait("first")
    pool.wait("second")
    assert pool.leave("first")
    assert not pool.leave("first")
    assert pool.give_back("a") == "second"
    assert not pool.leave("second"), "it has the place by now, and must give it back"


def test_closing_returns_what_is_idle_and_who_waits() -> None:
    pool: Pool[str, str] = Pool(3)
    for _ in range(3):
        pool.take()
    pool.give_back("a")
    pool.give_back("b")
    pool.take(), pool.take()
    pool.wait("first")
    pool.wait("second")
    assert pool.give_back("a") == "first"
    pool.leave("second")
    pool.wait("third")
    assert pool.close() == ([], ["third"])
    assert pool.closed
    assert pool.close() == ([], [])


def test_behind_a_close_no_connection_stays() -> None:
    pool: Pool[str, str] = Pool(2)
    pool.take(), pool.take()
    pool.give_back("a")
    assert pool.close() == (["a"], [])
    assert pool.taken == 1
    assert pool.give_back("b") is None
    assert (pool.idle, pool.taken) == ([], 0)


@pytest.mark.parametrize(("signal", "name"), [(OPEN, "OPEN"), (WAIT, "WAIT")])
def test_signals_show_their_names(signal: object, name: str) -> None:
    assert repr(signal) == name


class Books(RuleBasedStateMachine):
    """The pool beside the simplest books that say the same."""

    def __init__(self) -> None:
        super().__init__()
        self.pool: Pool[int, int] = Pool(3)
        self.busy: list[int] = []
        self.idle: list[int] = []
        self.line: deque[int] = deque()
        self.count = 0

    def number(self) -> int:
        self.count += 1
        return self.count

    @precondition(lambda self: not self.pool.closed)
    @rule()
    def take(self) -> None:
        place = self.pool.take()
        if self.idle:
            assert place == self.idle.pop()
            self.busy.append(place)  # type: ignore[arg-type]
        elif len(self.busy) < 3:
            assert place is OPEN
            self.busy.append(self.number())
        else:
            assert place is WAIT
            waiter = self.number()
            self.pool.wait(waiter)
            self.line.append(waiter)

    @precondition(lambda self: self.busy)
    @rule(which=st.integers(0, 2), reusable=st.booleans())
    def give_back(self, which: int, reusable: bool) -> None:
        connection = self.busy.pop(which % len(self.busy))
        waiter = self.pool.give_back(connection if reusable and not self.pool.closed else None)
        if self.line:
            assert waiter == self.line.popleft()
            self.busy.append(connection if reusable else self.number())
        else:
            assert waiter is None
            if reusable and not self.pool.closed:
                self.idle.append(connection)

    @precondition(lambda self: self.line)
    @rule(which=st.integers(0, 5))
    def leave(self, which: int) -> None:
        waiter = self.line[which % len(self.line)]
        assert self.pool.leave(waiter)
        self.line.remove(waiter)

    @rule(waiter=st.integers(-3, 0))
    def leave_without_waiting(self, waiter: int) -> None:
        assert not self.pool.leave(waiter)

    @rule()
    def close(self) -> None:
        assert self.pool.close() == (self.idle, list(self.line))
        self.idle, self.line = [], deque()

    @invariant()
    def the_books_agree(self) -> None:
        assert self.pool.idle == self.idle
        assert self.pool.taken == len(self.busy) + len(self.idle) <= 3
        assert not (self.idle and self.line), "nobody waits beside an idle connection"


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
