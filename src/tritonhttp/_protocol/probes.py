"""What a server says of itself and its models, and what stands in the way: flows of operations, without I/O.

Sources: the Open Inference Protocol (health, metadata), and Triton's extension for the model repository, whose
index lists models. Servers without that extension answer the index with an error; nothing here depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from .._basics.hints import known_names
from .._basics.redaction import without_secrets
from .._wire.responses import Response
from ..errors import (
    ConnectError,
    ConnectionLost,
    ConnectRefused,
    DeadlineExceeded,
    InferenceServerException,
    NameResolutionError,
    ProtocolError,
    ServerError,
    TransportError,
)
from . import operations
from .operations import Endpoint, Operation
from .refusals import METRICS_PORT, of_metrics
from .refusals import check as check_status

__all__ = ["INDEX", "Health", "ModelList", "ModelStatus", "check", "index", "unreachable", "until_ready"]

T = TypeVar("T")

#: The path of the repository's index.
INDEX = "v2/repository/index"
#: Seconds between two checks of readiness: at first, and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
#: Statuses of a server without an index.
_NO_INDEX = ("400", "404", "405", "501")
_MOST_SHOWN = 3


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A version of a model, as the server's repository index lists it.

    Attributes
    ----------
    name : str
        The model.
    version : str
        Its version; empty if the server names none, as Triton does for a model that was never loaded.
    state : str
        ``"READY"``, ``"LOADING"``, ``"UNLOADING"`` or ``"UNAVAILABLE"``; empty if it was never loaded.
    reason : str
        The server's reason for the state; often empty.
    """

    name: str
    version: str = ""
    state: str = ""
    reason: str = ""

    @property
    def ready(self) -> bool:
        """Whether it can be inferred with."""
        return self.state == "READY"

    def __str__(self) -> str:
        version = f" version {self.version}" if self.version else ""
        reason = f" ({_line(self.reason)})" if self.reason else ""
        state = f"is {self.state}{reason}" if self.state else "is not loaded: load_model loads it"
        return f"model {self.name!r}{version} {state}"


class ModelList(list[ModelStatus]):
    """The models of a server, by name and version: a list, with a table as its text and in notebooks."""

    def __contains__(self, found: object) -> bool:
        """Return whether a status, or a model of that name, is in the list."""
        if isinstance(found, str):
            return any(each.name == found for each in self)
        return super().__contains__(found)

    _HEADS = ("name", "version", "state", "reason")

    def _rows(self) -> list[tuple[str, str, str, str]]:
        return [
            (each.name, each.version, each.state or "not loaded", " ".join(each.reason.split()))
            for each in self
        ]

    def __repr__(self) -> str:
        if not self:
            return "no models"
        rows = [self._HEADS, *self._rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from html import escape

        def line(cells: Iterable[str], tag: str) -> str:
            return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"

        body = "".join(line(row, "td") for row in self._rows())
        return f"<table><thead>{line(self._HEADS, 'th')}</thead><tbody>{body}</tbody></table>"


@dataclass(frozen=True, slots=True, repr=False)
class Health:
    """What a check of a server found; true if nothing stands in the way.

    Attributes
    ----------
    live : bool
        Whether an inference server answered, and said that it is alive.
    ready : bool
        Whether the server says that it is ready. Triton does if all models that it was told to load are.
    version : str
        The server's name and version, ``"triton 2.51.0"``; empty if it did not say.
    latency : float or None
        Seconds until the answer to the first request, a new connection included; None if there was no answer.
    reason : str
        What stands in the way, in one sentence; empty if nothing does.
    model : ModelStatus or None
        The model that the check was for; its state and reason are empty if the server lists no models.
    """

    live: bool
    ready: bool
    version: str
    latency: float | None
    reason: str
    model: ModelStatus | None = None

    def __bool__(self) -> bool:
        return not self.reason

    def __repr__(self) -> str:
        words = ["live" if self.live else "not live", "ready" if self.ready else "not ready"]
        words += [self.version] if self.version else []
        words += [] if self.latency is None else [f"{self.latency * 1e3:.3g} ms"]
        if self.model is not None:
            words.append(f"model {self.model.name!r} {'ready' if self.model.ready else 'not ready'}")
        return f"<Health {', '.join(words)}{f': {self.reason}' if self.reason else ''}>"


def index() -> Operation[ModelList]:
    """Return the operation that lists the models of the repository."""
    listed: Any = operations.get_model_repository_index()
    found: Operation[ModelList] = replace(listed, read=lambda response: _statuses(listed.decode(response)))
    return found


def _statuses(entries: Any) -> ModelList:
    for each in entries:
        if not isinstance(each, dict) or not isinstance(each.get("name"), str):
            raise ProtocolError(f"the repository's index: expected models with a name, got {each!r:.200}")
    fields = ("version", "state", "reason")
    found = (ModelStatus(each["name"], *(str(each.get(field) or "") for field in fields)) for each in entries)
    return ModelList(sorted(found, key=_order))


def _order(status: ModelStatus) -> tuple[str, int, str]:
    version = status.version
    return status.name, int(version) if version.isdecimal() and len(version) < 20 else -1, version


def check(
    model: str | None, version: str, clock: Callable[[], float]
) -> Generator[Operation[Any], Any, Health]:
    """Find out how a server is, and a model on it. What goes wrong is the result, never raised."""
    live = _endpoint("v2/health/live")
    began = clock()
    _, error = yield from _outcome(live)
    latency = clock() - began
    if error is not None:
        answered = isinstance(error, ServerError)
        return unreachable(error, model, version, latency=latency if answered else None)
    metadata, error = yield from _outcome(operations.get_server_metadata())
    if error is not None and not isinstance(error, ServerError):  # a server may hide its metadata
        return unreachable(error, model, version, not isinstance(error, ProtocolError), latency)
    named = [] if metadata is None else [metadata.get("name"), metadata.get("version")]
    named_so = " ".join(str(each) for each in named if each)
    _, error = yield from _outcome(_endpoint("v2/health/ready"))
    ready = error is None
    if model is not None:
        status, reason = yield from _model(model, version)
        return Health(True, ready, named_so, latency, reason, status)
    reason = "" if error is None else (yield from _not_ready(error))
    return Health(True, ready, named_so, latency, reason)


def unreachable(
    error: Exception, model: str | None, version: str, live: bool = False, latency: float | None = None
) -> Health:
    """Return the health of a server that could not be asked more."""
    status = None if model is None else ModelStatus(model, version)
    return Health(live, False, "", latency, _obstacle(error), status)


def until_ready(
    model: str | None, version: str, time_left: Callable[[], float]
) -> Generator[Operation[Any] | float, Any, None]:
    """Check until a model or the server is ready: yield operations, and the seconds to wait between them.

    Raises
    ------
    ServerError
        If the repository's index does not have the model.
    DeadlineExceeded
        When no time is left; the message has the last answer, and the model's state in the index.
    """
    version = operations.version_text(version)
    asked_for = operations.is_server_ready() if model is None else operations.is_model_ready(model, version)
    operation = Endpoint("GET", asked_for.path, _is_ready, idempotent=True)
    pause, asked, came, known, states = _FIRST_PAUSE, 0, "nothing", model is None, ""
    while True:
        asked += 1
        answered = False
        try:
            if (yield operation):
                return
            came, answered = "not ready", True
        except (ProtocolError, ServerError, TransportError) as error:
            came, answered = str(error), isinstance(error, ServerError)
        is_last = time_left() <= pause
        if answered and (is_last or not known):
            listed, failure = yield from _outcome(index())
            if listed is not None:
                known, states = True, _explained(listed, model, version)
            elif isinstance(failure, ServerError):
                known = failure.status() in _NO_INDEX
            is_last = time_left() <= pause
        if is_last:
            what = "the server" if model is None else f"model {model!r}"
            came += f"; {states}" if answered and states else ""
            raise DeadlineExceeded(
                f"timed out waiting for {what} to be ready; asked {asked} times, the last answer: {came}",
                phase="wait until ready",
            )
        yield pause
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def _is_ready(response: Response) -> bool:
    """Return whether it is, or raise an error that says more than "not ready" does."""
    if response.status_code in (403, 404):
        check_status(response)
    if of_metrics(response):
        raise ProtocolError(f"nothing that a server says ({METRICS_PORT})")
    return response.status_code == 200


def _outcome(operation: Operation[T]) -> Generator[Operation[T], Any, tuple[T | None, Exception | None]]:
    """Return an operation's result, or its error."""
    try:
        return (yield operation), None
    except Exception as error:
        return None, error


def _endpoint(path: str) -> Operation[None]:
    """Return a probe whose answer, unless it is a success, is an error that says more than False."""
    return Endpoint("GET", path, check_status, idempotent=True)


def _model(name: str, version: str) -> Generator[Operation[Any], Any, tuple[ModelStatus, str]]:
    """Return how a model is, and what stands in its way."""
    ready, error = yield from _outcome(operations.is_model_ready(name, version))
    if ready:
        return ModelStatus(name, version, "READY"), ""
    status = ModelStatus(name, version)
    if error is not None:
        return status, _obstacle(error)
    listed, error = yield from _outcome(index())
    if listed is not None:
        try:
            reason = _explained(listed, name, version)
        except ServerError as unknown:
            return status, str(unknown.message())
        same = _versions(listed, name, version)
        return (same[-1] if same else status), reason or f"model {name!r} is not ready"
    _, error = yield from _outcome(operations.get_model_metadata(name, version))  # it may say why
    reason = f": {_line(error)}" if isinstance(error, ServerError) else ""
    return status, f"model {name!r} is not ready{reason}"


def _explained(listed: ModelList, model: str | None, version: str) -> str:
    """Say, from the repository's index, why a model, or the server, is not ready; empty if it does not show.

    Raises
    ------
    ServerError
        If the index does not have the model.
    """
    if model is None:
        # An unloaded model does not keep the server from being ready.
        states = [each for each in listed if each.state not in ("", "READY") and each.reason != "unloaded"]
        return _several(states)
    if not any(each.name == model for each in listed):
        names = known_names(model, (each.name for each in listed))
        raise ServerError(f"the server's repository has no model {model!r}{names}", "404")
    states = _versions(listed, model, version)
    if states:
        return _several(states)
    others = ", ".join(each.version for each in listed if each.name == model and each.version)
    return f"the server has no version {version!r} of model {model!r}, but {others}"


def _versions(listed: ModelList, name: str, version: str) -> list[ModelStatus]:
    """Return a model's versions in the index, or the one that is asked for; an unloaded model has none."""
    return [
        each for each in listed if each.name == name and (version in ("", each.version) or not each.version)
    ]


def _several(states: list[ModelStatus]) -> str:
    more = f", and {len(states) - _MOST_SHOWN} more" if len(states) > _MOST_SHOWN else ""
    return f"{', '.join(map(str, states[:_MOST_SHOWN]))}{more}"


def _not_ready(error: Exception) -> Generator[Operation[Any], Any, str]:
    """Say why a server that is live is not ready."""
    if not isinstance(error, ServerError):
        return _obstacle(error)
    listed, _ = yield from _outcome(index())
    states = "" if listed is None else _explained(listed, None, "")
    return f"the server is live, but not ready: {states or _line(error)}"


#: What an error means, the first class that fits. The errors' own words follow.
_MEANINGS: tuple[tuple[type[Exception], str], ...] = (
    (ConnectRefused, "nobody listens there"),
    (NameResolutionError, "the server's name has no address"),
    (DeadlineExceeded, "no answer came in time"),
    (ConnectionLost, "the connection broke"),
    (ConnectError, "there is no way to the server"),
    (ProtocolError, "what answers there is no inference server"),
)
_STATUSES = {
    "401": "the server, or a gateway before it, wants other credentials",
    "403": "the server, or a gateway before it, wants other credentials",
    "404": "a gateway or another program answers, but has no inference server at this URL",
    "405": "a gateway or another program answers, but has no inference server at this URL",
    "429": "the server, or a gateway before it, is busy",
    "502": "a gateway answers, but cannot reach the server",
    "503": "the server, or a gateway before it, cannot serve now",
    "504": "a gateway answers, but the server does not",
}


def _obstacle(error: Exception) -> str:
    """Say in one sentence what an error means."""
    if isinstance(error, ServerError):
        meaning = _STATUSES.get(
            error.status() or "", "the server, or a gateway before it, answers with an error"
        )
        where = f"{error.method} {error.url}: " if error.url else ""
        return f"{meaning}: {where}{_line(error)}"
    if not isinstance(error, InferenceServerException):
        return _line(f"{type(error).__name__}: {error}")
    text = _line(error)
    if getattr(error, "phase", "") == "tls":
        return f"TLS does not work: {text}"
    return next((f"{meaning}: {text}" for kind, meaning in _MEANINGS if isinstance(error, kind)), text)


def _line(text: object) -> str:
    """Return a text as one line of limited length, without credentials."""
    line = without_secrets(" ".join(str(text).split()))
    return line if len(line) <= 500 else f"{line[:500]}…"
