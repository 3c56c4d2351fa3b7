"""Run a real Triton in the foreground: ``python -m tritonhttp.testing``."""

import sys

from ..cli.foreground import main

if __name__ == "__main__":
    sys.exit(main())
