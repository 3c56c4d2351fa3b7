"""What Triton's classification extension returns in place of an output's numbers: the best classes, as text."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import InvalidRequest

__all__ = ["Classification", "classifications"]

_FORM = re.compile(r"([^:]*):([0-9]+)(?::(.*))?", re.DOTALL)
_EXPECTED = 'expected BYTES "score:index" or "score:index:label"'
_ADVICE = "ask for classes with InferRequestedOutput(…, class_count=3), or model(…, classes=3)"


class Classification(NamedTuple):
    """One of the best classes of an output.

    Attributes
    ----------
    score : float
        The output's number for the class.
    index : int
        The number of the class.
    label : str
        Its name in the model's file of labels; empty where it has none.
    """

    score: float
    index: int  # type: ignore[assignment]  # pyright: ignore  # in place of the tuple's method
    label: str

    @classmethod
    def parse(cls, text: bytes | str) -> Classification:
        """Read one element of a classification output: ``b"0.98:3:three"``.

        Only the first two colons separate; bytes of a label that are not UTF-8 become U+FFFD.

        Raises
        ------
        InvalidRequest
            For anything else.
        """
        found = None
        if isinstance(text, (bytes, str)):
            found = _FORM.fullmatch(text if isinstance(text, str) else text.decode("utf-8", "replace"))
        try:
            if found is not None:
                return cls(float(found[1]), int(found[2]), found[3] or "")
        except ValueError:  # the score is no number, or the index has thousands of digits
            pass
        raise InvalidRequest(f"no classification: {_EXPECTED}, got {text!r:.100}")


def classifications(array: npt.NDArray[Any], what: str, datatype: str) -> list[Any]:
    """Return an output's classes, nested as its shape is; `what` and `datatype` say which output it is.

    Raises
    ------
    InvalidRequest
        If the output is no classification.
    """
    if array.dtype.kind != "O":
        raise InvalidRequest(f"{what} is no classification: {_EXPECTED}, got {datatype}; {_ADVICE}")
    array = array.reshape(array.shape or 1)
    found = np.empty(array.shape, object)
    element: Any
    for place, element in np.ndenumerate(array):
        try:
            found[place] = Classification.parse(element)
        except InvalidRequest as error:
            where = list(place) if len(place) > 1 else place[0]
            raise InvalidRequest(f"{what}, element {where}: {error.message()}; {_ADVICE}") from None
    nested: list[Any] = found.tolist()
    return nested
