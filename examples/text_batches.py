"""Send lines of text in batches, eight requests in flight: ``python text_batches.py [host:port] < lines.txt``.

The model here returns its text. One that embeds or classifies text is called the same way.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable, Iterator

import tritonhttp as httpclient

BATCH = 32


def batches(lines: Iterable[str]) -> Iterator[list[str]]:
    """Yield lists of lines, without reading more than is needed."""
    lines = (line.rstrip("\n") for line in lines)
    while batch := list(itertools.islice(lines, BATCH)):
        yield batch


def main(url: str) -> None:
    """Print the model's answer to each line, in order."""
    retry = httpclient.Retry(attempts=3)
    with httpclient.InferenceServerClient(url, concurrency=8, retry=retry) as client:
        model = client.model("identity_bytes")
        # Lines are read as answers are taken, so the input may be larger than memory.
        for outputs in model.map(batches(sys.stdin), idempotent=True, deadline=30):
            for text in outputs["OUTPUT0"]:
                print(text.decode())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("TRITON_URL", "localhost:8000"))
