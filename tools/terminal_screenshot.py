"""Write ``docs/terminal.svg`` and ``docs/explain.svg``: commands in a terminal, on a real Triton."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from tritonhttp.testing import TritonServer

ROOT = Path(__file__).parents[1]
DIGITS = ROOT / "src" / "tritonhttp" / "testing" / "data" / "digits.npz"
#: What the server is called in the pictures; its real port is a free one.
URL = "localhost:8000"
#: The picture, its columns, and the commands that it shows.
PICTURES = {
    "terminal.svg": (
        112,
        [
            "tritonhttp infer digits --input IMAGE=@digit.png --resize 8x8 --scale 1/255 --classes 3",
            "tritonhttp bench digits --concurrency 4",
        ],
    ),
    "explain.svg": (134, ["tritonhttp explain identity_fp32 --random --shape INPUT0:500000"]),
}


def shown(command: str, columns: int, folder: Path, url: str) -> str:
    """Run a command with a pseudo-terminal as its stdout; return what it wrote there."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    words = [sys.executable, "-m", "tritonhttp", *command.split()[1:]]
    variables = {**kept, "TERM": "xterm-256color", "TRITON_URL": url}
    with subprocess.Popen(words, stdout=other, cwd=folder, env=variables) as process:
        os.close(other)
        found = b""
        while True:
            try:
                piece = os.read(main, 4096)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            found += piece
    os.close(main)
    if process.returncode:
        sys.exit(f"{command}: exit code {process.returncode}")
    return found.decode().replace("\r\n", "\n").replace(url, URL)


def draw(columns: int, pieces: Iterable[tuple[str, str]]) -> str:
    """Return a picture of commands and what each wrote."""
    console = Console(
        record=True, width=columns, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    for number, (command, written) in enumerate(pieces):
        if number:
            console.print()
        console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
        console.print(Text.from_ansi(written.rstrip("\n")))
    # No fonts from the network: a picture shows what the page's reader has.
    form = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    return console.export_svg(title="tritonhttp", code_format=form, unique_id="terminal")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, TritonServer(models=["digits", "identity_fp32"]) as server:
        with np.load(DIGITS) as data:
            pixels = np.round(data["images"][1].reshape(8, 8) / 16 * 255).astype(np.uint8)
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST).save(Path(folder) / "digit.png")
        for name, (columns, commands) in PICTURES.items():
            pieces = [(each, shown(each, columns, Path(folder), server.url)) for each in commands]
            (ROOT / "docs" / name).write_text(draw(columns, pieces), "utf-8")
            print(ROOT / "docs" / name)
