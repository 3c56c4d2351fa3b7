"""What programs of the asyncio client catch where there is no answer: aiohttp's errors and Python's own."""

import asyncio
import os
import ssl

import aiohttp
import tritonclient.http.aio as aioclient


async def attempt(name, url, *kinds, **options):
    client = aioclient.InferenceServerClient(url, **options)
    try:
        print(name, await client.is_server_live())
    except Exception as error:
        print(name, [kind.__name__ for kind in kinds if isinstance(error, kind)])
        if isinstance(error, aiohttp.ClientConnectorError):
            print(error.host, error.port == int(url.rpartition(":")[2]))
    finally:
        await client.close()


async def main():
    trusting = ssl.create_default_context(cafile=os.environ["CA"])
    common = (aiohttp.ClientError, aiohttp.ClientConnectionError, aiohttp.ClientConnectorError, OSError)
    await attempt("refused", os.environ["NOBODY"], *common)
    await attempt("no name", "name.invalid:80", *common, aiohttp.ClientConnectorDNSError)
    await attempt("trusted", os.environ["SECURE"], *common, ssl=True, ssl_context=trusting)
    await attempt(
        "certificate",
        os.environ["SECURE"],
        *common,
        aiohttp.ClientConnectorCertificateError,
        aiohttp.ClientSSLError,
        ssl.SSLCertVerificationError,
        ssl=True,
        ssl_context=ssl.create_default_context(),
    )
    await attempt("not TLS", os.environ["PEER"], *common, ssl=True, ssl_context=trusting)
    await attempt(
        "closed", os.environ["PEER"] + "/close", aiohttp.ClientError, aiohttp.ServerDisconnectedError
    )
    await attempt(
        "late", os.environ["PEER"] + "/stall", asyncio.TimeoutError, aiohttp.ClientError, conn_timeout=0.3
    )


asyncio.run(main())
