"""Classify JPEG files: ``python image_classification.py host:port FILE.jpg …``.

The model here takes 8 by 8 grey pixels, light on dark. For one of ImageNet's shape change `pixels`: 224 by 224,
``convert("RGB")``, its mean and deviation, and ``transpose(2, 0, 1)`` where channels come first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

import tritonhttp as httpclient


def pixels(path: Path) -> Any:
    """Return an image as the model takes it: float32 of shape [64], from 0 to 1."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("L").resize((8, 8), Image.Resampling.BOX)
    return np.asarray(image, np.float32).reshape(64) / 255


def classify(client: httpclient.InferenceServerClient, paths: Iterable[Path]) -> None:
    """Print the three best classes of each file."""
    paths = list(paths)
    images = np.stack([pixels(path) for path in paths])
    # One request for up to 256 images: each row is an image. For more files, `map` over parts of the list.
    outputs = client.model("digits")(IMAGE=images, classes=3, deadline=10)
    for path, row in zip(paths, outputs.classes("SCORES"), strict=True):
        best = ", ".join(f"{label} {score:.0%}" for score, _, label in row)
        print(f"{path.name}: {best}")


if __name__ == "__main__":
    with httpclient.InferenceServerClient(sys.argv[1]) as client:
        classify(client, map(Path, sys.argv[2:]))
