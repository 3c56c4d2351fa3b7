"""One client to a thread, as the reference needs it, and processes that programs start."""

import multiprocessing
import os
import subprocess
import sys
import threading

import numpy as np
import tritonclient.http as httpclient

results = {}


def work(number):
    with httpclient.InferenceServerClient(os.environ["TRITON"]) as client:
        tensor = httpclient.InferInput("INPUT0", [1], "INT32").set_data_from_numpy(
            np.array([number], np.int32)
        )
        results[number] = client.infer("identity_int32", [tensor]).as_numpy("OUTPUT0").item()
        return results[number]


if __name__ == "__main__":
    threads = [threading.Thread(target=work, args=(each,)) for each in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(sorted(results.items()))
    process = multiprocessing.get_context("spawn").Process(target=work, args=(9,))
    process.start()
    process.join()
    print(process.exitcode)
    code = "import tritonclient.http as h, os; print(h.InferenceServerClient(os.environ['TRITON']).is_server_live())"
    print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
