"""Write ``docs/bench-report.png``: the page of a `tritonhttp bench` on a real Triton, in headless Chromium."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tritonhttp.cli.main import main
from tritonhttp.testing import TritonServer

SIZE = (1100, 1500)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
)
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync")


def photograph(page: Path, picture: Path) -> None:
    """Write a picture of a page."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("this needs Chromium: apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile:
        size = ",".join(map(str, SIZE))
        command = [browser, *FLAGS, *QUIET, f"--user-data-dir={profile}", f"--window-size={size}"]
        subprocess.run([*command, f"--screenshot={picture}", page.as_uri()], check=True, capture_output=True)


if __name__ == "__main__":
    target = Path(__file__).parents[1] / "docs" / "bench-report.png"
    with tempfile.TemporaryDirectory() as folder, TritonServer(models=["add_sub"]) as server:
        report = Path(folder) / "report.html"
        words = ["bench", "add_sub", "-u", server.url, "--metrics-url", server.metrics_url]
        main([*words, "--concurrency", "1:16:2x", "--window", "1", "--windows", "5", "--report", str(report)])
        photograph(report, target)
    print(target)
