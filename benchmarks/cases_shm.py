"""Shared memory on a real Triton: automatic, by hand with tritonclient, and none."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import os
from collections.abc import Iterator
from typing import Any

from cases_blocking import SMALL, identity
from contenders import PACKAGES, PublicPath
from harness import OURS, REFERENCE, Block, Bound, Builder, Case, Site, one_by_one
from peers import Task

PLAIN = "tritonhttp over HTTP"
BY_HAND = "tritonclient, shared memory by hand"


@contextlib.contextmanager
def looked_at(package: str, task: Task, site: Site, **options: Any) -> Iterator[Block]:
    """Infer, and look at one element of each output."""
    path = PublicPath(package, task)
    with path.client(site, **options) as client:

        def call() -> None:
            for output in path.read(client.infer(**path.arguments())):
                output.item(-1)

        path.check(path.read(client.infer(**path.arguments())))
        yield one_by_one(call)


@contextlib.contextmanager
def by_hand(task: Task, site: Site) -> Iterator[Block]:
    """Infer through two regions; they and the objects that name them are made once."""
    shm = importlib.import_module("tritonclient.utils.shared_memory")
    path = PublicPath(PACKAGES[REFERENCE], task)
    [(name, datatype, values)] = task.make()
    with path.client(site) as client, contextlib.ExitStack() as stack:

        def region(use: str) -> tuple[str, Any]:
            region_name = f"bench-{use}-{os.getpid()}"
            handle = shm.create_shared_memory_region(region_name, f"/{region_name}", values.nbytes)
            stack.callback(shm.destroy_shared_memory_region, handle)
            client.register_system_shared_memory(region_name, f"/{region_name}", values.nbytes)
            stack.callback(client.unregister_system_shared_memory, region_name)
            return region_name, handle

        (source, source_handle), (target, target_handle) = region("in"), region("out")
        tensor = path.module.InferInput(name, [*values.shape], datatype)
        tensor.set_shared_memory(source, values.nbytes)
        wanted = path.module.InferRequestedOutput(task.outputs[0])
        wanted.set_shared_memory(target, values.nbytes)

        def infer() -> Any:
            shm.set_shared_memory_region(source_handle, [values])
            output = client.infer(task.model, [tensor], outputs=[wanted]).get_output(task.outputs[0])
            return shm.get_contents_as_numpy(target_handle, values.dtype, output["shape"])

        path.check([infer()])
        yield one_by_one(lambda: infer().item(-1))


def ours_both_ways(task: Task) -> dict[str, Builder]:
    """Return tritonhttp with shared memory and without."""
    package = PACKAGES[OURS]
    return {
        OURS: functools.partial(looked_at, package, task, shared_memory="auto"),
        PLAIN: functools.partial(looked_at, package, task),
    }


def every_way(task: Task) -> dict[str, Builder]:
    """Return every way to send and receive a large tensor."""
    return {
        **ours_both_ways(task),
        REFERENCE: functools.partial(looked_at, PACKAGES[REFERENCE], task),
        BY_HAND: functools.partial(by_hand, task),
    }


AGAINST_HTTP = Bound(metric="p50", against=REFERENCE, at_most=0.12)
AGAINST_BY_HAND = Bound(metric="p50", against=BY_HAND, at_most=1.1)
BOUNDS = {
    1: (AGAINST_BY_HAND,),
    16: (AGAINST_HTTP, AGAINST_BY_HAND),
    64: (AGAINST_HTTP, dataclasses.replace(AGAINST_BY_HAND, at_most=1.15)),
}

CASES = [
    Case(
        name="shm-small",
        title="shared memory, small infer, Triton",
        server="triton",
        contenders=ours_both_ways(SMALL),
        metrics=("p50", "cpu"),
        bounds=(Bound(metric="p50", against=PLAIN, at_most=1.03),),
        blocks=15,
    ),
    *(
        Case(
            name=f"shm-{mib}mb",
            title=f"shared memory, {mib} MB in and out, Triton",
            server="triton",
            contenders=every_way(identity(mib)),
            metrics=("p50", "cpu"),
            bounds=BOUNDS.get(mib, ()),
            blocks={1: 9, 16: 9, 64: 7, 256: 3}.get(mib, 5),
            counts={PLAIN: 1, REFERENCE: 1} if mib >= 64 else {},  # a call takes up to seconds
        )
        for mib in (1, 4, 16, 64, 256)
    ),
]
