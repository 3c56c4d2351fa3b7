"""Many asyncio tasks that share one client: ``python asyncio_tasks.py [host:port]``.

A handler may ask the client for the model each time. The client reads the model's metadata once, for all of them.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import digits_data

from tritonhttp.aio import InferenceServerClient


async def handle(client: InferenceServerClient, image: Any) -> int:
    """Return the digit in one image of shape [64]."""
    outputs = await client.model("digits")(IMAGE=image[None], deadline=30)
    return int(outputs["SCORES"].argmax())


async def main(url: str) -> None:
    """Classify every image in a task of its own."""
    images, labels = digits_data.load()
    # At most 16 requests at a time; the other tasks wait in the order in which they came.
    async with InferenceServerClient(url, conn_limit=16) as client:
        found = await asyncio.gather(*(handle(client, image) for image in images))
    right = sum(digit == label for digit, label in zip(found, labels, strict=True))
    print(f"{right} of {len(labels)} digits are right")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("TRITON_URL", "localhost:8000")))
