"""Events of a client's calls for observers: requests, answers and retries."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, TypeAlias

from ._basics.log import logger
from ._basics.redaction import without_secrets
from .errors import InvalidRequest

__all__ = ["Call", "CallHook", "Hooks", "RetryHook"]


@dataclass(slots=True, eq=False, repr=False)  # headers may hold credentials
class Call:
    """One call. Hooks get the same object from `on_request` to `on_response`.

    Attributes
    ----------
    method, url : str
        The request. The URL is that of the server that was tried last; with several servers it is empty until one
        is chosen. The values of query parameters that seem to be credentials are hidden in it.
    action, route : str
        The operation, such as ``"infer"``, ``"ready"``, ``"metadata"`` or ``"load"``, and the path below the base
        path with names for its variable parts: ``"/v2/models/{model}/infer"``. Empty for paths that the library
        does not know.
    model_name, model_version, request_id : str
        Empty if the call has none.
    headers : dict
        The request's headers. Changes by `on_request` are sent. They may hold credentials.
    attempts : int
        How often the request was sent so far, including resends on a new connection after a reused one was closed.
    status : int or None
        The answer's HTTP status; None if no answer came.
    response_headers : dict
        The answer's headers, with names in lower case.
    error : BaseException or None
        What ended the call without an answer: an error of the library, or a cancellation. It is None for an answer
        with a status of 400 or more, for which the client raises its error later. For a stream: what broke it,
        including an error that the server sent in it.
    request_bytes, response_bytes : int
        The sizes of the last attempt's bodies; for a stream the bytes received.
    seconds : float
        The duration of the whole call, or of a stream until its end.
    phases : dict of str to float
        Milliseconds of each completed phase of the last attempt: wait, resolve, connect, proxy, tls, send,
        first_byte, receive. The phase receive lasts until the end of a stream.
    context : dict
        Storage for hooks, from one event to the next.
    """

    method: str
    url: str
    action: str = ""
    route: str = ""
    model_name: str = ""
    model_version: str = ""
    request_id: str = ""
    headers: dict[str, Any] = field(default_factory=dict)
    attempts: int = 0
    status: int | None = None
    response_headers: dict[str, str] = field(default_factory=dict)
    error: BaseException | None = None
    request_bytes: int = 0
    response_bytes: int = 0
    seconds: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    context: dict[Any, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Call {self}>"

    def __str__(self) -> str:
        words = [f"{self.method} {without_secrets(self.url)}"]
        words += [self.action] if self.action else []
        words += [f"model {self.model_name!r}"] if self.model_name else []
        words += [f"id {self.request_id!r}"] if self.request_id else []
        words.append(f"status {self.status}" if self.error is None else _summary(self.error))
        words.append(f"{self.request_bytes} bytes sent, {self.response_bytes} received")
        words += [f"{self.attempts} tries"] if self.attempts > 1 else []
        phases = "".join(f", {name} {spent:.3g}" for name, spent in self.phases.items())
        return f"{'; '.join(words)}; {self.seconds * 1e3:.3g} ms{phases}"


def _summary(error: BaseException) -> str:
    """Describe an error in one line of limited length."""
    text = without_secrets(" ".join(str(error).split()))
    name = type(error).__name__
    return f"{name}: {text if len(text) <= 500 else f'{text[:500]}…'}" if text else name


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters of a client since its creation, over all of its servers.

    Attributes
    ----------
    requests : int
        Requests begun, counting each try of a call.
    retries, resent : int
        Retries of calls; requests sent again on a new connection because a reused one was closed.
    connections_opened, connections_reused, connections_closed : int
        Connections opened, reused for another request, and closed.
    bytes_sent, bytes_received : int
        Bytes including the heads.
    """

    requests: int = 0
    retries: int = 0
    resent: int = 0
    connections_opened: int = 0
    connections_reused: int = 0
    connections_closed: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0

    @property
    def connections_open(self) -> int:
        """The number of connections that are open now."""
        return self.connections_opened - self.connections_closed

    def as_dict(self) -> dict[str, int]:
        """Return all counters by name, with `connections_open`: for metrics, JSON and logs."""
        return {**asdict(self), "connections_open": self.connections_open}


CallHook: TypeAlias = Callable[[Call], object]
#: Gets the call, the reason for the retry, and the delay in seconds.
RetryHook: TypeAlias = Callable[[Call, str, float], object]


class Observers(NamedTuple):
    """The hooks for one call, fixed when it begins, so that each begin has its end."""

    request: tuple[CallHook, ...] = ()
    response: tuple[CallHook, ...] = ()
    retry: tuple[RetryHook, ...] = ()

    def begins(self, call: Call) -> None:
        _tell(self.request, call)

    def repeats(self, call: Call, reason: str, delay: float) -> None:
        _tell(self.retry, call, reason, delay)

    def ended(self, call: Call) -> None:
        # In reverse order, because spans nest.
        _tell(reversed(self.response), call)


class Hooks:
    """The functions that observe a client's calls. Exceptions from them are logged and do not affect the call.

    They run in the thread or task that executes the call, in the caller's context. A streaming call ends with its
    stream; dropped streams are reported from another thread or the event loop. Changes affect only later calls.

    Parameters
    ----------
    on_request : callable
        Called with the :class:`Call` after the plugin, before the request is sent.
    on_response : callable
        Called with the call when it has ended, whether or not it succeeded.
    on_retry : callable
        Called with the call, the reason and the delay in seconds, before a retry.

    Raises
    ------
    InvalidRequest
        For objects that are not callable, and for coroutine functions.
    """

    def __init__(
        self,
        on_request: CallHook | None = None,
        on_response: CallHook | None = None,
        on_retry: RetryHook | None = None,
    ) -> None:
        self.observers = Observers()
        self.add(on_request=on_request, on_response=on_response, on_retry=on_retry)

    def __bool__(self) -> bool:
        return any(self.observers)

    def add(
        self,
        *,
        on_request: CallHook | None = None,
        on_response: CallHook | None = None,
        on_retry: RetryHook | None = None,
    ) -> None:
        """Add functions for later calls."""
        request, response, retry = self.observers
        self.observers = Observers(
            (*request, *_checked(on_request, "on_request")),
            (*response, *_checked(on_response, "on_response")),
            (*retry, *_checked(on_retry, "on_retry")),
        )

    def remove(self, *hooks: Callable[..., object]) -> None:
        """Remove these functions from all events."""
        self.observers = Observers(
            *(tuple(each for each in told if each not in hooks) for told in self.observers)  # type: ignore[arg-type]
        )


def _checked(hook: Any, name: str) -> tuple[Any, ...]:
    if hook is None:
        return ()
    if not callable(hook) or inspect.iscoroutinefunction(hook):
        raise InvalidRequest(f"{name} must be a plain function, because it is not awaited; got {hook!r}")
    return (hook,)


def _tell(hooks: Iterable[Callable[..., object]], *arguments: Any) -> None:
    for hook in hooks:
        try:
            hook(*arguments)
        except Exception:
            logger.exception("the hook %r failed", hook)
