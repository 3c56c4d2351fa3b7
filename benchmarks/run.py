"""Run the benchmarks: ``python3 benchmarks/run.py [--only NAME[,NAME]] [--quick]``.

Makes the environment ``.venv-bench`` with the library and its peers, starts a real Triton and the sink,
measures every case, and writes ``RESULTS.md`` and ``results.json`` to this folder, and ``docs/bench.svg``. A
run of selected cases, or a quick one, only prints its tables; with ``--merge`` selected cases take the place of
those of the last whole run. ``--only small`` selects every case whose name is ``small`` or begins with
``small-``. The servers that it started end with it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness import Case, Site

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "benchmarks"
ENVIRONMENT = ROOT / ".venv-bench"
INSTALLED_FROM = (
    "benchmarks/requirements.txt",
    "pyproject.toml",
    "setup.py",
    *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("src/**/*.c")),
)
BAR = 24


def bootstrap() -> None:
    """Continue in the environment of the benchmarks; make or update it first."""
    binary = ENVIRONMENT / "bin" / "python"
    stamp = ENVIRONMENT / ".installed"
    files = [ROOT / name for name in INSTALLED_FROM]
    state = hashlib.sha256(b"\0".join(f.read_bytes() for f in files if f.exists())).hexdigest()
    if not stamp.exists() or stamp.read_text() != state:
        print(f"installing into {ENVIRONMENT.name}", file=sys.stderr, flush=True)
        if not binary.exists():
            subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        pip = [str(binary), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]
        subprocess.run([*pip, "-r", str(HERE / "requirements.txt"), "--editable", str(ROOT)], check=True)
        stamp.write_text(state)
    if Path(sys.prefix).resolve() != ENVIRONMENT.resolve():
        os.execv(binary, [str(binary), *sys.argv])


class Progress:
    """Progress on standard error: a bar on a terminal, otherwise a line for each case."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._name = ""
        self._start = time.monotonic()
        self._live = sys.stderr.isatty()

    def _clock(self) -> str:
        seconds = int(time.monotonic() - self._start)
        return f"{seconds // 60}:{seconds % 60:02}"

    def case(self, name: str) -> None:
        """Show that a case begins."""
        self._name = name
        if not self._live:
            line = f"[{self._done + 1}/{self._total}] {self._clock()} {name}"
            print(line, file=sys.stderr, flush=True)

    def turn(self, contender: str, share: float) -> None:
        """Show whose turn it is."""
        if not self._live:
            return
        filled = round(BAR * (self._done + share) / self._total)
        text = f"[{'#' * filled}{'.' * (BAR - filled)}] {self._done + 1}/{self._total} {self._clock()}  "
        print(f"\r\033[K{text}{self._name}: {contender}", end="", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Print a message above the bar."""
        print(("\r\033[K" if self._live else "") + text, file=sys.stderr, flush=True)

    def end_case(self) -> None:
        """Count a finished case."""
        self._done += 1
        if self._live and self._done == self._total:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def sink(folder: Path) -> Iterator[dict[str, Site]]:
    """Start the sink; yield its two sites. Leaving the block closes its standard input, which ends it."""
    import trustme
    from harness import Site

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(folder / "server.pem")
    )
    command: list[str] = [sys.executable, str(HERE / "sink.py"), "--tls", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ports = json.loads(process.stdout.readline())
        with contextlib.suppress(AttributeError, OSError):
            os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
        yield {
            "sink": Site(server="sink", url=f"127.0.0.1:{ports['port']}"),
            "tls": Site(server="tls", url=f"127.0.0.1:{ports['tls_port']}", ca=str(folder / "ca.pem")),
        }


def triton(stack: contextlib.ExitStack, url: str) -> Site:
    """Return the site of the Triton at ``url``, or of one that is started here."""
    from harness import Site

    if not url:
        from tritonhttp.testing import TritonServer

        url = stack.enter_context(TritonServer()).url
    return Site(server="triton", url=url)


def chosen(cases: list[Case], only: str) -> list[Case]:
    """Return the cases that ``--only`` selects."""
    words = [word for word in only.split(",") if word]
    wanted = [
        case for case in cases if not words or any(f"{case.name}-".startswith(f"{word}-") for word in words)
    ]
    if not wanted:
        raise SystemExit(f"no case is called {only!r}; there are: {', '.join(case.name for case in cases)}")
    return wanted


def main() -> int:
    """Measure, print and write; return 1 if a contender failed."""
    parser = argparse.ArgumentParser(description="Measure tritonhttp against its peers.")
    parser.add_argument("--only", default="", metavar="NAME[,NAME]", help="these cases; writes nothing")
    parser.add_argument("--merge", action="store_true", help="write them among the last whole run's")
    parser.add_argument("--quick", action="store_true", help="two blocks each; writes nothing")
    parser.add_argument("--list", action="store_true", help="name the cases")
    parser.add_argument("--triton", default="", metavar="HOST:PORT", help="a Triton with the test models")
    options = parser.parse_args()

    import cases_aio
    import cases_bench
    import cases_blocking
    import cases_bulk
    import cases_content
    import cases_distributed
    import cases_process
    import cases_production
    import cases_shm
    import harness
    import report

    modules = (
        cases_blocking,
        cases_shm,
        cases_content,
        cases_process,
        cases_aio,
        cases_production,
        cases_bench,
        cases_bulk,
        cases_distributed,
    )
    cases = chosen([case for module in modules for case in module.CASES], options.only)
    if options.list:
        print("\n".join(f"{case.name:30}{case.title}" for case in cases))
        return 0

    pickle.dumps(cases)  # contenders have processes of their own; rather fail now than behind the other cases
    start, where = time.monotonic(), report.machine()
    progress = Progress(len(cases))
    sites = {"": harness.Site(server="")}
    results, skipped, failures = [], {}, 0
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tritonhttp-bench-"))
        sites.update(stack.enter_context(sink(Path(folder))))
        if any(case.server == "triton" for case in cases):
            progress.note("starting Triton")
            sites["triton"] = triton(stack, options.triton)
        loops = []
        for case in cases:
            progress.case(case.name)
            loops.append(harness.loop())
            measured = harness.run(case, sites[case.server], quick=options.quick, say=progress.turn)
            progress.end_case()
            for name, result in measured.items():
                if result.failed:
                    failures += 1
                    progress.note(f"{case.name}, {name}: {result.failed}")
            if measured[harness.OURS].missing:
                skipped[case.name] = measured[harness.OURS].missing.strip().splitlines()[-1]
            results.append((case, measured))
    where["loop"] = report.spread(loops)
    run = report.collect(results, skipped, time.monotonic() - start, where)
    if options.quick or (options.only and not options.merge):
        print(report.tables(run))
    else:
        if options.merge:
            run = report.merged(json.loads((HERE / "results.json").read_text()), run)
        (HERE / "RESULTS.md").write_text(report.markdown(run))
        (HERE / "results.json").write_text(json.dumps(run, indent=1, ensure_ascii=False) + "\n")
        (ROOT / "docs").mkdir(exist_ok=True)
        (ROOT / "docs" / "bench.svg").write_text(report.svg(run))
        print(report.markdown(run))
    return 1 if failures else 0


if __name__ == "__main__":
    bootstrap()
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
