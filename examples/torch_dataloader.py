"""Scores of a served model in a torch DataLoader: ``python torch_dataloader.py [host:port] [workers]``.

For what needs another model's outputs as it trains: distillation, features of a frozen encoder, hard examples.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import digits_data
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

import tritonhttp as httpclient


class Scored(IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    """Batches of row numbers and of the model's scores for these rows; each worker has its share of the rows."""

    def __init__(self, client: httpclient.InferenceServerClient, images: Any, batch: int = 32) -> None:
        self.client, self.images, self.batch = client, images, batch

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the batches of this worker, or all of them where there are no workers."""
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        rows = torch.arange(len(self.images))[first::step].split(self.batch)
        # Two batches are on their way while the training works on a third.
        answers = self.client.model("digits").map({"IMAGE": self.images[part.numpy()]} for part in rows)
        for part, outputs in zip(rows, answers, strict=True):
            yield part, outputs.result.as_torch("SCORES")


def main(url: str, workers: int) -> None:
    """Score all images, and count the right ones."""
    images, labels = digits_data.load()
    client = httpclient.InferenceServerClient(url, concurrency=2)  # forked or pickled to each worker
    loader = DataLoader(Scored(client, images), batch_size=None, num_workers=workers)
    digits = torch.full((len(images),), -1)
    for rows, scores in loader:
        digits[rows] = scores.argmax(dim=1)
    print(f"{(digits.numpy() == labels).sum()} of {len(labels)} digits are right")


if __name__ == "__main__":
    address = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("TRITON_URL", "localhost:8000")
    main(address, int(sys.argv[2]) if len(sys.argv) > 2 else 2)
