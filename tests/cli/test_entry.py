"""The entry point: words, exit codes, help, completion, terminals and pipes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tritonhttp import __version__
from tritonhttp.cli.app import parser

from .conftest import COMMAND, Ran, Run, environment
from .test_generate import in_terminal


def commands() -> dict[str, Any]:
    """Return all commands by their words."""
    found = {}
    for name, command in parser().commands.items():
        inner = getattr(command, "commands", None)
        found.update({f"{name} {each}": inner[each] for each in inner} if inner else {name: command})
    return found


COMMANDS = commands()


def test_the_commands() -> None:
    assert set(COMMANDS) >= {
        *("status", "wait", "models", "show", "config", "stats", "metrics", "load", "unload"),
        *("trace get", "trace set", "log get", "log set", "shm list", "shm unregister"),
        *("infer", "generate", "top", "serve", "stub"),
    }


@pytest.mark.parametrize("words", COMMANDS)
def test_the_help_of_each_command_has_the_common_options_and_an_example(run: Run, words: str) -> None:
    ran = run(*words.split(), "--help")
    assert ran.code == 0
    for option in (
        "--url",
        "--header",
        "--auth",
        "--ca-certs",
        "--cert",
        "--key",
        "--insecure",
        "--json",
        "--debug",
    ):
        assert option in ran.out
    assert re.search(rf"Example:\n    tritonhttp {words}\b", ran.out), ran.out


def test_help_and_version(spawn: Callable[..., Ran]) -> None:
    without = spawn()
    assert without.code == 0
    assert re.match(rf"tritonhttp +{re.escape(__version__)}\npython ", without.out)
    assert json.loads(spawn("--json").out)["tritonhttp"] == __version__
    assert spawn("--help").out.startswith("Usage: tritonhttp ")
    assert spawn("--version").out == f"tritonhttp {__version__}\n"


def test_help_loads_little() -> None:
    program = (
        "import sys\nfrom tritonhttp.cli.main import main\nassert main(['--help']) == 0\n"
        "print(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment(), check=True
    )
    loaded = {name.split(".")[0] for name in ended.stderr.split()}
    heavy = {"rich", "PIL", "hdrh", "textual"}
    if sys.version_info >= (3, 11):  # before, the library's errors need them
        heavy |= {"asyncio", "ssl"}
    assert loaded.isdisjoint(heavy)


def test_help_is_fast() -> None:
    """Less than the library's own import, with numpy's, takes; in CPU time, since other tests run meanwhile."""
    program = (
        "import time, sys\nstart = time.process_time()\nimport tritonhttp\nbegan = time.process_time()\n"
        "from tritonhttp.cli.main import main\nmain(['--help'])\n"
        "print((time.process_time() - began) / (began - start), file=sys.stderr)"
    )

    def share() -> float:
        ended = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environment(), check=True
        )
        return float(ended.stderr)

    assert any(share() < 0.8 for _ in range(20)), "a busy machine may miss it some times, not always"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nothing",), "No such command"),
        (("status", "--nothing"), "No such option"),
        (("show",), "Missing argument"),
        (("trace",), "Missing command"),
        (("status", "extra"), "unexpected extra argument"),
        (("status", "--deadline", "soon"), "--deadline"),
        (("status", "--deadline", "nan"), "deadline"),
        (("status", "-u", "http://a b"), "expected a URL"),
        (("status", "-u", "ftp://a"), "ftp"),
        (("status", "-u", "a:99999"), "port"),
        (("status", "--header", "nothing"), "NAME:VALUE"),
        (("status", "--header", "a b: c"), "a b"),
        (("status", "--auth", "nobody"), "USER:PASSWORD"),
        (("status", "--auth", "ü:x"), "ASCII"),
        (("status", "--ca-certs", "/no/such"), "/no/such"),
        (("status", "--key", "/no/such"), "--cert"),
        (("status", "--insecure", "-u", "http://a"), "https://"),
        (("status", "--ca-certs", __file__, "-u", "a"), "cannot be used"),
        (("show", ""), "must be a name that a path may hold"),
        (("show", ".."), "must be a name that a path may hold"),
        (("wait", "--version", "1"), "--model"),
        (("wait", "--timeout", "nan"), "timeout"),
        (("stats", "--version", "1"), "MODEL"),
        (("load", "add_sub", "--file", "a=b"), "--config"),
        (("load", "add_sub", "--config", "/no/such"), "/no/such"),
        (("load", "add_sub", "--config", __file__), "JSON"),
        (("load", "add_sub", "--config", "-", "--file", "x"), "PATH=FILE"),
        (("trace", "set"), "Missing argument"),
        (("trace", "set", "x"), "NAME=VALUE"),
        (("log", "set", "=1"), "NAME=VALUE"),
        (("shm", "unregister"), "--all"),
        (("shm", "unregister", "a", "--all"), "--all"),
        (("serve",), "--demo"),
        (("serve", "--demo", "--model-repository", "."), "--demo"),
        (("serve", "--model-repository", "/no/such"), "no such folder"),
        (("serve", "--demo", "--port", "70000"), "--port"),
    ],
)
def test_wrong_use(run: Run, words: tuple[str, ...], said: str) -> None:
    run(*words).failed(2, said)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("models", "-u", "127.0.0.1:9"), 3, "127.0.0.1:9"),
        (("models", "-u", "no.such.host.invalid"), 3, "check the host's name"),
        (("models", "-u", "unix:///no/such.sock"), 3, "/no/such.sock"),
        (("show", "nowhere"), 1, "`tritonhttp models`"),
        (("config", "nowhere"), 1, "`tritonhttp models`"),
        (("stats", "nowhere"), 1, "nowhere"),
        (("load", "nowhere"), 1, "nowhere"),
        (("log", "set", "no_such=1"), 1, "no_such"),
        (("trace", "set", "no_such=1"), 1, "no_such"),
        (("trace", "get", "--model", "nowhere"), 1, "nowhere"),
    ],
)
def test_what_fails(run: Run, words: tuple[str, ...], code: int, said: str) -> None:
    run(*words).failed(code, said)


def test_files_that_are_no_text(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "binary"
    path.write_bytes(b"\xff\xfe\x00")
    run("load", "add_sub", "--config", str(path)).failed(2, "--config", "JSON")
    run("load", "add_sub", "--config", "-", stdin=path.read_bytes()).failed(2, "--config", "JSON")
    run("generate", "identity_bytes", "--text", f"@{path}").failed(2, "UTF-8")


def test_something_that_is_no_inference_server(run: Run, triton_server: Any) -> None:
    run("models", "-u", f"{triton_server.url}/wrong/base").failed(1, "base path")
    port = triton_server.metrics_url.split("/")[2]
    run("models", "-u", port).failed(1, port)


def test_debug_shows_a_traceback(run: Run) -> None:
    ran = run("show", "nowhere", "--debug")
    assert ran.code == 1
    assert ran.err.startswith("Traceback")
    assert ran.err.splitlines()[-1].startswith("tritonhttp: ")


def test_the_default_server(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from tritonhttp.cli.common import Setup

    monkeypatch.delenv("TRITON_URL")
    assert Setup().urls == ["localhost:8000"]
    monkeypatch.setenv("TRITON_URL", "a:1, b:2")
    assert Setup().urls == ["a:1", "b:2"]
    assert Setup(url=["c"]).urls == ["c"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(tmp_path: Path, shell: str) -> None:
    words = "tritonhttp mod"
    variables = {
        "_TRITONHTTP_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": words,
        "COMP_CWORD": "1",
        "_TYPER_COMPLETE_ARGS": words,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    ended = subprocess.run(COMMAND, capture_output=True, text=True, env=environment(**variables), check=False)
    assert "models" in ended.stdout, ended
    assert "status" not in ended.stdout


@pytest.mark.parametrize("words", ["show digits_e", "stats digits_e", "infer -u {url} digits_e"])
def test_models_are_completed(triton_server: Any, words: str) -> None:
    words = words.format(url=triton_server.url)
    variables = {
        "_TRITONHTTP_COMPLETE": "complete_bash",
        "COMP_WORDS": f"tritonhttp {words}",
        "COMP_CWORD": str(len(words.split())),
        "TRITON_URL": "127.0.0.1:9" if "-u" in words else triton_server.url,
    }
    ended = subprocess.run(COMMAND, capture_output=True, text=True, env=environment(**variables), check=False)
    assert (ended.stdout, ended.stderr) == ("digits_ensemble\n", "")


def test_no_server_completes_nothing() -> None:
    variables = {
        "_TRITONHTTP_COMPLETE": "complete_bash",
        "COMP_WORDS": "tritonhttp show d",
        "COMP_CWORD": "2",
    }
    ended = subprocess.run(
        COMMAND,
        capture_output=True,
        text=True,
        env=environment(TRITON_URL="127.0.0.1:9", **variables),
        check=False,
    )
    assert (ended.stdout.strip(), ended.stderr) == ("", "")


def test_completion_in_bash(tmp_path: Path) -> None:
    """The script that is installed, and what it completes in a real bash."""
    program = tmp_path / "tritonhttp"
    program.write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
    program.chmod(0o755)
    script = """
        source <(tritonhttp --show-completion)
        COMP_WORDS=(tritonhttp infer --dry); COMP_CWORD=2
        "$(complete -p tritonhttp | sed 's/.* -F \\([^ ]*\\) .*/\\1/')" tritonhttp
        echo "${COMPREPLY[@]}"
    """
    variables = environment(PATH=f"{tmp_path}:{os.environ['PATH']}")
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=variables, check=False)
    assert ended.stdout == "--dry-run\n", ended


# -- terminals and pipes --


def test_a_terminal_shows_colours_and_folds(triton_server: Any) -> None:
    words = ("models", "-u", triton_server.url)
    assert "\x1b[" in in_terminal(*words)
    plain = in_terminal(*words, NO_COLOR="1")
    assert "READY" in plain
    assert not re.search(r"\x1b\[[\d;]*3\d[;m]", plain)
    narrow = in_terminal("status", "-u", triton_server.url, columns=40, NO_COLOR="1")
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in narrow.splitlines()]
    assert max(map(len, lines)) <= 40
    assert "logging" in "".join(lines)


def test_a_pipe_is_neither_coloured_nor_folded(spawn: Callable[..., Ran]) -> None:
    ran = spawn("status", env={"COLUMNS": "30", "FORCE_COLOR": "1"})
    assert "\x1b" not in ran.out
    assert len(ran.out.splitlines()) == 6


def test_a_reader_that_leaves_ends_it_quietly(triton_server: Any) -> None:
    variables = environment(TRITON_URL=triton_server.url)
    command = [*COMMAND, "infer", "identity_int32", "--random", "--shape", "INPUT0:300000", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=variables) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_without_its_packages_it_says_how_to_install_them() -> None:
    program = (
        "import sys\nsys.modules['typer'] = None\n"
        "from tritonhttp.cli.main import main\nsys.exit(main(['status']))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment(), check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert (
        ended.stderr
        == "tritonhttp: the command line needs the package typer: pip install 'tritonhttp[cli]'\n"
    )


@pytest.mark.parametrize("package", ["PIL", "rich"])
def test_a_package_that_one_command_needs(
    run: Run, monkeypatch: pytest.MonkeyPatch, package: str, tmp_path: Path
) -> None:
    words = {
        "PIL": ("infer", "digits", "-i", f"IMAGE=@{tmp_path}/a.png"),
        "rich": ("models",),
    }[package]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    run(*words).failed(2, "pip install 'tritonhttp[cli]'")


def test_an_error_that_nobody_expected_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("tritonhttp.InferenceServerClient.get_model_repository_index", broken)
    run("models").failed(1, "RuntimeError: two lines (--debug shows where)")


# -- TLS --


def test_tls(run: Run, tls_gateway: Any, triton_server: Any) -> None:
    url, ca = tls_gateway
    metrics_url = triton_server.metrics_url
    run("status", "-u", url).failed(3, "certificate", "--ca-certs")
    assert run("status", "-u", url, "--ca-certs", ca).code == 0
    assert run("status", "-u", url.removeprefix("https://"), "--ca-certs", ca).code == 0
    other = url.replace("localhost", "127.0.0.1")
    run("status", "-u", other, "--ca-certs", ca).failed(3, "certificate")
    assert run("status", "-u", other, "--ca-certs", ca, "--insecure").code == 0
    # Credentials for TLS do not go to the metrics in the clear.
    run("metrics", "-u", url, "--ca-certs", ca, "--auth", "a:b").failed(3, "https://localhost:8002/metrics")
    assert run("metrics", "--ca-certs", ca, "--metrics-url", metrics_url).code == 0
    run("status", "-u", other, "--insecure").failed(3, "certificate")  # the chain is verified all the same
