"""A process of callers: threads on the blocking client, or tasks on the asyncio client.

Run by the soak: ``python -m tests.soak.caller JSON``. It prints one JSON object: what it has counted, what went
wrong, and what was open before and after.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import ctypes
import faulthandler
import gc
import itertools
import json
import logging
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np

import tritonhttp
import tritonhttp.aio
from tritonhttp import InferenceServerException, Retry

from .calls import Inference, Planner, prepare

#: Seconds that a call without a deadline of its own may take, and how much later it has ended on a busy machine.
LIMIT, GRACE = 20.0, 40.0
ATTEMPTS = 3
#: Statuses that a server gives; the injector makes up others.
KNOWN = ("400", "404", "500", "503")
#: How often each kind of call comes.
KINDS = {"infer": 74, "started": 10, "cancelled": 5, "stream": 4, "sequence": 3, "model": 2, "asked": 2}


class Ledger:
    """What was asked and what came of it. Each worker has its own, so that none waits for another."""

    def __init__(self, diary: TextIO) -> None:
        self.counts: Counter[str] = Counter()
        #: A line for each inference, and the client that it uses now.
        self.diary, self.client = diary, ""
        self.errors: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.foreign: list[str] = []
        #: One message of each kind of error.
        self.samples: dict[str, str] = {}
        #: For each tag: how often it may have run, and whether it must have.
        self.tags = array.array("q")
        self.most = array.array("b")
        self.least = array.array("b")
        self.begun = 0.0
        self.what = ""

    def begin(self, what: object) -> None:
        """Note that a call begins."""
        self.counts["calls"] += 1
        self.what = str(what)
        self.begun = time.monotonic()

    def answered(self, problem: str) -> None:
        """Note that the call was answered, and what is wrong with that."""
        self.begun = 0.0
        self.counts["answers"] += 1
        if problem:
            self.wrong.append(f"{self.what}: {problem}")

    def ran(self, call: Inference, most: int, outcome: object = None) -> None:
        """Note how often a call may have run, and what became of it: None if it was answered."""
        answered = outcome is None
        self.tags.append(call.tag)
        self.diary.write(f"{call.tag} at most {most}: {call}, {self.client} -> {outcome!r}\n")
        self.most.append(min(most, 127) if call.idempotent else 1)
        self.least.append(answered)

    def tried(self, attempts: int) -> None:
        """Note how often a call was tried."""
        self.counts["retries"] += max(0, attempts - 1)

    def failed(self, error: BaseException) -> None:
        """Note that the call has failed."""
        self.begun = 0.0
        if isinstance(error, (tritonhttp.RequestCancelled, asyncio.CancelledError)):
            self.counts["cancelled"] += 1
        elif isinstance(error, InferenceServerException):
            self.counts["errors"] += 1
            status = error.status()
            kind = type(error).__name__
            self.errors[f"{kind} {status}" if status in KNOWN else kind] += 1
            self.samples.setdefault(kind, f"{self.what}: {error}"[:500])
            self.tried(getattr(error, "attempts", 0))
        else:
            self.foreign.append(f"{self.what}: {error!r}")

    def inferred(self, call: Inference, result: Any) -> None:
        """Note an answer."""
        self.ran(call, result.attempts)
        self.tried(result.attempts)
        self.answered(call.problem(result))

    def not_inferred(self, call: Inference, error: BaseException) -> None:
        """Note an inference that failed."""
        # The handle of one that was cancelled does not know how often it was sent.
        known = 0 if isinstance(error, tritonhttp.RequestCancelled) else getattr(error, "attempts", 0)
        self.ran(call, known or ATTEMPTS, error)
        self.failed(error)


class Budget:
    """Bytes that may be in flight, for threads: who needs more than is left waits."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, size: int) -> Any:
        with self.changed:
            self.changed.wait_for(lambda: self.left >= size)
            self.left -= size
        try:
            yield
        finally:
            with self.changed:
                self.left += size
                self.changed.notify_all()


class AsyncBudget:
    """The same for tasks."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.changed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def take(self, size: int) -> Any:
        if self.left < size:
            async with self.changed:
                await self.changed.wait_for(lambda: self.left >= size)
        self.left -= size
        try:
            yield
        finally:
            self.left += size
            if self.changed._waiters:  # type: ignore[attr-defined]
                async with self.changed:
                    self.changed.notify_all()


class Slot:
    """A client that calls use at present, and how many do."""

    def __init__(self, client: Any, options: dict[str, Any]) -> None:
        self.client, self.options = client, options
        self.users = 0
        self.name = str({name: value for name, value in options.items() if not name.startswith("on_re")})
        #: Whether it was closed while calls were under way.
        self.closed_early = False
        self.several = not isinstance(options["url"], str)
        self.retries = "retry" in options


class Clients:
    """Several clients with random options, each replaced by another one after a while."""

    def __init__(self, make: Callable[..., Any], direct: list[str], injected: list[str], seed: int) -> None:
        self._make, self._direct, self._injected = make, direct, injected
        self.chance = random.Random(f"clients {seed}")
        self.hooked: Counter[str] = Counter()
        self.slots: list[Slot] = []
        self.retired: list[Slot] = []
        self.options: Counter[str] = Counter()

    def _noted(self, name: str) -> Callable[..., None]:
        def note(*_: object) -> None:
            self.hooked[name] += 1

        return note

    def fill(self, count: int = 6) -> None:
        while len(self.slots) < count:
            self.slots.append(self.open())

    def open(self) -> Slot:
        """Make a client with random options."""
        chance = self.chance
        one, two = self._direct, self._injected
        urls = chance.choice(
            (chance.choice(two), chance.choice(two), chance.choice(one), two, [one[0], two[-1]])
        )
        urls = urls if isinstance(urls, str) or len(set(urls)) > 1 else urls[0]
        options: dict[str, Any] = {"url": urls}
        if chance.random() < 0.5:
            options["retry"] = Retry(attempts=ATTEMPTS, backoff=0.02, max_backoff=0.2)
        if chance.random() < 0.4:
            options.update(on_request=self._noted("begun"), on_response=self._noted("ended"))
        if isinstance(urls, str) and chance.random() < 0.4:
            options.update(
                shared_memory="auto", shared_memory_threshold=chance.choice((1 << 12, 1 << 14, 1 << 18))
            )
        if not isinstance(urls, str):
            options["balancing"] = chance.choice(("round_robin", "least_outstanding"))
        if chance.random() < 0.1:
            options["keep_alive"] = False
        if chance.random() < 0.2:
            options["max_age"] = 1.0
        for name in ("retry", "on_request", "shared_memory", "balancing", "keep_alive", "max_age"):
            self.options[name] += name in options
        return Slot(self._make(chance, **options), options)

    def rotate(self) -> Slot | None:
        """Replace a client; return the old one if it is to be closed now, while it is in use."""
        which = self.chance.randrange(len(self.slots))
        old, self.slots[which] = self.slots[which], self.open()
        old.closed_early = self.chance.random() < 0.25
        if old.closed_early:
            return old
        self.retired.append(old)
        return None

    def spent(self) -> list[Slot]:
        """Return the replaced clients that nobody uses any more."""
        found = [slot for slot in self.retired if not slot.users]
        self.retired = [slot for slot in self.retired if slot.users]
        return found


def planners(given: dict[str, Any]) -> list[Planner]:
    """Return what draws the calls of each caller."""
    numbers = range(given["first"], given["first"] + given["callers"])
    return [Planner(number, given["seed"], given["largest"]) for number in numbers]


def choose(planner: Planner) -> str:
    return planner.chance.choices(list(KINDS), list(KINDS.values()))[0]


def values_of(planner: Planner) -> list[int]:
    """Return what a stream gives, which is its own."""
    first = planner.tag() & 0x3FFFFFFF
    return list(range(first, first + planner.chance.randrange(1, 9)))


def rest_after(error: BaseException) -> float:
    """Return how long a caller rests: a dead server refuses thousands of calls a second."""
    return 0.05 if isinstance(error, (tritonhttp.ConnectError, tritonhttp.ServerError)) else 0.0


# -- threads --


class Threads:
    """Threads on blocking clients."""

    def __init__(self, given: dict[str, Any], diary: TextIO) -> None:
        self.given = given
        self.ledgers = [Ledger(diary) for _ in range(given["callers"])]
        self.planners = planners(given)
        self.budget = Budget(given["in_flight"])
        self.clients = Clients(self._make, given["direct"], given["injected"], given["seed"])
        self.lock = threading.Lock()
        self.over = threading.Event()

    def _make(self, chance: random.Random, url: Any, **options: Any) -> Any:
        return tritonhttp.InferenceServerClient(
            url,
            concurrency=chance.choice((1, 4, 16)),
            connection_timeout=5.0,
            network_timeout=5.0,
            deadline=chance.choice((None, LIMIT)),
            **options,
        )

    def run(self, seconds: float) -> None:
        """Call for so many seconds."""
        self.over.clear()
        self.clients.fill()
        threads = [
            threading.Thread(target=self._work, args=(number, ledger), name=f"caller-{number}")
            for number, ledger in enumerate(self.ledgers)
        ]
        for thread in threads:
            thread.start()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.5)
            if random.random() < 0.3:
                with self.lock:
                    old = self.clients.rotate()
                if old is not None:
                    old.client.close()
            with self.lock:
                spent = self.clients.spent()
            for slot in spent:
                slot.client.close()
            if lost(self.ledgers):
                break
        self.over.set()
        late = time.monotonic() + LIMIT + GRACE
        for thread in threads:
            thread.join(max(0.0, late - time.monotonic()))

    def close(self) -> None:
        for slot in [*self.clients.slots, *self.clients.retired]:
            slot.client.close()
        self.clients.slots, self.clients.retired = [], []

    def _work(self, number: int, ledger: Ledger) -> None:
        planner = self.planners[number]
        while not self.over.is_set():
            with self.lock:
                slot = planner.chance.choice(self.clients.slots)
                slot.users += 1
            pause = 0.0
            try:
                pause = self._call(choose(planner), slot, planner, ledger)
            except BaseException as error:
                ledger.foreign.append(f"{ledger.what}: {error!r}")
            finally:
                with self.lock:
                    slot.users -= 1
            if pause:
                time.sleep(pause)

    def _call(self, kind: str, slot: Slot, planner: Planner, ledger: Ledger) -> float:
        client, ledger.client = slot.client, slot.name
        if kind in ("started", "cancelled"):
            return self._start(kind, client, planner, ledger)
        call = planner.inference()
        with self.budget.take(call.size):
            try:
                if kind == "infer":
                    ledger.begin(call)
                    ledger.inferred(call, client.infer(call.model, call.inputs(), **call.options))
                elif kind == "model":
                    ledger.begin(call)
                    found = client.model(call.model)(call.by_name(), **call.as_model())
                    ledger.inferred(call, found.result)
                elif kind == "stream":
                    values = values_of(planner)
                    ledger.begin(f"stream of {values}")
                    with client.generate_stream("repeat", {"IN": values}) as stream:
                        found = [answer["OUT"] for answer in stream]
                    ledger.answered("" if found == values else f"got {found}")
                elif kind == "sequence":
                    self._sequence(slot, planner, ledger)
                else:
                    ledger.begin("metadata")
                    found = client.get_model_metadata("tagged")["name"]
                    ledger.answered("" if found == "tagged" else f"got {found}")
            except BaseException as error:
                if kind in ("infer", "model"):
                    ledger.not_inferred(call, error)
                else:
                    ledger.failed(error)
                return rest_after(error)
        return 0.0

    def _start(self, kind: str, client: Any, planner: Planner, ledger: Ledger) -> float:
        calls = [planner.inference(largest=1 << 16) for _ in range(planner.chance.randrange(1, 4))]
        handles: list[Any] = []
        pause = 0.0
        with self.budget.take(sum(call.size for call in calls)):
            for call in calls:
                try:
                    handles.append(client.async_infer(call.model, call.inputs(), **call.options))
                except BaseException as error:
                    handles.append(error)
            if kind == "cancelled":
                time.sleep(planner.chance.choice((0, 0, 0.001, 0.004)))
                for handle in handles:
                    if not isinstance(handle, BaseException) and planner.chance.random() < 0.7:
                        handle.cancel()
            for call, handle in zip(calls, handles, strict=True):
                ledger.begin(call)
                try:
                    if isinstance(handle, BaseException):
                        raise handle
                    ledger.inferred(call, handle.get_result())
                except BaseException as error:
                    ledger.not_inferred(call, error)
                    pause = rest_after(error)
        return pause

    def _sequence(self, slot: Slot, planner: Planner, ledger: Ledger) -> None:
        number, total = planner.tag(), 0
        for step in range(3):
            value = planner.chance.randrange(1, 1000)
            total += value
            ledger.begin(f"step {step} of sequence {number}")
            result = slot.client.infer(
                "sequence_accumulate", sequence_inputs(value), **sequence_step(number, step)
            )
            ledger.answered(sequence_problem(result, total))


def sequence_inputs(value: int) -> list[Any]:
    tensor = tritonhttp.InferInput("INPUT", [1, 1], "INT32")
    return [tensor.set_data_from_numpy(np.array([[value]], np.int32))]


def sequence_step(number: int, step: int) -> dict[str, Any]:
    return {"sequence_id": number, "sequence_start": step == 0, "sequence_end": step == 2}


def sequence_problem(result: Any, total: int) -> str:
    found = result.as_numpy("OUTPUT").tolist()
    return "" if found == [[total]] else f"got {found}, expected {total}"


# -- tasks --


class Tasks:
    """Tasks on asyncio clients, on one loop."""

    def __init__(self, given: dict[str, Any], diary: TextIO) -> None:
        self.given = given
        self.ledgers = [Ledger(diary) for _ in range(given["callers"])]
        self.planners = planners(given)
        self.clients = Clients(self._make, given["direct"], given["injected"], given["seed"])
        self.complaints: list[str] = []

    def _make(self, chance: random.Random, url: Any, **options: Any) -> Any:
        return tritonhttp.aio.InferenceServerClient(
            url, conn_limit=chance.choice((2, 16, 64)), conn_timeout=LIMIT, **options
        )

    def run(self, seconds: float) -> None:
        asyncio.run(self._run(seconds))

    def close(self) -> None:
        pass

    async def _run(self, seconds: float) -> None:
        asyncio.get_running_loop().set_exception_handler(self._complained)
        self.budget = AsyncBudget(self.given["in_flight"])
        self.over = False
        self.clients.fill()
        tasks = [
            asyncio.create_task(self._work(number, ledger)) for number, ledger in enumerate(self.ledgers)
        ]
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(0.5)
            if random.random() < 0.3:
                old = self.clients.rotate()
                if old is not None:
                    await old.client.close()
            for slot in self.clients.spent():
                await slot.client.close()
            if lost(self.ledgers):
                break
        self.over = True
        await asyncio.wait(tasks, timeout=LIMIT + GRACE)
        for slot in [*self.clients.slots, *self.clients.retired]:
            await slot.client.close()
        self.clients.slots, self.clients.retired = [], []
        left = [task for task in asyncio.all_tasks() - {asyncio.current_task()} if not task.done()]
        if left:
            self.complaints.append(f"{len(left)} tasks are left: {left[:3]}")

    def _complained(self, loop: object, complaint: dict[str, Any]) -> None:
        self.complaints.append(str(complaint))

    async def _work(self, number: int, ledger: Ledger) -> None:
        planner = self.planners[number]
        while not self.over:
            slot = planner.chance.choice(self.clients.slots)
            slot.users += 1
            pause = 0.0
            try:
                pause = await self._call(choose(planner), slot, planner, ledger)
            except BaseException as error:
                ledger.foreign.append(f"{ledger.what}: {error!r}")
            finally:
                slot.users -= 1
            await asyncio.sleep(pause)

    async def _call(self, kind: str, slot: Slot, planner: Planner, ledger: Ledger) -> float:
        client, ledger.client = slot.client, slot.name
        call = planner.inference()
        async with self.budget.take(call.size):
            try:
                if kind in ("infer", "started"):
                    ledger.begin(call)
                    ledger.inferred(call, await client.infer(call.model, call.inputs(), **call.options))
                elif kind == "cancelled":
                    ledger.begin(call)
                    task = asyncio.ensure_future(client.infer(call.model, call.inputs(), **call.options))
                    for _ in range(planner.chance.randrange(8)):
                        await asyncio.sleep(planner.chance.choice((0, 0, 0.001, 0.01)))
                    task.cancel()
                    ledger.inferred(call, await task)
                elif kind == "model":
                    ledger.begin(call)
                    found = await client.model(call.model)(call.by_name(), **call.as_model())
                    ledger.inferred(call, found.result)
                elif kind == "stream":
                    values = values_of(planner)
                    ledger.begin(f"stream of {values}")
                    async with client.generate_stream("repeat", {"IN": values}, deadline=LIMIT) as stream:
                        found = [answer["OUT"] async for answer in stream]
                    ledger.answered("" if found == values else f"got {found}")
                elif kind == "sequence":
                    number, total = planner.tag(), 0
                    for step in range(3):
                        value = planner.chance.randrange(1, 1000)
                        total += value
                        ledger.begin(f"step {step} of sequence {number}")
                        result = await client.infer(
                            "sequence_accumulate", sequence_inputs(value), **sequence_step(number, step)
                        )
                        ledger.answered(sequence_problem(result, total))
                else:
                    ledger.begin("metadata")
                    name = (await client.get_model_metadata("tagged"))["name"]
                    ledger.answered("" if name == "tagged" else f"got {name}")
            except BaseException as error:
                if kind in ("infer", "started", "cancelled", "model"):
                    ledger.not_inferred(call, error)
                else:
                    ledger.failed(error)
                return rest_after(error)
        return 0.0


# -- the process --


def lost(ledgers: list[Ledger]) -> list[str]:
    """Return the calls that should have ended long ago."""
    now = time.monotonic()
    bound = ATTEMPTS * LIMIT + GRACE
    return [ledger.what for ledger in ledgers if ledger.begun and now - ledger.begun > bound]


class _Memory(ctypes.Structure):
    """What glibc's mallinfo2 returns: of its ten numbers the fifth and the eighth say what is given out."""

    _fields_ = [
        ("_before", ctypes.c_size_t * 4),
        ("mapped", ctypes.c_size_t),
        ("_between", ctypes.c_size_t * 2),
        ("used", ctypes.c_size_t),
        ("_behind", ctypes.c_size_t * 2),
    ]


def allocated() -> int:
    """Return how many KiB malloc and Python's own allocator have given out; 0 where that is not known."""
    try:
        tell = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError):
        return 0
    tell.restype = _Memory
    found = tell()
    # Python's blocks have 16 to 512 bytes.
    return int(found.used + found.mapped + 64 * sys.getallocatedblocks()) >> 10


def open_now() -> dict[str, int]:
    """Return the threads, descriptors, shared memory objects and KiB of this process: allocated, and resident."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own = f"-{os.getpid()}-"
    return {
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "shared memory": sum(
            name.startswith("tritonhttp-region-") and own in name for name in os.listdir("/dev/shm")
        ),
        "memory": allocated(),
        "resident": int(status["VmRSS"].split()[0]),
    }


#: What has to be as before in the end.
COUNTED = ("threads", "descriptors", "shared memory")


def at_rest(seconds: float, expected: dict[str, int] | None = None) -> dict[str, int]:
    """Return what is open once it is no more than expected, or the time is over."""
    until = time.monotonic() + seconds
    while True:
        found = open_now()
        settled = expected is None or all(found[name] <= expected[name] for name in COUNTED)
        if settled or time.monotonic() > until:
            return found
        time.sleep(0.1)


def main() -> None:
    given = json.loads(sys.argv[1])
    with open(given["diary"], "w", encoding="utf-8", errors="backslashreplace") as diary:
        missing = call(given, diary)
        diary.flush()
        if missing:  # threads that hang would keep the process
            os._exit(0)


def call(given: dict[str, Any], diary: TextIO) -> list[str]:
    """Call, and print the report; return the calls that did not end."""
    faulthandler.register(signal.SIGUSR1)
    logging.getLogger("tritonhttp").setLevel(logging.CRITICAL)
    prepare(given["largest"])
    callers: Any = (Threads if given["kind"] == "threads" else Tasks)(given, diary)
    callers.run(given["warm_up"])
    callers.close()
    before = at_rest(1.0)
    print("ready", flush=True)  # noqa: T201
    callers.run(given["seconds"])
    callers.close()
    after = at_rest(10.0, before)
    missing = [ledger.what for ledger in callers.ledgers if ledger.begun]
    if missing:
        faulthandler.dump_traceback(all_threads=True)
    counts: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    samples: dict[str, str] = {}
    for ledger in callers.ledgers:
        samples.update(ledger.samples)
        counts.update(ledger.counts)
        errors.update(ledger.errors)
    hooked = callers.clients.hooked
    np.savez(
        given["tags"],
        **{
            name: np.concatenate([np.array(getattr(ledger, name)) for ledger in callers.ledgers])
            for name in ("tags", "most", "least")
        },
    )
    report = {
        "counts": counts,
        "errors": errors,
        "samples": samples,
        "options": callers.clients.options,
        "wrong": list(itertools.chain(*(ledger.wrong for ledger in callers.ledgers))),
        "foreign": list(itertools.chain(*(ledger.foreign for ledger in callers.ledgers))),
        "complaints": getattr(callers, "complaints", []),
        "lost": missing,
        "unpaired hooks": hooked["begun"] - hooked["ended"],
        "before": before,
        "after": after,
    }
    print(json.dumps(report), flush=True)  # noqa: T201
    return missing


if __name__ == "__main__":
    main()
