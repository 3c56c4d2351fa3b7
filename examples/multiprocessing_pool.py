"""A pool of processes that share one client object: ``python multiprocessing_pool.py [host:port] [spawn]``.

A client may be handed to a process in either way: a forked child inherits it, a spawned one gets it pickled. Each
process opens connections of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from typing import Any

import digits_data
import numpy as np

import tritonhttp as httpclient

client: httpclient.InferenceServerClient


def start_worker(shared: httpclient.InferenceServerClient) -> None:
    """Keep the client for all tasks of this process."""
    global client
    client = shared


def classify(images: Any) -> Any:
    """Return the digits in images of shape [n, 64]."""
    return client.model("digits")(IMAGE=images)["SCORES"].argmax(axis=1)


def main(url: str, method: str | None) -> None:
    """Classify all images in four processes, twenty at a time."""
    images, labels = digits_data.load()
    parts = np.split(images, len(images) // 20)
    context = multiprocessing.get_context(method)
    with (
        httpclient.InferenceServerClient(url) as shared,
        context.Pool(4, initializer=start_worker, initargs=(shared,)) as pool,
    ):
        found = np.concatenate(pool.map(classify, parts, chunksize=1))
    print(f"{(found == labels).sum()} of {len(labels)} digits are right")


if __name__ == "__main__":
    arguments = sys.argv[1:] or [os.environ.get("TRITON_URL", "localhost:8000")]
    main(arguments[0], arguments[1] if len(arguments) > 1 else None)
