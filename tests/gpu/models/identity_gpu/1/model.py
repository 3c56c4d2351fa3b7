"""OUTPUT0 is INPUT0, which must be on the GPU: it is handed on by DLPack and never seen by the host."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        tensor = pb_utils.get_input_tensor_by_name(request, "INPUT0")
        if tensor.is_cpu():
            return pb_utils.InferenceResponse([], pb_utils.TritonError("INPUT0 is on the host"))
        return pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("OUTPUT0", tensor.to_dlpack())])
