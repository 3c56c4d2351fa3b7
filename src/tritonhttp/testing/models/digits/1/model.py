"""Handwritten digits: IMAGE is 8 by 8 pixels from 0 (paper) to 1 (ink), SCORES how likely each digit is."""

import os

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        folder = os.path.join(args["model_repository"], args["model_version"])
        with np.load(os.path.join(folder, "weights.npz")) as weights:
            self.layers = [(weights[f"weight{n}"], weights[f"bias{n}"]) for n in (0, 1)]

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        image = pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy()
        (weight0, bias0), (weight1, bias1) = self.layers
        logits = np.maximum(image @ weight0 + bias0, 0) @ weight1 + bias1
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
        return pb_utils.InferenceResponse([pb_utils.Tensor("SCORES", scores.astype(np.float32))])
