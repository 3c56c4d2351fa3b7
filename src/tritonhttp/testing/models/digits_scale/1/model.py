"""Scale pixels from 0..16, as the scanner gave them, to 0..1, as the model ``digits`` takes them."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        pixels = pb_utils.get_input_tensor_by_name(request, "PIXELS").as_numpy()
        return pb_utils.InferenceResponse([pb_utils.Tensor("IMAGE", pixels.astype(np.float32) / 16)])
