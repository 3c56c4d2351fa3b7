"""Which server gets the next request, and which are left alone for a while: decided here, carried out elsewhere.

The balancer does no I/O and holds no lock: a caller with several threads holds one around every method. The time
is an argument, in seconds on one clock. A request has a ticket, made before its server is picked and handed back
with `done`, whatever happened. A server that fails is set aside, for longer each time, and comes back when a probe
of its readiness succeeds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Hashable, Iterable
from contextlib import suppress
from typing import Any, Generic, Literal, TypeVar
from weakref import ref

from .._transport.policy import earliest
from ..errors import InvalidRequest
from .retry import classify

__all__ = ["NOT_STARTED", "SERVER_LOST", "Balancer", "Ticket", "server_failed"]

S = TypeVar("S", bound=Hashable)


class Signal:
    """An answer of the balancer that is no server."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


#: The sequence's server failed since its last request, or is no longer one of ours; its state may be gone.
SERVER_LOST = Signal("SERVER_LOST")
#: The sequence was not started here, or so many were since that this one is forgotten.
NOT_STARTED = Signal("NOT_STARTED")

#: After so many calls in a row that heard nothing before their own time was over, a server is taken to hang.
_SILENCES = 3

_POLICIES = ("least_outstanding", "round_robin")


def server_failed(result: int | BaseException) -> bool:
    """Say whether a status, or what was raised, speaks against the server."""
    return classify(result) in ("connect", "lost", "timeout", 502, 503, 504)


class Ticket:
    """One request: under way from :meth:`Balancer.pick` until :meth:`Balancer.done`, or until it is dropped."""

    __slots__ = ("__weakref__", "_entry")

    def __init__(self) -> None:
        self._entry: _Server[Any] | None = None

    def drop(self) -> bool:
        """Be under way no more, in one step; return whether it was."""
        entry, mark = self._entry, ref(self)
        if entry is None or mark not in entry.tickets:
            return False
        entry.tickets.discard(mark)
        return True


class _Server(Generic[S]):
    """What is known of a server.

    Attributes
    ----------
    tickets : set of weakref to Ticket
        Requests under way. An exception may come between any two steps, the last ones of a `finally` among them:
        what nobody hands back goes with its ticket.
    due : float or None
        When it may be probed; None while it is in rotation.
    lease : float
        Until when a probe under way is waited for.
    strikes : int
        Failures since its last success, those of one burst counted once.
    failures : int
        How often it lost its state or was removed: what sequences compare.
    silences : int
        Calls that heard nothing of it before their own time was over, since one that did.
    removed : bool
        Whether it is no longer one of ours, and only has requests under way.
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
        """Count a request as under way, in one step."""
        ticket.drop()
        ticket._entry = self
        self.tickets.add(ref(ticket, self.tickets.discard))

    def probe_at(self) -> float | None:
        """Return when it may be given out to be probed; None while it is in rotation."""
        return None if self.due is None else max(self.due, self.lease)


class Balancer(Generic[S]):
    """The books over servers of the type S, any hashable value that names one.

    Parameters
    ----------
    servers : iterable of S
        At least one; what comes twice counts once.
    policy : str
        "least_outstanding" picks the server with the fewest requests under way, ties in turn; "round_robin" picks
        each in turn.
    set_aside, max_set_aside : float
        Seconds until the first probe of a server that failed, doubled with each further failure, and the most.
    max_sequences : int
        The most sequences remembered; beyond them the one that was idle longest is forgotten.
    first : int
        Where the first turn begins. Clients that take a random number do not all begin with the same server.

    Raises
    ------
    InvalidRequest
        For no server, or another policy.
    """

    def __init__(
        self,
        servers: Iterable[S],
        *,
        policy: Literal["least_outstanding", "round_robin"] = "least_outstanding",
        set_aside: float = 1.0,
        max_set_aside: float = 30.0,
        max_sequences: int = 65536,
        first: int = 0,
    ) -> None:
        if policy not in _POLICIES:
            raise InvalidRequest(f"balancing must be one of {', '.join(_POLICIES)}; got {policy!r}")
        self._in_turn = policy == "round_robin"
        self._set_aside = set_aside
        self._max_set_aside = max_set_aside
        self._max_sequences = max_sequences
        self._ring: list[_Server[S]] = []
        #: Where in the ring the next search begins.
        self._next = 0
        #: Those in the ring, and those removed from it that had requests under way when this was last looked at.
        self._known: dict[S, _Server[S]] = {}
        #: A sequence's server, and the failures it had when the sequence began; the last one used stands last.
        self._sequences: OrderedDict[Hashable, tuple[_Server[S], int]] = OrderedDict()
        self.update(servers)
        self._next = first % len(self._ring)

    @property
    def servers(self) -> tuple[S, ...]:
        """The servers that there are, in the order of their turns."""
        return tuple(entry.server for entry in self._ring)

    def outstanding(self, server: S) -> int:
        """Return how many requests are under way to a server."""
        entry = self._known.get(server)
        return len(entry.tickets) if entry else 0

    def in_rotation(self, server: S) -> bool:
        """Say whether a server is one of ours and not set aside."""
        entry = self._known.get(server)
        return entry is not None and entry.due is None and not entry.removed

    def update(self, servers: Iterable[S]) -> None:
        """Replace the servers; those that stay keep their state and turn, new ones come last.

        A server that goes may still have requests under way, handed back as ever; its sequences are lost.

        Raises
        ------
        InvalidRequest
            For no server.
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
        """Return the server for a request, which counts as under way until :meth:`done`.

        Servers set aside are picked only where all are: then one with the fewest requests under way, the one due
        soonest among them. So a client never refuses to try.

        Parameters
        ----------
        ticket : Ticket
            The request's own.
        exclude : collection of S
            Servers to avoid while there is a better one, as those that the call has tried.
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
        """Return the index of the best server in rotation, the first in turn among equals; -1 for none."""
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
        """Hand back a picked server; where it failed, it is set aside. The second time this changes nothing.

        Others that fail while it is set aside belong to the same burst, and do not make that longer before the
        server is due. A success then does not bring it back, since a server that is shutting down still finishes
        what it has begun, but makes it due at once.

        Parameters
        ----------
        ticket : Ticket
            The one that the server was picked with; nothing happens where it came to none.
        failed : bool or None
            Whether the outcome speaks against the server (:func:`server_failed`); None where it says nothing, as
            with a call that was cancelled, or whose own deadline passed.
        keeps_state : bool
            Whether a server that failed still has its sequences, as one that answered.
        silent : bool
            Whether the call's own deadline passed before the server answered. Once that says nothing; the third
            such call in a row is a failure.
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
        # 2**60 doublings pass every limit; more would overflow.
        entry.due = now + min(self._max_set_aside, self._set_aside * 2.0 ** min(entry.strikes, 60))
        entry.strikes += 1

    def due(self, now: float) -> list[S]:
        """Return the servers to probe now; each is the caller's, who must come back with :meth:`probed`.

        Nobody else is given it meanwhile, unless the caller does not come back within `max_set_aside`.
        """
        found = []
        for entry in self._ring:
            probe_at = entry.probe_at()
            if probe_at is not None and probe_at <= now:
                entry.lease = now + self._max_set_aside
                found.append(entry.server)
        return found

    def next_due(self) -> float | None:
        """Return when :meth:`due` will have something to say, None where no server is set aside."""
        return earliest(*(entry.probe_at() for entry in self._ring))

    def probed(self, server: S, now: float, ready: bool) -> None:
        """Say what a probe found: a ready server is back in rotation, another is set aside for longer.

        How long the next failure sets it aside is forgotten with its next success, not with the probe: a server
        may be ready and fail all the same.
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
    ) -> S | Signal:
        """Return the server of a sequence, or why there is none. A sequence is never moved.

        Parameters
        ----------
        ticket : Ticket
            As for :meth:`pick`.
        key : hashable
            What tells the sequence from all others.
        start : bool
            Whether the request starts the sequence: then a server is picked if it has none, or lost it.
        exclude : collection of S
            As for :meth:`pick`.

        Returns
        -------
        S, SERVER_LOST or NOT_STARTED
            Only a server counts as picked. A lost sequence stays lost, though its server come back, until it is
            started again or forgotten.
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
        self._sequences[key] = ticket._entry, ticket._entry.failures  # the last one used stands last
        if len(self._sequences) > self._max_sequences:
            self._sequences.popitem(last=False)
        return server

    def sticky(self, key: Hashable) -> S | None:
        """Return the server that a sequence is or was with, None where it is not known."""
        bound = self._sequences.get(key)
        return bound[0].server if bound else None

    def end(self, key: Hashable) -> None:
        """Forget a sequence: its last request was answered."""
        self._sequences.pop(key, None)
