"""Say what of this library is here: ``python -m tritonhttp``."""

import sys

from .cli.about import main

if __name__ == "__main__":
    sys.exit(main())
