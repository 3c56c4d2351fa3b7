"""A Flask app with one client for all threads of a gunicorn worker.

``TRITON_URL=localhost:8000 gunicorn --preload --workers 4 --threads 8 flask_app:app``

With ``--preload`` the app, and so the client, is made before gunicorn forks. Each worker inherits what the client
knows of the model and opens connections of its own. It works without ``--preload``, too.
"""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, request

import tritonhttp as httpclient

# As many connections as a worker has threads.
client = httpclient.InferenceServerClient(os.environ.get("TRITON_URL", "localhost:8000"), concurrency=8)
digits = client.model("digits")
digits.refresh()  # fails at the start if the server or the model is missing
app = Flask(__name__)


@app.errorhandler(httpclient.InvalidRequest)
def invalid(error: httpclient.InvalidRequest) -> tuple[dict[str, Any], int]:
    """Answer what does not fit the model; nothing was sent to the server."""
    return {"error": str(error)}, 400


@app.errorhandler(httpclient.InferenceServerException)
def unavailable(error: httpclient.InferenceServerException) -> tuple[dict[str, Any], int]:
    """Answer when the server has failed."""
    return {"error": str(error)}, 503


@app.get("/health")
def health() -> tuple[dict[str, Any], int]:
    """Tell a load balancer if this worker can answer."""
    ready = client.is_model_ready("digits", deadline=2)
    return {"ready": ready}, 200 if ready else 503


@app.post("/digits")
def classify() -> dict[str, Any]:
    """Return the digits in ``{"IMAGE": [[64 numbers], …]}``, and which worker answered."""
    scores = digits(request.get_json(), deadline=5)["SCORES"]
    return {"digits": scores.argmax(axis=1).tolist(), "worker": os.getpid()}
