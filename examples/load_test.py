"""A load test for CI: ``python load_test.py host:port BASELINE.json``; exit code 4 if the model became slower.

The first run writes the baseline; keep it as an artefact of the main branch. Later runs compare with it. A change
counts only if it is more than chance.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MODEL = "digits"
LOAD = ("--concurrency", "4", "--count", "400")
BOUNDS = ("p99>+20%", "throughput<-15%", "errors>0.1%")


def main(url: str, baseline: Path) -> int:
    """Measure, compare, and return the exit code for CI."""
    command = [sys.executable, "-m", "tritonhttp", "bench", MODEL, "--url", url, *LOAD]
    if not baseline.exists():
        measured = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, check=True)
        baseline.write_bytes(measured.stdout)
        print(f"wrote {baseline}")
        return 0
    limits = [word for bound in BOUNDS for word in ("--fail-if", bound)]
    return subprocess.run([*command, "--compare", str(baseline), *limits], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
