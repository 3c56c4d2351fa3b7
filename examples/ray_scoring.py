"""Score a dataset of Ray Data in two actors: ``python ray_scoring.py [host:port]``."""

from __future__ import annotations

import os
import sys

import digits_data
import numpy as np
import ray
import ray.data

from tritonhttp.bulk.ray import predict


def main(url: str) -> None:
    """Score all images, and count the digits that are right."""
    images, labels = digits_data.load()
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    dataset = ray.data.from_items(
        [{"label": int(label), "image": image} for label, image in zip(labels, images, strict=True)]
    )
    # Each actor has a client of its own, with eight calls under way.
    scored = predict(
        dataset,
        url,
        "digits",
        inputs={"IMAGE": "image"},
        outputs={"SCORES": "scores"},
        concurrency=2,
        rows=100,
    )
    right = sum(row["label"] == np.argmax(row["scores"]) for row in scored.iter_rows())
    print(f"{right} of {len(labels)} digits are right")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("TRITON_URL", "localhost:8000"))
