"""`tritonhttp top` on a real Triton: without a screen, in a pseudo-terminal, and by textual's own test driver."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

import tritonhttp
from tritonhttp.cli.common import Setup
from tritonhttp.cli.top.read import Watch
from tritonhttp.cli.top.screen import Details, Help, Top
from tritonhttp.cli.top.view import Options
from tritonhttp.errors import ServerError, TransportError

from ..live.conftest import start_server
from .conftest import COMMAND, Ran, Run, environment

__all__ = ["start_server"]  # the fixture

NOWHERE = "127.0.0.1:9"


@contextmanager
def load(url: str) -> Iterator[None]:
    """Infer all the time, also while the server is away."""
    ended = threading.Event()

    def infer() -> None:
        with tritonhttp.InferenceServerClient(url) as client:
            while not ended.is_set():
                try:
                    client.model("identity_int32")(INPUT0=np.arange(4, dtype=np.int32))
                except (ServerError, TransportError):
                    ended.wait(0.05)

    thread = threading.Thread(target=infer)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


# -- without a screen --


def test_one_table(run: Run, triton_server: Any) -> None:
    words = ("top", "--once", "--interval", "0.5", "--metrics-url", triton_server.metrics_url)
    with load(triton_server.url):
        ran = run(*words, "identity_int32")
    assert (ran.code, ran.err) == (0, "")
    lines = [re.sub(r" {2,}", "  ", line) for line in ran.out.replace(triton_server.url, "URL").splitlines()]
    lines = [re.sub(r"(?<![\w])\d[\d.,]*(?= [mµ]?s|%|/|  | GiB|$)", "N", line) for line in lines]
    assert [re.sub("[mµ]s", "µs", line).replace(" N/N GiB", "") for line in lines] == [
        "server  state  version  load",
        "URL  live  triton N  CPU N%",  # and memory, once Triton has looked
        "",
        "model  ver  inf/s  req/s  fail/s  queue  input  infer  output  batch  cache  flight  pend  note",
        "identity_int32  N  N  N  N  N µs  N µs  N µs  N µs  N  -  N  N",
    ]


def test_without_a_terminal_it_is_one_table_and_says_so(spawn: Callable[..., Ran]) -> None:
    ran = spawn("top", "add_sub", "--interval", "0.1", stdin=subprocess.DEVNULL)
    assert ran.code == 0
    assert ran.err == "tritonhttp top: stdin is no terminal: one table, as with --once\n"
    assert "add_sub" in ran.out


def test_several_tables(run: Run) -> None:
    ran = run("top", "add_sub", "--count", "2", "--interval", "0.1")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.count("\nadd_sub ") == 2


def test_json_has_an_object_for_each_interval(run: Run, triton_server: Any) -> None:
    words = ("top", "--json", "--count", "3", "--interval", "0.3", "--metrics-url", triton_server.metrics_url)
    for _ in range(
        20
    ):  # no interval waits for the metrics, and on a busy machine they may come after the last one
        with load(triton_server.url):
            ran = run(*words)
        found = [json.loads(line) for line in ran.out.splitlines()]
        if found[-1:] and found[-1]["models"][0]["pending"] is not None:
            break
    assert (ran.code, ran.err, len(found)) == (0, "", 3)
    assert found[0]["time"] < found[1]["time"] < found[2]["time"]
    for each in found:
        assert each["servers"][triton_server.url]["state"] == "live"
        first, *others = each["models"]
        assert first["model"] == "identity_int32"
        assert first["inferences_per_second"] == first["requests_per_second"] > 0
        assert first["in_flight"] > 0
        assert first["compute_infer_seconds"] > 0
        assert all(row["inferences_per_second"] == 0 for row in others)
    assert found[-1]["models"][0]["pending"] is not None
    assert "nv_cpu_utilization" in found[-1]["servers"][triton_server.url]["gauges"]


def test_order_and_filter(run: Run) -> None:
    ran = run("top", "--once", "--interval", "0.1", "identity_int*", "--sort", "model", "--reverse")
    assert [line.split()[0] for line in ran.out.splitlines()[4:]] == [
        *("identity_int8", "identity_int64", "identity_int32", "identity_int16")
    ]
    ran = run("top", "--once", "--interval", "0.1", "no_such")
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "no models like 'no_such'")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--interval", "0"), 2, "--interval"),
        (("--interval", "nan"), 2, "--interval"),
        (("--interval", "inf"), 2, "--interval"),
        (("--sort", "speed"), 2, "--sort"),
        (("--count", "0"), 2, "--count"),
        (("--once", "--count", "2"), 2, "--once"),
        (("--once", "--metrics-url", "a", "--metrics-url", "b"), 2, "--metrics-url"),
        (("--once", "--header", "a b: c"), 2, "a b"),
        (("--once", "-u", NOWHERE), 3, NOWHERE),
        (("--json", "-u", NOWHERE), 3, NOWHERE),
        (("--once", "-u", "no.such.host.invalid"), 3, "check the host's name"),
    ],
)
def test_mistakes(run: Run, words: tuple[str, ...], code: int, said: str) -> None:
    run("top", *words).failed(code, said)


def test_a_server_that_is_away_leaves_the_others_live(run: Run, triton_server: Any) -> None:
    words = ("top", "-u", NOWHERE, "-u", triton_server.url, "--interval", "0.1", "add_sub")
    ran = run(*words, "--once")
    assert ran.code == 0
    assert re.search(rf"^{NOWHERE} +away .*cannot connect", ran.out, re.MULTILINE)
    assert re.search(r"^add_sub +1 +0 .*1/1$", ran.out, re.MULTILINE), ran.out
    (line,) = run(*words, "--json", "--once").out.splitlines()
    found = json.loads(line)
    assert {url: each["state"] for url, each in found["servers"].items()} == {
        NOWHERE: "away",
        triton_server.url: "live",
    }
    assert [row["model"] for row in found["models"]] == ["add_sub"]


def test_a_server_that_hangs_does_not_hold_up_the_others(run: Run, triton_server: Any) -> None:
    with Other({}, hangs=True) as other:
        words = ("top", "-u", other.url, "-u", triton_server.url, "--interval", "0.2", "--deadline", "1.5")
        ran = run(*words, "--json", "--count", "2", "add_sub")
    found = [json.loads(line) for line in ran.out.splitlines()]
    assert ran.code == 0
    for each in found:
        assert each["servers"][other.url]["state"] in ("away", "slow")
        assert [row["inferences_per_second"] for row in each["models"]] == [0]


def test_a_restart(start_server: Callable[..., Any], run: Run) -> None:
    server = start_server(models=["identity_int32", "add_sub"])
    with load(server.url):
        command = [*COMMAND, "top", "--json", "--interval", "0.2", "-u", server.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
            assert process.stdout is not None
            lines = (json.loads(line) for line in process.stdout)

            def until(holds: Callable[[Any, Any], bool]) -> Any:
                for found in lines:
                    state = found["servers"][server.url]
                    rows = {row["model"]: row for row in found["models"]}
                    for row in rows.values():
                        assert (row["inferences_per_second"] or 0) >= 0
                    if holds(state, rows):
                        return state
                raise AssertionError("it ended")

            until(lambda _, rows: (rows["identity_int32"]["inferences_per_second"] or 0) > 0)
            server.stop()
            assert until(lambda state, _: state["state"] == "away")["error"]
            server.start()
            until(lambda state, _: state["state"] == "restarted")
            until(
                lambda state, rows: (
                    state["restarts"] == 1
                    and rows
                    and (rows["identity_int32"]["inferences_per_second"] or 0) > 0
                )
            )
            process.send_signal(signal.SIGINT)
            for _ in lines:
                pass
        assert process.returncode == 130


# -- other servers --


class Other:
    """A server of the protocol that is not Triton: it has what the paths name."""

    def __init__(self, paths: dict[str, Any], *, hangs: bool = False) -> None:
        self._release = threading.Event()
        release = self._release

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if hangs:
                    release.wait(20)
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                found = paths.get(self.path)
                text = found if isinstance(found, str) else json.dumps(found or {"error": "Not Found"})
                self.send_response(200 if found is not None else 404)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> Other:
        return self

    def __exit__(self, *_: object) -> None:
        self._release.set()
        self._server.shutdown()
        self._server.server_close()


ABOUT = {"/v2": {"name": "other\x1b[2J", "version": "1.0"}}
INDEX = {"/v2/repository/index": [{"name": "m", "version": "3", "state": "READY"}, {"name": "n"}]}
METRICS = (
    'nv_inference_request_success{model="m",version="3"} 4\nnv_inference_count{model="m",version="3"} 4\n'
)


def test_statistics_are_enough(run: Run) -> None:
    stats = {"/v2/models/stats": {"model_stats": [{"name": "m", "version": "1"}]}}
    for paths in (stats, stats | {"/v2": []}):
        with Other(paths) as other:
            ran = run("top", "--interval", "0.2", "-u", other.url, "--once")
        assert (ran.code, ran.err) == (0, "")
        assert re.search(r"^m +1 +0 +0 ", ran.out, re.MULTILINE), ran.out


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (ABOUT | INDEX, "only the states of its models"),
        (ABOUT, "only that it answers"),
        (ABOUT | INDEX | {"/metrics": METRICS}, "figures of the metrics"),
        (ABOUT | INDEX | {"/v2/models/stats": {"model_stats": "none"}}, "only the states of its models"),
        (
            ABOUT | INDEX | {"/v2/models/stats": {"model_stats": [{"name": "m", "inference_count": "x"}]}},
            "only the",
        ),
    ],
)
def test_a_server_without_statistics_says_what_it_can(run: Run, paths: dict[str, Any], said: str) -> None:
    with Other(paths) as other:
        words = ("top", "--interval", "0.2", "-u", other.url, "--metrics-url", f"{other.url}/metrics")
        ran = run(*words, "--once")
        assert (ran.code, ran.err) == (0, "")
        assert "no statistics" in ran.out
        assert said in ran.out
        assert "\x1b" not in ran.out
        if "/v2/repository/index" in paths and "/metrics" not in paths:
            assert re.search(r"^m +3 .*READY$", ran.out, re.MULTILINE), ran.out
            assert re.search(r"^n .*not loaded$", ran.out, re.MULTILINE), ran.out
        if "/metrics" in paths:
            assert re.search(r"^m +3 +0 +0 ", ran.out, re.MULTILINE), ran.out


def test_a_server_that_refuses_everything(run: Run) -> None:
    with Other({}) as other:
        run("top", "--once", "-u", other.url).failed(1, "Not Found")


# -- in a terminal --


class Terminal:
    """A command in a pseudo-terminal."""

    def __init__(self, *words: str, columns: int = 100, **env: str) -> None:
        import fcntl
        import pty
        import struct
        import termios

        self._main, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.before = termios.tcgetattr(other)
        variables = environment(TERM="xterm-256color", **env)
        for name in ("COLUMNS", "LINES"):
            variables.pop(name, None)
        self._other = other
        self.process = subprocess.Popen(
            [*COMMAND, *words], stdin=other, stdout=other, stderr=other, env=variables, start_new_session=True
        )
        self.seen = ""

    def until(self, text: str, seconds: float = 20) -> None:
        """Read until the text was written since the last time."""
        ends = time.monotonic() + seconds
        read = ""
        while text not in re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", read):
            assert time.monotonic() < ends, (text, read)
            if select.select([self._main], [], [], 0.1)[0]:
                read += os.read(self._main, 65536).decode(errors="replace")
        self.seen += read

    def press(self, keys: str) -> None:
        os.write(self._main, keys.encode())

    def end(self) -> int:
        """Wait for its end; check that the terminal is as it was."""
        import termios

        ends = time.monotonic() + 20
        while self.process.poll() is None:
            assert time.monotonic() < ends, self.seen
            if select.select([self._main], [], [], 0.05)[0]:
                self.seen += os.read(self._main, 65536).decode(errors="replace")
        while select.select([self._main], [], [], 0)[0]:
            self.seen += os.read(self._main, 65536).decode(errors="replace")
        assert termios.tcgetattr(self._other) == self.before
        assert self.seen.rfind("\x1b[?1049l") > self.seen.rfind("\x1b[?1049h")  # the other screen is left
        assert self.seen.rfind("\x1b[?25h") > self.seen.rfind("\x1b[?25l")  # the cursor is back
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._main)
        os.close(self._other)


@pytest.fixture
def terminal(triton_server: Any) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*words: str, **options: Any) -> Terminal:
        opened.append(Terminal("top", "-u", triton_server.url, "--interval", "0.2", *words, **options))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def test_q_ends_the_screen(terminal: Callable[..., Terminal]) -> None:
    screen = terminal("digits_e")
    screen.until("digits_ensemble")
    screen.press("q")
    assert screen.end() == 0
    assert "Traceback" not in screen.seen


def test_ctrl_c_ends_the_screen(terminal: Callable[..., Terminal]) -> None:
    screen = terminal()
    screen.until("add_sub")
    screen.press("\x03")
    assert screen.end() == 130
    assert "Traceback" not in screen.seen


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_the_terminal_as_it_was(
    terminal: Callable[..., Terminal], number: int, code: int
) -> None:
    screen = terminal()
    screen.until("add_sub")
    screen.process.send_signal(number)
    assert screen.end() == code


def test_colours_and_no_color(terminal: Callable[..., Terminal]) -> None:
    def colours(seen: str) -> set[tuple[str, ...]]:
        return set(re.findall(r"[34]8;2;(\d+);(\d+);(\d+)", seen))

    coloured = terminal("add_sub", COLORTERM="truecolor")
    coloured.until("add_sub")
    plain = terminal("add_sub", COLORTERM="truecolor", NO_COLOR="1")
    plain.until("add_sub")
    assert any(len(set(each)) > 1 for each in colours(coloured.seen))
    assert all(len(set(each)) == 1 for each in colours(plain.seen))  # greys
    for each in (coloured, plain):
        each.press("q")
        assert each.end() == 0


def test_a_narrow_terminal(terminal: Callable[..., Terminal]) -> None:
    screen = terminal("add_sub", columns=40)
    screen.until("fail/s")
    screen.press("q")
    assert screen.end() == 0
    assert "pend" not in screen.seen


# -- textual's own test driver --


def driven(
    act: Callable[[Top, Any], Awaitable[None]], *urls: str, size: tuple[int, int] = (120, 30), **options: Any
) -> None:
    async def run() -> None:
        async with Watch(Setup(url=list(urls), deadline=2.0)) as watch:
            await watch.first(all_of_them=True)
            app = Top(watch, Options(**{"interval": 0.1, **options}))
            async with app.run_test(size=size) as pilot:
                await act(app, pilot)

    asyncio.run(run())


async def until(pilot: Any, holds: Callable[[], bool], seconds: float = 15) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends
        await pilot.pause(0.02)


def models(app: Top) -> list[str]:
    return [row.model for row in app.rows]


def shown(app: Top) -> str:
    """Return what the table of the first screen says."""
    table: Any = app.screen_stack[0].query_one("#models")
    return "\n".join(
        "|".join(str(cell).strip() for cell in table.get_row_at(n)) for n in range(table.row_count)
    )


def lines(app: Top, name: str) -> str:
    static: Any = app.screen.query_one(name)
    found = static.render()
    return str(getattr(found, "plain", found))


def test_sort_and_reverse(triton_server: Any) -> None:
    async def act(app: Top, pilot: Any) -> None:
        await until(pilot, lambda: app.rows[0].model == "identity_int32")
        assert shown(app).startswith("identity_int32|")
        await pilot.press("S")
        assert app.sorted_by == "model"
        assert models(app) == sorted(models(app))
        await pilot.press("r")
        assert models(app) == sorted(models(app), reverse=True)
        assert shown(app).startswith("summary|")
        await pilot.press("s", "s")
        assert app.sorted_by == "requests"
        assert lines(app, "#title").startswith("tritonhttp top  by req/s ▼  24 models")

    with load(triton_server.url):
        driven(act, triton_server.url)


def test_filter(triton_server: Any) -> None:
    async def act(app: Top, pilot: Any) -> None:
        await pilot.press("slash", *"digits_")
        await until(pilot, lambda: models(app) == ["digits_ensemble", "digits_scale"])
        assert "filter digits_  2 of " in lines(app, "#title")
        await pilot.press("enter", "s")  # a key again, not a letter
        assert app.sorted_by != "inferences"
        assert len(models(app)) == 2
        await pilot.press("escape")
        assert len(models(app)) > 2
        await pilot.press("slash", *"q[", "escape")
        assert app.pattern == ""
        assert len(models(app)) > 2

    driven(act, triton_server.url)


def test_pause(triton_server: Any) -> None:
    async def act(app: Top, pilot: Any) -> None:
        await until(pilot, lambda: len(app.past.of(app.known[0])) > 1)
        await pilot.press("space")
        assert "PAUSED" in lines(app, "#title")
        known, past = app.known, len(app.past.of(app.known[0]))
        await until(pilot, lambda: len(app.past.of(app.known[0])) > past + 2)
        assert app.known is known
        await pilot.press("slash", *"add", "enter")
        assert models(app) == ["add_sub"]
        await pilot.press("space")
        await until(pilot, lambda: app.known is not known)
        assert "PAUSED" not in lines(app, "#title")

    driven(act, triton_server.url)


def test_one_model_in_detail(triton_server: Any) -> None:
    async def act(app: Top, pilot: Any) -> None:
        await until(pilot, lambda: bool(app.rows[0].rate("inferences")))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Details))
        await until(pilot, lambda: bool(app.screen.query("#sections")))
        await until(pilot, lambda: "identity_int32  version 1  inf/s of " in lines(app, "#name"))
        text = app.export_screenshot().replace("&#160;", " ")
        for words in ("inferences/s", "time of a request", "queue", "total", "batches of the interval"):
            assert words in text, words
        await pilot.press("space")
        assert "PAUSED" in lines(app, "#name")
        await pilot.press("s", "slash")  # keys of the first screen
        assert isinstance(app.screen, Details)
        await pilot.press("escape")
        assert not isinstance(app.screen, Details)

    with load(triton_server.url):
        driven(act, triton_server.url)


def test_several_servers_in_detail(triton_server: Any) -> None:
    async def act(app: Top, pilot: Any) -> None:
        assert "away" in lines(app, "#servers")
        await pilot.press("enter")
        await until(pilot, lambda: bool(app.screen.query("#sections")))
        await pilot.pause()
        text = app.export_screenshot().replace("&#160;", " ")
        assert triton_server.url in text
        assert f"localhost:{port}" in text

    port = triton_server.url.rpartition(":")[2]
    driven(act, triton_server.url, f"localhost:{port}", NOWHERE, pattern="add_sub", size=(120, 45))


def test_help(triton_server: Any) -> None:
    async def act(app: Top, pilot: Any) -> None:
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, Help))
        await pilot.pause()
        text = app.export_screenshot().replace("&#160;", " ")
        assert "the model in detail" in text
        assert "mean batch size" in text
        await pilot.press("escape")
        assert not isinstance(app.screen, Help)

    driven(act, triton_server.url, size=(80, 40))


def test_the_cursor_stays_on_the_model_that_was_chosen(triton_server: Any) -> None:
    async def act(app: Top, pilot: Any) -> None:
        table: Any = app.query_one("#models")
        await until(pilot, lambda: len(app.rows) > 5)
        await pilot.press("S", "down", "down")
        await pilot.pause()
        chosen = app.rows[table.cursor_row].model
        assert table.cursor_row == 2
        await pilot.press("r")
        await pilot.pause()
        assert app.rows[table.cursor_row].model == chosen
        assert table.cursor_row == len(app.rows) - 3
        await pilot.press(*["up"] * 25)
        await pilot.pause()
        assert table.cursor_row == 0

    driven(act, triton_server.url)


@pytest.mark.parametrize("size", [(40, 12), (20, 6), (200, 60)])
def test_sizes(triton_server: Any, size: tuple[int, int]) -> None:
    async def act(app: Top, pilot: Any) -> None:
        table: Any = app.query_one("#models")
        await pilot.pause()
        wide = sum(column.get_render_width(table) for column in table.ordered_columns)
        assert wide <= max(size[0], 14)
        for keys in ("enter", "escape", "question_mark", "escape", "slash", "escape"):
            await pilot.press(keys)
            await pilot.pause()
        await pilot.resize_terminal(90, 20)
        await until(pilot, lambda: "queue" in [str(column.key.value) for column in table.ordered_columns])

    driven(act, triton_server.url, NOWHERE, size=size)


def test_a_restart_on_the_screen(start_server: Callable[..., Any]) -> None:
    server = start_server(models=["identity_int32"])

    async def act(app: Top, pilot: Any) -> None:
        await until(pilot, lambda: bool(app.rows[0].rate("inferences")))
        stop = asyncio.get_running_loop().run_in_executor(None, server.stop)
        await until(pilot, lambda: "|away|" in shown(app), 40)
        assert "away" in lines(app, "#servers")
        await stop
        await asyncio.get_running_loop().run_in_executor(None, server.start)
        await until(pilot, lambda: "restarted at" in lines(app, "#servers"), 40)
        await until(pilot, lambda: bool(app.rows[0].rate("inferences")), 40)
        assert "live" in lines(app, "#servers")

    with load(server.url):
        driven(act, server.url)
