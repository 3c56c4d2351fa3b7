"""Classes in place of a tensor, binary and as JSON."""

import os

import numpy as np
import tritonclient.http as httpclient

pixels = np.linspace(0, 16, 128, dtype=np.float32).reshape(2, 64)
image = httpclient.InferInput("IMAGE", [2, 64], "FP32").set_data_from_numpy(pixels)
with httpclient.InferenceServerClient(os.environ["TRITON"]) as client:
    for binary in (True, False):
        wanted = [httpclient.InferRequestedOutput("SCORES", binary_data=binary, class_count=3)]
        classes = client.infer("digits", [image], outputs=wanted).as_numpy("SCORES")
        print(classes.shape, classes.dtype)
        for row in classes:
            for each in row:
                text = each.decode() if isinstance(each, bytes) else each
                print(text.split(":")[1:])
    print(client.infer("digits", [image]).as_numpy("SCORES").argmax(axis=1))
