"""Take DELAY seconds per batch; answer with the size of the batch and the number of its run.

A long request keeps the only instance busy, so that the queue's rules show: batching, priority, timeout.
"""

import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.runs = 0

    def execute(self, requests):
        delays = [pb_utils.get_input_tensor_by_name(request, "DELAY").as_numpy() for request in requests]
        self.runs += 1
        time.sleep(max(float(delay.max()) for delay in delays))
        size = sum(len(delay) for delay in delays)
        return [self.answer(len(delay), size) for delay in delays]

    def answer(self, rows, size):
        outputs = {"BATCH_SIZE": size, "RUN": self.runs}
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, np.full((rows, 1), value, np.int32)) for name, value in outputs.items()]
        )
