"""Calls as users write them, for mypy --strict and pyright: their arguments and results."""

from __future__ import annotations

import asyncio
import concurrent.futures
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import assert_type

import tritonhttp as httpclient
import tritonhttp.aio
import tritonhttp.utils.cuda_shared_memory as cudashm
import tritonhttp.utils.shared_memory as shm
from tritonhttp import (
    InferAsyncRequest,
    InferenceServerClient,
    InferenceServerClientPlugin,
    InferenceServerException,
    InferInput,
    InferRequestedOutput,
    InferResult,
    Request,
    Retry,
    TensorInfo,
    types,
)
from tritonhttp.aio.auth import ApiKeyAuth, BasicAuth, BearerAuth
from tritonhttp.aio.model import Model as AsyncModel
from tritonhttp.events import Call
from tritonhttp.model import Model, Outputs, Sequence
from tritonhttp.otel import instrument
from tritonhttp.regions import Region, RegionSlice


def make_clients() -> None:
    InferenceServerClient("localhost:8000")
    InferenceServerClient(url="https://[::1]:8000/base", verbose=True, concurrency=4)
    InferenceServerClient("localhost:8000", False, 8, 1.5, None, 2, False, None, None, False)
    InferenceServerClient("localhost:8000", connection_timeout=3, network_timeout=2.5, max_greenlets=None)
    InferenceServerClient(
        "localhost:8000",
        ssl=True,
        ssl_options={"ca_certs": "ca.pem", "keyfile": "key.pem", "certfile": "cert.pem"},
        ssl_context_factory=ssl.create_default_context,
        insecure=True,
    )
    InferenceServerClient(
        ["a:8000", "b:8000"],
        deadline=2.5,
        retry=Retry(attempts=5, on=(429, 503, "connect"), backoff=0.2),
        balancing="round_robin",
        on_request=told,
        on_response=lambda call: call.seconds,
        on_retry=lambda call, reason, delay: f"{call.url} {reason} {delay + 1}",
    )
    with httpclient.InferenceServerClient("localhost:8000") as client:
        assert_type(client, InferenceServerClient)
        assert_type(client.close(), None)


def told(call: Call) -> None:
    assert_type((call.action, call.model_name, call.status), tuple[str, str, int | None])
    assert_type(call.phases, dict[str, float])
    call.headers["X-Trace"] = call.request_id


def use_several_servers(client: InferenceServerClient) -> None:
    assert_type(client.servers, tuple[str, ...])
    assert_type(client.server("a:8000"), InferenceServerClient)
    assert_type(client.on_each(lambda one: one.is_server_ready(deadline=1)), dict[str, bool])
    assert_type(client.wait_until_ready(60, "digits", model_version="1"), None)
    client.wait_until_ready(None)
    health = client.check("digits", model_version="1", deadline=1)
    assert_type(health, tritonhttp.Health)
    assert_type((health.live, health.ready, health.version, health.reason), tuple[bool, bool, str, str])
    assert_type((health.latency, health.model), tuple[float | None, tritonhttp.ModelStatus | None])
    assert_type(client.models(), tritonhttp.ModelList)
    assert_type([each.ready for each in client.models()], list[bool])
    assert_type(client.stats().as_dict(), dict[str, int])
    client.hooks.add(on_request=told)
    client.hooks.remove(told)


def trace(client: InferenceServerClient, other: tritonhttp.aio.InferenceServerClient) -> None:
    undo = instrument(client)
    assert_type(undo(), None)
    instrument(other, tracer_provider=None, propagator=None)


class Own(InferenceServerClient):
    """A subclass stays itself in a with statement."""

    def mine(self) -> int:
        return 1


def use_a_subclass() -> None:
    with Own("localhost:8000") as own:
        assert_type(own.mine(), int)


def ask_about_the_server(client: InferenceServerClient) -> None:
    headers = {"Authorization": "Bearer x"}
    query = {"a": 1, "b": ["x", "y"]}
    assert_type(client.is_server_live(), bool)
    assert_type(client.is_server_ready(headers=headers, query_params=query), bool)
    assert_type(client.is_model_ready("digits", "1", headers, query), bool)
    assert_type(client.get_server_metadata(headers, query), types.ServerMetadata)
    assert_type(client.get_model_metadata("digits", model_version="1"), types.ModelMetadata)
    assert_type(client.get_model_config("digits"), types.ModelConfig)
    assert_type(client.get_inference_statistics(), types.Statistics)
    assert_type(client.get_inference_statistics("digits", "1", headers, query), types.Statistics)
    assert_type(client.get_model_repository_index(), list[types.ModelIndexEntry])


def change_the_server(client: InferenceServerClient) -> None:
    assert_type(client.load_model("digits"), None)
    client.load_model("digits", config="{}", files={"file:1/model.py": b"x"})
    assert_type(client.unload_model("digits", unload_dependents=True), None)
    assert_type(client.get_trace_settings(), types.TraceSettings)
    assert_type(client.get_trace_settings("digits"), types.TraceSettings)
    assert_type(client.update_trace_settings("digits", {"trace_rate": None}), types.TraceSettings)
    client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    assert_type(client.get_log_settings(), types.LogSettings)
    assert_type(client.update_log_settings({"log_verbose_level": 1, "log_info": True}), types.LogSettings)


def use_shared_memory(client: InferenceServerClient) -> None:
    assert_type(client.get_system_shared_memory_status(), list[types.SystemRegionStatus])
    assert_type(client.get_system_shared_memory_status("region"), list[types.SystemRegionStatus])
    assert_type(client.register_system_shared_memory("region", "/key", 64, offset=0), None)
    assert_type(client.unregister_system_shared_memory("region"), None)
    client.unregister_system_shared_memory()
    assert_type(client.get_cuda_shared_memory_status(), list[types.CudaRegionStatus])
    assert_type(client.register_cuda_shared_memory("region", b"handle", 0, 64), None)
    assert_type(client.unregister_cuda_shared_memory(), None)


def use_regions(client: InferenceServerClient, pixels: npt.NDArray[np.float32]) -> None:
    InferenceServerClient("localhost:8000", shared_memory="auto")
    InferenceServerClient(
        "localhost:8000", shared_memory="auto", shared_memory_threshold=1 << 20, shared_memory_limit=1 << 28
    )
    with client.shared_memory(1 << 20) as region:
        assert_type(region, Region)
        place = region.write(pixels)
        assert_type(place, RegionSlice)
        given = InferInput("IMAGE", pixels.shape, "FP32")
        assert_type(given.set_shared_memory_region(place), InferInput)
        scores = InferRequestedOutput("SCORES")
        assert_type(scores.set_shared_memory_region(region.reserve(40)), None)
        client.infer("digits", [given], outputs=[scores], idempotent=False)
        client.async_infer("digits", [given], outputs=[scores], idempotent=True)
        assert_type(place.view(), npt.NDArray[Any])
        assert_type(region.view("FP32", [1, 10], offset=64), npt.NDArray[Any])
        assert_type((region.name, region.key, region.byte_size), tuple[str, str, int])
        assert_type(region.reset(), None)
    with client.shared_memory(key="digits_io", headers={"X-Own": "1"}) as attached:
        attached.view(np.float32, 10)


async def use_regions_with_asyncio(client: tritonhttp.aio.InferenceServerClient) -> None:
    tritonhttp.aio.InferenceServerClient("localhost:8000", shared_memory="auto", shared_memory_limit=1 << 28)
    async with client.shared_memory(64, key="digits_io") as region:
        assert_type(region, Region)


def make_regions(pixels: npt.NDArray[np.float32]) -> None:
    region = shm.create_shared_memory_region("region", "/key", 64)
    assert_type(region, shm.SharedMemoryRegion)
    shm.create_shared_memory_region("region", shm_key="/key", byte_size=np.int64(64), create_only=True)
    assert_type((region.name, region.key, region.byte_size), tuple[str, str, int])
    assert_type(shm.set_shared_memory_region(region, [pixels], offset=8), None)
    shm.set_shared_memory_region(region, (pixels, np.array([b"x"], np.object_)))
    assert_type(shm.get_contents_as_numpy(region, np.float32, [2, 2]), npt.NDArray[Any])
    shm.get_contents_as_numpy(region, np.dtype("f4"), pixels.shape, offset=8)
    assert_type(shm.mapped_shared_memory_regions(), list[str])
    assert_type(shm.destroy_shared_memory_region(region), None)


def make_regions_on_a_gpu(client: InferenceServerClient, pixels: npt.NDArray[np.float32]) -> None:
    region = cudashm.create_shared_memory_region("region", byte_size=np.int64(64), device_id=0)
    assert_type(region, cudashm.CudaSharedMemoryRegion)
    assert_type((region.name, region.byte_size, region.device_id), tuple[str, int, int])
    client.register_cuda_shared_memory("region", cudashm.get_raw_handle(region), 0, 64)
    assert_type(cudashm.set_shared_memory_region(region, [pixels], offset=8), None)
    assert_type(cudashm.set_shared_memory_region_from_dlpack(region, [pixels]), None)
    assert_type(cudashm.get_contents_as_numpy(region, "FP32", pixels.shape, offset=8), npt.NDArray[Any])
    tensor = cudashm.as_shared_memory_tensor(region, "FP32", [2, 2])
    assert_type(tensor, cudashm.SharedMemoryTensor)
    assert_type(tensor.__dlpack_device__(), tuple[int, int])
    np.from_dlpack(tensor)
    assert_type(cudashm.allocated_shared_memory_regions(), list[cudashm.CudaSharedMemoryRegion])
    assert_type(cudashm.destroy_shared_memory_region(region), None)


def make_inputs(pixels: npt.NDArray[np.float32], texts: npt.NDArray[np.object_]) -> list[InferInput]:
    image = InferInput("IMAGE", [1, 64], "FP32").set_data_from_numpy(pixels)
    assert_type(image, InferInput)
    assert_type(image.set_shape((1, 64)), InferInput)
    assert_type(image.set_shape(pixels.shape), InferInput)
    assert_type(image.set_data_from_numpy(pixels, binary_data=False, copy=True), InferInput)
    assert_type(image.set_shared_memory("region", 256, offset=64), InferInput)
    assert_type(image.name(), str)
    assert_type(image.datatype(), str)
    assert_type(image.shape(), list[int])
    words = InferInput("WORDS", texts.shape, "BYTES").set_data_from_numpy(texts)
    fixed = InferInput("FIXED", (2,), "BYTES").set_data_from_numpy(np.array([b"a", b"b"], "S1"))
    numbers = InferInput("N", [3], "INT64").set_data_from_numpy(np.arange(3))
    return [image, words, fixed, numbers]


def make_outputs() -> list[InferRequestedOutput]:
    scores = InferRequestedOutput("SCORES", binary_data=False, class_count=3)
    assert_type(scores.name(), str)
    placed = InferRequestedOutput("PLACED")
    assert_type(placed.set_shared_memory("region", 64, offset=8), None)
    assert_type(placed.unset_shared_memory(), None)
    return [scores, placed]


def infer(client: InferenceServerClient, inputs: list[InferInput]) -> None:
    result = client.infer("digits", inputs)
    assert_type(result, InferResult)
    # Any sequence will do.
    client.infer("digits", tuple(inputs), outputs=(InferRequestedOutput("SCORES"),))
    client.infer(
        "digits",
        inputs,
        model_version="1",
        outputs=make_outputs(),
        request_id="7",
        sequence_id="a sequence",
        sequence_start=True,
        sequence_end=False,
        priority=1,
        timeout=1000,
        headers={"X-Own": "1"},
        query_params={"a": ["b"]},
        request_compression_algorithm="gzip",
        response_compression_algorithm="deflate",
        parameters={"own": 1, "other": "x", "flag": True},
    )
    client.infer("digits", inputs, sequence_id=7)
    client.infer("digits", inputs, idempotent=True, deadline=None)
    assert_type(result.attempts, int)
    assert_type(result.headers, dict[str, str])
    scores = result.as_numpy("SCORES")
    assert_type(scores, npt.NDArray[Any] | None)
    if scores is not None:
        assert_type(scores.shape, tuple[Any, ...])
    assert_type(result.get_output("SCORES"), dict[str, Any] | None)
    assert_type(result.get_response(), dict[str, Any])


def infer_in_the_background(client: InferenceServerClient, inputs: list[InferInput]) -> None:
    handle = client.async_infer("digits", inputs, request_id="7", copy=False)
    assert_type(handle, InferAsyncRequest)
    assert_type(handle.done(), bool)
    assert_type(handle.get_result(), InferResult)
    assert_type(handle.get_result(block=False), InferResult)
    assert_type(handle.get_result(True, timeout=0.5), InferResult)
    assert_type(handle.get_result(timeout=1), InferResult)
    assert_type(handle.result(timeout=1), InferResult)
    assert_type(handle.exception(), BaseException | None)
    assert_type([handle.cancel(), handle.cancelled(), handle.running()], list[bool])
    for ended in concurrent.futures.as_completed([handle]):
        assert_type(ended.result(), InferResult)
    handle.add_done_callback(lambda ended: ended.result().as_numpy("SCORES"))


async def await_a_handle(client: InferenceServerClient, inputs: list[InferInput]) -> None:
    handle = client.async_infer("digits", inputs)
    assert_type(await asyncio.wrap_future(handle), InferResult)


def handle_bodies(inputs: list[InferInput], received: bytes) -> None:
    body, json_size = InferenceServerClient.generate_request_body(inputs, request_id="7")
    assert_type(body, bytes)
    assert_type(json_size, int | None)
    parse = InferenceServerClient.parse_response_body
    assert_type(parse(received, header_length=json_size, content_encoding="gzip"), InferResult)
    assert_type(InferResult.from_response_body(bytearray(received), verbose=True), InferResult)
    InferResult.from_response_body(memoryview(received), header_length=10)


class Token(InferenceServerClientPlugin):
    """A plugin as users write it."""

    def __call__(self, request: Request) -> None:
        request.headers["Authorization"] = "Bearer x"


def use_plugins(client: InferenceServerClient) -> None:
    assert_type(client.register_plugin(Token()), None)
    assert_type(client.plugin(), InferenceServerClientPlugin | None)
    assert_type(client.unregister_plugin(), None)


def catch_errors(client: InferenceServerClient) -> None:
    try:
        client.is_server_live()
    except httpclient.ServerError as error:
        assert_type(error.headers, dict[str, str])
        assert_type(error.status(), str | None)
    except httpclient.ConnectError as error:
        as_builtin: ConnectionError = error
        assert_type(as_builtin.errno, int | None)
    except httpclient.DeadlineExceeded as error:
        as_timeout: TimeoutError = error
        assert_type((str(as_timeout), error.method, error.url, error.phase), tuple[str, str, str, str])
    except httpclient.InvalidRequest as error:
        as_value_error: ValueError = error
        assert_type(as_value_error.args, tuple[Any, ...])
    except InferenceServerException as error:
        assert_type(error.message(), str | None)
        assert_type(error.status(), str | None)
        assert_type(error.attempts, int)
        error.debug_details()


def use_the_helpers(array: npt.NDArray[np.object_]) -> None:
    assert_type(httpclient.np_to_triton_dtype(np.float32), str | None)
    assert_type(httpclient.np_to_triton_dtype(array.dtype), str | None)
    httpclient.triton_to_np_dtype("FP32")
    assert_type(httpclient.serialize_byte_tensor(array), npt.NDArray[np.object_])
    assert_type(httpclient.deserialize_bytes_tensor(b""), npt.NDArray[np.object_])
    assert_type(httpclient.serialized_byte_size(array), int)
    assert_type(httpclient.TRITON_RESERVED_REQUEST_PARAMS, list[str])
    assert_type(httpclient.__version__, str)


async def refresh() -> str:
    return "token"


class Refreshes(InferenceServerClientPlugin):
    """A plugin that awaits."""

    async def __call__(self, request: Request) -> None:
        request.headers["Authorization"] = await refresh()


async def use_the_asyncio_client(context: ssl.SSLContext, inputs: list[InferInput]) -> None:
    tritonhttp.aio.InferenceServerClient("localhost:8000", False, 8, None, True, context)
    async with tritonhttp.aio.InferenceServerClient(
        "localhost:8000", verbose=True, conn_limit=10, conn_timeout=2.5, ssl=False, ssl_context=None
    ) as client:
        assert_type(client, tritonhttp.aio.InferenceServerClient)
        assert_type(await client.is_server_live(headers={"X": "1"}, query_params={"a": 1}), bool)
        assert_type(await client.get_model_metadata("digits", "1"), types.ModelMetadata)
        assert_type(await client.get_model_repository_index(), list[types.ModelIndexEntry])
        assert_type(await client.get_cuda_shared_memory_status(), list[types.CudaRegionStatus])
        await client.load_model("digits", config="{}", files={"file:1/model.py": b"x"})
        result = await client.infer("digits", tuple(inputs), outputs=make_outputs(), priority=1)
        assert_type(result, InferResult)
        for plugin in (
            BasicAuth("user", "password"),
            BearerAuth("token"),
            BearerAuth(lambda: "token"),
            BearerAuth(refresh),
            ApiKeyAuth("X-API-Key", "key"),
            Refreshes(),
        ):
            client.register_plugin(plugin)
            assert_type(client.plugin(), InferenceServerClientPlugin | None)
            client.unregister_plugin()
        assert_type(await client.on_each(lambda one: one.is_model_ready("digits")), dict[str, bool])
        assert_type(await client.wait_until_ready(model="digits"), None)
        assert_type(await client.check(), tritonhttp.Health)
        assert_type(await client.models(headers={}), tritonhttp.ModelList)
        assert_type(client.server(client.servers[0]), tritonhttp.aio.InferenceServerClient)
        body, json_size = client.generate_request_body(inputs)
        assert_type((body, json_size), tuple[bytes, int | None])
    await client.close()


def read_replies(client: InferenceServerClient) -> None:
    """Replies are dicts with known keys; a program that wants ``dict[str, Any]`` makes one."""
    metadata = client.get_model_metadata("digits")
    assert_type(metadata["inputs"][0]["shape"], list[int])
    assert_type(metadata["versions"], list[str])
    assert_type(client.get_server_metadata()["extensions"], list[str])
    config = client.get_model_config("digits")
    assert_type(config["max_batch_size"], int)
    assert_type(config["input"][0]["optional"], bool)
    assert_type(config["parameters"], dict[str, Any])
    if "sequence_batching" in config:
        assert_type(config["sequence_batching"], dict[str, Any])
    assert_type(config.get("dynamic_batching"), dict[str, Any] | None)
    model = client.get_inference_statistics()["model_stats"][0]
    assert_type(model["inference_stats"]["queue"]["ns"], int)
    assert_type(model["batch_stats"][0]["batch_size"], int)
    for entry in client.get_model_repository_index():
        assert_type(entry["name"], str)
        assert_type(entry.get("state"), str | None)
    assert_type(client.get_trace_settings()["trace_level"], list[str])
    assert_type(client.get_log_settings()["log_verbose_level"], int)
    assert_type(client.get_system_shared_memory_status()[0]["byte_size"], int)
    assert_type(client.get_cuda_shared_memory_status()[0]["device_id"], int)
    loose: dict[str, Any] = dict(metadata)
    read_only: Mapping[str, Any] = metadata
    named: types.ModelMetadata = client.get_model_metadata("digits")
    assert loose
    assert read_only
    assert named


def read_results(result: InferResult) -> None:
    assert_type(result["SCORES"], npt.NDArray[Any])
    assert_type("SCORES" in result, bool)
    assert_type([name for name in result], list[str])  # noqa: C416
    assert_type(len(result), int)
    assert_type(result.outputs, tuple[TensorInfo, ...])
    assert_type(result.outputs[0].shape, tuple[int, ...])
    assert_type(result.as_numpy("SCORES", copy=True, dtype=np.float64), npt.NDArray[Any] | None)
    result.as_numpy("WORDS", dtype=str)
    assert_type(result.classes("SCORES"), list[Any])
    best = tritonhttp.Classification.parse(b"0.5:1:one")
    assert_type((best.score, best.index, best.label), tuple[float, int, str])
    torch_tensor: int = result.as_torch("SCORES")  # whatever torch is
    np.from_dlpack(result.as_dlpack("SCORES"))
    assert torch_tensor


def infer_inputs() -> None:
    assert_type(InferInput.from_numpy("X", [[1, 2], [3, 4]]), InferInput)
    InferInput.from_numpy("X", np.zeros(3), binary_data=False)
    InferInput.from_numpy("X", "text", copy=True)


def generate(client: InferenceServerClient, tokens: npt.NDArray[np.int32]) -> None:
    answer = client.generate("chat", {"text_input": "Hello", "IN": tokens}, parameters={"max_tokens": 5})
    assert_type(answer, dict[str, Any])
    stream = client.generate_stream(
        "chat", {"IN": [1, 2]}, "1", request_id="7", idle_timeout=2.5, deadline=None
    )
    with stream as entered:
        for each in entered:
            assert_type(each, dict[str, Any])
    assert_type(next(stream), dict[str, Any])
    assert_type((stream.time_to_first, stream.times), tuple[float | None, list[float]])
    assert_type((stream.intervals, stream.headers), tuple[list[float], dict[str, str]])
    stream.close()


async def generate_with_asyncio(client: tritonhttp.aio.InferenceServerClient) -> None:
    assert_type(await client.generate("chat", {"text_input": "Hello"}, idempotent=True), dict[str, Any])
    async with client.generate_stream("chat", {"text_input": "Hello"}, idempotent=True) as stream:
        async for each in stream:
            assert_type(each, dict[str, Any])
    await stream.close()


def more_of_the_protocol(client: InferenceServerClient, pixels: npt.NDArray[np.float32]) -> None:
    assert_type(client.infer_raw("digits", pixels, "1", idempotent=True), InferResult)
    assert_type(client.infer_raw("text", b"as it is").parameters, dict[str, Any])
    image = (
        InferInput("IMAGE", [1, 64], "FP32")
        .set_data_from_numpy(pixels)
        .set_parameters({"content_type": "np"})
    )
    assert_type(image, InferInput)
    assert_type(image.parameters(), dict[str, Any])
    scores = InferRequestedOutput("SCORES").set_parameters({"own": 1.5, "flag": True})
    assert_type(scores, InferRequestedOutput)
    with client.infer_stream("digits", [image], outputs=[scores], idle_timeout=None) as stream:
        for result in stream:
            assert_type(result, InferResult)
    metrics = client.metrics(port=9002)
    assert_type(metrics.find("nv_inference_count", model="digits")[0].value, float)
    client.get_model_repository_index(ready=True)


async def more_of_the_protocol_with_asyncio(client: tritonhttp.aio.InferenceServerClient) -> None:
    assert_type(await client.infer_raw("text", b"as it is"), InferResult)
    async for result in client.infer_stream("text", []):
        assert_type(result, InferResult)
    assert_type((await client.metrics("monitoring:9000")).text, str)


def call_models(client: InferenceServerClient, pixels: npt.NDArray[np.float32]) -> None:
    InferenceServerClient("localhost:8000", binary_data=None)
    model = client.model("digits", "1")
    assert_type(model, Model)
    outputs = model(IMAGE=pixels)
    assert_type(outputs, Outputs)
    assert_type(outputs["SCORES"], npt.NDArray[Any])
    assert_type(outputs.result, InferResult)
    as_mapping: Mapping[str, npt.NDArray[Any]] = outputs
    for name, array in as_mapping.items():
        assert_type((name, array), tuple[str, npt.NDArray[Any]])
    model({"IMAGE": pixels.tolist()}, outputs=["SCORES"], classes=3, cast=True, deadline=2.5)
    model({"IMAGE": pixels}, parameters={"own": 1}, idempotent=True, headers={"X": "1"}, deadline=None)
    model(IMAGE=pixels, INDEX=3, NAMES=["a", b"b"], cast=True)
    assert_type(model.batched({"IMAGE": pixels}, max_batch=8, cast=True), dict[str, npt.NDArray[Any]])
    assert_type(model.batched(IMAGE=pixels, WEIGHTS=None, max_batch=8), dict[str, npt.NDArray[Any]])
    for outputs in model.map(({"IMAGE": pixels} for _ in range(3)), in_flight=8, outputs=["SCORES"]):
        assert_type(outputs, Outputs)
    for each in model.map([{"IMAGE": pixels}], return_exceptions=True, copy=False):
        assert_type(each, Outputs | InferenceServerException)
    with model.sequence() as sequence:
        assert_type(sequence, Sequence)
        assert_type(sequence.id, int | str)
        assert_type(sequence(IMAGE=pixels), Outputs)
        sequence({"IMAGE": pixels}, outputs=["SCORES"], end=True)
    model.sequence("by name")
    assert_type(model.refresh(headers={"X": "1"}), Model)
    signature = model.signature
    if signature is not None:
        assert_type(signature.inputs, tuple[TensorInfo, ...])
        assert_type(signature.max_batch_size, int)


async def _later(pixels: npt.NDArray[np.float32]) -> AsyncIterator[dict[str, npt.NDArray[np.float32]]]:
    yield {"IMAGE": pixels}


async def call_models_with_asyncio(
    client: tritonhttp.aio.InferenceServerClient, pixels: npt.NDArray[np.float32]
) -> None:
    model = client.model("digits")
    assert_type(model, AsyncModel)
    assert_type(await model(IMAGE=pixels), Outputs)
    assert_type(await model({"IMAGE": pixels}, outputs=["SCORES"], deadline=2.5), Outputs)
    assert_type(await model.batched({"IMAGE": pixels}, max_batch=8), dict[str, npt.NDArray[Any]])
    assert_type(await model.batched(IMAGE=pixels, max_batch=8), dict[str, npt.NDArray[Any]])
    async for outputs in model.map([{"IMAGE": pixels}], deadline=2.5):
        assert_type(outputs, Outputs)
    async for each in model.map(_later(pixels), return_exceptions=True):
        assert_type(each, Outputs | InferenceServerException)
    async with model.sequence(7) as sequence:
        assert_type(await sequence(IMAGE=pixels, end=True), Outputs)
    assert_type(await model.refresh(), AsyncModel)
