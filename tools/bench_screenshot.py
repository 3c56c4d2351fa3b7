"""Write ``docs/bench-report.png``: the page of a `tritonhttp bench` on a real Triton, in headless Chromium."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

from tritonhttp.cli.main import main
from tritonhttp.testing import TritonServer

#: Higher than the page, which is cut out.
SIZE = (1300, 4000)
MARGIN = 24
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
    with Image.open(picture) as taken:
        image = taken.convert("RGB")
    empty = Image.new("RGB", image.size, image.getpixel((0, 0)))
    _, _, _, bottom = ImageChops.difference(image, empty).getbbox() or (0, 0, *image.size)
    image.crop((0, 0, image.width, min(bottom + MARGIN, image.height))).save(picture, optimize=True)


if __name__ == "__main__":
    target = Path(__file__).parents[1] / "docs" / "bench-report.png"
    with tempfile.TemporaryDirectory() as folder, TritonServer(models=["add_sub"]) as server:
        report = Path(folder) / "report.html"
        words = ["bench", "add_sub", "-u", server.url, "--metrics-url", server.metrics_url]
        main([*words, "--concurrency", "1:8:2x", "--window", "1", "--windows", "5", "--report", str(report)])
        photograph(report, target)
    print(target)
