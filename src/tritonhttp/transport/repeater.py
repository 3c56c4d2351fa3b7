"""The exchange that most calls are: a request in one piece, and an answer that begins as the last one did.

A C extension carries it out in one call, on Linux, where one was built: it takes a connection of the pool, sends,
receives, compares, and gives the connection back. It knows no HTTP and raises no error of ours: as soon as
anything is otherwise it hands the connection over, and the transport goes on from there.
"""

from __future__ import annotations

import math
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from ..wire.requests import Buffer
    from .pool import Pool

__all__ = ["REPEATS", "Repeater", "Track"]

C = TypeVar("C", bound="Track")


class Track:
    """What the extension has to know of a connection; the base of one."""

    __slots__ = ("ahead", "armed", "came", "dies", "expires", "problem", "received", "requests", "sent")

    def __init__(self) -> None:
        #: Until when it may be used again: by its age, and, while it is idle, by that as well.
        self.dies = self.expires = math.inf
        #: How long the kernel waits in each step, in seconds; -1: nobody has said so yet, infinite: for ever.
        self.armed = -1.0
        #: Since it was made: requests begun, and bytes.
        self.requests = self.sent = self.received = 0
        #: Of a repetition that took another course: the bytes that it sent; those that it received, -1: it did not
        #: come to that; the number of the error that ended it, or 0. What goes on with it sets them back.
        self.ahead, self.came, self.problem = 0, -1, 0

    def attach(self, fd: int, room: Any) -> None:
        """Name the socket, which has no time limit of Python's, and the memory where its answers begin."""


class Repeater(Generic[C]):
    """Repeats exchanges over a pool's connections.

    Parameters
    ----------
    lock
        Guards the pool.
    pool : Pool
        Of connections that are tracks; others are left alone.
    network : float
        How long each step may take, in seconds. Where a call does not end before that it is the kernel that waits;
        connections armed otherwise are left alone then.
    max_idle : float
        How long a connection may be idle, in seconds.
    """

    #: How many were begun.
    calls: int = 0

    def __init__(self, lock: threading.Lock, pool: Pool[C, Any], network: float, max_idle: float) -> None:
        pass

    def repeat(
        self, transport: Any, request: Buffer, start: bytes, head: int, size: int, until: float | None
    ) -> bytes | C | None:
        """Send a request and receive its answer.

        Parameters
        ----------
        transport
            Its ``_keep`` takes the connection back where others wait for one, and the like; its ``_drop`` one
            during whose exchange a signal's handler raised.
        request : bytes
            The whole request, in one piece.
        start : bytes
            What the answer is expected to begin with.
        head, size : int
            In bytes: what of that is no part of the body, and the whole answer.
        until : float or None
            When the call must end, on the monotonic clock.

        Returns
        -------
        bytes
            The body of the answer that was expected.
        Track
            The connection, where it took another course.
        None
            Nothing was sent: there is no connection that is fit for it, or the time is over.
        """
        return None


REPEATS = False
if not TYPE_CHECKING:
    with suppress(ImportError):
        from ._repeater import Repeater, Track

        REPEATS = True
