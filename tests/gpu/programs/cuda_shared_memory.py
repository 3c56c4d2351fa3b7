"""CUDA shared memory: inputs and outputs, by numpy and by DLPack, strings, statuses, the errors of both sides."""

import os

import numpy as np
import tritonclient.http as httpclient
import tritonclient.utils.cuda_shared_memory as cudashm
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

client = httpclient.InferenceServerClient(os.environ["TRITON"])
first, second = np.arange(16, dtype=np.int32).reshape(1, 16), np.ones((1, 16), np.int32)
size = first.nbytes
given = cudashm.create_shared_memory_region("given", 2 * size, 0)
found = cudashm.create_shared_memory_region("found", 2 * size, 0)
print(len(cudashm.allocated_shared_memory_regions()))
print(cudashm.set_shared_memory_region(given, [first, second]))
print(client.register_cuda_shared_memory("given", cudashm.get_raw_handle(given), 0, 2 * size))
client.register_cuda_shared_memory("found", cudashm.get_raw_handle(found), 0, 2 * size)
print(client.get_cuda_shared_memory_status("given"))

inputs = [httpclient.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
inputs[0].set_shared_memory("given", size)
inputs[1].set_shared_memory("given", size, offset=size)
outputs = [httpclient.InferRequestedOutput(name) for name in ("OUTPUT0", "OUTPUT1")]
outputs[0].set_shared_memory("found", size)
outputs[1].set_shared_memory("found", size, offset=size)
result = client.infer("add_sub", inputs, outputs=outputs)
print(result.get_output("OUTPUT0"))
print(cudashm.get_contents_as_numpy(found, np.int32, [2, 16]))
outputs[0].unset_shared_memory()
print(client.infer("add_sub", inputs, outputs=outputs).as_numpy("OUTPUT0"))

cudashm.set_shared_memory_region_from_dlpack(given, [second, first])
print(cudashm.get_contents_as_numpy(given, np.int32, [2, 16]))
tensor = cudashm.as_shared_memory_tensor(given, "INT32", [1, 16])
print(tensor.__dlpack_device__()[1])

serialized = serialize_byte_tensor(np.array(["a", "bc", "def"], dtype=object))
cudashm.set_shared_memory_region(given, [serialized])
print(cudashm.get_contents_as_numpy(given, np.object_, [3]))

for wrong in (
    lambda: client.register_cuda_shared_memory("given", cudashm.get_raw_handle(given), 0, 2 * size),
    lambda: client.register_cuda_shared_memory("other", cudashm.get_raw_handle(given), 7, 2 * size),
    lambda: client.get_cuda_shared_memory_status("no_such_region"),
):
    try:
        print(wrong())
    except InferenceServerException as error:
        print(error.status(), error.message())
try:
    cudashm.create_shared_memory_region("huge", 1 << 50, 0)
except cudashm.CudaSharedMemoryException as error:
    print(str(error).partition(":")[0])
print(client.unregister_cuda_shared_memory("given"), client.unregister_cuda_shared_memory())
print(client.get_cuda_shared_memory_status())
del tensor
cudashm.destroy_shared_memory_region(given)
cudashm.destroy_shared_memory_region(found)
print(len(cudashm.allocated_shared_memory_regions()))
client.close()
