"""The live screen, on textual. What it shows is decided in ``view`` and ``details``."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.coordinate import Coordinate
from textual.events import Resize
from textual.screen import ModalScreen, Screen
from textual.widgets import DataTable, Footer, Input, Sparkline, Static

from ..counters import Key
from ..output import printable
from .details import sections
from .state import AWAY, LIVE, RESTARTED, SLOW, Server
from .view import (
    COLUMNS,
    History,
    Options,
    Row,
    arranged,
    columns_for,
    gauge_words,
    named,
    rows_of,
    server_words,
    spark,
)

if TYPE_CHECKING:
    from .read import Watch

__all__ = ["Top", "show"]

_SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}
_DOTS = {LIVE: "green", RESTARTED: "yellow", SLOW: "yellow", AWAY: "red"}
#: Actions of the first screen.
_HERE = {"sort", "reverse", "filter", "pause", "help", "all"}
#: The most lines about servers.
_SERVERS = 6
_KEYS = (
    ("↑ ↓", "choose a model"),
    ("enter", "the model in detail; esc: back"),
    ("s, S", "sort by the next column, or the one before; or click a header"),
    ("r", "the other way round"),
    ("/", "filter by a part of the name, or * and ?; esc: all"),
    ("space", "pause, and go on"),
    ("q", "quit"),
)


def show(watch: Watch, options: Options) -> int:
    """Show the screen until its user ends it; return the exit code."""
    return asyncio.run(_show(watch, options))


async def _show(watch: Watch, options: Options) -> int:
    async with watch:
        await watch.first(all_of_them=False)
        app = Top(watch, options)
        loop = asyncio.get_running_loop()
        for name, code in _SIGNALS.items():
            with suppress(AttributeError, NotImplementedError):  # Windows
                loop.add_signal_handler(getattr(signal, name), app.leave, code)
        await app.run_async()
    return app.return_code or 0


class _Models(DataTable[Text]):
    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select_cursor", "details")]


class Top(App[None]):
    """The models of all servers."""

    TITLE = "tritonhttp top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #title, #servers { height: auto; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    #name { text-wrap: nowrap; text-overflow: ellipsis; }
    #title { background: $panel; }
    #models { height: 1fr; }
    #filter { display: none; height: 1; border: none; padding: 0 1; }
    Details > VerticalScroll { padding: 0 1; }
    Details Sparkline { height: 4; margin: 0 0 1 0; }
    Help { align: center middle; }
    Help > VerticalScroll { width: 72; max-width: 100%; height: auto; max-height: 100%; padding: 0 1;
                            background: $surface; border: round $primary; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "leave(0)", "quit"),
        Binding("ctrl+c", "leave(130)", show=False, priority=True),
        Binding("s", "sort(1)", "sort"),
        Binding("S", "sort(-1)", show=False),
        Binding("r", "reverse", "reverse"),
        Binding("slash", "filter", "filter"),
        Binding("space", "pause", "pause"),
        Binding("question_mark", "help", "help"),
        Binding("h", "help", show=False),
        Binding("escape", "all", show=False),
    ]

    def __init__(self, watch: Watch, options: Options) -> None:
        super().__init__()
        self.source, self.options = watch, options
        self.sorted_by, self.reversed, self.pattern = options.sort, options.reverse, options.pattern
        self.past = History()
        self.paused = False
        #: All models as they are shown, and those in the table.
        self.known: list[Row] = []
        self.rows: list[Row] = []
        self._chosen: Key | None = None
        self._at = 0
        self._form: Any = None
        self._cells: list[list[Text]] = []

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        yield Static(id="servers")
        yield _Models(id="models", cursor_type="row")
        yield Input(id="filter", placeholder="part of a name, or * and ?", select_on_focus=False)
        yield Footer()

    def on_mount(self) -> None:
        self.query_one(_Models).focus()
        self.update()
        self.run_worker(self._follow(), exclusive=True)

    async def _follow(self) -> None:
        due = time.monotonic()
        while True:
            due = max(due + self.options.interval, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
            await self.source.round(self.options.interval / 2)
            self.past.add(rows_of(self.source.servers))
            if not self.paused:
                self.update()

    def leave(self, code: int) -> None:
        """End with this exit code."""
        self.exit(return_code=code)

    # -- what is shown --

    def update(self) -> None:
        """Show what is known now."""
        self.known = rows_of(self.source.servers)
        self.draw()
        if self.screen_stack and isinstance(self.screen, Details):
            self.screen.draw()

    def draw(self) -> None:
        """Show the models as they are sorted and filtered."""
        home = self.screen_stack[0] if self.screen_stack else None
        if home is None or len(home.query("#title, #servers, #models")) < 3:  # not there yet, or any more
            return
        models = home.query_one(_Models)
        if models.cursor_row != self._at and models.cursor_row < len(self.rows):  # by the user
            self._at = models.cursor_row
            self._chosen = _key(self.rows[self._at]) if self._at else None
        self.rows = arranged(self.known, self.sorted_by, self.reversed, self.pattern)
        width = self.size.width
        home.query_one("#title", Static).update(self._title())
        home.query_one("#servers", Static).update(_server_lines(self.source.servers))
        several = len(self.source.servers) > 1
        scrolls = 2 if len(self.rows) >= models.size.height else 0
        columns = columns_for(width - scrolls, self.known, several=several)
        form = (columns, self.sorted_by)
        if form != self._form:
            self._form, self._cells = form, []
            models.clear(columns=True)
            for name, wide in columns.items():
                models.add_column(self._header(name, wide), width=wide, key=name)
        self._fill(
            models, [[self._cell(row, name, wide) for name, wide in columns.items()] for row in self.rows]
        )
        self._follow_chosen(models)

    def _title(self) -> Text:
        column = named(self.sorted_by)
        falling = column.right != self.reversed
        words = [f"by {column.title} {'▼' if falling else '▲'}"]
        words += [f"filter {printable(self.pattern)}"] if self.pattern else []
        words.append(
            f"{len(self.rows)} of {len(self.known)} models" if self.pattern else f"{len(self.rows)} models"
        )
        words.append(f"every {self.options.interval:g} s")
        title = Text(no_wrap=True, overflow="ellipsis")
        title.append("tritonhttp top", "bold")
        if self.paused:
            title.append("  PAUSED", "bold reverse")
        return title.append("  " + "  ".join(words))

    def _header(self, name: str, wide: int) -> Text:
        column = named(name)
        style = "bold reverse" if name == self.sorted_by else "bold"
        return _fitted(column.title, wide, style, column.right)

    def _cell(self, row: Row, name: str, wide: int) -> Text:
        column = named(name)
        if name == "rate":
            return Text(spark(self.past.of(row), wide), "cyan")
        text, style = column.cell(row), ""
        if name == "inferences" and text == row.note and text:
            style = _DOTS.get(text, "")
        elif name == "failures" and column.value(row):
            style = "bold red"
        elif text in ("0", "-"):
            style = "dim"
        return _fitted(printable(text), wide, style, column.right)

    def _fill(self, models: _Models, cells: list[list[Text]]) -> None:
        """Change what has changed, so that nothing is scrolled."""
        while models.row_count > len(cells):
            models.remove_row(str(models.row_count - 1))
        for n, line in enumerate(cells):
            if n >= models.row_count:
                models.add_row(*line, key=str(n))
                continue
            old = self._cells[n] if n < len(self._cells) else []
            for m, cell in enumerate(line):
                if m >= len(old) or old[m] != cell or old[m].style != cell.style:
                    models.update_cell_at(Coordinate(n, m), cell)
        self._cells = cells

    def _follow_chosen(self, models: _Models) -> None:
        """Keep the cursor on the model that was chosen; on the first line, stay there."""
        keys = [_key(row) for row in self.rows]
        if self._chosen in keys:
            self._at = keys.index(self._chosen)
        self._at = max(0, min(self._at, len(keys) - 1))
        if models.cursor_row != self._at:
            models.move_cursor(row=self._at)

    # -- what the user does --

    def on_resize(self, event: Resize) -> None:
        del event
        self.call_after_refresh(self.draw)

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        if event.cursor_row < len(self.rows):
            self.push_screen(Details(_key(self.rows[event.cursor_row])))

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        name = str(event.column_key.value)
        if name == self.sorted_by:
            self.reversed = not self.reversed
        elif name != "rate":
            self.sorted_by, self.reversed = name, False
        self.draw()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Other screens than the first have their own keys."""
        del parameters
        return len(self.screen_stack) == 1 or action not in _HERE

    def action_leave(self, code: int) -> None:
        self.leave(code)

    def action_sort(self, step: int) -> None:
        names = [name for name in self._form[0] if name != "rate"]
        at = names.index(self.sorted_by) if self.sorted_by in names else -1
        self.sorted_by, self.reversed = names[(at + step) % len(names)], False
        self.draw()

    def action_reverse(self) -> None:
        self.reversed = not self.reversed
        self.draw()

    def action_pause(self) -> None:
        self.paused = not self.paused
        self.draw() if self.paused else self.update()

    def action_help(self) -> None:
        self.push_screen(Help())

    def action_filter(self) -> None:
        field = self.query_one("#filter", Input)
        field.display = True
        field.value = self.pattern
        field.focus()

    def action_all(self) -> None:
        self.pattern = ""
        self._end_filter()

    def on_input_changed(self, event: Input.Changed) -> None:
        if event.input.display:
            self.pattern = event.value.strip()
            self.draw()

    def on_input_submitted(self) -> None:
        self._end_filter()

    def _end_filter(self) -> None:
        self.query_one("#filter", Input).display = False
        self.query_one(_Models).focus()
        self.draw()


class Details(Screen[None]):
    """One model."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,backspace,enter", "app.pop_screen", "back", key_display="esc"),
        Binding("space", "pause", "pause"),
    ]
    app: Top

    def __init__(self, key: Key) -> None:
        super().__init__()
        self._key = key

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield Static(id="name")
            yield Sparkline(id="past")
            yield Static(id="sections")
        yield Footer()

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()
        self.draw()

    def on_resize(self) -> None:
        self.draw()

    def action_pause(self) -> None:
        self.app.action_pause()
        self.draw()

    def draw(self) -> None:
        """Show the model as it is now."""
        if len(self.query("#name, #past, #sections")) < 3:  # not there yet, or any more
            return
        model, version = self._key
        title = Text(no_wrap=True, overflow="ellipsis")
        title.append(printable(model), "bold")
        title.append(f"  version {printable(version)}" if version else "")
        title.append("  PAUSED" if self.app.paused else "", "bold reverse")
        row = next((row for row in self.app.known if _key(row) == self._key), None)
        if row is None:
            title.append("  is not loaded any more", "yellow")
            self.query_one("#name", Static).update(title)
            return
        rates = [rate or 0.0 for rate in self.app.past.of(row)]
        title.append(f"  inf/s of {len(rates)} intervals, at most {max(rates):,.0f}" if rates else "", "dim")
        self.query_one("#name", Static).update(title)
        self.query_one(Sparkline).data = rates
        versions = [each for each in self.app.known if each.model == model]
        found = sections(row, versions, self.size.width - 4)
        self.query_one("#sections", Static).update(Group(*(_drawn(section) for section in found)))


class Help(ModalScreen[None]):
    """Keys and columns."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,h,enter,space", "app.pop_screen", "back")
    ]

    def compose(self) -> ComposeResult:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, style="bold")
        table.add_column()
        for key, words in _KEYS:
            table.add_row(key, words)
        table.add_row("", "")
        for column in COLUMNS:
            table.add_row(column.title or "▁▃█", column.words)
        with VerticalScroll():
            yield Static(table)


def _drawn(section: Any) -> RenderableType:
    table = Table(
        box=None,
        title=section.title or None,
        title_justify="left",
        title_style="bold",
        show_header=bool(section.headers),
        padding=(0, 2, 0, 0),
    )
    for n in range(len(section.rows[0])):
        header = section.headers[n] if section.headers else ""
        text = n < section.texts
        table.add_column(
            Text(header),
            justify="left" if text else "right",
            header_style="dim",
            no_wrap=bool(section.headers),
        )
    for line in section.rows:
        table.add_row(*(Text(printable(cell)) for cell in line))
    return Group(table, Text(""))


def _server_lines(servers: Sequence[Server]) -> Text:
    shown = list(servers)
    if len(shown) > _SERVERS:  # those with troubles first
        shown = sorted(shown, key=lambda server: server.state == LIVE)[: _SERVERS - 1]
    lines = []
    for server in shown:
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append("● ", _DOTS.get(server.state, "dim"))
        line.append(printable(server.url), "bold")
        line.append(f"  {server.state}", _DOTS.get(server.state, ""))
        for words in (*server_words(server), *gauge_words(server), f"{server.name} {server.version}".strip()):
            line.append(f"  {words}" if words else "")
        line.append(
            f"  {server.metrics_words}" if server.metrics_words and server.state != AWAY else "", "dim"
        )
        lines.append(line)
    if len(servers) > len(shown):
        lines.append(Text(f"  … and {len(servers) - len(shown)} more", "dim"))
    return Text("\n", no_wrap=True, overflow="ellipsis").join(lines)


def _fitted(text: str, wide: int, style: str, right: bool) -> Text:
    text = text if len(text) <= wide else f"{text[: wide - 1]}…"
    return Text(text.rjust(wide) if right else text.ljust(wide), style, no_wrap=True)


def _key(row: Row) -> Key:
    return row.model, row.version
