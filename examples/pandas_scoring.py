"""Score a column of vectors in a pandas frame: ``python pandas_scoring.py [host:port]``."""

from __future__ import annotations

import os
import sys

import digits_data
import pandas as pd

import tritonhttp as httpclient


def score(frame: pd.DataFrame, client: httpclient.InferenceServerClient) -> pd.DataFrame:
    """Return the frame with the model's scores, one vector a row, and the best digit with its score."""
    # The rows are stacked and sent in batches of the size that the model takes, four at a time.
    scores = client.model("digits").batched(IMAGE=frame["image"])["SCORES"]
    return frame.assign(scores=list(scores), digit=scores.argmax(axis=1), score=scores.max(axis=1))


def main(url: str) -> None:
    """Score all images, and show the ones that the model is least sure of."""
    images, labels = digits_data.load()
    frame = pd.DataFrame({"label": labels, "image": list(images)})
    with httpclient.InferenceServerClient(url, concurrency=4) as client:
        scored = score(frame, client)
    print(scored.nsmallest(5, "score")[["label", "digit", "score"]])
    print(f"{(scored['digit'] == scored['label']).sum()} of {len(scored)} digits are right")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("TRITON_URL", "localhost:8000"))
