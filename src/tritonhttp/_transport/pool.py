"""Which connection carries the next request: decided here, carried out by the transports.

A call makes a :class:`Place`, claims a connection for it, and gives it back in a ``finally``. Places are served
first come, first served. The pool does no I/O. If several threads use it, they hold a re-entrant lock around every
method.

An exception may end any method at any instruction, and a signal handler may use the pool in the middle of one. So
the connections in use are never counted up and down: they are the places in `holders`. Each step leaves the books
consistent, and :meth:`Pool.give_back` completes an interrupted method when it is called again.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Collection, Iterable
from itertools import islice
from typing import Any, Generic, TypeVar

from .._repetition.repeater import Place

__all__ = ["Place", "Pool", "cancel", "release"]

C = TypeVar("C")


class Pool(Generic[C]):
    """The books over at most `limit` connections of the type C, and over the places of calls.

    Parameters
    ----------
    limit : int
        The most connections at a time.

    Attributes
    ----------
    limit : int
        As given.
    closed : bool
        Whether :meth:`close` was called.
    idle : list of C
        Connections without a request. The one used last is used first, so that the others can expire.
    holders : set of Place
        The places that may use a connection: the one they have, or a new one.
    line : deque of Place
        The places that wait, in order. A place without a `wake` is not served yet: its call has not begun to wait.
    ready : set of Place
        The places in the line that have a `wake`.
    ended : int
        How many places were given back.
    frozen : bool
        Whether the C extension has to leave the books alone.

    Notes
    -----
    The C extension (``_repetition/_fast.c``) uses these attributes by name: it reads `limit`, `closed`, `frozen`
    and `ready`, and changes `idle`, `holders` and `line`. It does not take the lock, since each of its steps is
    atomic under the GIL. So it may take a step between any two instructions here: what is read of the books in
    one instruction must not be written back in another. It leaves the pool to Python unless `idle` is exactly a
    list and `holders` exactly a set.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.closed = False
        self.idle: list[C] = []
        self.holders: set[Place[C]] = set()
        self.line: deque[Place[C]] = deque()
        self.ready: set[Place[C]] = set()
        self.ended = 0
        self.frozen = False
        #: The place that is being moved from the line to the holders.
        self._serving: Place[C] | None = None

    @property
    def taken(self) -> int:
        """How many connections exist or will: the idle ones, and one for each holder."""
        return len(self.holders) + len(self.idle)

    @property
    def begun(self) -> int:
        """How many places were asked for."""
        return self.ended + len(self.holders) + len(self.line)

    def take(self, place: Place[C]) -> bool:
        """Take an idle connection, or the right to open one; return False if there is neither, or others wait."""
        if self.line or self.closed:
            return False
        self.holders.add(place)
        try:
            place.connection = self.idle.pop()
        except IndexError:
            if self.taken > self.limit:
                self.holders.discard(place)
                return False
        return True

    def join(self, place: Place[C]) -> None:
        """Join the line at its end; a place that was served before joins at its front."""
        if place.served:
            self.line.appendleft(place)
        else:
            self.line.append(place)
        if place.wake is not None:
            self.ready.add(place)

    def wait(self, place: Place[C], wake: Callable[[], object]) -> None:
        """Make a place in the line ready to be served; serve it now if there is room."""
        self.ready.add(place)
        place.wake = wake
        if len(self.holders) < self.limit or self._serving is not None:
            self.serve()

    def begin(self, place: Place[C]) -> None:
        """Note that the call of a place that was served continues."""
        if self._serving is place:  # the one who served it was interrupted
            self.leave_line(place)
        self.ready.discard(place)  # a handler may have served it just before `wait` made it ready
        place.wake, place.served = None, True

    def serve(self) -> None:
        """Serve the line as far as there is room. A place that is not ready keeps its room."""
        while (place := self._serving or self._next()) is not None:
            self._serving = place
            self.holders.add(place)
            if place.connection is None and self.idle:
                try:  # noqa: SIM105  contextlib's suppress would take three frames
                    place.connection = self.idle.pop()
                except IndexError:  # a handler has closed the pool
                    pass
            if place.wake is not None:
                place.wake()
            self.leave_line(place)
        if self.closed:
            self._turn_away()

    def _turn_away(self) -> None:
        """Wake all that wait."""
        for place in list(self.line):
            if place.wake is not None:
                place.wake()

    def _next(self) -> Place[C] | None:
        """Return the first place in the line that is ready and has room."""
        kept = 0
        try:
            while not self.closed:
                # Look the place up before the room: a handler that uses the room in between has served the place.
                place = self.line[kept]
                if self.limit - len(self.holders) <= kept:
                    return None
                if place.wake is not None:
                    return place
                kept += 1
        except IndexError:  # the end of the line
            pass
        return None

    def has_room(self, place: Place[C]) -> bool:
        """Return whether a place in the line would be served if it were ready."""
        room = max(0, self.limit - len(self.holders))
        # The copy is one step, during which no handler can change the line.
        return place in list(islice(self.line, room)) or place in self.holders

    def leave_line(self, place: Place[C]) -> bool:
        """Remove a place from the line, and return whether it was there."""
        self.ready.discard(place)
        try:
            self.line.remove(place)
            was_there = True
        except ValueError:
            was_there = False
        if self._serving is place:  # last: until then the next `serve` completes an interrupted one
            self._serving = None
        return was_there

    def is_nested(self, place: Place[C], owners: Collection[int]) -> bool:
        """Return whether a place would wait for another one of its own thread, as in a signal handler."""
        return any(each.owner in owners for each in (*self.holders, *self.line) if each is not place)

    def exceed(self, place: Place[C]) -> None:
        """Let a place open a connection beyond the limit."""
        self.leave_line(place)  # first: a holder that an interrupt left in the line would stay there
        self.holders.add(place)

    def give_back(self, place: Place[C], *, reusable: bool, serve: bool = True) -> C | None:
        """Give up a place, or leave the line; return its connection if the caller must close it.

        Parameters
        ----------
        reusable : bool
            Whether the place's connection can carry another request.
        serve : bool
            Whether to serve the line. A signal handler leaves that to the method that it interrupted.
        """
        waited = (place.wake is not None or place not in self.holders) and self.leave_line(place)
        # After that, since a handler may have served the place until then.
        held = place in self.holders
        connection, place.connection = place.connection, None
        self.ended += held or waited
        if held:
            self.holders.discard(place)
            if connection is not None and reusable and not (self.closed or place.cancelled):
                self.idle.append(connection)
                # Checked afterwards: a handler may have closed the pool, or used the room, just before.
                connection = None
                if self.closed or len(self.holders) + len(self.idle) > self.limit:
                    with contextlib.suppress(IndexError):  # a call has taken it
                        connection = self.idle.pop()
        if serve and (self.ready or self._serving is not None or self.closed):
            self.serve()
        return connection

    def lost(self, connections: Iterable[C]) -> list[C]:
        """Return those of the open connections that an exception removed from the books between two steps."""
        while True:
            self.frozen = True
            try:
                # A handler that uses the pool in between moves connections either way, and may open more of them.
                opened = list(connections)
                known: set[C | None] = {*self.idle}
                known.update([place.connection for place in list(self.holders)])
                known.update(self.idle)
                found = [connection for connection in opened if connection not in known]
                if self.frozen:  # or a handler has looked for lost ones, too
                    return found
            finally:
                self.frozen = False

    def drop_expired(self, now: float) -> C | None:
        """Remove and return the connection that was idle longest, if it has expired; the caller closes it."""
        # One at a time is enough: each request checks one.
        try:
            return self.idle.pop(0) if self.idle[0].expires <= now else None  # type: ignore[attr-defined]
        except IndexError:  # there is none, or a call has taken it
            return None

    def close(self) -> list[C]:
        """Close the books, and wake all that wait; return the connections to close."""
        self.closed = True
        idle, self.idle = self.idle, []
        self._turn_away()
        return idle


def release(place: Place[Any] | None) -> None:
    """Give a place back to its transport, if it has one."""
    if place is not None and place.transport is not None:
        place.transport.give_back(place)


def cancel(place: Place[Any]) -> None:
    """Have the call of a place end, on whichever thread it is. Idempotent."""
    # First: whoever waits looks at it once it can be woken.
    place.cancelled = True
    wake, transport = place.wake, place.transport
    if wake is not None:
        wake()
    if transport is not None:
        transport.interrupt(place)
