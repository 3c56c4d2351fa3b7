"""Chat with a language model in the terminal: ``python chat.py [host:port] [model]``.

Tokens appear as they come. Ctrl-C ends an answer, and the server stops its work. An empty line ends the program.
"""

from __future__ import annotations

import os
import sys

import tritonhttp as httpclient


def answer(client: httpclient.InferenceServerClient, model: str, prompt: str) -> str:
    """Print an answer token by token, and return what came."""
    text = ""
    inputs = {"text_input": prompt}
    with client.generate_stream(model, inputs, parameters={"max_tokens": 200}, idle_timeout=30) as stream:
        try:
            for part in stream:
                print(part["text_output"], end="", flush=True)
                text += part["text_output"]
        except KeyboardInterrupt:
            print(" …", end="")
    print()
    if stream.time_to_first is not None:
        print(f"({stream.time_to_first:.2f} s to the first token)", file=sys.stderr)
    return text


def main(url: str, model: str) -> None:
    """Ask and answer, with what was said before in each prompt."""
    said = ""
    with httpclient.InferenceServerClient(url) as client:
        while prompt := input("> ").strip():
            said += f"User: {prompt}\nAssistant: "
            try:
                said += f"{answer(client, model, said)}\n"
            except httpclient.InferenceServerException as error:
                print(error, file=sys.stderr)


if __name__ == "__main__":
    address = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("TRITON_URL", "localhost:8000")
    main(address, sys.argv[2] if len(sys.argv) > 2 else "chat")
