"""Which connection carries the next request: decided without a socket."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, ModuleType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tritonhttp._transport import blocking_pool, pool
from tritonhttp._transport.blocking_pool import BlockingPool
from tritonhttp._transport.pool import Place, Pool, release
from tritonhttp.errors import InferenceServerException


class Call:
    """A place, and how often its call was woken."""

    def __init__(self, *, ready: bool = True, served: bool = False) -> None:
        self.place: Place[Any] = Place()
        self.place.served = served
        self.woken = 0
        if ready:
            self.get_ready()

    def get_ready(self) -> None:
        self.place.wake = self.wake

    def wake(self) -> None:
        self.woken += 1


def taken(pool: Pool[Any], *connections: Any) -> list[Place[Any]]:
    """Return places that were taken, each with one of these connections, or without where that is None."""
    places = []
    for connection in connections:
        places.append(place := Place())
        assert pool.take(place)
        place.connection = connection
    return places


def give_back(pool: Pool[Any], *places: Place[Any], reusable: bool = True) -> None:
    for place in places:
        assert pool.give_back(place, reusable=reusable) is None


def joined(pool: Pool[Any], *calls: Call) -> tuple[Call, ...]:
    for call in calls:
        assert not pool.take(call.place)
        pool.join(call.place)
    return calls


def test_places_are_there_up_to_the_limit() -> None:
    pool: Pool[str] = Pool(2)
    places: list[Place[str]] = [Place() for _ in range(3)]
    assert [pool.take(place) for place in places] == [True, True, False]
    assert pool.holders == set(places[:2])
    assert [place.connection for place in places] == [None] * 3


def test_the_connection_used_last_comes_first() -> None:
    pool: Pool[str] = Pool(2)
    give_back(pool, *taken(pool, "a", "b"))
    assert pool.idle == ["a", "b"]
    places: list[Place[str]] = [Place() for _ in range(3)]
    assert [pool.take(place) for place in places] == [True, True, False]
    assert [place.connection for place in places] == ["b", "a", None]


@pytest.mark.parametrize(("now", "dropped"), [(1.0, None), (2.0, "a"), (9.0, "a")])
def test_the_connection_idle_longest_is_dropped_when_its_time_is_over(
    now: float, dropped: str | None
) -> None:
    class Connection(str):
        expires = 2.0

    pool: Pool[Any] = Pool(2)
    assert pool.drop_expired(now) is None
    give_back(pool, *taken(pool, Connection("a"), Connection("b")))
    assert pool.drop_expired(now) == dropped
    assert pool.idle == (["a", "b"] if dropped is None else ["b"])


def test_a_spent_connection_frees_its_place() -> None:
    pool: Pool[str] = Pool(1)
    (place,) = taken(pool, "a")
    assert pool.give_back(place, reusable=False) == "a"
    assert place.connection is None
    assert pool.holders == set()
    assert pool.take(place)
    assert place.connection is None


def test_a_place_without_a_connection_frees_its_place() -> None:
    pool: Pool[str] = Pool(1)
    (place,) = taken(pool, None)
    assert pool.give_back(place, reusable=True) is None
    assert (pool.idle, pool.holders) == ([], set())


def test_a_place_is_given_back_once() -> None:
    pool: Pool[str] = Pool(2)
    first, second = taken(pool, "a", "b")
    for _ in range(3):
        give_back(pool, first)
    assert pool.idle == ["a"]
    assert pool.holders == {second}
    assert (pool.ended, pool.begun) == (1, 2)


def test_a_call_that_waits_first_is_served_first() -> None:
    pool: Pool[str] = Pool(1)
    (place,) = taken(pool, "a")
    calls = joined(pool, Call(), Call(), Call())
    for call, connection, reusable in zip(calls, ("a", None, None), (True, False, True), strict=True):
        assert [each.woken for each in calls if each.place in pool.line] == [0] * len(pool.line)
        assert pool.give_back(place, reusable=reusable) == (None if reusable else "a")
        assert pool.holders == {call.place}
        assert call.place.connection == connection, "a place without a connection is a place"
        assert call.woken == 1
        place = call.place
        place.wake = None
    place.connection = "b"
    give_back(pool, place)
    assert pool.idle == ["b"]
    assert pool.holders == set()


def test_nothing_is_kept_from_a_call_that_waits() -> None:
    pool: Pool[str] = Pool(2)
    first, second = taken(pool, "a", "b")
    (unready,) = joined(pool, Call(ready=False))
    give_back(pool, first)
    assert not pool.take(first), "the connection is kept for the place in line"
    unready.get_ready()
    pool.serve()
    assert unready.place.connection == "a"
    give_back(pool, second)
    assert pool.take(first)


def test_a_place_that_was_served_before_joins_at_the_front() -> None:
    pool: Pool[str] = Pool(1)
    (place,) = taken(pool, "a")
    calls = joined(pool, Call(), Call(served=True), Call())
    assert list(pool.line) == [calls[number].place for number in (1, 0, 2)]
    give_back(pool, place)
    assert pool.holders == {calls[1].place}


def test_a_call_is_cancelled_where_it_is() -> None:
    """On a connection it is interrupted, in line it is woken, and before both it only knows."""

    class Transport:
        def __init__(self) -> None:
            self.interrupted: list[Place[Any]] = []

        def interrupt(self, place: Place[Any]) -> None:
            self.interrupted.append(place)

    woken: list[bool] = []
    place: Place[Any] = Place()
    pool.cancel(place)
    assert place.cancelled
    waiting: Place[Any] = Place()
    waiting.wake = lambda: woken.append(waiting.cancelled)
    pool.cancel(waiting)
    assert woken == [True]
    transport = Transport()
    connected: Place[Any] = Place()
    connected.transport = transport  # type: ignore[assignment]
    pool.cancel(connected)
    assert transport.interrupted == [connected]


def test_a_place_that_is_not_ready_keeps_room_for_itself() -> None:
    pool: Pool[str] = Pool(2)
    first, second = taken(pool, "a", "b")
    unready, ready = joined(pool, Call(ready=False), Call())
    give_back(pool, first)
    assert pool.holders == {second}
    assert [pool.has_room(call.place) for call in (unready, ready)] == [True, False]
    give_back(pool, second)
    assert pool.holders == {ready.place}
    assert ready.place.connection == "b"
    assert list(pool.line) == [unready.place]
    unready.get_ready()
    pool.serve()
    assert pool.holders == {ready.place, unready.place}
    assert pool.has_room(unready.place)
    assert not pool.line


def test_a_place_whose_serving_was_interrupted_keeps_its_connection() -> None:
    pool: Pool[str] = Pool(3)
    first, second, third = taken(pool, "a", "b", "c")
    (call,) = joined(pool, Call())

    def interrupted() -> None:
        raise KeyboardInterrupt

    call.place.wake = interrupted
    with pytest.raises(KeyboardInterrupt):
        pool.give_back(first, reusable=True)
    assert call.place.connection == "a"
    call.get_ready()
    give_back(pool, second, third)
    assert (call.woken, call.place.connection) == (1, "a")
    assert pool.idle == ["b", "c"]


def test_a_place_that_leaves_lets_the_next_one_have_its_room() -> None:
    pool: Pool[str] = Pool(1)
    (place,) = taken(pool, "a")
    first, second = joined(pool, Call(ready=False), Call())
    give_back(pool, place)
    assert pool.holders == set()
    give_back(pool, first.place)
    assert pool.holders == {second.place}
    assert second.woken == 1


def test_a_call_that_leaves_is_not_served() -> None:
    pool: Pool[str] = Pool(1)
    (place,) = taken(pool, "a")
    first, second = joined(pool, Call(), Call())
    give_back(pool, first.place)
    give_back(pool, first.place)
    give_back(pool, place)
    assert pool.holders == {second.place}
    assert first.woken == 0
    assert not pool.has_room(first.place)
    assert pool.begun == 3, "those that gave up count"


def test_a_nested_call_exceeds_the_limit_and_keeps_no_connection() -> None:
    pool: Pool[str] = Pool(1)
    (place,) = taken(pool, "a")
    place.owner = 7
    waiting, nested = joined(pool, Call(), Call())
    waiting.place.owner = 8
    assert pool.is_nested(nested.place, (7, 1))
    assert pool.is_nested(nested.place, (1, 8))
    assert not pool.is_nested(nested.place, (1, 2))
    assert not pool.is_nested(place, (7,)), "a place does not wait for itself"
    pool.exceed(nested.place)
    assert pool.holders == {place, nested.place}
    assert list(pool.line) == [waiting.place]
    nested.place.connection, nested.place.wake = "b", None
    assert pool.give_back(nested.place, reusable=True) == "b"
    give_back(pool, place)
    assert pool.holders == {waiting.place}
    assert waiting.place.connection == "a"


def test_closing_returns_what_is_idle_and_wakes_all_that_wait() -> None:
    pool: Pool[str] = Pool(2)
    first, second = taken(pool, "a", "b")
    ready, unready = joined(pool, Call(), Call(ready=False))
    give_back(pool, first)
    give_back(pool, ready.place)
    assert pool.idle == ["a"]
    (ready,) = joined(pool, Call())
    assert pool.close() == ["a"]
    assert pool.closed
    assert (ready.woken, unready.woken) == (1, 0)
    assert list(pool.line) == [unready.place, ready.place], "each call leaves the line itself"
    assert pool.close() == []
    assert pool.give_back(second, reusable=True) == "b"
    unready.get_ready()
    pool.serve()
    assert (pool.idle, pool.holders) == ([], set())
    assert not pool.take(Place())


def test_behind_an_interrupted_close_the_next_one_to_give_back_turns_away_who_waits() -> None:
    pool: Pool[str] = Pool(2)
    first, second = taken(pool, "a", "b")
    calls = joined(pool, Call(), Call())
    calls[0].place.wake = raising
    with pytest.raises(KeyboardInterrupt):
        pool.close()
    calls[0].get_ready()
    assert pool.give_back(first, reusable=True) == "a"
    assert [call.woken > 0 for call in calls] == [True, True]
    assert pool.holders == {second}


def raising() -> None:
    raise KeyboardInterrupt


def test_release_gives_a_place_back_to_where_it_is() -> None:
    class Transport:
        def __init__(self) -> None:
            self.got: list[Any] = []

        def give_back(self, place: Place[Any]) -> None:
            self.got.append(place)

    transport = Transport()
    place: Place[Any] = Place()
    release(None)
    release(place)
    place.transport = transport
    release(place)
    assert transport.got == [place]


# -- any order of calls ----------------------------------------------------------------------------


class Books(RuleBasedStateMachine):
    """The pool beside the simplest books that say the same."""

    def __init__(self) -> None:
        super().__init__()
        self.pool: Pool[int] = Pool(3)
        self.holders: list[Call] = []
        self.idle: list[int] = []
        self.line: list[Call] = []
        self.woken: dict[Call, int] = {}
        self.count = self.ended = 0
        self.exceeded = 0

    def connect(self) -> int:
        self.count += 1
        return self.count

    def serve(self) -> None:
        room = 3 - len(self.holders)
        for call in list(self.line):
            if room <= 0 or self.pool.closed:
                break
            room -= 1
            if call.place.wake is not None:
                self.line.remove(call)
                self.hold(call, 1)

    def hold(self, call: Call, woken: int = 0) -> None:
        """Check that the call has its place now, with the connection that was used last."""
        self.holders.append(call)
        connection = call.place.connection
        assert connection == (self.idle.pop() if self.idle else None)
        assert call.woken == woken
        call.place.wake = None
        call.woken = 0
        call.place.served = True
        if connection is None:
            call.place.connection = self.connect()

    @rule(ready=st.booleans())
    def call(self, ready: bool) -> None:
        self.begin(Call(ready=ready))

    def begin(self, call: Call) -> None:
        expected = not self.line and not self.pool.closed and (bool(self.idle) or len(self.holders) < 3)
        assert self.pool.take(call.place) is expected
        if expected:
            self.hold(call)
            return
        self.pool.join(call.place)
        self.line.insert(0 if call.place.served else len(self.line), call)
        if call.place.wake is not None:
            self.pool.serve()
            self.serve()

    @precondition(lambda self: self.line)
    @rule(which=st.integers(0, 5))
    def get_ready(self, which: int) -> None:
        call = self.line[which % len(self.line)]
        call.get_ready()
        self.pool.ready.add(call.place)
        self.pool.serve()
        self.serve()

    @precondition(lambda self: self.line)
    @rule(which=st.integers(0, 5))
    def exceed(self, which: int) -> None:
        call = self.line[which % len(self.line)]
        if call.place.wake is None or self.pool.has_room(call.place):
            return
        self.pool.exceed(call.place)
        self.line.remove(call)
        self.holders.append(call)
        call.place.wake = None
        call.place.connection = self.connect()
        self.exceeded += 1

    @precondition(lambda self: self.holders)
    @rule(which=st.integers(0, 3), reusable=st.booleans(), again=st.booleans())
    def give_back(self, which: int, reusable: bool, again: bool) -> None:
        call = self.holders.pop(which % len(self.holders))
        connection = call.place.connection
        assert connection is not None
        kept = reusable and not self.pool.closed and len(self.holders) + len(self.idle) < 3
        assert self.pool.give_back(call.place, reusable=reusable) == (None if kept else connection)
        if kept:
            self.idle.append(connection)
        self.ended += 1
        self.serve()
        if again:  # its next try
            call.get_ready()
            self.begin(call)

    @precondition(lambda self: self.line)
    @rule(which=st.integers(0, 5))
    def leave(self, which: int) -> None:
        call = self.line.pop(which % len(self.line))
        assert self.pool.give_back(call.place, reusable=True) is None
        self.ended += 1
        self.serve()

    @rule()
    def give_back_what_is_nowhere(self) -> None:
        assert self.pool.give_back(Place(), reusable=True) is None

    @rule()
    def close(self) -> None:
        assert self.pool.close() == self.idle
        self.idle = []
        for call in self.line:
            assert (call.woken > 0) is (call.place.wake is not None)

    @invariant()
    def the_books_agree(self) -> None:
        assert self.pool.idle == self.idle
        assert self.pool.holders == {call.place for call in self.holders}
        assert list(self.pool.line) == [call.place for call in self.line]
        assert len(self.holders) + len(self.idle) <= 3 + self.exceeded
        for ahead, call in enumerate(self.line):
            room = 3 - len(self.holders) > ahead
            assert self.pool.has_room(call.place) is room
            assert not room or call.place.wake is None or self.pool.closed, "it is not kept waiting"
        assert self.pool.ended == self.ended
        assert self.pool.begun == self.ended + len(self.holders) + len(self.line)


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


# -- interrupts and handlers in the middle of a step ------------------------------------------------


class Interrupt(BaseException):
    """An exception between two steps."""


@contextlib.contextmanager
def at_step(
    number: int, act: Callable[[], object], step: str = "opcode", modules: tuple[ModuleType, ...] = (pool,)
) -> Iterator[list[bool]]:
    """Act once in the middle of modules' code: behind so many of the interpreter's instructions, or lines."""
    left, done = number, [False]
    files = [module.__file__ for module in modules]

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in files or done[0]:
            return None
        frame.f_trace_opcodes = True
        if event == step:
            left -= 1
            if left < 0 and not done[0]:
                done[0] = True
                act()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield done
    finally:
        sys.settrace(before)


def interrupt() -> None:
    raise Interrupt


class Counting(BlockingPool[int]):
    """A pool that knows whether it was exceeded."""

    exceeded = 0

    def exceed(self, place: Place[int]) -> None:
        self.exceeded += 1
        super().exceed(place)


INSIDE = [None, "raise", "call", "reserve", "repeat", "put back", "give back", "serve", "close"]
STORM: Any = {"at": st.integers(0, 170), "inside": st.sampled_from(INSIDE)}


class Storm(RuleBasedStateMachine):
    """Calls of several threads, which something disturbs in the middle of the pool's methods."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Counting(2)
        self.places: list[Place[int]] = []
        self.thread, self.threads, self.count = 1, itertools.count(2), 0
        self.this_thread = blocking_pool.this_thread
        blocking_pool.this_thread = lambda: (self.thread, self.thread)

    def use(self, place: Place[int]) -> None:
        """Have a place that is served open its connection, and use it."""
        if place.connection is None:
            self.count += 1
            place.connection = self.count

    def disturbed(
        self, at: int, inside: str | None, place: Place[int], operation: Callable[[], object]
    ) -> bool:
        """Carry out an operation of a place; give the place back, and return False, if it was interrupted."""
        if inside is None:
            operation()
            return True
        disturb = interrupt if inside == "raise" else lambda: self.run_inside(inside, place)
        try:
            with at_step(at, disturb):
                operation()
        except Interrupt:
            self.end(place)
            return False
        return True

    def run_inside(self, what: str, busy: Place[int]) -> None:
        """Do one thing more, as a signal's handler or the extension would."""
        used = [each for each in self.places if each in self.pool.holders and each.wake is None]
        used = [each for each in used if each is not busy]
        thread = self.thread
        if what == "call":
            place = self.begin()
            if place is not None and self.hold(place):
                self.use(place)
                self.end(place, reusable=True)
            elif place is not None:
                self.end(place)
        elif what == "reserve":
            self.reserve()
        elif what == "repeat":
            self.repeat()
        elif what == "put back" and used:
            self.put_back(used[0])
        elif what == "give back" and used:
            self.end(used[-1], reusable=True)
        elif what == "serve":
            with self.pool.lock:
                self.pool.serve()
        elif what == "close":
            self.pool.close()
        self.thread = thread

    def begin(self) -> Place[int] | None:
        self.places.append(place := Place())
        place.transport = next(self.threads)
        return place

    def hold(self, place: Place[int]) -> bool:
        """Have a call wait for no time."""
        self.thread = place.transport
        try:
            return self.pool.hold(place, 0.0, reserved=place in self.pool.line)
        except InferenceServerException:
            assert self.pool.closed
            self.end(place)
            return False

    def end(self, place: Place[int], *, reusable: bool = False) -> None:
        with self.pool.lock:
            self.pool.give_back(place, reusable=reusable)
        with contextlib.suppress(ValueError):
            self.places.remove(place)

    # As the extension does it.

    def repeat(self) -> None:
        if self.pool.idle and not self.pool.line:
            place = self.begin()
            assert place is not None
            self.pool.holders.add(place)
            place.connection = self.pool.idle.pop()

    def put_back(self, place: Place[int]) -> None:
        books = self.pool
        if not books.line and not books.closed and len(books.idle) + len(books.holders) <= books.limit:
            books.holders.discard(place)
            assert place.connection is not None
            books.idle.append(place.connection)
            place.connection = None
            self.places.remove(place)

    def pick(self, which: int, held: bool) -> Place[int] | None:
        places = [each for each in self.places if (each in self.pool.holders) is held]
        return places[which % len(places)] if places else None

    @rule(**STORM)
    def call(self, at: int, inside: str | None) -> None:
        place = self.begin()
        assert place is not None
        if self.disturbed(at, inside, place, lambda: self.hold(place)) and place in self.pool.holders:
            self.go_on(place)

    @rule()
    def reserve(self) -> None:
        place = self.begin()
        assert place is not None
        with self.pool.lock:
            self.pool.join(place)

    @rule(which=st.integers(0, 5), **STORM)
    def come_to_wait(self, which: int, at: int, inside: str | None) -> None:
        place = self.pick(which, False)
        if place is not None and self.disturbed(at, inside, place, lambda: self.hold(place)):
            self.go_on(place)

    def go_on(self, place: Place[int]) -> None:
        """Let a call that was served use its connection."""
        if place in self.pool.holders:
            assert self.hold(place)
            self.use(place)

    @rule(which=st.integers(0, 5))
    def see_that_it_was_served(self, which: int) -> None:
        place = self.pick(which, True)
        if place is not None:
            self.go_on(place)

    @rule(which=st.integers(0, 5), held=st.booleans(), reusable=st.booleans(), **STORM)
    def give_back(self, which: int, held: bool, reusable: bool, at: int, inside: str | None) -> None:
        place = self.pick(which, held)
        if place is not None:
            # The storm must not find it in the hands of the test.
            self.disturbed(at, inside, place, lambda: self.end(place, reusable=reusable))

    @rule()
    def repeat_one(self) -> None:
        self.repeat()

    @precondition(lambda self: len(self.places) > 3)
    @rule(at=st.integers(0, 60), inside=st.sampled_from(["raise", "call", "give back"]))
    def close(self, at: int, inside: str) -> None:
        if not self.disturbed(at, inside, Place(), self.pool.close):
            self.pool.close()  # as whoever was interrupted has to

    @invariant()
    def the_books_are_right(self) -> None:
        books, places = self.pool, set(self.places)
        assert books.holders <= places, "a place is lost"
        assert len(set(books.line)) == len(books.line)
        assert set(books.line) <= places
        assert all(each in books.line or each.wake is not None for each in books.ready)
        hands = [*books.idle, *(each.connection for each in places if each.connection is not None)]
        assert len(set(hands)) == len(hands), "a connection is in two hands"
        assert not (books.closed and books.idle)
        if not books.exceeded:
            assert len(books.holders) + len(books.idle) <= books.limit
        for place in places:
            wake: Any = place.wake
            if place in books.holders:
                assert wake is None or not wake._lock.locked(), "it was not woken"
                assert wake is not None or place not in books.line, "it keeps room twice"
            elif wake is not None:
                assert place in books.line
                if books.closed:
                    assert not wake._lock.locked(), "it was not turned away"
                else:
                    assert not books.has_room(place), "it was forgotten"

    def teardown(self) -> None:
        try:
            for place in list(self.places):
                if place in self.pool.holders or place.wake is None:
                    self.end(place)
                    self.the_books_are_right()
            while self.places:
                served = [each for each in self.places if each in self.pool.holders]
                assert served or self.pool.closed, "they wait for ever"
                for place in served or list(self.places):
                    self.end(place)
            assert not self.pool.holders
            assert not self.pool.line
            assert self.pool.take(Place()) is not self.pool.closed
        finally:
            blocking_pool.this_thread = self.this_thread


TestStorm = Storm.TestCase
TestStorm.settings = settings(
    max_examples=300, stateful_step_count=30, deadline=None, report_multiple_bugs=False
)


# A search by chance finds these too seldom.


def at_any_step(prepare: Callable[[Storm], None], disturbed: Callable[[Storm, int], None]) -> None:
    for at in range(250):
        storm = Storm()
        try:
            prepare(storm)
            disturbed(storm, at)
            storm.the_books_are_right()
        finally:
            storm.teardown()


@pytest.mark.parametrize("inside", INSIDE[1:])
def test_a_call_that_comes_to_wait_ahead_of_another_may_be_disturbed(inside: str) -> None:
    def prepare(storm: Storm) -> None:
        for _ in range(3):
            storm.reserve()
        storm.come_to_wait(which=0, at=0, inside=None)
        storm.come_to_wait(which=1, at=0, inside=None)

    at_any_step(prepare, lambda storm, at: storm.come_to_wait(which=0, at=at, inside=inside))


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("inside", INSIDE[1:])
def test_a_call_that_ends_while_others_wait_may_be_disturbed(inside: str, held: bool) -> None:
    def prepare(storm: Storm) -> None:
        for _ in range(4):
            storm.call(at=0, inside=None)

    at_any_step(
        prepare,
        lambda storm, at: storm.give_back(which=0, held=held, reusable=True, at=at, inside=inside),
    )


# -- threads ---------------------------------------------------------------------------------------


def test_a_call_in_a_handler_waits_for_no_thread_that_waits_for_the_lock() -> None:
    """The handler's thread may hold the pool's lock, which another thread needs to give its place back."""
    threads: list[threading.Thread] = []

    def prepare() -> tuple[Callable[[], object], Callable[[], object]]:
        books: BlockingPool[str] = BlockingPool(1)
        first: Place[str] = Place()
        second: Place[str] = Place()
        nested: Place[str] = Place()
        begun = threading.Event()

        def other() -> None:
            assert books.hold(first, None)
            begun.set()
            go_on.wait(10)
            with books.lock:
                books.give_back(first, reusable=True)

        go_on = threading.Event()
        threads.append(thread := threading.Thread(target=other))
        thread.start()
        assert begun.wait(10)

        def operation() -> None:
            try:
                books.hold(second, time.monotonic() + 0.05)
            finally:
                go_on.set()
                with books.lock:
                    books.give_back(second, reusable=True)
                thread.join()
                assert not books.holders
                assert not books.line

        def act() -> None:
            go_on.set()
            assert books.hold(nested, time.monotonic() + 1), "it waits for its own thread"
            with books.lock:
                books.give_back(nested, reusable=True)

        return operation, act

    for number in itertools.count():
        operation, act = prepare()
        with at_step(number, act, "line", (blocking_pool, pool)) as done:
            operation()
        if not done[0]:
            break
    assert number > 20


def test_what_is_lost_is_found_while_the_extension_stays_away() -> None:
    pool: Pool[str] = Pool(3)
    (place,) = taken(pool, "a")
    give_back(pool, *taken(pool, "b"))
    seen = []

    def connections() -> Iterator[str]:
        seen.append(pool.frozen)
        yield from ("a", "b", "c")

    assert pool.lost(connections()) == ["c"]
    assert seen == [True]
    assert (pool.frozen, pool.idle, pool.holders) == (False, ["b"], {place})


def _lost_at(step: int, act: Callable[[Pool[str]], object]) -> tuple[bool, Pool[str], list[str]]:
    """Look for lost connections, and act before an instruction of that; return whether it has so many."""
    pool: Pool[str] = Pool(3)
    taken(pool, "a")
    give_back(pool, *taken(pool, "b", "c"))
    with at_step(step, lambda: act(pool)) as done:
        found = pool.lost({"a", "b", "c", "d"})
    return done[0], pool, found


def test_the_extension_may_take_a_step_at_any_instruction_of_a_look_for_what_is_lost() -> None:
    """No lock keeps threads out that use it: no connection may come into two hands, or be closed in one."""

    def take(pool: Pool[str]) -> None:
        if not pool.frozen:
            pool.holders.add(place := Place())
            place.connection = pool.idle.pop()

    def put_back(pool: Pool[str]) -> None:
        if not pool.frozen:
            (place,) = pool.holders
            pool.holders.discard(place)
            pool.idle.append(place.connection)

    for act in (take, put_back):
        for step in itertools.count():
            came, pool, found = _lost_at(step, act)
            assert found == ["d"]
            assert sorted([*pool.idle, *(place.connection for place in pool.holders)]) == ["a", "b", "c"]
            if not came:
                break
        assert step > 20


def test_a_handler_may_use_the_pool_in_a_look_for_what_is_lost() -> None:
    def call(pool: Pool[str]) -> None:
        place: Place[str] = Place()
        assert pool.take(place)
        assert pool.lost({"a", "b", "c"}) == []
        pool.give_back(place, reusable=True)

    def hold(pool: Pool[str]) -> None:
        assert pool.take(Place())

    def end(pool: Pool[str]) -> None:
        (place,) = pool.holders
        pool.give_back(place, reusable=True)

    for act in (call, hold, end):
        for step in itertools.count():
            came, pool, found = _lost_at(step, act)
            assert (found, pool.frozen) == (["d"], False)
            assert sorted([*pool.idle, *(place.connection for place in pool.holders)]) == ["a", "b", "c"]
            if not came:
                break
        assert step > 20
