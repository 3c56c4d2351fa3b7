"""All targets by their names."""

from __future__ import annotations

from collections.abc import Callable

from .readers import READERS

__all__ = ["READERS", "TARGETS", "target"]


def _requests() -> Callable[[bytes], None]:
    from ..unit.test_template import test_c_and_python_agree

    run: Callable[[bytes], None] = test_c_and_python_agree.hypothesis.fuzz_one_input  # type: ignore[attr-defined]
    return run


def _elements() -> Callable[[bytes], None]:
    from .elements import elements

    return elements


def _repetition() -> Callable[[bytes], None]:
    from .repetition import repetition

    return repetition


def _calls() -> Callable[[bytes], None]:
    from .calls import calls

    return calls


#: Those that take more than a reader to import.
_OTHERS = {"elements": _elements, "requests": _requests, "repetition": _repetition, "calls": _calls}

TARGETS = (*READERS, *_OTHERS)


def target(name: str) -> Callable[[bytes], None]:
    """Return the function that runs one input."""
    return READERS[name] if name in READERS else _OTHERS[name]()
