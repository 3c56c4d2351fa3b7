"""Handwritten digits for the other programs: 400 images of 8 by 8 pixels, and the digit that each shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import tritonhttp.testing

_FILE = Path(tritonhttp.testing.__file__).parent / "data" / "digits.npz"


def load() -> tuple[Any, Any]:
    """Return the images, float32 of shape [400, 64] with values from 0 to 1, and the digits, of shape [400]."""
    with np.load(_FILE) as data:
        return data["images"].astype(np.float32) / 16, data["labels"]
