"""Options of the transports, and decisions about time and resending. No I/O; the time is an argument."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from .._basics.quantities import integer, real
from ..errors import ConnectionLost, DeadlineExceeded, InvalidRequest

__all__ = [
    "FOREVER",
    "UNSET",
    "Connections",
    "Deadline",
    "IdleMoment",
    "Moment",
    "StepMoment",
    "Timeouts",
    "Unset",
    "call_limit",
    "earliest",
    "may_resend",
    "moment",
    "positive",
    "seconds",
    "step_timeout",
]


class Unset(enum.Enum):
    """Stands for an argument that was not given, if None has a meaning of its own."""

    UNSET = "the client's default"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Literal[Unset.UNSET] = Unset.UNSET

#: Seconds that a call may take; None: unlimited; UNSET: the client's default.
Deadline: TypeAlias = float | Unset | None


class Moment(float):
    """When a call must end, on a monotonic clock; `limit` is how many seconds it had."""

    __slots__ = ("limit",)

    limit: float


class IdleMoment(Moment):
    """When a stream must have begun, according to its idle_timeout."""


class StepMoment(Moment):
    """When a step must have made progress."""


def moment(now: float, limit: float | None, kind: type[Moment] = Moment) -> Moment | None:
    """Return the moment `limit` seconds from now; None without a limit."""
    if limit is None:
        return None
    end = kind(now + limit)
    end.limit = limit
    return end


#: More seconds than this mean no limit: poll takes 31 bits of milliseconds, and no infinity.
FOREVER = 1e6


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Timeouts:
    """Time limits in seconds; None is no limit.

    Attributes
    ----------
    connection : float or None
        For opening a connection: name resolution, connect and TLS together.
    network : float or None
        For each send or receive without progress.
    """

    connection: float | None = 60.0
    network: float | None = 60.0

    def __post_init__(self) -> None:
        for name in ("connection", "network"):
            object.__setattr__(self, name, seconds(getattr(self, name), f"{name}_timeout"))


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Connections:
    """How connections are made, used and kept.

    Attributes
    ----------
    max_idle, max_age : float or None
        Seconds after which a connection is not used again: since its last request, since it was opened.
    keep_alive : bool
        Whether a connection carries more than one request.
    proxy : str or None
        ``http://user:password@host:port``: a proxy to go through.
    trust_env : bool
        Whether, without `proxy`, the environment names one (http_proxy, https_proxy, all_proxy, no_proxy).
    max_response_bytes : int or None
        The most bytes of a response's body, both compressed and decompressed.
    expect_continue : bool
        Whether a request of more than 1 MiB waits for 100 Continue before it sends its body.
    """

    max_idle: float | None = 45.0
    max_age: float | None = None
    keep_alive: bool = True
    proxy: str | None = field(default=None, repr=False)  # it may hold a password
    trust_env: bool = False
    max_response_bytes: int | None = None
    expect_continue: bool = False

    def __post_init__(self) -> None:
        for name in ("max_idle", "max_age"):
            object.__setattr__(self, name, seconds(getattr(self, name), name))
        for name in ("keep_alive", "trust_env", "expect_continue"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidRequest(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.max_response_bytes is not None:
            limit = positive(self.max_response_bytes, "max_response_bytes", ", or None")
            object.__setattr__(self, "max_response_bytes", limit)


def positive(value: int, name: str, or_none: str = "") -> int:
    """Return a whole number above 0, or refuse it."""
    number = integer(value)
    if number is None or number < 1:
        raise InvalidRequest(f"{name} must be a whole number above 0{or_none}; got {value!r}")
    return number


def seconds(value: float | None, name: str) -> float | None:
    """Return a time limit in seconds; None when unlimited or above `FOREVER`.

    Raises
    ------
    InvalidRequest
        Unless it is a number of seconds above 0, or None.
    """
    if value is None:
        return None
    limit = real(value)
    if limit is None or not limit > 0:  # NaN fails every comparison
        raise InvalidRequest(f"{name} must be a number of seconds above 0, or None; got {value!r}")
    return None if limit > FOREVER else limit


def call_limit(value: Deadline, default: float | None, name: str = "deadline") -> float | None:
    """Return how many seconds a call may take, None when unlimited; `default` for UNSET.

    Raises
    ------
    DeadlineExceeded
        For 0 and below: a caller's time may be over before the call.
    InvalidRequest
        Unless it is a number of seconds, None or UNSET.
    """
    if value is None:
        return None
    if isinstance(value, Unset):
        return default
    limit = real(value)
    if limit is None or math.isnan(limit):
        raise InvalidRequest(f"{name} must be a number of seconds, or None; got {value!r}")
    if limit <= 0:
        error = DeadlineExceeded(
            f"timed out at the start: the call's {limit + 0.0:g} s are over before it began", phase="start"
        )
        error.attempts = 0
        raise error
    return None if limit > FOREVER else limit


def earliest(*deadlines: float | None) -> float | None:
    """Return the earliest deadline, ignoring None; None if there is no other."""
    present = [deadline for deadline in deadlines if deadline is not None]
    return min(present) if present else None


def step_timeout(limit: float | None, deadline: float | None, now: float) -> float | None:
    """Return how long one step may take: at most its limit, and what is left until the deadline; never below 0."""
    if deadline is None:
        return limit
    left = max(0.0, deadline - now)
    return left if limit is None else min(limit, left)


def may_resend(
    error: ConnectionLost, *, reused: bool, answered: bool, handed_over: bool, repeatable: bool
) -> bool:
    """Decide whether the transport sends a request again, and set the error's `resendable`.

    Parameters
    ----------
    reused : bool
        Whether the connection had carried a request before: the server may have closed it while it was idle.
    answered : bool
        Whether any byte of an answer came.
    handed_over : bool
        Whether the kernel took the whole request, so that the server may have seen it.
    repeatable : bool
        Whether sending it twice does no more than sending it once.
    """
    error.resendable = reused and not answered
    return error.resendable and (repeatable or not handed_over)
