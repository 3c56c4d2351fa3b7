"""Decisions of the transports, and the frozen options that they follow. No I/O, and the time is an argument."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ..errors import ConnectError, ConnectionLost, DeadlineExceeded, InvalidRequest, ServerError

__all__ = [
    "UNSET",
    "Connections",
    "Deadline",
    "Moment",
    "Retry",
    "Timeouts",
    "Unset",
    "classify",
    "earliest",
    "may_resend",
    "moment",
    "parse_retry_after",
    "seconds",
    "step_timeout",
]


class Unset(enum.Enum):
    """Stands for an argument that was not given, where None means something."""

    UNSET = "the client's default"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Literal[Unset.UNSET] = Unset.UNSET

#: Seconds that a call may take; None: as long as it likes; UNSET: as the client says.
Deadline: TypeAlias = float | Unset | None


class Moment(float):
    """When a call must end, on a monotonic clock; it remembers how many seconds the call had."""

    __slots__ = ("limit",)

    limit: float


def moment(now: float, limit: float | None) -> Moment | None:
    """Return the moment that is `limit` seconds from now; None where there is no limit."""
    if limit is None:
        return None
    end = Moment(now + limit)
    end.limit = limit
    return end


#: More seconds than this are no limit: poll counts milliseconds in 31 bits, and refuses infinity.
_FOREVER = 1e6

#: A server that asks for a longer pause than this, in seconds, is not waited for without a deadline.
_LONGEST_PAUSE = 600.0

#: How a try ends without an answer.
Failure: TypeAlias = Literal["connect", "lost", "timeout"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """Time limits in seconds; None is no limit.

    Attributes
    ----------
    connection : float or None
        For making a connection: name, connect and TLS together.
    network : float or None
        For each send or receive without progress.
    """

    connection: float | None = 60.0
    network: float | None = 60.0

    def __post_init__(self) -> None:
        for name in ("connection", "network"):
            object.__setattr__(self, name, seconds(getattr(self, name), f"{name}_timeout"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Connections:
    """How connections are made, used and kept.

    Attributes
    ----------
    max_idle, max_age : float or None
        Seconds after which a connection is not used again: since its last request, since it was made.
    keep_alive : bool
        Whether a connection carries more than one request.
    proxy : str or None
        ``http://user:password@host:port``: a proxy to go through.
    trust_env : bool
        Whether, without `proxy`, the environment says which (http_proxy, https_proxy, all_proxy, no_proxy).
    max_response_bytes : int or None
        The most bytes of a response's body, packed and unpacked.
    expect_continue : bool
        Whether a request with a body of more than 1 MiB asks the server first.
    """

    max_idle: float | None = 45.0
    max_age: float | None = None
    keep_alive: bool = True
    proxy: str | None = field(default=None, repr=False)
    trust_env: bool = False
    max_response_bytes: int | None = None
    expect_continue: bool = False

    def __post_init__(self) -> None:
        for name in ("max_idle", "max_age"):
            object.__setattr__(self, name, seconds(getattr(self, name), name))
        for name in ("keep_alive", "trust_env", "expect_continue"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidRequest(f"{name} must be True or False, got {getattr(self, name)!r}")
        limit = self.max_response_bytes
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise InvalidRequest(f"max_response_bytes must be a whole number above 0, or None; got {limit!r}")

    @property
    def idle_limit(self) -> float:
        """Seconds that a connection may be idle, infinity without a limit: what clocks can be compared with."""
        return math.inf if self.max_idle is None else self.max_idle

    @property
    def age_limit(self) -> float:
        return math.inf if self.max_age is None else self.max_age


def seconds(value: float | None, name: str) -> float | None:
    """Return a time limit, None for none and for one beyond what clocks of a system take.

    Raises
    ------
    InvalidRequest
        For what is no number of seconds above 0.
    """
    if value is None:
        return None
    if not isinstance(value, (int, float)) or math.isnan(value) or value <= 0:
        raise InvalidRequest(f"{name} must be a number of seconds above 0, or None; got {value!r}")
    return None if value > _FOREVER else value


def earliest(*deadlines: float | None) -> float | None:
    """Return the first of the deadlines that there are."""
    present = [deadline for deadline in deadlines if deadline is not None]
    return min(present) if present else None


def step_timeout(limit: float | None, deadline: float | None, now: float) -> float | None:
    """Return how long one step may take: its own limit, or what is left until the deadline; never below 0."""
    if deadline is None:
        return limit
    left = max(0.0, deadline - now)
    return left if limit is None else min(limit, left)


def may_resend(*, repeatable: bool, answered: bool, handed_over: bool) -> bool:
    """Decide whether a request goes out again after a reused connection turned out closed.

    Parameters
    ----------
    repeatable : bool
        Whether sending it twice does no more than sending it once.
    answered : bool
        Whether any byte of an answer came.
    handed_over : bool
        Whether the kernel took the whole request, so that the server may have seen it.
    """
    return not answered and (repeatable or not handed_over)


def classify(result: int | BaseException) -> int | Failure | None:
    """Return what became of a try, in the words of `Retry.on`.

    Parameters
    ----------
    result : int or BaseException
        The status of the answer, or what was raised.

    Returns
    -------
    int, "connect", "lost", "timeout" or None
        "connect": no byte of the request was sent. "lost": the connection broke under the request. "timeout":
        nothing moved on it for as long as a step may take. None: what another try would not mend.
    """
    if isinstance(result, int):
        return result
    if isinstance(result, ServerError):
        return int(result.status() or 0)
    if isinstance(result, ConnectError):
        return "connect"
    if isinstance(result, ConnectionLost):
        return "lost"
    return "timeout" if isinstance(result, DeadlineExceeded) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """Try a call again where that is safe and may help, always within the call's deadline.

    What never reached a server ("connect") is sent again whatever it is. All else is repeated only where the
    call may be: health, metadata, statistics, and an inference that the caller declared idempotent; even a 429
    or 503 may come from a gateway that had passed the request on.

    Attributes
    ----------
    attempts : int
        The most tries, the first included; 1 never tries again.
    on : iterable of int, "connect", "lost" or "timeout"
        The statuses (400 to 599) and failures to try again after. "lost" is a connection that broke under the
        request, "timeout" one on which nothing moved for as long as a step may take; that is not in the default,
        since a busy server works on all the same, and trying again would keep it busy.
    backoff : float
        Seconds before the second try; they double with each further one.
    jitter : float
        The fraction of the delay, 0 to 1, that is left to chance: 1 is anything down to no delay.
    max_backoff : float
        The longest delay in seconds of our own; a server that sends Retry-After may ask for a longer one.
    """

    attempts: int = 3
    on: Iterable[int | Failure] = (429, 502, 503, 504, "connect", "lost")
    backoff: float = 0.1
    jitter: float = 0.5
    max_backoff: float = 10.0

    def __post_init__(self) -> None:
        if not isinstance(self.attempts, int) or isinstance(self.attempts, bool) or self.attempts < 1:
            raise InvalidRequest(f"attempts must be a whole number above 0; got {self.attempts!r}")
        on = () if isinstance(self.on, (str, bytes)) or not isinstance(self.on, Iterable) else tuple(self.on)
        if (not on and self.on != ()) or not all(map(_is_outcome, on)):
            raise InvalidRequest(
                f'on must hold statuses from 400 to 599, "connect", "lost" and "timeout"; got {self.on!r}'
            )
        object.__setattr__(self, "on", on)
        _require(self.backoff, "backoff", _FOREVER)
        _require(self.jitter, "jitter", 1)
        _require(self.max_backoff, "max_backoff", _FOREVER)

    def applies(self, result: int | BaseException, repeatable: bool) -> bool:
        """Say whether this is something to try again after; how often and until when, :meth:`delay` says.

        Parameters
        ----------
        result : int or BaseException
            The status of the answer, or what was raised.
        repeatable : bool
            Whether carrying the call out twice does no more than once.
        """
        outcome = classify(result)
        return outcome is not None and outcome in self.on and (repeatable or outcome == "connect")

    def delay(
        self,
        tries: int,
        random: float,
        *,
        now: float,
        deadline: float | None = None,
        retry_after: float | None = None,
    ) -> float | None:
        """Return the seconds to wait before the next try, or None for no more tries.

        Parameters
        ----------
        tries : int
            The tries made so far.
        random : float
            Uniform from 0 up to 1.
        now, deadline : float
            On one clock. A wait that would not end before the deadline is not begun.
        retry_after : float, optional
            Seconds that the server asked for (:func:`parse_retry_after`); no wait is shorter. Without a deadline
            a request for more than 10 minutes ends the tries.
        """
        if tries >= self.attempts:
            return None
        # 2**60 doublings pass every max_backoff; more would overflow.
        delay = min(self.max_backoff, self.backoff * 2.0 ** min(tries - 1, 60))
        delay *= 1 - self.jitter * random
        if retry_after is not None:
            if deadline is None and retry_after > _LONGEST_PAUSE:
                return None
            delay = max(delay, retry_after)
        return delay if deadline is None or now + delay < deadline else None


def _is_outcome(value: Any) -> bool:
    if isinstance(value, int):
        return 400 <= value <= 599
    return value in ("connect", "lost", "timeout")


def _require(value: Any, name: str, most: float) -> None:
    # NaN fails every comparison.
    if not isinstance(value, (int, float)) or not 0 <= value <= most:
        raise InvalidRequest(f"{name} must be a number from 0 to {most:.0f}; got {value!r}")


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds that a Retry-After header asks for (RFC 9110, section 10.2.3).

    Parameters
    ----------
    value : str or None
        The header: whole seconds, or an HTTP date in any of its three forms.
    now : float
        Seconds since 1970 by the wall clock, which dates are read against.

    Returns
    -------
    float or None
        0 for a date that has passed; None where there is no header, or one that makes no sense.
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value)
    # Seldom needed, and slow to import.
    from calendar import timegm
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, timegm(parsedate_to_datetime(value).utctimetuple()) - now)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
