"""The directive ``cli-help``: each command of the command line, from its own help."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive


def commands() -> dict[str, Any]:
    """Return all commands by their words, in the order of the help."""
    from tritonhttp.cli.app import parser

    found: dict[str, Any] = {}
    for name, command in parser().commands.items():
        inner = getattr(command, "commands", None)
        found.update({f"{name} {each}": inner[each] for each in inner} if inner else {name: command})
    return found


def shown(words: str, command: Any) -> str:
    """Return a command's help, as a terminal of 80 columns shows it."""
    import click

    context = click.Context if not hasattr(command, "context_class") else command.context_class
    return str(command.get_help(context(command, info_name=f"tritonhttp {words}", max_content_width=88)))


class CliHelp(Directive):
    """A section for each command."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        made: list[nodes.Node] = []
        for words, command in commands().items():
            section = nodes.section(ids=[words.replace(" ", "-")])
            section += nodes.title("", f"tritonhttp {words}")
            section += nodes.literal_block("", shown(words, command), language="text", translatable=False)
            made.append(section)
        return made


def setup(app: Any) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("cli-help", CliHelp)
    return {"parallel_read_safe": True}


__all__ = ["CliHelp", "commands", "setup", "shown"]
