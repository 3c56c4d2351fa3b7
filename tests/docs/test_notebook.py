"""The notebook of examples/ runs from top to bottom on a real Triton."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.filterwarnings("ignore")  # of Jupyter's own
def test_the_notebook_runs(triton_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_URL", triton_server.url)
    book: Any = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in book.cells)  # as it is kept
    NotebookClient(book, timeout=120, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    tables = [each["data"]["text/html"] for each in outputs if "text/html" in each.get("data", {})]
    assert any("digits" in table for table in tables)
    assert any("IMAGE" in table for table in tables)
    assert sum("image/png" in each.get("data", {}) for each in outputs) == 2
    assert "of 400 digits are right" in "".join(each.get("text", "") for each in outputs)
