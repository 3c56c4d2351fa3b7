"""Write ``docs/top.svg``: the screen of `tritonhttp top` on two real Tritons under load."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from tritonhttp.cli.common import Setup
from tritonhttp.cli.top.read import Watch
from tritonhttp.cli.top.screen import Top
from tritonhttp.cli.top.view import Options
from tritonhttp.testing import TritonServer

SIZE = (116, 18)
INTERVAL, SECONDS = 0.5, 12.0
MODELS = ["add_sub", "batched", "digits_ensemble", "identity_bytes", "repeat", "slow"]
LOADS = (("digits_ensemble", "2"), ("add_sub", "1"), ("batched", "6"), ("identity_bytes", "1"))


async def photograph(urls: list[str], metrics_urls: list[str], picture: Path) -> None:
    """Write a picture of the screen after some seconds."""
    async with Watch(Setup(url=urls), metrics_urls) as watch:
        await watch.first(all_of_them=True)
        app = Top(watch, Options(interval=INTERVAL))
        async with app.run_test(size=SIZE) as pilot:
            await pilot.pause(SECONDS)
            svg = app.export_screenshot()
    # No fonts from the network: a picture shows what the page's reader has.
    picture.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL), "utf-8")


def main() -> None:
    """Start two servers, load them, and take the picture."""
    target = Path(__file__).parents[1] / "docs" / "top.svg"
    with ExitStack() as stack:
        servers = [stack.enter_context(TritonServer(models=MODELS)) for _ in range(2)]
        urls = [server.url for server in servers]
        for model, concurrency in LOADS:
            words = ["bench", model, "-u", ",".join(urls), "--concurrency", concurrency, "--count", "1000000"]
            command = [sys.executable, "-m", "tritonhttp", *words]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        asyncio.run(photograph(urls, [server.metrics_url for server in servers], target))
    print(target)


if __name__ == "__main__":
    main()
