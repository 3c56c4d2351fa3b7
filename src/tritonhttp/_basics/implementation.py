"""Who does what C extensions were written for: they, or the same in Python.

The environment variable ``TRITONHTTP_IMPL`` decides, as it is when the library is imported. ``c``: the import
fails where an extension cannot be used. ``python``: no extension is imported. Empty or unset: each is used where
it can be.
"""

from __future__ import annotations

import os
import sys

__all__ = ["EXTENSIONS", "check_c_is_wanted", "fall_back", "in_python"]

_VARIABLE = "TRITONHTTP_IMPL"

#: The extensions that are built on this platform; setup.py says the same.
EXTENSIONS = frozenset(
    (
        "tritonhttp._wire._bytes_tensor",
        *(("tritonhttp._repetition._fast",) if sys.platform == "linux" else ()),
    )
)

#: The extensions whose work is done in Python, and why.
in_python: dict[str, str] = {}

_wanted = os.environ.get(_VARIABLE, "")
if _wanted not in ("", "c", "python"):
    raise ImportError(f"{_VARIABLE} must be 'c', 'python' or empty, got {_wanted!r}")


def check_c_is_wanted() -> None:
    """Raise ImportError where no extension is to be imported."""
    if _wanted == "python":
        raise ImportError(f"{_VARIABLE} is 'python'")


def fall_back(name: str, error: ImportError) -> None:
    """Note that Python does an extension's work, since it could not be imported.

    Raises
    ------
    ImportError
        If it must be there.
    """
    if _wanted == "c" and name in EXTENSIONS:
        raise ImportError(
            f"{_VARIABLE} is 'c', and the C extension {name} cannot be imported: {error}. Extensions are built"
            " where CPython, its headers and a C compiler are there when tritonhttp is installed;"
            " without them leave the variable empty",
            name=name,
        ) from error
    in_python[name] = str(error)
