"""The decisions about places, turns and servers, in every order in which calls can come to them."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Hashable, Iterator
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from tritonhttp._calls import dispatch as dispatch_module
from tritonhttp._calls.balance import Balancer
from tritonhttp._calls.dispatch import Dispatch
from tritonhttp._calls.retry import Retry
from tritonhttp._calls.turns import Turn, Turns
from tritonhttp._transport import asyncio_pool, blocking_pool, pool
from tritonhttp._transport.asyncio_pool import AsyncioPool
from tritonhttp._transport.blocking_pool import BlockingPool
from tritonhttp._transport.pool import Place, Pool, cancel
from tritonhttp._wire.responses import Response
from tritonhttp.errors import ConnectionLost, ConnectRefused, InferenceServerException, RequestCancelled
from tritonhttp.events import Call as Record
from tritonhttp.events import Hooks

from .schedules import Bell, Lock, Schedule, explore
from .test_dispatch import answer, post
from .test_pool import Storm

#: When calls with a deadline have to end, on a clock that stands still until a wait takes too long.
DEADLINE = 1.0


class Connection:
    """A connection, and the call that waits for its answer."""

    expires = dies = float("inf")

    def __init__(self, number: int) -> None:
        self.number = number
        self.caller: str | None = None


#: What takes seconds, and shows with other calls what the rest shows too.
LONG = pytest.mark.skipif(not os.environ.get("EVERY_PLACE"), reason="takes long; make interrupts runs it")


class Scene:
    """A pool and its calls."""

    def __init__(self, schedule: Schedule, books: Pool[Any]) -> None:
        self.schedule, self.books = schedule, books
        self.places: dict[str, Place[Any]] = {}
        self.outcomes: dict[str, str] = {}
        self.count = 0
        self._line: list[tuple[Place[Any], bool]] = []
        self._held: set[Place[Any]] = set()
        self._kept: set[Place[Any]] = set()
        #: Whether calls are tried again, and may come to the front.
        self.returns = False
        self.clock = 0.0
        schedule.state, schedule.check = self.state, self.check

    def place(self, name: str) -> Place[Any]:
        place: Place[Any] = Place()
        place.transport = SimpleNamespace(interrupt=lambda place: None)
        self.places[name] = place
        return place

    def late(self) -> None:
        self.clock = DEADLINE

    def use(self, name: str) -> None:
        """Send a request, and receive its answer."""
        place = self.places[name]
        if place.connection is None:
            self.count += 1
            connection = Connection(self.count)
            self.schedule.pause()  # while it connects
            place.connection = connection
        connection = place.connection
        assert connection.caller is None, "two calls use one connection"
        connection.caller = name
        self.schedule.pause()  # while the server works
        assert connection.caller == name, "the answer is another call's"
        connection.caller = None

    def state(self) -> Hashable:
        names = {place: name for name, place in self.places.items()}
        books = self.books
        return (
            tuple((each.number, each.caller) for each in books.idle),
            frozenset(names[each] for each in books.holders),
            tuple(names[each] for each in books.line),
            frozenset(names[each] for each in books.ready),
            books.closed,
            tuple(
                (
                    name,
                    place.connection.number if place.connection else 0,
                    place.wake is None,
                    getattr(place.wake, "rung", None),
                    place.served,
                    place.cancelled,
                )
                for name, place in self.places.items()
            ),
            tuple(sorted(self.outcomes.items())),
            self.clock,
            self.extra(),
        )

    def extra(self) -> Hashable:
        return None

    def check(self) -> None:
        """What has to hold between any two steps."""
        books = self.books
        assert len(books.holders) + len(books.idle) <= books.limit, "more than the limit"
        hands = [*books.idle, *(each.connection for each in self.places.values() if each.connection)]
        assert len(set(hands)) == len(hands), "a connection is in two hands"
        assert not set(books.line) & books.holders, "it keeps room twice"
        for place in books.line:
            if place.wake is not None and getattr(books, "lock", None) is None:
                assert books.closed or not books.has_room(place), "it was forgotten"
        for place in books.holders - self._held:
            if place.served:
                continue  # its next try went to the front
            for ahead, ready in self._line:
                if ahead is place:
                    break
                assert not (ready and ahead in books.line), "it was served before one that waits longer"
        if not self.returns:
            for place in self._kept:
                assert place not in books.line or books.has_room(place), "another one took the room it had"
        self._kept = {place for place in books.line if books.has_room(place)}
        self._held = set(books.holders)
        self._line = [(place, place.wake is not None) for place in books.line]

    def end(self) -> None:
        """What has to hold in the end."""
        books = self.books
        assert (books.holders, list(books.line), books.ready) == (set(), [], set()), "a place is lost"
        assert len(books.idle) <= books.limit
        assert books._serving is None
        assert not (books.closed and books.idle)
        assert set(self.outcomes) == set(self.places)


# -- threads ---------------------------------------------------------------------------------------


class Threads(Scene):
    """Calls of threads."""

    def __init__(self, schedule: Schedule, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lock = Lock(schedule)
        super().__init__(schedule, BlockingPool(limit, self.lock))
        monkeypatch.setattr(blocking_pool, "Bell", lambda: Bell(schedule, self.late))
        monkeypatch.setattr(blocking_pool, "monotonic", lambda: self.clock)

    def check(self) -> None:
        if self.lock.owner is None:
            super().check()
            for place in self.books.line:
                assert place.wake is None or self.books.closed or not self.books.has_room(place), "forgotten"

    def call(self, name: str, kind: str) -> Callable[[], None]:
        """Return a call of a thread.

        Its kind is made of these words. "lost": its connection breaks; "again": then it is tried once more;
        "late": its deadline may pass while it waits; "reserved": it stands in line before its thread begins; "C":
        the extension takes and gives back, where it can.
        """
        place, books = self.place(name), self.books
        words = kind.split()
        reserved = "reserved" in words
        if reserved:
            books.join(place)

        def held(attempt: int) -> bool:
            if "C" in words and not place.cancelled:
                # One step, without the lock.
                self.schedule.pause()
                if books.idle and not books.line and type(books.idle) is list and place not in books.holders:
                    books.holders.add(place)
                    place.connection = books.idle.pop()
                    return True
            deadline = DEADLINE if "late" in words else None
            return books.hold(place, deadline, reserved=reserved and attempt == 0)  # type: ignore[attr-defined]

        def give_back(reusable: bool) -> None:
            if "C" in words and reusable and not place.cancelled:
                self.schedule.pause()
                room = len(books.idle) + len(books.holders) <= books.limit
                if not books.closed and not books.line and room:
                    books.holders.discard(place)
                    books.idle.append(place.connection)
                    place.connection = None
                    return
            with self.lock:
                books.give_back(place, reusable=reusable)

        def call() -> None:
            outcome = "?"
            try:
                for attempt in range(1 + ("again" in words)):
                    if not held(attempt):
                        outcome = "late"
                        break
                    place.served = True
                    self.use(name)
                    broken = "lost" in words and attempt == 0
                    outcome = "lost" if broken else "answered"
                    if place.cancelled:
                        raise RequestCancelled("cancelled")
                    give_back(not broken)
            except InferenceServerException as error:
                outcome = "cancelled" if isinstance(error, RequestCancelled) else "closed"
            finally:
                with self.lock:
                    books.give_back(place, reusable=False)
            self.outcomes[name] = outcome

        return call

    def cancel(self, name: str) -> None:
        self.schedule.pause()
        cancel(self.places[name])

    def close(self) -> None:
        with self.lock:
            self.books.close()


#: Calls by name; "close" and "cancel" are what others do meanwhile.
GAMES: dict[str, tuple[int, dict[str, str]]] = {
    "three calls": (1, {"a": "", "b": "", "c": ""}),
    "three calls, two places": (2, {"a": "", "b": "", "c": ""}),
    "one is lost": (1, {"a": "lost", "b": "", "c": ""}),
    "one is tried again": (1, {"a": "lost again", "b": "", "c": ""}),
    "two are tried again": (1, {"a": "lost again", "b": "lost again"}),
    "deadlines": (1, {"a": "late", "b": "late", "c": ""}),
    "reserved": (1, {"a": "reserved", "b": "reserved", "c": ""}),
    "reserved, two places": (2, {"a": "reserved", "b": "reserved", "c": "reserved"}),
    "reserved and late": (1, {"a": "reserved", "b": "late", "c": "reserved late"}),
    "cancelled": (1, {"a": "", "b": "", "c": "", "cancel b": ""}),
    "cancelled, reserved": (1, {"a": "", "b": "reserved", "cancel b": ""}),
    "cancelled while it is sent": (2, {"a": "", "b": "", "cancel a": ""}),
    "closed": (1, {"a": "", "b": "", "close": ""}),
    "closed, reserved": (2, {"a": "reserved", "b": "", "close": ""}),
    "closed, tried again": (1, {"a": "lost again", "b": "", "close": ""}),
    "closed and cancelled": (1, {"a": "", "b": "", "cancel b": "", "close": ""}),
    "the extension": (1, {"a": "C", "b": "C"}),
    "the extension, beside another": (1, {"a": "C", "b": "", "c": "reserved"}),
    "the extension, lost": (1, {"a": "C lost again", "b": "C"}),
    "the extension, closed": (2, {"a": "C", "b": "C lost", "close": ""}),
    "the extension, cancelled": (1, {"a": "C", "b": "", "cancel a": ""}),
}


def perform(scene: Any, calls: dict[str, str]) -> None:
    """Play a game once."""
    for name, kind in calls.items():
        if not name.startswith(("cancel", "close")):
            scene.returns |= "again" in kind
            scene.schedule.add(name, scene.call(name, kind))
    for name in calls:
        if name.startswith("cancel"):
            scene.schedule.add(name, lambda name=name: scene.cancel(name.split()[1]))
        elif name == "close":
            scene.schedule.add(name, scene.close)
    scene.schedule.run()
    scene.end()
    for name, outcome in scene.outcomes.items():
        kind = calls[name].split()
        allowed = {"answered"} if "lost" not in kind or "again" in kind else {"lost"}
        allowed |= {"late"} if "late" in kind else set()
        allowed |= {"cancelled"} if f"cancel {name}" in calls else set()
        allowed |= {"closed"} if "close" in calls else set()
        assert outcome in allowed, f"{name}: {outcome}"


@pytest.mark.parametrize(
    "game", [pytest.param(game, marks=LONG) if game == "cancelled" else game for game in GAMES]
)
def test_threads_in_every_order(game: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, calls = GAMES[game]
    outcomes: set[str] = set()

    def play(schedule: Schedule) -> None:
        scene = Threads(schedule, limit, monkeypatch)
        perform(scene, calls)
        outcomes.update(scene.outcomes.values())

    assert explore(play) > 10
    assert "answered" in outcomes
    for name, outcome in (("cancel", "cancelled"), ("close", "closed")):
        assert (outcome in outcomes) is any(each.startswith(name) for each in calls)
    assert ("late" in outcomes) is any("late" in kind for kind in calls.values())


# -- tasks -----------------------------------------------------------------------------------------


class Future:
    """What a task waits for."""

    def __init__(self) -> None:
        self.rung = False

    def done(self) -> bool:
        return self.rung

    def set_result(self, result: None) -> None:
        assert not self.rung
        self.rung = True

    def __await__(self) -> Iterator[Future]:
        yield self


class Cancelled(BaseException):
    """As asyncio cancels a task."""


class Tasks(Scene):
    """Calls of tasks: each runs alone until it awaits."""

    def __init__(self, schedule: Schedule, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(schedule, AsyncioPool(limit))
        self.timers: list[Callable[[], object]] = []
        self.unwanted: set[str] = set()
        loop = SimpleNamespace(create_future=Future, call_at=self.call_at)
        monkeypatch.setattr(asyncio_pool, "asyncio", SimpleNamespace(get_running_loop=lambda: loop))

    def call_at(self, when: float, wake: Callable[[], object]) -> Any:
        assert when == DEADLINE
        self.timers.append(wake)
        return SimpleNamespace(cancel=lambda: self.timers.remove(wake))

    def extra(self) -> Hashable:
        return frozenset(self.unwanted), len(self.timers)

    def call(self, name: str, kind: str) -> Callable[[], None]:
        place, books = self.place(name), self.books
        words = kind.split()
        if "reserved" in words:
            books.join(place)

        def step() -> None:
            if name in self.unwanted:
                self.unwanted.discard(name)
                raise Cancelled

        def hold(attempt: int) -> bool:
            deadline = DEADLINE if "late" in words else None
            reserved = "reserved" in words and attempt == 0
            coroutine: Any = books.hold(place, deadline, reserved=reserved)  # type: ignore[attr-defined]
            try:
                future = coroutine.send(None)
                while True:
                    wanted = lambda future=future: (  # noqa: E731
                        future.rung or name in self.unwanted or (bool(self.timers) and deadline is not None)
                    )
                    self.schedule.pause(wanted)
                    if name in self.unwanted:  # it may come when the place is there already
                        self.unwanted.discard(name)
                        future = coroutine.throw(Cancelled())
                    elif future.rung:
                        future = coroutine.send(None)
                    else:
                        self.late()
                        for wake in list(self.timers):
                            wake()
            except StopIteration as end:
                return bool(end.value)

        def call() -> None:
            outcome = "?"
            try:
                for attempt in range(1 + ("again" in words)):
                    if not hold(attempt):
                        outcome = "late"
                        break
                    self.use(name)
                    step()
                    broken = "lost" in words and attempt == 0
                    outcome = "lost" if broken else "answered"
                    books.give_back(place, reusable=not broken)
            except Cancelled:
                outcome = "cancelled"
            except InferenceServerException:
                outcome = "closed"
            finally:
                books.give_back(place, reusable=False)
            self.unwanted.discard(name)
            self.outcomes[name] = outcome

        return call

    def cancel(self, name: str) -> None:
        if name not in self.outcomes:
            self.unwanted.add(name)

    def close(self) -> None:
        self.books.close()


OF_TASKS = {name: game for name, game in GAMES.items() if "C" not in " ".join(game[1].values()).split()}


@pytest.mark.parametrize("game", OF_TASKS)
def test_tasks_in_every_order(game: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, calls = OF_TASKS[game]
    outcomes: set[str] = set()

    def play(schedule: Schedule) -> None:
        scene = Tasks(schedule, limit, monkeypatch)
        perform(scene, calls)
        outcomes.update(scene.outcomes.values())

    assert explore(play) > 5
    assert "answered" in outcomes
    for name, outcome in (("cancel", "cancelled"), ("close", "closed")):
        assert (outcome in outcomes) is any(each.startswith(name) for each in calls)


# -- the extension, in the middle of a method ------------------------------------------------------


def between_lines(acts: dict[int, Callable[[], object]]) -> Callable[[FrameType, str, object], Any]:
    """Return a trace function that acts before the lines of those numbers, counted in the pool's modules."""
    files = [pool.__file__, blocking_pool.__file__]
    left = dict(acts)
    count = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename not in files or not left:
            return None
        if event == "line":
            act = left.pop(count, None)
            count += 1
            if act is not None:
                sys.settrace(None)  # the extension's steps are not counted
                try:
                    act()
                finally:
                    sys.settrace(trace)
        return trace

    return trace


def _prepared(name: str) -> tuple[Storm, Place[int], Callable[[], object]]:
    """Return calls, one of them, and what its thread does next."""
    storm = Storm()
    if name == "one more call":
        for _ in range(2):
            storm.call(at=0, inside=None)
        storm.put_back(storm.places[0])
        place = storm.begin()
        assert place is not None
        return storm, place, lambda: storm.hold(place) and storm.use(place)
    if name == "a call comes to wait, one is reserved":
        storm.call(at=0, inside=None)
        storm.reserve()
        storm.reserve()
        place = storm.places[1]
        return storm, place, lambda: storm.hold(place) and storm.use(place)
    for _ in range(2):
        storm.call(at=0, inside=None)
    storm.reserve()
    storm.reserve()
    storm.come_to_wait(which=0, at=0, inside=None)
    if name == "a call leaves the line":
        place = storm.places[3]
        return storm, place, lambda: storm.end(place)
    if name == "the pool is closed":
        return storm, Place(), storm.pool.close
    place = storm.places[0]
    return storm, place, lambda: storm.end(place, reusable=name == "a call ends, others wait")


@pytest.mark.parametrize(
    "name",
    [
        "a call ends, others wait",
        "a connection breaks, others wait",
        "one more call",
        pytest.param("a call comes to wait, one is reserved", marks=LONG),
        "a call leaves the line",
        "the pool is closed",
    ],
)
def test_the_extension_may_take_two_steps_between_any_lines_of_a_method(name: str) -> None:
    """It takes no lock, so threads that use it are not kept out while another one is in the pool's methods."""
    steps = ("repeat", "put back")

    def play(acts: list[tuple[int, str]]) -> int:
        storm, busy, operation = _prepared(name)
        chosen: dict[int, list[str]] = {}
        for at, what in acts:
            chosen.setdefault(at, []).append(what)

        def act(at: int) -> None:
            for what in chosen[at]:
                storm.run_inside(what, busy)

        lines = itertools.count()

        def counted(frame: FrameType, event: str, arg: object) -> Any:
            if frame.f_code.co_filename not in (pool.__file__, blocking_pool.__file__):
                return None
            if event == "line":
                next(lines)
            return counted

        before = sys.gettrace()
        sys.settrace(between_lines({at: lambda at=at: act(at) for at in chosen}) if acts else counted)
        try:
            operation()
        finally:
            sys.settrace(before)
        storm.the_books_are_right()
        storm.teardown()
        return next(lines)

    length = play([])
    assert length > 3
    for first in range(length):
        for second in range(first, length):
            for whats in itertools.product(steps, steps):
                play([(first, whats[0]), (second, whats[1])])


# -- turns of a sequence ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "calls",
    [
        {"a": "x", "b": "x", "c": "x"},
        {"a": "x", "b": "x late", "c": "x"},
        pytest.param({"a": "x", "b": "x", "c": "y", "cancel b": ""}, marks=LONG),
        {"a": "x", "b": "x", "cancel a": "", "cancel b": ""},
    ],
    ids=lambda calls: ", ".join(f"{name} {kind}".strip() for name, kind in calls.items()),
)
def test_turns_in_every_order(calls: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls of a sequence run one after the other, in the order in which they joined."""
    games = []

    def play(schedule: Schedule) -> None:
        clock = [0.0]
        monkeypatch.setattr(
            blocking_pool, "Bell", lambda: Bell(schedule, lambda: clock.__setitem__(0, DEADLINE))
        )
        monkeypatch.setattr(blocking_pool, "monotonic", lambda: clock[0])
        turns: Turns[BlockingPool[None]] = Turns(BlockingPool)
        turns.lock = Lock(schedule)  # type: ignore[assignment]
        running: dict[str, str] = {}
        joined: dict[str, list[str]] = {"x": [], "y": []}
        ran: dict[str, list[str]] = {"x": [], "y": []}
        made: dict[str, Turn[BlockingPool[None]]] = {}
        ended: list[str] = []

        def call(name: str, kind: str) -> None:
            key, _, late = kind.partition(" ")
            turn = made[name]
            try:
                with turn, turn:
                    turn.join()
                    joined[key].append(name)
                    assert turn.pool is not None
                    if turn.pool.hold(turn.place, DEADLINE if late else None, reserved=True):
                        assert key not in running, f"{running[key]} and {name} run at once"
                        running[key] = name
                        schedule.pause()
                        del running[key]
                        ran[key].append(name)
            except RequestCancelled:
                pass
            ended.append(name)

        def cancel_one(name: str) -> None:
            schedule.pause()
            cancel(made[name].place)

        for name, kind in calls.items():
            if name.startswith("cancel"):
                schedule.add(name, lambda name=name: cancel_one(name.split()[1]))
            else:
                made[name] = Turn(turns, kind.split()[0])
                made[name].place.transport = SimpleNamespace(interrupt=lambda place: None)
                schedule.add(name, lambda name=name, kind=kind: call(name, kind))

        def state() -> Hashable:
            names = {turn.place: name for name, turn in made.items()}
            pools = [
                (
                    key,
                    sorted(names[each] for each in each_pool.holders),
                    [names[each] for each in each_pool.line],
                    sorted(names[each] for each in each_pool.ready),
                )
                for key, each_pool in turns._pools.items()
            ]
            places = [
                (turn.place.cancelled, getattr(turn.place.wake, "rung", None)) for turn in made.values()
            ]
            return str((sorted(pools), places, sorted(running.items()), joined, ran, sorted(ended), clock))

        schedule.state = state
        schedule.run()
        assert turns._pools == {}, "a sequence is kept"
        assert len(ended) == len(made)
        for key, names in ran.items():
            assert names == [name for name in joined[key] if name in names], "not in the order of joining"
        for name, kind in calls.items():
            if name in made and f"cancel {name}" not in calls and "late" not in kind:
                assert name in ran[kind.split()[0]], f"{name} did not run"
        games.append(len(ran["x"]))

    assert explore(play) > 10
    assert max(games) > 0


# -- servers ---------------------------------------------------------------------------------------

OUTCOMES: dict[str, Callable[[], Any]] = {
    "answered": lambda: answer(200),
    "busy": lambda: answer(503),
    "lost": lambda: ConnectionLost("lost"),
    "refused": lambda: ConnectRefused("refused"),
    "cancelled": lambda: RequestCancelled("cancelled"),
}


class Watched(Balancer[str]):
    """A balancer that checks each of its choices."""

    def pick(self, ticket: Any, exclude: Any = ()) -> str:
        fit = [each for each in self._ring if each.due is None]
        untried = [each for each in fit if each.server not in exclude]
        chosen = super().pick(ticket, exclude)
        among = untried or fit
        if among:
            before = {each.server: len(each.tickets) - (each.server == chosen) for each in among}
            assert chosen in before, f"{chosen} is set aside or was tried, and there is another one"
            assert self._in_turn or before[chosen] == min(before.values()), f"{chosen} of {before}"
        return chosen


@pytest.mark.parametrize("balancing", ["least_outstanding", "round_robin"])
@pytest.mark.parametrize(
    ("calls", "attempts"),
    [
        # How each call ends that may run twice ("+") or not ("-"), one word for each try.
        ({"a": "+ answered", "b": "+ answered", "c": "- answered"}, 1),
        ({"a": "+ lost answered", "b": "+ busy answered", "c": "- answered"}, 2),
        ({"a": "- lost", "b": "- refused answered", "c": "+ answered"}, 2),
        ({"a": "+ cancelled", "b": "+ refused refused", "c": "- answered"}, 2),
        ({"a": "+ busy busy", "b": "+ lost answered", "probe": ""}, 2),
        ({"a": "- lost", "b": "- answered", "c": "+ busy answered", "probe": ""}, 2),
    ],
    ids=lambda value: ", ".join(value.values()) if isinstance(value, dict) else str(value),
)
def test_servers_in_every_order(
    calls: dict[str, str], attempts: int, balancing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever order calls begin, fail and end in: each is sent as often as it may be, and none stays open."""
    monkeypatch.setattr(dispatch_module, "Balancer", Watched)
    monkeypatch.setattr(dispatch_module.random, "randrange", lambda *_: 0)
    monkeypatch.setattr(dispatch_module.random, "random", lambda: 0.0)

    def play(schedule: Schedule) -> None:
        retry = Retry(attempts=attempts, backoff=0) if attempts > 1 else None
        dispatch = Dispatch(("one", "two"), retry, balancing, Hooks())
        dispatch._lock = Lock(schedule)  # type: ignore[assignment]
        balancer = dispatch._balancer
        assert balancer is not None
        under_way: dict[str, str] = {}
        sent: dict[str, list[str]] = {}
        ended: dict[str, str] = {}
        probes: list[str] = []
        now = [100.0]

        def call(name: str, kind: str) -> None:
            may, *outcomes = kind.split()
            operation = post(idempotent=may == "+")
            flow = dispatch.tries(
                operation, Record("POST", "http://one"), None, lambda: now[0], probes.append, False
            )
            sent[name] = []
            try:
                step: Any = next(flow)
                for outcome in outcomes:
                    while isinstance(step, float):
                        step = flow.send(None)
                    under_way[name] = step[0]
                    sent[name].append(step[0])
                    schedule.pause()
                    del under_way[name]
                    found, at = OUTCOMES[outcome](), step[0]
                    failed = outcome in ("lost", "refused", "busy") and "probe" not in calls
                    try:
                        step = flow.throw(found) if isinstance(found, BaseException) else flow.send(found)
                    except (StopIteration, InferenceServerException):  # not what ends an order that was seen
                        assert not (failed and balancer.in_rotation(at)), f"{at} failed, and is not set aside"
                        raise
                    assert not (failed and balancer.in_rotation(at)), f"{at} failed, and is not set aside"
                ended[name] = "sent too often"
            except StopIteration as end:
                response: Response = end.value
                ended[name] = {200: "answered", 503: "busy"}[response.status_code]
            except InferenceServerException as error:
                names = {ConnectionLost: "lost", ConnectRefused: "refused", RequestCancelled: "cancelled"}
                ended[name] = names[type(error)]  # type: ignore[index]

        def probe() -> None:
            schedule.pause(lambda: bool(probes) or len(ended) == len(calls) - 1)
            for name in list(probes):
                probes.remove(name)
                dispatch.probed(name, now[0], True)
            now[0] += 2.0

        for name, kind in calls.items():
            schedule.add(name, probe if name == "probe" else lambda name=name, kind=kind: call(name, kind))

        def check() -> None:
            for entry in balancer._ring:
                count = list(under_way.values()).count(entry.server)
                assert len(entry.tickets) >= count, "a request is not counted"

        def state() -> Hashable:
            ring = [
                (each.server, len(each.tickets), each.due, each.lease, each.strikes, each.failures)
                for each in balancer._ring
            ]
            told = [sorted(each.items()) for each in (under_way, sent, ended)]
            return str((ring, balancer._next, told, probes, now))

        schedule.check, schedule.state = check, state
        schedule.run()
        assert [len(each.tickets) for each in balancer._ring] == [0, 0], "a request stays open"
        for name, kind in calls.items():
            if name != "probe":
                outcomes = kind.split()[1:]
                assert ended[name] == outcomes[-1]
                assert len(sent[name]) == len(outcomes)

    assert explore(play) > 10
