"""Train the packaged model ``digits`` and write the images that it is tested on.

Run it where scikit-learn is installed, which carries the images; the package itself needs neither::

    python -m venv /tmp/train && /tmp/train/bin/pip install scikit-learn
    /tmp/train/bin/python tools/train_digits.py

It writes ``src/tritonhttp/testing/models/digits/1/weights.npz`` (two layers, trained with numpy on 1397
images) and ``src/tritonhttp/testing/data/digits.npz`` (the 400 images held out, never trained on). The seed is
fixed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

TESTING = Path(__file__).parents[1] / "src" / "tritonhttp" / "testing"
HELD_OUT = 400
HIDDEN = 96
EPOCHS = 200
BATCH = 64
STEP = 2e-3
DECAY = 1e-3


def shifted(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move each image by at most one pixel along one axis, most not at all."""
    square = images.reshape(-1, 8, 8).copy()
    kind = rng.integers(0, 10, len(square))
    for number, (axis, by) in enumerate([(1, 1), (1, -1), (2, 1), (2, -1)]):
        # The pixel column that goes round is paper nearly always.
        square[kind == number] = np.roll(square[kind == number], by, axis=axis)
    return square.reshape(-1, 64)


def train(images: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Fit two layers by Adam on the cross entropy."""
    parameters = [
        rng.normal(0, np.sqrt(2 / 64), (64, HIDDEN)),
        np.zeros(HIDDEN),
        rng.normal(0, np.sqrt(2 / HIDDEN), (HIDDEN, 10)),
        np.zeros(10),
    ]
    first = [np.zeros_like(p) for p in parameters]
    second = [np.zeros_like(p) for p in parameters]
    steps = 0
    for epoch in range(EPOCHS):
        order = rng.permutation(len(images))
        step = STEP * (1 - epoch / EPOCHS)
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            x, y = shifted(images[chosen], rng), labels[chosen]
            weight0, bias0, weight1, bias1 = parameters
            hidden = np.maximum(x @ weight0 + bias0, 0)
            logits = hidden @ weight1 + bias1
            scores = np.exp(logits - logits.max(axis=1, keepdims=True))
            scores /= scores.sum(axis=1, keepdims=True)
            error = (scores - np.eye(10)[y]) / len(y)
            back = (error @ weight1.T) * (hidden > 0)
            gradients = [
                x.T @ back + DECAY * weight0,
                back.sum(axis=0),
                hidden.T @ error + DECAY * weight1,
                error.sum(axis=0),
            ]
            steps += 1
            for n, gradient in enumerate(gradients):
                first[n] = 0.9 * first[n] + 0.1 * gradient
                second[n] = 0.999 * second[n] + 0.001 * gradient**2
                rise = first[n] / (1 - 0.9**steps) / (np.sqrt(second[n] / (1 - 0.999**steps)) + 1e-8)
                parameters[n] = parameters[n] - step * rise
    return parameters


def main() -> None:
    rng = np.random.default_rng(2024)
    digits = load_digits()
    pixels, labels = digits.data.astype(np.uint8), digits.target.astype(np.uint8)
    order = rng.permutation(len(pixels))
    test, rest = order[:HELD_OUT], order[HELD_OUT:]
    parameters = [p.astype(np.float32) for p in train(pixels[rest] / 16, labels[rest], rng)]
    weight0, bias0, weight1, bias1 = parameters
    hidden = np.maximum((pixels[test] / 16) @ weight0 + bias0, 0)
    right = np.mean(np.argmax(hidden @ weight1 + bias1, axis=1) == labels[test])
    print(f"accuracy on the {HELD_OUT} images held out: {right:.2%}")
    names = ("weight0", "bias0", "weight1", "bias1")
    np.savez(TESTING / "models" / "digits" / "1" / "weights.npz", **dict(zip(names, parameters, strict=True)))
    np.savez_compressed(TESTING / "data" / "digits.npz", images=pixels[test], labels=labels[test])


if __name__ == "__main__":
    main()
