"""A server whose APIs are restricted, on both clients."""

import re

import numpy as np
import pytest

from tritonhttp import ServerError
from tritonhttp.auth import ApiKeyAuth


@pytest.fixture(scope="module")
def restricted(start_module_server):
    flags = ["--http-restricted-api=model-repository,inference:own-key=secret"]
    return start_module_server(models=["identity_fp32"], args=flags)


def test_a_restricted_api_says_which_header_it_needs(open_client, restricted):
    client = open_client(restricted.url)
    model = client.model("identity_fp32")
    for call in (client.get_model_repository_index, lambda: model(INPUT0=np.zeros(1, np.float32))):
        with pytest.raises(ServerError) as caught:
            call()
        assert caught.value.status() == "403"
        words = r"expecting header 'own-key' \(.*--http-restricted-api.*'own-key': .*ApiKeyAuth\('own-key'"
        assert re.search(words, str(caught.value))
    assert client.get_model_repository_index(headers={"own-key": "secret"})
    client.register_plugin(ApiKeyAuth("own-key", "secret"))
    assert client.get_model_repository_index()
    assert model(INPUT0=np.zeros(1, np.float32))["OUTPUT0"].tolist() == [0]
