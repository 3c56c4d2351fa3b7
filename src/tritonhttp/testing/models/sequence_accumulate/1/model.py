"""OUTPUT is the sum of a sequence's INPUT so far; the sequence's id is a number or a text."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        sequence, flags = request.correlation_id(), request.flags()
        total = pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()
        if not flags & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
            total = total + self.sums.get(sequence, 0)
        self.sums[sequence] = total
        if flags & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END:
            del self.sums[sequence]
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", total)])
