"""The library's log: everything goes to the logger "tritonhttp", and with `verbose=True` to stdout.

Bodies appear by their size, and values of headers that carry credentials never.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

__all__ = ["logger", "masked", "verbose_logger", "without_secrets"]

logger = logging.getLogger("tritonhttp")
logger.addHandler(logging.NullHandler())

_SECRET_HEADERS = frozenset(("authorization", "proxy-authorization", "cookie", "set-cookie"))
_SECRET_WORDS = ("token", "secret", "password", "api-key", "api_key", "apikey", "credential", "auth")
#: In a URL, wherever it stands in a text: user and password, and the values of such query parameters.
_USER = re.compile(r"(?<=://)[^/?#\s@]*@")
_PARAMETER = re.compile(rf"([?&][^=&\s]*(?:{'|'.join(_SECRET_WORDS)}|sig)[^=&\s]*=)[^&\s]*", re.IGNORECASE)


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


def without_secrets(text: str) -> str:
    """Return a text fit to be shown: what URLs in it carry of credentials is hidden."""
    return _PARAMETER.sub(r"\1***", _USER.sub("***@", text)) if "://" in text else text


def _is_secret(name: str) -> bool:
    return name in _SECRET_HEADERS or any(word in name for word in _SECRET_WORDS)
