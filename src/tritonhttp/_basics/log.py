"""The library logs to the logger "tritonhttp", and with `verbose=True` to stdout.

The log shows the sizes of bodies, not their contents, and hides credentials (see `redaction`). A message is one
line: a server whose words are logged cannot forge another one, or change the terminal.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, TextIO

from .redaction import printable

__all__ = ["logger", "verbose_logger"]


def _one_line(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    if not text.isprintable():
        record.msg, record.args = printable(text), None
    return True


logger = logging.getLogger("tritonhttp")
logger.addHandler(logging.NullHandler())
logger.addFilter(_one_line)


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
    verbose.addFilter(_one_line)
    return verbose
