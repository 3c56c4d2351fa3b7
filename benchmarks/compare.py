"""Time two trees of the library against each other: ``python3 benchmarks/compare.py OLD NEW [--cases plain,id]``.

A tree is a checkout of any version of the repository. Its ``src`` is imported, so its C extensions must be
built in place: ``python3 setup.py build_ext --inplace``. In each round every tree is measured in its own
process, one after the other, against the sink, and with ``--triton`` also against a real Triton. Prints the
medians of the client's CPU for one call, their ratio, and the ratio of the minima, which noise changes less.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import run

if TYPE_CHECKING:
    from harness import Block, Builder, Site

#: Calls in a process. A tenth of that number warms it up.
CALLS = {"16mb": 40, "64mb": 12}
MOST_CALLS = 3000


def builders() -> dict[str, Builder]:
    """Return the cases that can be timed."""
    from cases_blocking import SMALL, identity
    from cases_production import FEATURES, Feature
    from contenders import aio, async_infer, blocking

    def feature(given: Feature) -> Builder:
        return functools.partial(blocking, "tritonhttp", given.task, kind=given.kind)

    return {
        "plain": functools.partial(blocking, "tritonhttp", SMALL),
        **{name: feature(FEATURES[name]) for name in ("header", "id", "retry", "hook")},
        "async_infer": functools.partial(
            in_batches, 100, functools.partial(async_infer, "tritonhttp", SMALL, in_flight=16)
        ),
        "asyncio": functools.partial(aio, "tritonhttp.aio", SMALL, in_flight=200, conn_limit=16),
        **{f"{mib}mb": functools.partial(blocking, "tritonhttp", identity(mib)) for mib in (16, 64)},
    }


@contextlib.contextmanager
def in_batches(size: int, build: Builder, site: Site) -> Iterator[Block]:
    """Build a contender that starts this many calls at a time."""
    with build(site) as block:
        yield lambda number: {"cpu": statistics.mean(block(size)["cpu"] for _ in range(number // size))}


@contextlib.contextmanager
def of_tree(tree: Path, build: Builder, site: Site) -> Iterator[Block]:
    """Build a contender that imports the library of a tree."""
    sys.path.insert(0, str(tree / "src"))
    where = importlib.import_module("tritonhttp").__file__
    if where is None or not Path(where).is_relative_to(tree):
        raise RuntimeError(f"expected tritonhttp of {tree}, got {where}")
    with build(site) as block:
        yield block


def seconds(tree: Path, build: Builder, site: Site, calls: int) -> float:
    """Return the CPU seconds of a call, measured in a new process."""
    import harness

    contender = harness._Contender(functools.partial(of_tree, tree, build), site)
    try:
        contender.expect("built")
        contender.block(max(3, calls // 10))
        return contender.block(calls)[1]["cpu"]
    except harness._Failed as failure:
        raise SystemExit(f"{tree}: {failure.args[1]}") from None
    finally:
        contender.end()


def main() -> None:
    """Time the trees, and print a line for each case and server."""
    known = builders()
    parser = argparse.ArgumentParser(description="Time two trees of tritonhttp against each other.")
    parser.add_argument("old", type=Path, metavar="OLD_TREE")
    parser.add_argument("new", type=Path, metavar="NEW_TREE")
    parser.add_argument("--cases", default=",".join(known), metavar="NAME[,NAME]", help="%(default)s")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--triton",
        nargs="?",
        const="",
        metavar="HOST:PORT",
        help="also on a Triton, one started here or that one",
    )
    options = parser.parse_args()
    names = options.cases.split(",")
    if unknown := set(names) - set(known):
        parser.error(f"no case is called {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    trees = [options.old.resolve(), options.new.resolve()]
    for tree in trees:
        if not any((tree / "src/tritonhttp").glob("**/*.so")):
            print(f"{tree} has no C extension built", file=sys.stderr)

    import report

    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tritonhttp-compare-"))
        sites = [stack.enter_context(run.sink(Path(folder)))["sink"]]
        if options.triton is not None:
            sites.append(run.triton(stack, options.triton))
        print(f"{'':20}{'old':>10}{'new':>10}{'ratio':>8}{'least':>8}")
        for site in sites:
            for name in names:
                calls = CALLS.get(name, MOST_CALLS)
                rounds = [
                    [seconds(tree, known[name], site, calls) for tree in trees] for _ in range(options.rounds)
                ]
                old, new = zip(*rounds, strict=True)
                medians = statistics.median(old), statistics.median(new)
                print(
                    f"{name + ', ' + site.server:20}"
                    + "".join(f"{report.duration(median):>10}" for median in medians)
                    + f"{medians[1] / medians[0]:8.3f}{min(new) / min(old):8.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    run.bootstrap()
    main()
