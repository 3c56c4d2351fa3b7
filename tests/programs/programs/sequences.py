"""Sequences: numbers and names as their ids, two interleaved, and the errors of a sequence that never began."""

import os

import numpy as np
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException


def send(client, value, **options):
    tensor = httpclient.InferInput("INPUT", [1, 1], "INT32")
    tensor.set_data_from_numpy(np.array([[value]], np.int32))
    return client.infer("sequence_accumulate", [tensor], **options).as_numpy("OUTPUT").item()


base = int(os.environ["NUMBER"]) * 10
with httpclient.InferenceServerClient(os.environ["TRITON"]) as client:
    values = [11, 7, 5, 3]
    for index, value in enumerate(values):
        ends = {"sequence_start": index == 0, "sequence_end": index == len(values) - 1}
        print(
            send(client, value, sequence_id=base + 1, **ends),
            send(client, -value, sequence_id=f"name{base}", **ends),
        )
    try:
        send(client, 1, sequence_id=base + 2)
    except InferenceServerException as error:
        print(error.status(), error.message().replace(str(base + 2), "N"))
    try:
        send(client, 1)
    except InferenceServerException as error:
        print(error.status(), error.message())
