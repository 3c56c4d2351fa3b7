"""Explores every order in which actors can take their steps.

An actor is a function in a greenlet. It runs alone until it pauses: at a lock, at a bell, or where it says so.
Then any actor that can go on may be the next. :func:`explore` plays a game again and again, each time in another
order, until there is no other. Orders that come to a state that was seen before are not played to their end.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import pytest

greenlet = pytest.importorskip("greenlet")

__all__ = ["Bell", "Lock", "Schedule", "explore"]


class _Seen(Exception):
    """This state was reached before, by another order."""


class Schedule:
    """One order of the steps of actors.

    Parameters
    ----------
    path : list of list of int
        The choices made: which, and of how many. It begins with those to be repeated.
    seen : set
        The states that were reached.
    """

    def __init__(self, path: list[list[int]], seen: set[Hashable]) -> None:
        self._path, self._seen = path, seen
        self._at, self._repeated = 0, len(path)
        self._actors: dict[str, Any] = {}
        self._ready: dict[Any, Callable[[], bool]] = {}
        #: What else belongs to the state, and what has to hold between any two steps.
        self.state: Callable[[], Hashable] = lambda: None
        self.check: Callable[[], None] = lambda: None
        self.main = greenlet.getcurrent()
        self.steps: list[str] = []

    def add(self, name: str, actor: Callable[[], object]) -> None:
        """Add an actor."""
        self._actors[name] = greenlet.greenlet(actor)

    def choose(self, count: int) -> int:
        """Return a number below a count; each comes in another play."""
        if self._at == len(self._path):
            self._path.append([0, count])
        chosen, of = self._path[self._at]
        assert of == count, "the game is not the same each time"
        self._at += 1
        return chosen

    def pause(self, ready: Callable[[], bool] = lambda: True) -> None:
        """Let others take steps, until this actor is ready and its turn has come."""
        current = greenlet.getcurrent()
        if current is self.main:  # before the game, or behind it
            assert ready()
            return
        self._ready[current] = ready
        self.main.switch()

    def run(self) -> None:
        """Play until all actors have ended."""
        try:
            while True:
                alive = [name for name, actor in self._actors.items() if not actor.dead]
                if not alive:
                    return
                ready = [name for name in alive if self._is_ready(self._actors[name])]
                assert ready, f"{alive} wait for ever"
                self._look(alive)
                name = ready[self.choose(len(ready))]
                self.steps.append(name)
                self._actors[name].switch()
                self.check()
        finally:
            for actor in self._actors.values():
                if not actor.dead and actor:
                    actor.throw(greenlet.GreenletExit)

    def _is_ready(self, actor: Any) -> bool:
        ready = self._ready.get(actor)
        return ready is None or ready()

    def _look(self, alive: list[str]) -> None:
        """Stop unless this state is new."""
        if self._at < self._repeated:
            return
        where = tuple((name, self._place(self._actors[name])) for name in alive)
        state = where, self.state()
        if state in self._seen:
            raise _Seen
        self._seen.add(state)

    def _place(self, actor: Any) -> Hashable:
        """Say where an actor is."""
        found, frame = [], actor.gr_frame
        while frame is not None:
            found.append((frame.f_code.co_name, frame.f_lasti))
            frame = frame.f_back
        return tuple(found)


class Lock:
    """A re-entrant lock; who takes it pauses before."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self.owner: Any = None
        self._depth = 0

    def __enter__(self) -> Lock:
        me = greenlet.getcurrent()
        if self.owner is not me:
            self._schedule.pause(lambda: self.owner is None)
            self.owner = me
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self.owner = None

    def _is_owned(self) -> bool:
        return self.owner is greenlet.getcurrent()


class Bell:
    """A bell for one waiter; if the wait has a limit, its time may be over at any moment."""

    def __init__(self, schedule: Schedule, late: Callable[[], object]) -> None:
        self._schedule, self._late = schedule, late
        self.rung = False

    def __call__(self) -> None:
        self.rung = True

    def wait(self, seconds: float | None) -> bool:
        """Wait for a ring; return whether it rang."""
        self._schedule.pause(lambda: self.rung or seconds is not None)
        rung, self.rung = self.rung, False
        if not rung:
            self._late()
        return rung


def explore(play: Callable[[Schedule], object], most: int = 200_000) -> int:
    """Play a game in every order; return in how many.

    Parameters
    ----------
    play : callable
        Adds its actors to a schedule, runs it, and checks what came of it.
    most : int
        Fail rather than play more often.
    """
    path: list[list[int]] = []
    seen: set[Hashable] = set()
    for number in range(1, most):
        schedule = Schedule(path, seen)
        try:
            play(schedule)
        except _Seen:
            pass
        except BaseException as error:
            raise AssertionError(f"in the order {schedule.steps}: {error!r}") from error
        while path and path[-1][0] + 1 == path[-1][1]:
            path.pop()
        if not path:
            return number
        path[-1][0] += 1
    raise AssertionError(f"more than {most} orders")
