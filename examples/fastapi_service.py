"""A FastAPI service with one client for all requests: ``uvicorn fastapi_service:app``, with TRITON_URL set."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse

from tritonhttp import InferenceServerException, InvalidRequest
from tritonhttp.aio import InferenceServerClient


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with InferenceServerClient(os.environ.get("TRITON_URL", "localhost:8000")) as app.state.client:
        yield


app = FastAPI(lifespan=lifespan)


@app.exception_handler(InferenceServerException)
async def failed(request: Request, error: InferenceServerException) -> JSONResponse:
    return JSONResponse({"error": str(error)}, 400 if isinstance(error, InvalidRequest) else 503)


@app.get("/health")
async def health() -> JSONResponse:
    ready = await app.state.client.is_model_ready("digits", deadline=2)
    return JSONResponse({"ready": ready}, 200 if ready else 503)


@app.post("/infer/{model}")
async def infer(request: Request, model: str, inputs: dict[str, Any]) -> dict[str, Any]:
    call = asyncio.ensure_future(app.state.client.model(model)(inputs, deadline=60))
    try:
        while not (await asyncio.wait([call], timeout=0.5))[0]:
            if await request.is_disconnected():
                raise HTTPException(499)  # nobody is there to read it
        return {name: array.tolist() for name, array in call.result().items()}
    finally:
        call.cancel()  # frees its connection; Triton itself runs to its end what it has begun


@app.post("/stream/{model}")
async def stream(model: str, inputs: dict[str, Any]) -> StreamingResponse:
    async def events() -> AsyncIterator[str]:
        # A disconnect ends this generator, the block closes the stream, and Triton cancels the request.
        async with app.state.client.generate_stream(model, inputs, idle_timeout=30) as answers:
            async for answer in answers:
                yield f"data: {json.dumps(answer)}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")
