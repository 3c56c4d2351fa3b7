"""OUTPUT is DELAY, after DELAY seconds; a request that the server cancels frees its instance at once.

Triton 2.51 cancels no plain inference whose HTTP client has gone.
"""

import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        delay = pb_utils.get_input_tensor_by_name(request, "DELAY").as_numpy()
        end = time.monotonic() + float(delay[0])
        while (left := end - time.monotonic()) > 0:
            if request.is_cancelled():
                error = pb_utils.TritonError("cancelled", pb_utils.TritonError.CANCELLED)
                return pb_utils.InferenceResponse(error=error)
            time.sleep(min(left, 0.02))
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", delay)])
