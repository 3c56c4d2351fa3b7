"""Classify handwritten digits on a real Triton: ``python -m tritonhttp.cli.demo [host:port]``.

Without an address it installs, starts and stops its own server. The exit status is 0 if the answers are as
accurate as the model is known to be; otherwise one line gives the reason.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import tritonhttp as httpclient

from ..testing import TritonFailed, TritonServer, TritonUnavailable, provision

_MODEL = "digits"
_DATA = Path(provision.__file__).parent / "data" / "digits.npz"
_BATCH = 50
_SINGLES = 200
_SHOWN = 5
_EXPECTED = 0.97
_SHADES = " .:-=+*#%@"
_WIDTH = 14


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) > 1 or any(argument.startswith("-") for argument in arguments):
        print("usage: python -m tritonhttp.cli.demo [host:port]", file=sys.stderr)
        return 2
    url = arguments[0] if arguments else os.environ.get("TRITON_URL")
    try:
        with _server(url) as address, httpclient.InferenceServerClient(address) as client:
            return _classify(client, address)
    except (TritonUnavailable, TritonFailed, httpclient.InferenceServerException) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


@contextmanager
def _server(url: str | None) -> Iterator[str]:
    if url:
        yield url
        return
    if not provision.installed():
        print("Installing Triton into the cache folder, once (75 MB) ...", flush=True)
        started = time.perf_counter()
        folder = provision.install().folder
        print(f"  {folder} after {time.perf_counter() - started:.1f} s")
    print("Starting Triton ...", flush=True)
    started = time.perf_counter()
    with TritonServer(models=[_MODEL]) as server:
        print(f"  ready at {server.url} after {time.perf_counter() - started:.1f} s")
        yield server.url
        print("Stopping Triton ...", flush=True)
    print("  stopped")


def _classify(client: httpclient.InferenceServerClient, address: str) -> int:
    metadata: Any = client.get_server_metadata()
    print(f"Talking to {metadata['name']} {metadata['version']} at {address}")
    if not client.is_model_ready(_MODEL):
        print(f"demo: the server at {address} has no ready model {_MODEL!r}", file=sys.stderr)
        return 1
    with np.load(_DATA) as data:
        pixels, labels = data["images"], data["labels"]
    images = pixels.astype(np.float32) / 16

    started = time.perf_counter()
    answers = np.concatenate(
        [_scores(client, images[n : n + _BATCH]).argmax(axis=1) for n in range(0, len(images), _BATCH)]
    )
    batched = len(images) / (time.perf_counter() - started)

    latencies = []
    differing = 0
    for number in range(_SINGLES):
        started = time.perf_counter()
        scores = _scores(client, images[number : number + 1])
        latencies.append(time.perf_counter() - started)
        differing += int(scores.argmax() != answers[number])

    # The first images, and one that the model gets wrong, if any.
    wrong = np.flatnonzero(answers != labels)
    shown = [n for n in range(_SHOWN) if n not in wrong[:1]]
    shown = [*shown[: _SHOWN - 1], int(wrong[0])] if len(wrong) else shown
    print()
    top3 = _infer(client, images[shown], class_count=3).classes("SCORES")
    for line in _gallery(pixels[shown], labels[shown], top3):
        print(line.rstrip())

    accuracy = float(np.mean(answers == labels))
    p50, p95 = np.percentile(latencies, [50, 95]) * 1000
    print(f"\naccuracy    {accuracy:.2%} of {len(labels)} images that the model was not trained on")
    print(f"latency     {p50:.2f} ms p50, {p95:.2f} ms p95 over {len(latencies)} requests of one image")
    print(
        f"throughput  {1 / np.mean(latencies):,.0f} images/s singly, {batched:,.0f} images/s in {_BATCH}s\n"
    )
    if accuracy < _EXPECTED or differing:
        print(
            f"demo: expected at least {_EXPECTED:.0%} right and the same answers singly and in batches; "
            f"got {accuracy:.2%} and {differing} that differ",
            file=sys.stderr,
        )
        return 1
    return 0


def _scores(client: httpclient.InferenceServerClient, images: Any) -> Any:
    return _infer(client, images)["SCORES"]


def _infer(
    client: httpclient.InferenceServerClient, images: Any, class_count: int = 0
) -> httpclient.InferResult:
    """Run the model for its scores, or for as many best classes as `class_count` says."""
    image = httpclient.InferInput("IMAGE", list(images.shape), "FP32")
    image.set_data_from_numpy(images)
    output = httpclient.InferRequestedOutput("SCORES", class_count=class_count)
    return client.infer(_MODEL, [image], outputs=[output])


def _gallery(pixels: Any, labels: Any, top3: Any) -> Iterator[str]:
    """Draw the images side by side, with the true digit and the server's answers below each."""
    for row in range(8):
        # The leftmost column is blank in nearly every image; dropping it makes room.
        columns = [
            "".join(_SHADES[int(v) * 9 // 16] * 2 for v in image.reshape(8, 8)[row, 1:]) for image in pixels
        ]
        yield "  ".join(columns)
    yield ""
    yield "  ".join(f"is {label}".ljust(_WIDTH) for label in labels)
    for place in range(3):
        cells = []
        for classes, label in zip(top3, labels, strict=True):
            score, index, name = classes[place]
            mark = "<" if index == label else ""
            cells.append(f"{name:<5} {score:>6.1%} {mark}".ljust(_WIDTH))
        yield "  ".join(cells)


if __name__ == "__main__":
    sys.exit(main())
