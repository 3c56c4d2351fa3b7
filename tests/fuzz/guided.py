"""One target under libFuzzer, by atheris: ``python -m tests.fuzz.guided TARGET [OPTIONS OF LIBFUZZER] FOLDER``."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["tritonhttp"]):
    from .outcomes import be_strict, checked, measured
    from .targets import READERS, target

#: How many executions there are for one whose memory is measured, which takes long.
_RARELY = 256


def main() -> None:
    name = sys.argv.pop(1)
    run = target(name)
    be_strict()
    count = 0

    def once(data: bytes) -> None:
        nonlocal count
        count += 1
        if name not in READERS:
            run(data)
        elif count % _RARELY == 0:
            measured(run, data)
        else:
            checked(run, data)

    atheris.Setup(sys.argv, once)
    atheris.Fuzz()


main()
