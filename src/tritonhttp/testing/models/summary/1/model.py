"""Several outputs of several types, and an optional input: WEIGHTS for the mean."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        values = pb_utils.get_input_tensor_by_name(request, "VALUES").as_numpy()
        weights = pb_utils.get_input_tensor_by_name(request, "WEIGHTS")
        mean = np.average(values, weights=None if weights is None else weights.as_numpy())
        outputs = {
            "COUNT": np.array([values.size], np.int64),
            "MEAN": np.array([mean], np.float32),
            "SORTED": np.sort(values),
            "TEXT": np.array([f"{values.size} values, mean {mean:.3f}".encode()], object),
        }
        wanted = request.requested_output_names()
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, outputs[name]) for name in wanted])
