"""Subclasses of the asyncio client, and replaced methods that answer as aiohttp does."""

import asyncio
import os

import numpy as np
import tritonclient.http.aio as aioclient
from tritonclient.utils import InferenceServerException


class Client(aioclient.InferenceServerClient):
    async def _get(self, request_uri, headers, query_params):
        response = await super()._get(request_uri, headers, query_params)
        body = await response.read()
        print(request_uri, headers, response.status, len(body) > 0, response.headers.get("Content-Type"))
        return response

    async def _post(self, request_uri, request_body, headers, query_params):
        print(request_uri, headers, query_params, len(request_body))
        return await super()._post(request_uri, request_body, headers, query_params)


class Answer:
    def __init__(self, body, status=200, **headers):
        self.body, self.status, self.headers = body, status, headers

    async def read(self):
        return self.body


async def main():
    async with Client(os.environ["TRITON"]) as client:
        print(await client.is_server_live())
        print((await client.get_model_metadata("add_sub", headers={"x": "y"}))["name"])
        tensor = aioclient.InferInput("INPUT0", [1], "INT32").set_data_from_numpy(np.array([3], np.int32))
        print((await client.infer("identity_int32", [tensor])).as_numpy("OUTPUT0"))
    async with aioclient.InferenceServerClient(os.environ["TRITON"]) as client:
        response = await client._post("v2/models/summary/generate", '{"VALUES":[1.0,2.0]}', None, None)
        print(response.status, (await response.json())["COUNT"], len(await response.text()))
    client = aioclient.InferenceServerClient("nowhere:1")

    async def get(request_uri, headers, query_params):
        return Answer(b'{"error":"not here"}', 404) if "config" in request_uri else Answer(b'{"name":"x"}')

    client._get = get
    print(await client.get_server_metadata(), await client.is_server_live())
    try:
        await client.get_model_config("m")
    except InferenceServerException as error:
        print(error)
    await client.close()


asyncio.run(main())
