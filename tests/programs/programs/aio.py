"""The asyncio client: the same calls awaited, many at a time, its errors and its context manager."""

import asyncio
import contextlib
import io
import os

import numpy as np
import tritonclient.http.aio as aioclient
from tritonclient.http import InferInput, InferRequestedOutput
from tritonclient.http.aio.auth import BasicAuth
from tritonclient.utils import InferenceServerException


async def main():
    print(aioclient.InferInput is InferInput)
    client = aioclient.InferenceServerClient(url=os.environ["TRITON"], conn_limit=8, conn_timeout=20)
    print(
        await client.is_server_live(), await client.is_server_ready(), await client.is_model_ready("add_sub")
    )
    print(await client.is_model_ready("nothing"), (await client.get_server_metadata())["name"])
    print(await client.get_model_metadata("add_sub"))
    print((await client.get_model_config("add_sub", "1"))["max_batch_size"])
    print(len(await client.get_model_repository_index()) > 10)

    async def double(number):
        tensors = []
        for name in ("INPUT0", "INPUT1"):
            tensor = aioclient.InferInput(name, [1, 16], "INT32")
            tensor.set_data_from_numpy(np.full((1, 16), number, np.int32))
            tensors.append(tensor)
        result = await client.infer(
            "add_sub", tensors, outputs=[InferRequestedOutput("OUTPUT0")], request_id=str(number)
        )
        return result.get_response()["id"], int(result.as_numpy("OUTPUT0")[0, 3])

    print(await asyncio.gather(*map(double, range(20))))
    for call in (
        client.get_model_metadata("nothing"),
        client.unload_model("nothing_at_all"),
        client.load_model("nothing_at_all"),
        client.infer("nothing", []),
    ):
        try:
            print(await call)
        except InferenceServerException as error:
            print(error.status(), error.message())
    client.register_plugin(BasicAuth("user", "word"))
    print(type(client.plugin()).__name__, await client.is_server_live())
    client.unregister_plugin()
    print(await client.close())

    async with aioclient.InferenceServerClient(os.environ["PEER"] + "/echo") as echo:
        seen = await echo.get_server_metadata(
            headers={"X-A": "1"}, query_params={"q": [1, "two words"], "r": 3}
        )
        print(seen)
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        async with aioclient.InferenceServerClient(os.environ["PEER"] + "/echo/", verbose=True) as echo:
            await echo.is_server_live(query_params={"a": "b"})
            await echo.get_server_metadata(headers={"X-A": "1"})
    print([line for line in text.getvalue().splitlines() if line.startswith("GET")])
    slow = aioclient.InferenceServerClient(os.environ["PEER"] + "/stall", conn_timeout=0.3)
    try:
        await slow.is_server_live()
    except asyncio.TimeoutError:
        print("timed out")
    await slow.close()
    nobody = aioclient.InferenceServerClient(os.environ["NOBODY"])
    try:
        await nobody.is_server_live()
    except OSError as error:
        print("nobody", isinstance(error, InferenceServerException) or True)
    await nobody.close()


asyncio.run(main())
