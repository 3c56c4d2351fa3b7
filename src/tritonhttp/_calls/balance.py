"""Which server gets the next request, and which servers are set aside: decided here, carried out elsewhere.

The balancer does no I/O and takes no lock: a caller with several threads holds one around every method. The time
is an argument, in seconds on one clock. A request has a ticket, made before its server is picked, and handed back
with `done` whatever happened. A server that fails is set aside, for longer each time, and returns when a probe
finds it ready.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Collection, Hashable, Iterable
from contextlib import suppress
from typing import Any, Generic, Literal, TypeVar
from weakref import ref

from ..errors import InvalidRequest
from .retry import classify

__all__ = ["NOT_STARTED", "SERVER_LOST", "Balancer", "Ticket", "server_failed"]

S = TypeVar("S", bound=Hashable)


class NoServer(enum.Enum):
    """Why a sequence has no server."""

    #: It failed since the sequence's last request, or was removed, so the sequence's state may be gone.
    SERVER_LOST = enum.auto()
    #: The sequence was not started here, or was forgotten because so many others were started since.
    NOT_STARTED = enum.auto()


SERVER_LOST, NOT_STARTED = NoServer.SERVER_LOST, NoServer.NOT_STARTED

#: A server is taken to hang after so many calls in a row whose own deadlines passed before it answered.
_SILENCES = 3

_POLICIES = ("least_outstanding", "round_robin")


def server_failed(result: int | BaseException) -> bool:
    """Return whether a status or an exception suggests that the server failed."""
    return classify(result) in ("connect", "lost", "timeout", 502, 503, 504)


class Ticket:
    """One request: outstanding from :meth:`Balancer.pick` to :meth:`Balancer.done`, or until it is collected."""

    __slots__ = ("__weakref__", "_entry")

    def __init__(self) -> None:
        self._entry: _Server[Any] | None = None

    def drop(self) -> bool:
        """Stop being outstanding, in one step; return whether it was."""
        entry, mark = self._entry, ref(self)
        if entry is None or mark not in entry.tickets:
            return False
        entry.tickets.discard(mark)
        return True


class _Server(Generic[S]):
    """The state of a server.

    Attributes
    ----------
    tickets : set of weakref to Ticket
        Outstanding requests. The references are weak because an exception may come between any two steps, even in
        a `finally`: a request that is never handed back ends with its ticket.
    due : float or None
        When it may be probed; None while it is in rotation.
    lease : float
        Until when to wait for a probe in progress.
    strikes : int
        Failures since its last success; those of one burst count once.
    failures : int
        How often it lost its state or was removed; sequences compare this number.
    silences : int
        Calls whose own deadline passed before it answered, since the last one that it answered.
    removed : bool
        Whether it was removed, and only has outstanding requests.
    """

    __slots__ = ("due", "failures", "lease", "removed", "server", "silences", "strikes", "tickets")

    def __init__(self, server: S) -> None:
        self.server = server
        self.tickets: set[ref[Ticket]] = set()
        self.due: float | None = None
        self.lease = 0.0
        self.strikes = 0
        self.failures = 0
        self.silences = 0
        self.removed = False

    def admit(self, ticket: Ticket) -> None:
        """Make a request outstanding here, in one step."""
        ticket.drop()
        ticket._entry = self
        self.tickets.add(ref(ticket, self.tickets.discard))

    def probe_at(self) -> float | None:
        """Return when it may be probed; None while it is in rotation."""
        return None if self.due is None else max(self.due, self.lease)


class Balancer(Generic[S]):
    """The books over servers of the type S, any hashable value that identifies one.

    Parameters
    ----------
    servers : iterable of S
        At least one; duplicates count once.
    policy : str
        "least_outstanding" picks the server with the fewest outstanding requests, ties in turn; "round_robin"
        picks each in turn.
    first : int
        Where the first turn begins. With random numbers not all clients begin with the same server.

    Raises
    ------
    InvalidRequest
        Without a server, or for another policy.
    """

    #: Seconds until a server that failed is probed; doubled with each further failure, up to the second value.
    set_aside, max_set_aside = 1.0, 30.0
    #: The most sequences to remember; beyond that the one idle longest is forgotten.
    max_sequences = 65536

    def __init__(
        self,
        servers: Iterable[S],
        *,
        policy: Literal["least_outstanding", "round_robin"] = "least_outstanding",
        first: int = 0,
    ) -> None:
        if policy not in _POLICIES:
            raise InvalidRequest(f"balancing must be one of {', '.join(_POLICIES)}; got {policy!r}")
        self._in_turn = policy == "round_robin"
        self._ring: list[_Server[S]] = []
        #: Where in the ring the next search begins.
        self._next = 0
        #: Those in the ring, and removed ones that had outstanding requests at the last `update`.
        self._known: dict[S, _Server[S]] = {}
        #: A sequence's server, and its failures when the sequence began; the sequence used last is at the end.
        self._sequences: OrderedDict[Hashable, tuple[_Server[S], int]] = OrderedDict()
        self.update(servers)
        self._next = first % len(self._ring)

    def in_rotation(self, server: S) -> bool:
        """Return whether a server is a current one and not set aside."""
        entry = self._known.get(server)
        return entry is not None and entry.due is None and not entry.removed

    def update(self, servers: Iterable[S]) -> None:
        """Replace the servers; those that stay keep their state and turn, new ones are added at the end.

        A removed server may still have outstanding requests, which are handed back as usual; its sequences are
        lost.

        Raises
        ------
        InvalidRequest
            Without a server.
        """
        names = dict.fromkeys(servers)
        if not names:
            raise InvalidRequest("the client needs at least one server; got none")
        for entry in self._ring:
            if entry.server not in names:
                entry.removed = True
                entry.failures += 1
        known = {
            name: entry for name, entry in self._known.items() if not entry.removed or len(entry.tickets)
        }
        turns = len([entry for entry in self._ring[: self._next] if not entry.removed])
        ring = [entry for entry in self._ring if not entry.removed]
        present = {entry.server for entry in ring}
        for name in names:
            if name not in present:
                entry = known.setdefault(name, _Server(name))
                entry.removed = False
                ring.append(entry)
        self._known, self._ring, self._next = known, ring, turns % len(ring)

    def pick(self, ticket: Ticket, exclude: Collection[S] = ()) -> S:
        """Return the server for a request, which is outstanding until :meth:`done`.

        If all servers are set aside, pick the one with the fewest outstanding requests, and among equals the one
        to be probed soonest. So a client never refuses to try.

        Parameters
        ----------
        ticket : Ticket
            The request's own.
        exclude : collection of S
            Servers to avoid if possible, such as those that the call has tried.
        """
        ring = self._ring  # a signal handler may bring another one
        index = self._search(ring, exclude)
        if index < 0 and exclude:
            index = self._search(ring, ())
        if index >= 0:
            self._next = (index + 1) % len(ring)
            chosen = ring[index]
        else:
            others = [entry for entry in ring if entry.server not in exclude]
            chosen = min(others or ring, key=lambda entry: (len(entry.tickets), entry.due or 0.0))
        chosen.admit(ticket)
        return chosen.server

    def _search(self, ring: list[_Server[S]], exclude: Collection[S]) -> int:
        """Return the index of the best server in rotation, the first in turn among equals; -1 if there is none."""
        best, least, first = -1, 0, self._next % len(ring)
        for turn in (range(first, len(ring)), range(first)):
            for index in turn:
                entry = ring[index]
                if entry.due is not None or (exclude and entry.server in exclude):
                    continue
                outstanding = len(entry.tickets)
                if self._in_turn or not outstanding:
                    return index
                if best < 0 or outstanding < least:
                    best, least = index, outstanding
        return best

    def done(
        self,
        ticket: Ticket,
        now: float,
        failed: bool | None,
        *,
        keeps_state: bool = False,
        silent: bool = False,
    ) -> None:
        """Hand back a picked server, and set it aside if it failed. The second time this changes nothing.

        Requests that fail while their server is set aside belong to the same burst, and do not set it aside for
        longer before it is due. One that succeeds makes it due at once, but does not bring it back, since a server
        that is shutting down still finishes what it has begun.

        Parameters
        ----------
        ticket : Ticket
            The one that the server was picked with; without effect if none was picked.
        failed : bool or None
            Whether the outcome suggests that the server failed (:func:`server_failed`); None if it says nothing
            about the server: the call was cancelled, or its own deadline passed.
        keeps_state : bool
            Whether a server that failed still has its sequences, because it answered.
        silent : bool
            Whether the call's own deadline passed before the server answered. The third such call in a row counts
            as a failure.
        """
        entry = ticket._entry
        if not ticket.drop() or entry is None:
            return
        if silent:
            entry.silences += 1
            failed, keeps_state = entry.silences >= _SILENCES or None, True
        elif failed is not None:
            entry.silences = 0
        if failed:
            if not keeps_state:
                entry.failures += 1
            probe_at = entry.probe_at()
            if probe_at is None or probe_at <= now:
                self._put_aside(entry, now)
        elif failed is None:
            pass
        elif entry.due is None:
            entry.strikes = 0
        else:
            entry.due = min(entry.due, now)

    def _put_aside(self, entry: _Server[S], now: float) -> None:
        entry.silences = 0
        # 60 doublings exceed every limit; more might overflow.
        entry.due = now + min(self.max_set_aside, self.set_aside * 2.0 ** min(entry.strikes, 60))
        entry.strikes += 1

    def due(self, now: float) -> list[S]:
        """Return the servers to probe now; the caller reports each result to :meth:`probed`.

        No other caller gets the same server meanwhile, unless there is no report within `max_set_aside`.
        """
        found = []
        for entry in self._ring:
            probe_at = entry.probe_at()
            if probe_at is not None and probe_at <= now:
                entry.lease = now + self.max_set_aside
                found.append(entry.server)
        return found

    def probed(self, server: S, now: float, ready: bool) -> None:
        """Report a probe: a ready server returns to rotation, another is set aside for longer.

        Only its next success resets how long the next failure sets it aside, not the probe: a server may be ready
        and still fail.
        """
        entry = self._known.get(server)
        if entry is None or entry.due is None:
            return
        entry.lease = 0.0
        if ready:
            entry.due = None
        else:
            self._put_aside(entry, now)

    def pick_for(
        self, ticket: Ticket, key: Hashable, *, start: bool, exclude: Collection[S] = ()
    ) -> S | NoServer:
        """Return the server of a sequence, or why there is none. A sequence never moves to another server.

        Parameters
        ----------
        ticket : Ticket
            As for :meth:`pick`.
        key : hashable
            Identifies the sequence.
        start : bool
            Whether the request starts the sequence: then pick a server if it has none, or lost its own.
        exclude : collection of S
            As for :meth:`pick`.

        Returns
        -------
        S, SERVER_LOST or NOT_STARTED
            Only with a server is the request outstanding. A lost sequence stays lost, even if its server returns,
            until it is started again or forgotten.
        """
        bound = self._sequences.get(key)
        if bound is not None:
            entry, failures = bound
            with suppress(KeyError):  # a signal handler has ended it
                self._sequences.move_to_end(key)
            if entry.failures == failures:
                entry.admit(ticket)
                server: S = entry.server
                return server
        if not start:
            return NOT_STARTED if bound is None else SERVER_LOST
        server = self.pick(ticket, exclude)
        assert ticket._entry is not None
        self._sequences.pop(key, None)
        self._sequences[key] = ticket._entry, ticket._entry.failures  # moves it to the end
        if len(self._sequences) > self.max_sequences:
            self._sequences.popitem(last=False)
        return server

    def sticky(self, key: Hashable) -> S | None:
        """Return the server of a sequence, even if lost; None if the sequence is not known."""
        bound = self._sequences.get(key)
        return bound[0].server if bound else None

    def end(self, key: Hashable) -> None:
        """Forget a sequence, once its last request was answered."""
        self._sequences.pop(key, None)
