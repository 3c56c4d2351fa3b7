"""`tritonhttp generate`: answers as they come."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import COMMAND, Run, environment


def test_text(run: Run, tmp_path: Path) -> None:
    assert run("generate", "identity_bytes", "--text", "Hello").out == "Hello\n"
    assert run("generate", "identity_bytes", "--text", "two\nlines\n").out == "two\nlines\n"
    assert run("generate", "identity_bytes", "--text", "@-", stdin=b"from a pipe\n").out == "from a pipe\n"
    (tmp_path / "prompt.txt").write_text("from a file\n")
    assert run("generate", "identity_bytes", "--text", f"@{tmp_path}/prompt.txt").out == "from a file\n"
    assert run("generate", "identity_bytes", "--input", "INPUT0=as an input").out == "as an input\n"
    assert run("generate", "identity_bytes", "--text", "at once", "--no-stream").out == "at once\n"


def test_answers_without_text_are_lines_of_json(run: Run) -> None:
    ran = run("generate", "repeat", "--input", "IN=[4, 5]", "--param", "any=1", "--param", "of=kind")
    assert ran.out == '{"INDEX": 0, "OUT": 4}\n{"INDEX": 1, "OUT": 5}\n'


def test_json_has_the_whole_answer(run: Run) -> None:
    (line,) = run("generate", "identity_bytes", "--text", "Hello", "--json").out.splitlines()
    assert json.loads(line) == {"model_name": "identity_bytes", "model_version": "1", "OUTPUT0": "Hello"}


def test_answers_are_shown_as_they_come(triton_server: Any) -> None:
    command = [*COMMAND, "generate", "repeat", "--input", "IN=[1, 2]", "--input", "DELAY=1.0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment(TRITON_URL=triton_server.url)
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["OUT"] == 1
        first = time.monotonic()
        assert json.loads(process.stdout.readline())["OUT"] == 2
        assert time.monotonic() - first > 0.5
    assert process.returncode == 0


def test_an_error_in_the_stream_comes_after_what_was_before(run: Run) -> None:
    ran = run("generate", "repeat", "--input", "IN=[1, 2, 3]", "--input", "FAIL_AT=1")
    assert (ran.code, ran.out) == (1, '{"INDEX": 0, "OUT": 1}\n')
    assert len(ran.err.splitlines()) == 1


class Chat:
    """A server whose model answers in pieces of text."""

    def __init__(self, pieces: list[str]) -> None:
        import threading
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

        chat = self
        self.asked: list[Any] = []
        tensor = {"datatype": "BYTES", "shape": [1]}
        about = {"name": "chat", "inputs": [{"name": "other", **tensor}, {"name": "text_input", **tensor}]}
        about["outputs"] = [{"name": "text_output", **tensor}, {"name": "logprobs", **tensor}]

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                config = {"input": [{"name": "other", "optional": True}]}
                self._send(json.dumps(config if self.path.endswith("/config") else about))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                chat.asked.append(json.loads(body))
                events = (json.dumps({"text_output": piece}) for piece in pieces)
                self._send("".join(f"data: {event}\n\n" for event in events), "text/event-stream")

            def _send(self, text: str, kind: str = "application/json") -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def chat() -> Iterator[Chat]:
    server = Chat(["Hel", "lo", "", ",\n", "\x1b[2Jworld"])
    yield server
    server.stop()


def test_pieces_of_text_are_joined(run: Run, chat: Chat) -> None:
    words = (
        "generate",
        "chat",
        "-u",
        chat.url,
        "--text",
        "Hi",
        "--param",
        "max_tokens=20",
        "--param",
        "stop=.",
    )
    assert run(*words).out == "Hello,\n\x1b[2Jworld\n"  # a pipe gets what the model says
    assert chat.asked == [{"text_input": "Hi", "parameters": {"max_tokens": 20, "stop": "."}}]


def test_a_terminal_is_not_changed_by_a_model(chat: Chat) -> None:
    out = in_terminal("generate", "chat", "-u", chat.url, "--text", "Hi")
    assert "\x1b" not in out
    assert r"\x1b[2Jworld" in out


def in_terminal(*words: str, columns: int = 80, **env: str) -> str:
    """Run a command with a pseudo-terminal as its stdout; return what it wrote there."""
    import fcntl
    import pty
    import struct
    import termios

    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    variables = environment(TERM="xterm-256color", **env)
    variables.pop("COLUMNS", None)
    with subprocess.Popen([*COMMAND, *words], stdout=other, env=variables) as process:
        os.close(other)
        found = b""
        while True:
            try:
                piece = os.read(main, 4096)
            except OSError:  # Linux says EIO when the other end is closed
                break
            if not piece:
                break
            found += piece
    os.close(main)
    assert process.returncode == 0
    return found.decode()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("identity_bytes",), 2, ["--text", "INPUT0 BYTES[-1]"]),
        (("repeat", "--text", "x"), 2, ["--text needs one input of BYTES", "IN INT32"]),
        (("identity_bytes", "--text", "x", "--input", "INPUT0=y"), 2, ["the same input"]),
        (("identity_bytes", "--input", "INPUT0=y", "--input", "INPUT0=z"), 2, ["given twice"]),
        (("identity_bytes", "--input", "y"), 2, ["expected NAME=VALUE"]),
        (("identity_bytes", "--text", "x", "--param", "y"), 2, ["--param"]),
        (("nowhere", "--text", "x"), 1, ["nowhere"]),
        (("repeat", "--input", "IN=[1, 2]", "--no-stream"), 1, ["exactly 1 response"]),
        (("identity_bytes", "--text", "x", "-u", "127.0.0.1:9"), 3, ["refused"]),
    ],
)
def test_mistakes(run: Run, words: tuple[str, ...], code: int, said: list[str]) -> None:
    run("generate", *words).failed(code, *said)
