"""The library logs to the logger "tritonhttp", and with `verbose=True` to stdout.

The log shows the sizes of bodies, not their contents, and hides credentials.
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
#: Credentials of URLs in a text: user and password, and the values of secret query parameters.
_USER = re.compile(r"(?<=://)[^/?#\s@]*@")
_PARAMETER = re.compile(rf"([?&][^=&\s]*(?:{'|'.join(_SECRET_WORDS)}|sig)[^=&\s]*=)[^&\s]*", re.IGNORECASE)


if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[TextIO]
else:
    _StreamHandler = logging.StreamHandler  # no generic class at run time before 3.11


class _Stdout(_StreamHandler):
    """Looks up sys.stdout for each message, because programs and tests replace it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stdout


def verbose_logger() -> logging.Logger:
    """Return a logger that prints each message on stdout, independent of the program's logging."""
    verbose = logging.Logger("tritonhttp.verbose", logging.DEBUG)
    verbose.addHandler(_Stdout())
    return verbose


def masked(headers: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return the headers as a dict, with credentials hidden."""
    return {name: "***" if _is_secret(str(name).lower()) else value for name, value in headers}


def without_secrets(text: str) -> str:
    """Return the text with the credentials of its URLs hidden."""
    return _PARAMETER.sub(r"\1***", _USER.sub("***@", text)) if "://" in text else text


def _is_secret(name: str) -> bool:
    return name in _SECRET_HEADERS or any(word in name for word in _SECRET_WORDS)
