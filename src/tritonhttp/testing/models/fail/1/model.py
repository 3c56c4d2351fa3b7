"""Fail with MESSAGE, or answer "fine" if it is empty.

The request parameter ``code`` names the error's code, for example UNAVAILABLE, which HTTP shows as 503.
"""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        message = pb_utils.get_input_tensor_by_name(request, "MESSAGE").as_numpy()[0].decode()
        if message:
            code = json.loads(request.parameters() or "{}").get("code", "INTERNAL")
            error = pb_utils.TritonError(message, getattr(pb_utils.TritonError, code))
            return pb_utils.InferenceResponse(error=error)
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", np.array([b"fine"], dtype=object))])
