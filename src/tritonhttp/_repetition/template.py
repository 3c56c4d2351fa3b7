"""What is remembered of inferences that differ only in their data, id and options; and requests made of it.

:func:`find` looks up what is remembered of a form; :func:`compose` joins it with what is a call's own. A C
extension does both where it was built. It leaves every unusual case to Python, which meets it again and raises the
error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .._basics.implementation import check_c_is_wanted, fall_back
from .._basics.table import Table
from .._wire.requests import Buffer

if TYPE_CHECKING:
    from .answer import Answer

__all__ = ["LARGEST", "Template", "compose", "find"]

#: The most bytes of a request that is made in one piece; no tensor above COALESCE is in it.
LARGEST = 1 << 20

_JSON_SIZE = b"Inference-Header-Content-Length: %d\r\n"


class Template:
    """What inferences of one form have in common. The extension reads all but `target` and `answers`.

    Attributes
    ----------
    target : str
        Their path.
    start : bytes
        The request line, up to where a query would begin.
    lines : bytes
        The rest of that line, and header lines of ours.
    json : bytes
        Inputs and outputs, as members of the request's JSON object. A format, with ``%b`` for each input's data,
        where the JSON contains data.
    parameters : bytes
        That object's end where the inference has no options: a comma and a further member, or nothing.
    size : int
        The bytes of all tensors behind the JSON.
    binary : bool
        Whether there are tensors behind it.
    answers : Table of int to Answer
        The last answer, by the length of the request's id.
    """

    __slots__ = ("answers", "binary", "json", "lines", "parameters", "size", "start", "target")

    def __init__(
        self, target: str, lines: bytes, json: bytes, parameters: bytes, size: int, binary: bool
    ) -> None:
        self.target = target
        self.start = b"POST %b" % target.encode()
        self.lines = lines
        self.json = json
        self.parameters = parameters
        self.size = size
        self.binary = binary
        self.answers: Table[int, Answer] = Table()

    def json_size(self, id_json: bytes, parameters: bytes | None, within: Sequence[bytes] = ()) -> int:
        """Return the size of the request's JSON."""
        end = self.parameters if parameters is None else parameters
        json = self.json % tuple(within) if within else self.json
        return 2 + len(id_json) + len(json) + len(end)

    def opening(
        self,
        query: bytes,
        lines: bytes,
        id_json: bytes,
        parameters: bytes | None,
        within: Sequence[bytes] = (),
    ) -> bytes:
        """Return the request up to its tensors.

        Parameters
        ----------
        query : bytes
            The query with its question mark, or nothing.
        lines : bytes
            The caller's header lines.
        id_json : bytes
            The member of the JSON object that holds the id, with a comma behind it, or nothing.
        parameters : bytes or None
            The member that holds parameters, with a comma in front, or nothing; None: the template's own.
        within : sequence of bytes
            The data that the JSON contains.
        """
        end = self.parameters if parameters is None else parameters
        json = self.json % tuple(within) if within else self.json
        json_size = 2 + len(id_json) + len(json) + len(end)
        return b"%b%b%b%b%bContent-Length: %d\r\n\r\n{%b%b%b}" % (
            self.start,
            query,
            self.lines,
            lines,
            _JSON_SIZE % json_size if self.binary else b"",
            json_size + self.size,
            id_json,
            json,
            end,
        )


try:
    check_c_is_wanted()
    from ._fast import compose, find
except ImportError as error:
    fall_back("tritonhttp._repetition._fast", error)

    def find(
        table: dict[tuple[Any, ...], Template], inference: Any, input_type: type, output_type: type, /
    ) -> tuple[Template, list[Any]] | None:
        """Find the template of an inference, by model, version and form, and its data as they were set.

        Inputs and outputs are lists of objects of these very types, whose `_form` is all that their JSON depends
        on, and whose `_binary` is None, an array or bytes. None where nothing is known, or anything is otherwise.
        """
        return None

    def compose(
        table: dict[tuple[Any, ...], Template],
        inference: Any,
        input_type: type,
        output_type: type,
        piece: int,
        whole: int,
        query: bytes,
        lines: bytes,
        id_json: bytes,
        parameters: bytes | None,
        /,
    ) -> tuple[Template, list[Buffer]] | None:
        """Find the template; return it, and the request as a list of one piece. The last four: `Template.opening`.

        None also where a tensor has more than `piece` bytes, or the request more than `whole`; where an array is
        not in one piece, or the data do not have the size that the template says.
        """
        return None
