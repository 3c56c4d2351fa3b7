"""``docs/servers.md`` says what the servers do; ``INTEROP_WRITE=1`` writes into it what they do."""

from __future__ import annotations

import os

import pytest

from . import table
from .features import rows
from .servers import KINDS, MEASURED


@pytest.mark.parametrize("server", [*KINDS, *MEASURED], indirect=True)
def test_the_page_says_what_was_measured(client, server):
    if server.kind.name == "triton" and os.environ.get("TRITON_URL"):
        pytest.skip("the page is about the Triton that the tests start")
    measured = {
        "": client.get_server_metadata()["version"],
        **{title: probe(client) for title, probe in rows()},
    }
    if os.environ.get("INTEROP_WRITE"):
        table.write(server.kind.name, measured)
    assert table.read().get(server.kind.name) == measured
