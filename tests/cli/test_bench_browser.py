"""The page of ``bench --report`` in a real Chromium: it fits a phone, and asks for nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import Run

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=2000"),
)
#: Says in the title how wide page and window are, how many charts are drawn, and what was loaded beside the page.
SCRIPT = """<script>addEventListener("load", () => { const root = document.documentElement
const drawn = [...document.querySelectorAll("svg.chart")].filter(each => each.getBoundingClientRect().height > 50)
const loaded = performance.getEntriesByType("resource").length
document.title = [root.scrollWidth, innerWidth, drawn.length, loaded].join(" ") })</script>"""


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [500, 1300])  # headless windows are 500 pixels wide at least
def test_the_page_in_a_browser(run: Run, tmp_path: Path, width: int) -> None:
    page = tmp_path / "report.html"
    assert BROWSER is not None
    words = ("--warm-up", "0.1", "--window", "0.3", "--windows", "3", "--report", str(page))
    assert run("bench", "add_sub", "--concurrency", "1:2", *words).code == 0
    page.write_text(page.read_text("utf-8").replace("</body>", f"{SCRIPT}</body>"), "utf-8")
    command = [
        BROWSER,
        *FLAGS,
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},900",
        "--dump-dom",
    ]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=60)
    found = re.search(r"<title>(\d+) (\d+) (\d+) (\d+)</title>", done.stdout)
    assert found is not None, done.stderr
    needs, has, charts, loaded = map(int, found.groups())
    assert needs <= has
    assert charts == 5  # curve, percentiles, where the time went, and the time lines of two levels
    assert loaded == 0
