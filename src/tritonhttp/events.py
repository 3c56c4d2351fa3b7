"""What observers of a client see: one record for each call, from its request to its answer, and its retries."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .log import logger

__all__ = ["Call", "CallHook", "Hooks", "RetryHook"]


@dataclass(slots=True, eq=False)
class Call:
    """One call, as hooks see it: the same object from `on_request` to `on_response`.

    Attributes
    ----------
    method, url : str
        The request; the URL is that of the server which was tried last.
    action : str
        What it is for: ``"infer"``, ``"ready"``, ``"metadata"``, ``"load"``, …
    model_name, model_version, request_id : str
        Empty where there is none.
    headers : dict
        The request's headers. What `on_request` changes here is sent.
    attempts : int
        How often it was sent so far.
    status : int or None
        The answer's status; None where no answer came.
    response_headers : dict
        The answer's headers, names in lower case.
    error : Exception or None
        What the call raises.
    request_bytes, response_bytes : int
        The bodies' sizes, of the last attempt.
    seconds : float
        How long the whole call took.
    phases : dict of str to float
        Milliseconds of the last attempt by phase: wait, resolve, connect, tls, send, first_byte, receive; those
        that there were.
    context : dict
        For what the hooks want to remember from one event to the next.
    """

    method: str
    url: str
    action: str
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
        words = [f"{self.method} {self.url}", self.action]
        words += [f"model {self.model_name!r}"] if self.model_name else []
        words += [f"id {self.request_id!r}"] if self.request_id else []
        words.append(
            f"status {self.status}" if self.error is None else f"{type(self.error).__name__}: {self.error}"
        )
        words.append(f"{self.request_bytes} bytes sent, {self.response_bytes} received")
        words += [f"{self.attempts} tries"] if self.attempts > 1 else []
        phases = "".join(f", {name} {spent:.3g}" for name, spent in self.phases.items())
        return f"{'; '.join(words)}; {self.seconds * 1e3:.3g} ms{phases}"


CallHook: TypeAlias = Callable[[Call], object]
#: Gets the call, why it is sent again, and after how many seconds.
RetryHook: TypeAlias = Callable[[Call, str, float], object]


class Hooks:
    """The functions that are told about a client's calls. What one of them raises is logged, and stops nothing.

    Parameters
    ----------
    on_request : callable
        Called with the :class:`Call` before it is sent, after the plugin.
    on_response : callable
        Called with it when it has ended, in success or not.
    on_retry : callable
        Called with it, the reason and the seconds until then, before it is sent again.
    """

    def __init__(
        self,
        on_request: CallHook | None = None,
        on_response: CallHook | None = None,
        on_retry: RetryHook | None = None,
    ) -> None:
        self._request: tuple[CallHook, ...] = ()
        self._response: tuple[CallHook, ...] = ()
        self._retry: tuple[RetryHook, ...] = ()
        self.add(on_request=on_request, on_response=on_response, on_retry=on_retry)

    def __bool__(self) -> bool:
        return bool(self._request or self._response or self._retry)

    def add(
        self,
        *,
        on_request: CallHook | None = None,
        on_response: CallHook | None = None,
        on_retry: RetryHook | None = None,
    ) -> None:
        """Tell further functions from now on."""
        self._request += (on_request,) if on_request else ()
        self._response += (on_response,) if on_response else ()
        self._retry += (on_retry,) if on_retry else ()

    def remove(self, *hooks: Callable[..., object]) -> None:
        """Tell these functions no more, whatever they were told."""
        self._request = tuple(hook for hook in self._request if hook not in hooks)
        self._response = tuple(hook for hook in self._response if hook not in hooks)
        self._retry = tuple(hook for hook in self._retry if hook not in hooks)

    def request(self, call: Call) -> None:
        _tell(self._request, call)

    def response(self, call: Call) -> None:
        # Who began last ends first, as spans nest.
        _tell(reversed(self._response), call)

    def retry(self, call: Call, reason: str, delay: float) -> None:
        _tell(self._retry, call, reason, delay)


def _tell(hooks: Iterable[Callable[..., object]], *arguments: Any) -> None:
    for hook in hooks:
        try:
            hook(*arguments)
        except Exception:
            logger.exception("the hook %r failed", hook)
