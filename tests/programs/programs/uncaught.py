"""An error that nobody catches ends the program."""

import atexit
import os

import tritonclient.http as httpclient

atexit.register(print, "at exit")
print(httpclient.InferenceServerClient(os.environ["TRITON"]).is_server_ready())
httpclient.InferenceServerClient(os.environ["TRITON"]).get_model_metadata("nothing")
