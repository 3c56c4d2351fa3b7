"""``tritonhttp generate``: a model's answers as they come."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .ask import Model, Version
from .common import Failure, Setup, command
from .infer import Parameters, parameters_of
from .output import printable, show_json

if TYPE_CHECKING:
    from .. import Signature

__all__ = ["add_to"]

_EXAMPLE = """\
tritonhttp generate identity_bytes --text 'Hello'
tritonhttp generate repeat --input IN='[1, 2, 3]' --json"""
#: What is about an answer, not in it.
_ABOUT = {"model_name", "model_version", "id"}


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    command(app, example=_EXAMPLE)(generate)


def generate(
    setup: Setup,
    model: Model,
    version: Version = "",
    text: Annotated[
        str | None, typer.Option("--text", metavar="TEXT", help="The prompt; @FILE or @- for standard input.")
    ] = None,
    input: Annotated[
        list[str] | None,
        typer.Option("-i", "--input", metavar="NAME=VALUE", help="A further input: JSON or text, @FILE, @-."),
    ] = None,
    param: Parameters = None,
    request_id: Annotated[str, typer.Option("--request-id", metavar="ID", help="The request's id.")] = "",
    stream: Annotated[
        bool,
        typer.Option("--stream/--no-stream", help="Show answers as they come, or the only one at its end."),
    ] = True,
) -> None:
    """Send text to a model, and print its answers as they come.

    Text goes to the input text_input, or to the model's only input of text. Of each answer its text is printed;
    where it has none, and with --json, the whole answer in a line.
    """
    parameters = parameters_of(param)
    with setup.client() as client:
        signature = client.model(model, version).refresh().signature
        assert signature is not None
        inputs = _inputs(signature, text, input or [])
        printer = _Printer(signature, setup.json)
        if not stream:
            answer = client.generate(model, inputs, version, parameters or None, request_id=request_id)
            printer.show(answer)
            printer.end()
            return
        try:
            with client.generate_stream(
                model, inputs, version, parameters or None, request_id=request_id
            ) as answers:
                for answer in answers:
                    printer.show(answer)
        finally:
            printer.end()


def _inputs(signature: Signature, text: str | None, given: list[str]) -> dict[str, Any]:
    from .inputs import Reader

    reader = Reader(signature)
    found: dict[str, Any] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not (name and equals):
            raise Failure(f"--input: expected NAME=VALUE, got {each!r:.200}")
        if name in found:
            raise Failure(f"--input {name} is given twice")
        found[name] = reader.value(name, value)
    if text is not None:
        name = _text_input(signature)
        if name in found:
            raise Failure(f"--text and --input {name} are the same input")
        found[name] = reader.value(name, text) if text.startswith("@") else text
    if not found:
        takes = ", ".join(map(str, signature.inputs)) or "inputs"
        raise Failure(f"model {signature.name!r} takes {takes}: give --text or --input NAME=…")
    return found


def _text_input(signature: Signature) -> str:
    names = [info.name for info in signature.inputs if info.datatype == "BYTES"]
    if "text_input" in names or not signature.inputs:
        return "text_input"
    required = [info.name for info in signature.inputs if info.datatype == "BYTES" and not info.optional]
    if len(required) == 1 or len(names) == 1:
        return (required or names)[0]
    known = ", ".join(map(str, signature.inputs))
    raise Failure(
        f"--text needs one input of BYTES; model {signature.name!r} takes {known}: use --input NAME=…"
    )


class _Printer:
    """Prints answers: pieces of text one behind the other, others a line each."""

    def __init__(self, signature: Signature, as_json: bool) -> None:
        names = [info.name for info in signature.outputs if info.datatype == "BYTES"]
        self._text = "text_output" if "text_output" in names else names[0] if len(names) == 1 else ""
        self._json = as_json
        self._last = "\n"

    def show(self, answer: Mapping[str, Any]) -> None:
        piece = answer.get(self._text)
        if isinstance(piece, list) and all(isinstance(each, str) for each in piece):
            piece = "".join(piece)
        if self._json or not isinstance(piece, str):
            self.end()
            show_json(
                answer if self._json else {name: answer[name] for name in answer if name not in _ABOUT}, None
            )
        elif piece:
            # A model's text must not change the terminal; in a pipe it is left as it is.
            sys.stdout.write(printable(piece, keep="\n\t") if sys.stdout.isatty() else piece)
            self._last = piece[-1]
        sys.stdout.flush()

    def end(self) -> None:
        """End the line that text may have begun."""
        if self._last != "\n":
            print(flush=True)
            self._last = "\n"
