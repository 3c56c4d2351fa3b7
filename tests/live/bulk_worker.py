"""Functions for the processes of ``test_predictor.py``, which import them by name."""

from __future__ import annotations

import os
from typing import Any

from tritonhttp.bulk import predictor as module

__all__ = ["score"]


def score(given: tuple[Any, Any]) -> tuple[int, int, int, Any]:
    """Return this process, its clients, its client's identity, and the scores of a batch."""
    predictor, images = given
    scores = predictor({"image": images})["SCORES"]
    return os.getpid(), len(module._clients), id(predictor.client), scores
