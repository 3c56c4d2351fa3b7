"""System shared memory: inputs and outputs, strings, offsets, statuses, the errors of both sides."""

import os

import numpy as np
import tritonclient.http as httpclient
import tritonclient.utils.shared_memory as shm
from tritonclient import utils
from tritonclient.utils import InferenceServerException

me = os.environ["NUMBER"]
key_in, key_out = f"/programs_in_{me}", f"/programs_out_{me}"
client = httpclient.InferenceServerClient(os.environ["TRITON"])
first, second = np.arange(16, dtype=np.int32).reshape(1, 16), np.ones((1, 16), np.int32)
size = first.nbytes
in_handle = shm.create_shared_memory_region(f"in{me}", key_in, 2 * size)
out_handle = shm.create_shared_memory_region(f"out{me}", key_out, 2 * size)
print(sorted(key.replace(me, "N") for key in shm.mapped_shared_memory_regions()))
print(shm.set_shared_memory_region(in_handle, [first, second]))
print(client.register_system_shared_memory(f"in{me}", key_in, 2 * size))
client.register_system_shared_memory(f"out{me}", key_out, 2 * size)
print(str(client.get_system_shared_memory_status(f"in{me}")).replace(me, "N"))

inputs = [httpclient.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
print(inputs[0].set_shared_memory(f"in{me}", size) is inputs[0])
inputs[1].set_shared_memory(f"in{me}", size, offset=size)
outputs = [httpclient.InferRequestedOutput(name) for name in ("OUTPUT0", "OUTPUT1")]
outputs[0].set_shared_memory(f"out{me}", size)
outputs[1].set_shared_memory(f"out{me}", size, offset=size)
result = client.infer("add_sub", inputs, outputs=outputs)
output = result.get_output("OUTPUT0")
print(str(output).replace(me, "N"))
for index, name in enumerate(("OUTPUT0", "OUTPUT1")):
    print(shm.get_contents_as_numpy(out_handle, utils.triton_to_np_dtype("INT32"), [1, 16], index * size))
outputs[0].unset_shared_memory()
print(client.infer("add_sub", inputs, outputs=outputs).as_numpy("OUTPUT0"))

strings = np.array(["a", "bc", "def"], dtype=object)
serialized = utils.serialize_byte_tensor(strings)
shm.set_shared_memory_region(in_handle, [serialized])
text = httpclient.InferInput("INPUT0", [3], "BYTES")
text.set_shared_memory(f"in{me}", len(serialized.item()))
print(client.infer("identity_bytes", [text]).as_numpy("OUTPUT0"))
print(shm.get_contents_as_numpy(in_handle, np.object_, [3]))

for wrong in (
    lambda: client.register_system_shared_memory(f"in{me}", key_in, 2 * size),
    lambda: client.register_system_shared_memory(f"bad{me}", "/no_such_key", 64),
    lambda: client.get_system_shared_memory_status("no_such_region"),
    lambda: client.infer(
        "add_sub",
        [inputs[0], httpclient.InferInput("INPUT1", [1, 16], "INT32").set_shared_memory("gone", 64)],
    ),
    lambda: httpclient.InferRequestedOutput("OUTPUT0", class_count=2).set_shared_memory("x", 4),
):
    try:
        print(wrong())
    except InferenceServerException as error:
        print(error.status(), error.message().replace(me, "N"))
for wrong in (
    lambda: shm.set_shared_memory_region(in_handle, first),
    lambda: shm.set_shared_memory_region(in_handle, [[1]]),
    lambda: shm.create_shared_memory_region("again", key_in, 64, create_only=True),
):
    try:
        wrong()
    except shm.SharedMemoryException as error:
        print(str(error).partition(":")[0].partition(",")[0])
print(client.unregister_system_shared_memory(f"in{me}"), client.unregister_system_shared_memory(f"out{me}"))
print(client.unregister_system_shared_memory(f"in{me}"))
print([each for each in client.get_system_shared_memory_status() if me in each["name"]])
shm.destroy_shared_memory_region(in_handle)
shm.destroy_shared_memory_region(out_handle)
print([key for key in shm.mapped_shared_memory_regions() if me in key])
client.close()
