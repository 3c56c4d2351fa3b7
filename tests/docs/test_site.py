"""The site: its links lead somewhere, and a real Chromium shows its pages, on a phone too, without an error."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs" / "_build" / "html"
#: A folder for screenshots to be looked at; none are kept without it.
SHOTS = os.environ.get("DOCS_SCREENSHOTS")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
    *("--enable-logging=stderr", "--virtual-time-budget=8000"),
)
#: Shows a page in a frame of the wanted width, because a headless window has 500 pixels at least.
FRAME = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">
<style>body {{ margin: 0 }} iframe {{ border: 0; width: {width}px; height: {height}px }}</style>
<iframe src="{page}"></iframe><script>
const frame = document.querySelector("iframe")
function tell() {{
  const inner = frame.contentDocument, root = inner.documentElement
  const images = [...inner.images].filter(each => each.complete && !each.naturalWidth).map(each => each.src)
  const loaded = frame.contentWindow.performance.getEntriesByType("resource").map(each => each.name)
  document.title = "told " + encodeURIComponent(JSON.stringify({{
    needs: root.scrollWidth, has: root.clientWidth, broken: images, loaded, language: root.lang,
    heading: inner.querySelector("h1, h2")?.textContent, text: inner.querySelector("article, main")?.innerText,
    found: inner.querySelectorAll("ul.search li").length, labelled: inner.querySelectorAll("dt.sig").length }}))
}}
frame.onload = () => setTimeout(tell, 3000)
</script>"""
PAGES = {
    "home": "index.html",
    "zh-home": "zh/index.html",
    "search": "search.html?q=deadline",
    "zh-search": "zh/search.html?q=deadline",
    "quickstart": "quickstart.html",
    "zh-quickstart": "zh/quickstart.html",
    "zh-api-client": "zh/api/client.html",
    "migrating": "migrating.html",
    "troubleshooting": "troubleshooting.html",
    "api-client": "api/client.html",
    "api-errors": "api/errors.html",
    "api-cli": "api/cli.html",
    "examples": "examples.html",
    "measuring": "measuring.html",
    "faults": "faults.html",
    "production": "production.html",
}


class Links(HTMLParser):
    """The links of a page, and the places that links may lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links |= {values[key] or "" for key in ("href", "src") if key in values}
        self.places |= {values[key] or "" for key in ("id", "name") if key in values}


@functools.cache
def links(path: Path) -> Links:
    return Links(path.read_text("utf-8"))


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    assert (SITE / "zh" / "index.html").exists(), "make docs makes the site"


def test_each_link_within_the_site_leads_somewhere() -> None:
    wrong = []
    pages = [path for path in SITE.rglob("*.html") if path.name not in ("genindex.html", "search.html")]
    assert len(pages) > 60
    for page in pages:
        for link in links(page).links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link in ("", "#"):
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            anchor = unquote(parts.fragment) if target.suffix == ".html" else ""
            if not target.exists() or (anchor and anchor not in links(target).places):
                wrong.append(f"{page.relative_to(SITE)}: {link}")
    assert wrong == []


def test_the_whole_public_api_is_there() -> None:
    import tritonhttp
    import tritonhttp.aio
    import tritonhttp.bulk
    import tritonhttp.errors
    import tritonhttp.testing
    import tritonhttp.types
    import tritonhttp.utils.cuda_shared_memory
    import tritonhttp.utils.shared_memory

    described = {place for page in (SITE / "api").glob("*.html") for place in links(page).places}
    last = {place.rpartition(".")[2] for place in described}
    for module in (
        *(
            tritonhttp,
            tritonhttp.aio,
            tritonhttp.bulk,
            tritonhttp.errors,
            tritonhttp.testing,
            tritonhttp.types,
        ),
        *(tritonhttp.utils, tritonhttp.utils.shared_memory, tritonhttp.utils.cuda_shared_memory),
    ):
        public = {name for name in module.__all__ if name.isalnum() or "_" in name.strip("_")}
        assert public - last - {"InferenceServerClientBase"} == set(), module.__name__
    for home in ("tritonhttp", "tritonhttp.aio"):
        client = vars(__import__(home, fromlist=["_"]))["InferenceServerClient"]
        methods = {name for name in dir(client) if name[0] != "_"}
        shown = {place.rpartition(".")[2] for place in described if f"{home}.InferenceServerClient." in place}
        assert methods - shown == set(), home


def test_each_command_is_there() -> None:
    from tritonhttp.cli.app import parser

    text = (SITE / "api" / "cli.html").read_text("utf-8")
    for name in parser().commands:
        assert f"tritonhttp {name}" in text


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a server of the site, and of ``/frame``."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.startswith("/frame?"):
                super().do_GET()
                return
            asked = {name: value[0] for name, value in parse_qs(urlsplit(self.path).query).items()}
            body = FRAME.format(**asked).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Handler, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [390, 1300])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_in_a_browser(address: str, tmp_path: Path, name: str, width: int) -> None:
    assert BROWSER is not None
    height = 844 if width < 500 else 1000
    folder = Path(SHOTS) if SHOTS else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        *(
            BROWSER,
            *FLAGS,
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={max(width, 500)},{height}",
        ),
        *(f"--screenshot={folder / f'{name}-{width}.png'}", "--dump-dom"),
        f"{address}/frame?width={width}&height={height}&page={quote('/' + PAGES[name])}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    # A warning of Sphinx's search, which takes the dots in an object's anchor for classes of CSS.
    assert [line for line in said if "Anchored content block not found" not in line] == []
    found = re.search(r"<title>told ([^<]*)</title>", done.stdout)
    assert found is not None, done.stderr
    told = json.loads(unquote(found[1]))
    assert told["needs"] <= told["has"], "the page is wider than its window"
    assert told["broken"] == []
    assert [each for each in told["loaded"] if not each.startswith(address)] == []
    assert told["heading"]
    assert told["language"].lower().replace("_", "-").startswith("zh" if name.startswith("zh") else "en")
    if "search" in name:
        assert told["found"] > 3
    if name.endswith("api-client"):
        assert told["labelled"] > 50
