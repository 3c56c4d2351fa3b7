"""The library's log: everything goes to the logger "tritonhttp", and with `verbose=True` to stdout.

Bodies appear by their size, and values of headers that carry credentials never.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

__all__ = ["logger", "masked", "verbose_logger"]

logger = logging.getLogger("tritonhttp")
logger.addHandler(logging.NullHandler())

_SECRET_HEADERS = frozenset(("authorization", "proxy-authorization", "cookie", "set-cookie"))
_SECRET_WORDS = ("token", "secret", "password", "api-key", "apikey", "credential", "auth")


if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[TextIO]
else:
    _StreamHandler = logging.StreamHandler  # no generic class at run time before 3.11


class _Stdout(_StreamHandler):
    """Writes to what sys.stdout is at that moment: programs and tests replace it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stdout


def verbose_logger() -> logging.Logger:
    """Return a logger that writes each message as a line on stdout, whatever the program logs elsewhere."""
    verbose = logging.Logger("tritonhttp.verbose", logging.DEBUG)
    verbose.addHandler(_Stdout())
    return verbose


def masked(headers: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return headers fit to be shown: the values of those that carry credentials are hidden."""
    return {name: "***" if _is_secret(str(name).lower()) else value for name, value in headers}


def _is_secret(name: str) -> bool:
    return name in _SECRET_HEADERS or any(word in name for word in _SECRET_WORDS)
