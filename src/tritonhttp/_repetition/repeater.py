"""The exchange that most calls are: a request in one piece, and an answer that begins as the last one did.

A C extension carries it out in one call, on Linux, where one was built: it takes a connection of the pool, sends,
receives, compares, and gives the connection back. It knows no HTTP and raises no error of ours: as soon as
anything is otherwise it leaves the connection in the call's place, and the transport resumes there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .._basics.implementation import check_c_is_wanted, fall_back

if TYPE_CHECKING:
    from .._wire.requests import Buffer

__all__ = ["REPEATS", "Place", "Repeater", "Track"]

C = TypeVar("C")
T = TypeVar("T", bound="Track")


class Place(Generic[C]):
    """A call's claim to a connection. Whoever makes one gives it back, whatever ends the call.

    Attributes
    ----------
    connection
        The connection that the call uses, or None.
    transport
        The transport whose connection that is, and which takes the place back; None before the first exchange.
    wake : callable or None
        Tells a call that waits in line that it is served, or turned away, and one that waits anywhere but for an
        answer that it was cancelled; may be called more than once.
    sent : callable or None
        Is called when the whole request has been handed to the kernel.
    owner : int
        The thread that waits for the place or uses it; 0 where none does just now.
    exceeds : bool
        Whether the call must not wait, but may have a connection beyond the limit.
    served : bool
        Whether the call had a connection before: its next tries go to the front of the line.
    cancelled : bool
        Whether nobody wants the call's outcome any more. Its connection is not used again.
    resent : int
        How often its request was sent again after it had been handed over whole.
    taken, handed, answered : float
        Times of a repetition on the monotonic clock: when it had a connection, when the kernel had the whole
        request, when the answer came.
    """

    __slots__ = (
        "__weakref__",
        "answered",
        "cancelled",
        "connection",
        "exceeds",
        "handed",
        "owner",
        "resent",
        "sent",
        "served",
        "taken",
        "transport",
        "wake",
    )

    def __init__(self) -> None:
        self.connection: C | None = None
        self.transport: Any = None
        self.wake: Callable[[], object] | None = None
        self.sent: Callable[[], object] | None = None
        self.owner = self.resent = 0
        self.exceeds = self.served = self.cancelled = False
        self.taken = self.handed = self.answered = 0.0


class Track:
    """What the extension has to know of a connection; the base of one."""

    __slots__ = ("ahead", "armed", "came", "dies", "expires", "problem", "received", "requests", "sent")

    def __init__(self) -> None:
        #: Until when it may be used again: by its age, and, while it is idle, by that as well.
        self.dies = self.expires = math.inf
        #: How long the kernel waits in each receive, in seconds; -1: nobody has said so yet, infinite: for ever.
        self.armed = -1.0
        #: Since it was made: requests begun, and bytes.
        self.requests = self.sent = self.received = 0
        #: If a repetition took another course: bytes sent, bytes received (-1: it did not receive), and the error
        #: number that ended it, or 0. Whoever resumes the exchange sets them back.
        self.ahead, self.came, self.problem = 0, -1, 0

    def attach(self, fd: int, room: Any) -> None:
        """Name the socket, which has no time limit of Python's, and the memory where its answers begin."""

    def detach(self) -> None:
        """Forget the socket, whose number may soon be another's."""

    def receive(self, buffer: Any, until: float) -> int:
        """Receive into a buffer; return the number of bytes, 0 at the end of the stream.

        Signals are handled meanwhile, and do not stretch the time.

        Parameters
        ----------
        until : float
            When to stop waiting, on the monotonic clock; infinity: never.

        Raises
        ------
        TimeoutError
            If nothing came in time.
        OSError
            If the connection broke.
        """
        raise NotImplementedError


class Repeater(Generic[T]):
    """Repeats exchanges over a pool's connections.

    Parameters
    ----------
    pool : Pool
        Of connections that are tracks; others are left alone. It says which of its attributes are used here.
    network : float
        How long each step may take, in seconds. Calls without an earlier deadline rely on SO_RCVTIMEO; connections
        armed with another limit are left alone then.
    max_idle : float
        How long a connection may be idle, in seconds.
    """

    #: How many were begun that expected an answer.
    calls: int = 0
    #: How many of them ended as expected, their places given back.
    ended: int = 0

    def __init__(self, pool: Any, network: float, max_idle: float) -> None:
        pass

    def repeat(
        self, place: Place[T], request: Buffer, start: bytes, head: int, size: int, until: float | None
    ) -> bytes | None:
        """Send a request and receive its answer.

        Parameters
        ----------
        place : Place
            Holds the connection during the exchange: its own, or one that is idle. It still holds one afterwards
            if the answer took another course, if a signal's handler raised, or if the connection could not simply
            be given back.
        request : bytes
            The whole request, in one piece.
        start : bytes
            What the answer is expected to begin with. Empty: no answer is expected, and any takes another course.
        head, size : int
            In bytes: the part of `start` that is no body, and the whole answer.
        until : float or None
            When the call must end, on the monotonic clock.

        Returns
        -------
        bytes or None
            The body of the expected answer; None if another one came, or if nothing was sent, since no connection
            is fit for it or the time is over.
        """
        return None


REPEATS = False
if not TYPE_CHECKING:
    try:
        check_c_is_wanted()
        from ._fast import Place, Repeater, Track

        REPEATS = True
    except ImportError as error:
        fall_back("tritonhttp._repetition._fast", error)
