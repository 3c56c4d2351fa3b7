"""Chooses between the C extensions and the same code in Python.

The environment variable ``TRITONHTTP_IMPL`` is read when the library is imported. With ``c`` the import fails if
an extension cannot be used. With ``python`` no extension is imported. If it is empty or unset, every extension
that can be imported is used.
"""

from __future__ import annotations

import os
import sys

__all__ = ["EXTENSIONS", "check_c_is_wanted", "fall_back", "in_python"]

_VARIABLE = "TRITONHTTP_IMPL"

#: The extensions of this platform, as in setup.py.
EXTENSIONS = frozenset(
    (
        "tritonhttp._wire._bytes_tensor",
        *(("tritonhttp._repetition._fast",) if sys.platform == "linux" else ()),
    )
)

#: Extensions replaced by Python code -> the reason.
in_python: dict[str, str] = {}

_wanted = os.environ.get(_VARIABLE, "")
if _wanted not in ("", "c", "python"):
    raise ImportError(f"{_VARIABLE} must be 'c', 'python' or empty, got {_wanted!r}")


def check_c_is_wanted() -> None:
    """Raise ImportError if TRITONHTTP_IMPL excludes C extensions."""
    if _wanted == "python":
        raise ImportError(f"{_VARIABLE} is 'python'")


def fall_back(name: str, error: ImportError) -> None:
    """Note that Python code replaces an extension that could not be imported.

    Raises
    ------
    ImportError
        If TRITONHTTP_IMPL requires the extension.
    """
    if _wanted == "c" and name in EXTENSIONS:
        raise ImportError(
            f"{_VARIABLE} is 'c', and the C extension {name} cannot be imported: {error}. Installing tritonhttp"
            " builds it if CPython's headers and a C compiler are there; without them leave the variable empty",
            name=name,
        ) from error
    in_python[name] = str(error)
