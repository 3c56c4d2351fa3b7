"""Answer once per value of IN, DELAY seconds apart; the answer at FAIL_AT is an error and ends the response."""

import time

import numpy as np
import triton_python_backend_utils as pb_utils


def optional(request, name, default):
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return default if tensor is None else tensor.as_numpy()[0]


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            self.stream(request)

    def stream(self, request):
        sender = request.get_response_sender()
        delay = float(optional(request, "DELAY", 0))
        fail_at = optional(request, "FAIL_AT", -1)
        for index, value in enumerate(pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()):
            time.sleep(delay)
            if sender.is_cancelled():
                break
            if index == fail_at:
                error = pb_utils.TritonError(f"failed at {index}, as asked")
                sender.send(pb_utils.InferenceResponse(error=error))
                break
            outputs = {"OUT": value, "INDEX": index}
            tensors = [
                pb_utils.Tensor(name, np.array([number], np.int32)) for name, number in outputs.items()
            ]
            sender.send(pb_utils.InferenceResponse(tensors))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
