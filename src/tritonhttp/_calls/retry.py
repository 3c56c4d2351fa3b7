"""When a call is tried again, and after which delay. No I/O; the time and random numbers are arguments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from .._basics.quantities import integer, real
from .._transport.policy import FOREVER, positive
from ..errors import ConnectError, ConnectionLost, DeadlineExceeded, InvalidRequest, ServerError

__all__ = ["Retry", "classify", "is_barred", "parse_retry_after"]

#: Seconds; without a deadline a call does not wait for a server that asks for a longer delay.
_LONGEST_PAUSE = 600.0

#: How a try ends without an answer.
Failure: TypeAlias = Literal["connect", "lost", "timeout"]


def classify(result: int | BaseException) -> int | Failure | None:
    """Return how a try ended, in the terms of `Retry.on`.

    Parameters
    ----------
    result : int or BaseException
        The status of the answer, or what was raised.

    Returns
    -------
    int, "connect", "lost", "timeout" or None
        "connect": no byte of the request was sent; if a proxy asked for credentials, 401 or 407. "lost": the
        connection broke during the request. "timeout": the connection made no progress for as long as one step
        may take. None: another try would not help.
    """
    if isinstance(result, int):
        return result
    if isinstance(result, ServerError):
        return int(result.status() or 0)
    if isinstance(result, ConnectError):
        # No other try will have other credentials for the proxy.
        return result.proxy_status if result.proxy_status in (401, 407) else "connect"
    if isinstance(result, ConnectionLost):
        return "lost"
    return "timeout" if isinstance(result, DeadlineExceeded) else None


def is_barred(result: int | BaseException) -> bool:
    """Return whether a proxy refused a tunnel to this server for good: it may still lead to another server."""
    status = (result.proxy_status or 0) if isinstance(result, ConnectError) else 0
    return 400 <= status < 500 and status not in (401, 407, 408, 425, 429)


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """Try a call again if that is safe and may help, always within the call's deadline.

    Any request that never reached a server ("connect") is sent again. After other failures only idempotent calls
    are repeated: health, metadata, statistics, and an inference that the caller declared idempotent. Even a 429 or
    503 may come from a gateway that had passed the request on.

    Attributes
    ----------
    attempts : int
        How often a call's whole request is sent at most, including the first time; 1 never sends it again. When a
        client sends a request again because a reused connection turned out closed, that counts too; it does not
        do so in the last attempt. Only a 417 to `Expect: 100-continue` may go beyond that, by one request without
        it.
    on : iterable of int, "connect", "lost" or "timeout"
        The statuses (400 to 599) and failures after which to try again. "lost" is a connection that broke during
        the request, "timeout" one that made no progress for as long as one step may take. The default leaves
        "timeout" out: a busy server still works on the request, and another try would add to its load.
    backoff : float
        Seconds before the second try; the delay doubles with each further one.
    jitter : float
        The fraction of the delay, 0 to 1, that is random: with 1 it may be anything down to 0.
    max_backoff : float
        The longest delay in seconds; a server may ask for a longer one with Retry-After.
    """

    attempts: int = 3
    on: Iterable[int | Failure] = (429, 502, 503, 504, "connect", "lost")
    backoff: float = 0.1
    jitter: float = 0.5
    max_backoff: float = 10.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "attempts", positive(self.attempts, "attempts"))
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
        """Return whether to try again after this result; :meth:`delay` decides how often and until when.

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
        """Return the seconds to wait before the next try, or None to stop trying.

        Parameters
        ----------
        tries : int
            The tries made so far.
        random : float
            Uniform from 0 up to 1.
        now, deadline : float
            On one clock. If the wait would not end before the deadline, there is no further try.
        retry_after : float, optional
            Seconds that the server asked for (:func:`parse_retry_after`), the least to wait. Without a deadline,
            more than 10 minutes end the tries.
        """
        if tries >= self.attempts:
            return None
        # 60 doublings exceed every max_backoff; more might overflow.
        delay = min(self.max_backoff, self.backoff * 2.0 ** min(tries - 1, 60))
        delay *= 1 - self.jitter * random
        if retry_after is not None:
            if deadline is None and retry_after > _LONGEST_PAUSE:
                return None
            delay = max(delay, retry_after)
        return delay if deadline is None or now + delay < deadline else None


def _outcome(value: Any) -> int | str | None:
    """Return a status or failure in canonical form, or None if it is neither."""
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
        Seconds since 1970 by the wall clock, to compare dates with.

    Returns
    -------
    float or None
        0 for a date that has passed; None without a header, or if it is malformed.
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
