"""The pages that must be there in Chinese are translated, all of them and as they are now."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import translated  # noqa: E402  from the path above

sys.path.remove(str(ROOT / "tools"))


@pytest.mark.parametrize("page", translated.REQUIRED)
def test_a_page_is_translated(page: str) -> None:
    done, whole = translated.share(translated.CATALOGUES / f"{page}.po")
    assert done == whole > (1 if page in translated.API else 5)


def test_of_the_api_only_summaries_are_counted() -> None:
    _, whole = translated.share(translated.CATALOGUES / "api" / "client.po")
    assert 50 < whole < 100
    assert "Run an inference and return its result." in translated.summaries()
