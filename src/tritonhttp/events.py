"""What observers of a client see: one record for each call, from its request to its answer, and its retries."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from ._basics.log import logger, without_secrets
from .errors import InvalidRequest

__all__ = ["Call", "CallHook", "Hooks", "RetryHook"]


@dataclass(slots=True, eq=False)
class Call:
    """One call, as hooks see it: the same object from `on_request` to `on_response`.

    Attributes
    ----------
    method, url : str
        The request; the URL is that of the server which was tried last. With several servers it is empty until
        one is chosen.
    action, route : str
        What it is for: ``"infer"``, ``"ready"``, ``"metadata"``, ``"load"``, …; and its path below the base path
        with names for what varies: ``"/v2/models/{model}/infer"``. Empty for paths that the library does not know.
    model_name, model_version, request_id : str
        Empty where there is none.
    headers : dict
        The request's headers. What `on_request` changes here is sent.
    attempts : int
        How often it was sent so far, also unseen because a reused connection turned out closed.
    status : int or None
        The answer's status; None where no answer came.
    response_headers : dict
        The answer's headers, names in lower case.
    error : BaseException or None
        What ended it without an answer: an error of the library, or a cancellation. An answer with a status of
        400 or more is an answer; what the client raises for it comes after. Of a stream: what broke it, also an
        error that it brought.
    request_bytes, response_bytes : int
        The bodies' sizes, of the last attempt; of a stream what was received.
    seconds : float
        How long the whole call took, that of a stream until its end.
    phases : dict of str to float
        Milliseconds of the last attempt by phase: wait, resolve, connect, proxy, tls, send, first_byte, receive;
        those that came to an end; receive lasts until the end of a stream.
    context : dict
        For what the hooks want to remember from one event to the next.
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

    def __str__(self) -> str:
        words = [f"{self.method} {without_secrets(self.url)}"]
        words += [self.action] if self.action else []
        words += [f"model {self.model_name!r}"] if self.model_name else []
        words += [f"id {self.request_id!r}"] if self.request_id else []
        words.append(f"status {self.status}" if self.error is None else _in_short(self.error))
        words.append(f"{self.request_bytes} bytes sent, {self.response_bytes} received")
        words += [f"{self.attempts} tries"] if self.attempts > 1 else []
        phases = "".join(f", {name} {spent:.3g}" for name, spent in self.phases.items())
        return f"{'; '.join(words)}; {self.seconds * 1e3:.3g} ms{phases}"


def _in_short(error: BaseException) -> str:
    """Return an error in one line that is not too long."""
    text = without_secrets(" ".join(str(error).split()))
    name = type(error).__name__
    return f"{name}: {text if len(text) <= 500 else f'{text[:500]}…'}" if text else name


@dataclass(frozen=True, slots=True)
class Stats:
    """What a client did since it was made, with all of its servers.

    Attributes
    ----------
    requests : int
        Requests begun, each try of a call counted.
    retries, resent : int
        How often a call was tried again; how often a request went out again, unseen, because its reused connection
        turned out closed.
    connections_opened, connections_reused, connections_closed : int
        Connections made, taken again for a further request, and closed.
    bytes_sent, bytes_received : int
        Heads included.
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
        """Connections that are open now."""
        return self.connections_opened - self.connections_closed


CallHook: TypeAlias = Callable[[Call], object]
#: Gets the call, why it is sent again, and after how many seconds.
RetryHook: TypeAlias = Callable[[Call, str, float], object]


class Observers(NamedTuple):
    """Who is told about a call, fixed when it begins: who heard of its beginning hears of its end."""

    request: tuple[CallHook, ...] = ()
    response: tuple[CallHook, ...] = ()
    retry: tuple[RetryHook, ...] = ()

    def begins(self, call: Call) -> None:
        _tell(self.request, call)

    def repeats(self, call: Call, reason: str, delay: float) -> None:
        _tell(self.retry, call, reason, delay)

    def ended(self, call: Call) -> None:
        # Who began last ends first, as spans nest.
        _tell(reversed(self.response), call)


class Hooks:
    """The functions that are told about a client's calls. What one of them raises is logged, and stops nothing.

    They are called on the thread, or in the task, that carries the call out, in the context of the caller. The
    call of a stream ends with it; where that was dropped, a thread of its own or the event loop tells. Changes
    count for calls that begin later.

    Parameters
    ----------
    on_request : callable
        Called with the :class:`Call` before it is sent, after the plugin.
    on_response : callable
        Called with it when it has ended, in success or not.
    on_retry : callable
        Called with it, the reason and the seconds until then, before it is sent again.

    Raises
    ------
    InvalidRequest
        For what cannot be called, and for coroutine functions.
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
        """Tell further functions from now on."""
        request, response, retry = self.observers
        self.observers = Observers(
            (*request, *_checked(on_request, "on_request")),
            (*response, *_checked(on_response, "on_response")),
            (*retry, *_checked(on_retry, "on_retry")),
        )

    def remove(self, *hooks: Callable[..., object]) -> None:
        """Tell these functions no more, whatever they were told."""
        self.observers = Observers(
            *(tuple(each for each in told if each not in hooks) for told in self.observers)  # type: ignore[arg-type]
        )


def _checked(hook: Any, name: str) -> tuple[Any, ...]:
    if hook is None:
        return ()
    if not callable(hook) or inspect.iscoroutinefunction(hook):
        raise InvalidRequest(f"{name} must be a plain function, which is not awaited; got {hook!r}")
    return (hook,)


def _tell(hooks: Iterable[Callable[..., object]], *arguments: Any) -> None:
    for hook in hooks:
        try:
            hook(*arguments)
        except Exception:
            logger.exception("the hook %r failed", hook)
