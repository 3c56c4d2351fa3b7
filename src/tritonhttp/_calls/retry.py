"""When a call is tried again, and after which pause. No I/O; the time and chance are arguments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from .._basics.quantities import integer, real
from .._transport.policy import FOREVER
from ..errors import ConnectError, ConnectionLost, DeadlineExceeded, InvalidRequest, ServerError

__all__ = ["Retry", "classify", "parse_retry_after"]

#: A server that asks for a longer pause than this, in seconds, is not waited for without a deadline.
_LONGEST_PAUSE = 600.0

#: How a try ends without an answer.
Failure: TypeAlias = Literal["connect", "lost", "timeout"]


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
        The most often that a call's whole request is sent, the first time included; 1 never sends it again. What a
        client sends again by itself, since a reused connection turned out closed, counts: it does not do so with
        the last attempt.
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
        attempts = integer(self.attempts)
        if attempts is None or attempts < 1:
            raise InvalidRequest(f"attempts must be a whole number above 0; got {self.attempts!r}")
        object.__setattr__(self, "attempts", attempts)
        on = () if isinstance(self.on, (str, bytes)) or not isinstance(self.on, Iterable) else tuple(self.on)
        outcomes = tuple(map(_outcome, on))
        if (not on and self.on != ()) or None in outcomes:
            raise InvalidRequest(
                f'on must hold statuses from 400 to 599, "connect", "lost" and "timeout"; got {self.on!r}'
            )
        object.__setattr__(self, "on", outcomes)
        for name, most in (("backoff", FOREVER), ("jitter", 1), ("max_backoff", FOREVER)):
            object.__setattr__(self, name, _required(getattr(self, name), name, most))

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


def _outcome(value: Any) -> int | str | None:
    """Return what a try may end with, or None for what is none of that."""
    if isinstance(value, str):
        return value if value in ("connect", "lost", "timeout") else None
    status = integer(value)
    return status if status is not None and 400 <= status <= 599 else None


def _required(value: Any, name: str, most: float) -> float:
    number = real(value)
    if number is None or not 0 <= number <= most:  # NaN fails every comparison
        raise InvalidRequest(f"{name} must be a number from 0 to {most:.0f}; got {value!r}")
    return number


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
