"""Fuzz targets: ``python -m tests.fuzz [--seconds 600] [--executions N] [--plain] [--keep] [TARGET ...]``.

Where atheris is installed libFuzzer looks for inputs that reach new code; elsewhere, and with ``--plain``, the
inputs of the corpus are mutated at random. The time is split over the targets. The status is 1 if there was a
fault: the input is shown as a line for the corpus.
"""

# ruff: noqa: T201  a program

from __future__ import annotations

import argparse
import faulthandler
import importlib.util
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from . import corpus
from .outcomes import be_strict, checked, measured, mutated
from .targets import READERS, TARGETS, target

#: Seconds after which a hang ends the program.
_HANG = 60
#: How many executions there are for one whose memory is measured, which takes long.
_RARELY = 256
_LARGEST = 4096


def _once(name: str, run: Callable[[bytes], None], data: bytes, number: int) -> None:
    if name not in READERS:  # they wait, and import
        run(data)
    elif number % _RARELY == 0:
        measured(run, data)
    else:
        checked(run, data)


def plain(name: str, seconds: float, most: int, seed: int) -> tuple[int, bytes | None]:
    """Mutate the corpus at random; return the number of executions, and the input of a fault or None."""
    run = target(name)
    seeds = corpus.inputs(name) or [b""]
    be_strict()
    end = time.monotonic() + seconds
    generator = random.Random(f"{name} {seed}")
    done = 0
    while done < most and time.monotonic() < end:
        data = mutated(generator, generator.choice(seeds), generator.randrange(1, 6), corpus.TOKENS)[
            :_LARGEST
        ]
        if done % 1024 == 0:
            faulthandler.dump_traceback_later(_HANG, exit=True)
        try:
            _once(name, run, data, done)
        except Exception:
            traceback.print_exc()
            return done + 1, data
        done += 1
    faulthandler.cancel_dump_traceback_later()
    return done, None


def _escaped(octet: int) -> str:
    return f"\\x{octet:02x}"


def guided(name: str, seconds: float, most: int, seed: int, keep: bool) -> tuple[int, list[bytes]]:
    """Let libFuzzer look for inputs; return the number of executions, and those of faults."""
    with tempfile.TemporaryDirectory() as folder:
        for part in ("corpus", "merged", "found"):
            (Path(folder) / part).mkdir()
        for number, data in enumerate(corpus.inputs(name)):
            (Path(folder) / "corpus" / str(number)).write_bytes(data)
        words = Path(folder) / "words"
        words.write_text("".join(f'"{"".join(map(_escaped, token))}"\n' for token in corpus.TOKENS))
        command = [
            sys.executable,
            "-m",
            "tests.fuzz.guided",
            name,
            f"-seed={seed % 2**32 or 1}",
            f"-dict={words}",
        ]
        command += [f"-max_len={_LARGEST}", f"-timeout={_HANG}", "-rss_limit_mb=2048", "-close_fd_mask=0"]
        command += [f"-artifact_prefix={folder}/found/", "-print_final_stats=1"]
        limits = [f"-max_total_time={max(1, int(seconds))}", *([f"-runs={most}"] if most < 2**62 else [])]
        done = subprocess.run(
            [*command, *limits, f"{folder}/corpus"], stderr=subprocess.PIPE, text=True, check=False
        )
        found = [path.read_bytes() for path in (Path(folder) / "found").iterdir()]
        if found or done.returncode:
            print(done.stdout, done.stderr[-5000:])
        if keep:
            subprocess.run(
                [*command, "-merge=1", f"{folder}/merged", f"{folder}/corpus"],
                capture_output=True,
                check=False,
            )
            corpus.add(name, [path.read_bytes() for path in (Path(folder) / "merged").iterdir()])
        count = re.search(r"stat::number_of_executed_units: *([0-9]+)", done.stderr)
        if done.returncode and not found:
            found = [b""]
        return int(count[1]) if count else 0, found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"one or more of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--executions", type=int, default=2**62, help="the most for each target")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    parser.add_argument("--plain", action="store_true", help="without atheris")
    parser.add_argument("--keep", action="store_true", help="add to the corpus what reaches new code")
    options = parser.parse_args()
    names = options.targets or TARGETS
    is_guided = not options.plain and importlib.util.find_spec("atheris") is not None
    print(f"seed {options.seed}, {'with' if is_guided else 'without'} atheris")
    faults = total = 0
    for name in names:
        began = time.monotonic()
        share = options.seconds / len(names)
        if is_guided:
            done, found = guided(name, share, options.executions, options.seed, options.keep)
        else:
            done, fault = plain(name, share, options.executions, options.seed)
            found = [] if fault is None else [fault]
        seconds = time.monotonic() - began
        peak = (
            resource.getrusage(resource.RUSAGE_CHILDREN if is_guided else resource.RUSAGE_SELF).ru_maxrss
            >> 10
        )
        print(
            f"{name}: {done:,} executions in {seconds:.0f} s, {done / seconds:,.0f} a second, {peak} MiB at most"
        )
        for data in found:
            print(f"FAULT of {name}:\n{data!r}")
        faults += len(found)
        total += done
    print(f"{total:,} executions, {faults} faults")
    return bool(faults)


sys.exit(main())
