"""Interrupts calls at every place of the library where CPython lets that happen, one place a run.

The tests take a sample of the places; `make interrupts` takes all of them.

The promise: whatever a signal's handler raises, or `PyThreadState_SetAsyncExc`, or whoever closes or cancels a
coroutine, wherever in the library it comes:

- it comes out of the call, that very object;
- the client's next call is served at once, with its own answer, though the caught exception and the frames of its
  traceback are still there;
- when the exception is dropped nothing is left of the call: no socket, no thread, nobody in a line.

A :class:`Way` is one kind of call. :func:`sweep` makes it again and again, interrupted at the first place, the
second and so on, until it comes through. There are two rulers, both over a trace function:

- "instructions": where a function begins, and behind calls and backward jumps. That is where CPython looks for
  signals and asynchronous exceptions. Python 3.13 does not trace the instructions of every function.
- "lines": the beginning of each line, behind one with such an instruction.

What is left out, since nothing can be interrupted there, or nobody would notice:

- Between the last call of a block and the end of the block. A trace function would raise behind the block, where
  CPython raises within it: a lock of a ``with`` would be found locked. For the same reason the lines' ruler leaves
  out the second visit of a line with ``with``, and the first lines of ``except`` and ``finally``.
- ``__del__``. What is raised there goes to `sys.unraisablehook`, and the call goes on. That is also accepted where
  the interpreter itself calls back, as for a weak reference.
- Callbacks of asyncio's event loop. What is raised there ends the loop, or is logged by it, and gets to no task.
- The threads of `async_infer`. Signals do not come there, and nobody else knows them.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import dis
import gc
import inspect
import operator
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, cast

import tritonhttp

LIBRARY = str(Path(tritonhttp.__file__).parent) + os.sep
RULERS = ["instructions", "lines"] if sys.version_info < (3, 13) else ["lines"]
#: How long a call may take that should be served at once, in seconds.
AT_ONCE = 3.0
#: After the first places of a call, a random one in so many is interrupted. Most calls share most of their places,
#: so a place is met many times in a run.
FIRST, STRIDE = 12, 12
EVERY_PLACE = bool(os.environ.get("EVERY_PLACE"))
#: A sweep ends with so many places where the promise was broken.
ENOUGH = 5


class Interrupt(BaseException):
    """An exception of a handler that passes `except Exception`, as KeyboardInterrupt does."""


class OrdinaryInterrupt(Exception):
    """An exception of a handler that `except Exception` catches."""


class Hangs(BaseException):
    """A call was not served at once."""


# -- the places --


def _looks(instruction: dis.Instruction) -> bool:
    """Whether CPython looks for interrupts after an instruction; for a jump: if it was taken."""
    name = instruction.opname
    if "JUMP" in name:
        return "NO_INTERRUPT" not in name and instruction.argval < instruction.offset
    return name.startswith("CALL") and "INTRINSIC" not in name


@dataclass(frozen=True)
class _Code:
    """The instructions and lines of a function."""

    looking: frozenset[int]
    jumping: frozenset[int]
    #: Lines with a looking instruction.
    lines: frozenset[int]
    #: The exception handler at each offset; 3.10 keeps them elsewhere.
    handlers: dict[int, int]
    #: The offsets where resuming looks for interrupts.
    entries: frozenset[int]


@cache
def _known(code: CodeType) -> _Code:
    looking, jumping, lines, entries, handlers = set(), set(), set(), set(), {}
    line = code.co_firstlineno
    starts = dict(dis.findlinestarts(code))
    for instruction in dis.get_instructions(code):
        offset = instruction.offset
        line = starts.get(offset) or line
        if _looks(instruction):
            (jumping if "JUMP" in instruction.opname else looking).add(offset)
            lines.add(line)
        # After an await, and in a generator after `yield from`, it does not.
        if instruction.opname == "RESUME" and (instruction.arg or 0) & 3 < 2:
            entries.add(offset)
    if sys.version_info >= (3, 11):
        for entry in dis._parse_exception_table(code):  # type: ignore[attr-defined]
            for offset in range(entry.start, entry.end, 2):
                handlers[offset] = entry.target
    return _Code(frozenset(looking), frozenset(jumping), frozenset(lines), handlers, frozenset(entries))


@cache
def _skipped(file: str) -> tuple[frozenset[int], frozenset[int]]:
    """Return the lines of a file that are visited again when a block is left, and those that begin a handler."""
    blocks, handlers = set(), set()
    for node in ast.walk(ast.parse(Path(file).read_text())):
        if isinstance(node, (ast.With, ast.AsyncWith)):
            blocks |= {node.lineno, *(item.context_expr.lineno for item in node.items)}
        elif isinstance(node, ast.ExceptHandler):
            handlers |= {node.lineno, node.body[0].lineno}
        elif isinstance(node, ast.Try) and node.finalbody:
            handlers.add(node.finalbody[0].lineno)
    return frozenset(blocks), frozenset(handlers)


class Tracer:
    """While it is entered: act at the place of that number, from the calling thread's trace function.

    Parameters
    ----------
    number : int
        1 is the first place.
    ruler : str
        "instructions" or "lines".
    act : callable
        What it raises comes out of the place.
    within : callable, optional
        Says whether a function that begins now counts.
    """

    def __init__(
        self, number: int, ruler: str, act: Callable[[], object], within: Callable[[], bool] = lambda: True
    ) -> None:
        self.left = number
        #: Where it acted.
        self.place = ""
        self._act = act
        self._within = within
        self._local = self._instructions if ruler == "instructions" else self._lines
        self._fine = ruler == "instructions"

    def __enter__(self) -> Tracer:
        if self._fine:
            sys._getframe().f_trace_opcodes = True  # 3.12 looks at settrace whether any frame wants them
        self._before = sys.gettrace()
        sys.settrace(self._begins)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)  # coverage's, for the tests behind this one

    def _begins(self, frame: FrameType, event: str, arg: object) -> Any:
        code = frame.f_code
        if (
            self.left <= 0
            or not code.co_filename.startswith(LIBRARY)
            or not self._within()
            or _deletes(frame)
        ):
            return None
        if self._fine:
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            # A resumed frame is traced too. Raised then, 3.10 would leave it at once, past its `finally`.
            begun = frame.f_lasti
            begins = begun < 0 if sys.version_info < (3, 11) else begun in _known(frame.f_code).entries
            if begins:
                self._reached(frame)
        return self._local(frame)

    def _reached(self, frame: FrameType) -> None:
        self.left -= 1
        if self.left == 0:
            code = frame.f_code
            where = f"{code.co_filename.removeprefix(LIBRARY)}:{frame.f_lineno}"
            self.place = f"{where} in {code.co_name}"
            self._act()

    def _instructions(self, frame: FrameType) -> Any:
        known, before = _known(frame.f_code), -1

        def step(frame: FrameType, event: str, arg: object) -> Any:
            nonlocal before
            if event == "opcode" and self.left > 0:
                now = frame.f_lasti
                looked = before in known.looking or (before in known.jumping and now <= before)
                # After the block's last call CPython raises within the block, a trace function after it.
                if looked and known.handlers.get(before) == known.handlers.get(now):
                    before = -1
                    self._reached(frame)
                before = now
            return step

        return step

    def _lines(self, frame: FrameType) -> Any:
        known = _known(frame.f_code)
        blocks, handlers = _skipped(frame.f_code.co_filename)
        entered: set[int] = set()
        before: int | None = None

        def step(frame: FrameType, event: str, arg: object) -> Any:
            nonlocal before
            if event == "line" and self.left > 0:
                line = frame.f_lineno
                looked = before is None or before in known.lines
                before = line
                leaves = line in entered
                if line in blocks:
                    entered.symmetric_difference_update((line,))
                if looked and not leaves and line not in handlers:
                    self._reached(frame)
            return step

        return step


def _deletes(frame: FrameType | None) -> bool:
    """Whether an object of the library is being deleted."""
    while frame is not None and frame.f_code.co_filename.startswith(LIBRARY):
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


# -- the calls --


class Watch:
    """Has the main thread raise :class:`Hangs` where it takes too long."""

    def __init__(self) -> None:
        self._until = float("inf")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._before = signal.signal(signal.SIGUSR2, self._raise)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        signal.signal(signal.SIGUSR2, self._before)

    def _raise(self, number: int, frame: object) -> None:
        if time.monotonic() > self._until:
            raise Hangs(f"not served within {AT_ONCE:g} s")

    def _look(self) -> None:
        while not self._over.wait(0.1):
            if time.monotonic() > self._until:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)

    @contextlib.contextmanager
    def over(self) -> Iterator[None]:
        """Watch a block. A way's own time limit comes first."""
        self._until = time.monotonic() + 1.2 * AT_ONCE
        try:
            yield
        finally:
            self._until = float("inf")


@dataclass
class Way:
    """One kind of call. Its functions may be coroutine functions, where `run` takes them.

    Attributes
    ----------
    open : callable
        Makes the client.
    call : callable
        The call, with the client and what `prepare` made.
    again : callable
        The client's next call, which checks its answer.
    close : callable
        Closes the client; or what is left of it, where the call closes it.
    fresh : bool
        Whether each call has a client of its own.
    prepare : callable
        What comes before it, uninterrupted, with the client.
    recover : callable
        What a program does that catches the exception: it closes what it has opened. With the client and what
        `prepare` made.
    held : bool
        Whether the exception may keep the call's connection until it is dropped, since the library cannot know
        that the program has done with it.
    check : callable, optional
        What has to hold of the client when the exception is dropped.
    run : callable
        Runs a function; a coroutine function to its end.
    rest : callable
        Lets others run for so many seconds.
    within : callable
        Whether a function that begins is part of the call, rather than of the event loop.
    """

    open: Callable[[], Any]
    call: Callable[[Any, Any], Any]
    again: Callable[[Any], Any]
    close: Callable[[Any], Any]
    fresh: bool = False
    prepare: Callable[[Any], Any] = lambda client: None
    recover: Callable[[Any, Any], Any] = lambda client, prepared: None
    held: bool = False
    check: Callable[[Any], None] = lambda client: None
    run: Callable[..., Any] = lambda function, *arguments: function(*arguments)
    rest: Callable[[float], Any] = time.sleep
    within: Callable[[], bool] = lambda: True

    def settle(self, expected: tuple[int, int]) -> None:
        """Wait until no more is open than that."""
        settled(expected, lambda: self.run(self.rest, 0.001))


def sweep(way: Way, interruption: Callable[[int], Interruption], watch: Watch, *, least: int = 1) -> None:
    """Make a call again and again, interrupted at one place after the other, and check what was promised.

    Parameters
    ----------
    way : Way
    interruption : callable
        Returns what interrupts at the place of a number.
    least : int
        How many places there are at the least.
    """
    broken: list[str] = []
    number, client, before = 0, None, open_now()
    while len(broken) < ENOUGH:
        if client is None:
            try:
                client = way.run(way.open)
                if not way.fresh or not number:  # first imports are not under test
                    _uninterrupted(way, client, watch)
                if way.fresh and not number:
                    way.run(way.close, client)
                    client = way.run(way.open)
            except BaseException as error:
                if not broken:
                    raise
                broken.append(f"a new client is not served: {error!r}")
                break
            kept = open_now()
        number += 1 if EVERY_PLACE or number < FIRST else random.randrange(1, 2 * STRIDE)
        found = _interrupted(way, client, interruption(number), watch)
        if found is None:
            break
        place, problems = found
        problems += _dropped(way, client, watch, None if way.fresh else kept)
        if way.fresh or problems:
            problems += _closed(way, client, watch, before if way.fresh else None)
            client = None
        if problems:
            broken.append(f"{number}: {place}: {'; '.join(problems)}")
            with contextlib.suppress(AssertionError):
                way.settle(before)
            before = open_now()
    if client is not None:
        with watch.over():
            way.run(way.close, client)
    assert not broken, "the promise is broken at\n" + "\n".join(broken)
    assert number > least, f"there were {number - 1} places only"


class Interruption:
    """Interrupts a call at one place, by raising an exception there.

    Attributes
    ----------
    error : BaseException or None
        What is raised.
    place : str
        Where that was; empty: the call came through before.
    """

    def __init__(self, number: int, ruler: str = RULERS[0], kind: type[BaseException] = Interrupt) -> None:
        self.error: BaseException | None = kind(f"number {number}")
        self.number = number
        self.place = ""
        self._ruler = ruler

    def make(self, way: Way, client: Any, prepared: Any) -> None:
        """Make the call, and raise its exception."""
        tracer = Tracer(self.number, self._ruler, self._act, way.within)
        self._client = client
        try:
            way.run(_traced, tracer, way.call, client, prepared)
        finally:
            self.place = tracer.place

    def _act(self) -> None:
        assert self.error is not None
        raise self.error

    def problem(self, caught: BaseException | None) -> str:
        """Say what is wrong with the outcome."""
        if caught is self.error:
            return ""
        return "nothing came out" if caught is None else f"{caught!r} came out"


class Nested(Interruption):
    """Interrupts a call at one place by a handler that uses the same client, and does not raise."""

    def __init__(self, number: int, handler: Callable[[Any], object], ends: bool) -> None:
        super().__init__(number)
        self._handler = handler
        self._ends = ends

    def _act(self) -> None:
        self._handler(self._client)

    def problem(self, caught: BaseException | None) -> str:
        ended = self._ends and isinstance(caught, tritonhttp.InferenceServerException)
        return "" if caught is None or (ended and "closed" in str(caught)) else f"{caught!r} came out"


class Stepped(Interruption):
    """Interrupts a coroutine where it waits for the event loop.

    `how`: "cancel", its task while it waits; "late", its task when what it waits for is there; "close", the
    coroutine, as the collector does.
    """

    def __init__(self, number: int, how: str) -> None:
        super().__init__(number)
        self._how = how

    def make(self, way: Way, client: Any, prepared: Any) -> None:
        way.run(self._step, way.call, client, prepared)

    async def _step(self, call: Callable[[Any, Any], Any], client: Any, prepared: Any) -> Any:
        return await _Steps(self, self._how, call(client, prepared))

    def problem(self, caught: BaseException | None) -> str:
        if self._how != "close" and isinstance(caught, asyncio.CancelledError):
            return ""
        return super().problem(caught)


class _Steps:
    """Awaits a coroutine up to the step where it is interrupted."""

    def __init__(self, interruption: Stepped, how: str, coroutine: Any) -> None:
        self._interruption = interruption
        self._how = how
        self._coroutine = coroutine

    def __await__(self) -> Any:
        coroutine, task, left = self._coroutine, asyncio.current_task(), self._interruption.number
        assert task is not None
        resume: Callable[[], Any] = partial(coroutine.send, None)
        while True:
            try:
                step = resume()
            except StopIteration as end:
                return end.value
            left -= 1
            if left == 0:
                self._interruption.place = _waiting_place(coroutine)
                if self._how == "close":
                    coroutine.close()
                    assert self._interruption.error is not None
                    raise self._interruption.error
                if self._how == "cancel":
                    task.cancel()
            try:
                value = yield step
                resume = partial(coroutine.send, value)
            except BaseException as error:
                resume = partial(coroutine.throw, error)
            if left == 0 and self._how == "late":
                resume = partial(coroutine.throw, asyncio.CancelledError())


def _waiting_place(coroutine: Any) -> str:
    """Return where the library waits."""
    place = ""
    while coroutine is not None and (frame := getattr(coroutine, "cr_frame", None)) is not None:
        if frame.f_code.co_filename.startswith(LIBRARY):
            file = frame.f_code.co_filename.removeprefix(LIBRARY)
            place = f"{file}:{frame.f_lineno} in {frame.f_code.co_name}"
        coroutine = coroutine.cr_await
    return place or "?"


def _traced(tracer: Tracer, call: Callable[[Any, Any], Any], client: Any, prepared: Any) -> Any:
    if not inspect.iscoroutinefunction(call):

        def alone() -> Iterator[Any]:
            yield call(client, prepared)

        # In a generator, as a coroutine is: a trace function that raises at the first or last instruction of an
        # `except` block leaves its exception behind as the one being handled, and a signal handler never does.
        with tracer:
            return next(alone())

    async def awaited() -> Any:
        cast("asyncio.Task[Any]", asyncio.current_task()).set_name("the call")
        with tracer:
            return await call(client, prepared)

    return awaited()


def _uninterrupted(way: Way, client: Any, watch: Watch) -> None:
    with watch.over():
        prepared = way.run(way.prepare, client)
        way.run(way.call, client, prepared)
        way.run(way.recover, client, prepared)
        way.run(way.again, client)


def _interrupted(
    way: Way, client: Any, interruption: Interruption, watch: Watch
) -> tuple[str, list[str]] | None:
    """Interrupt a call, and make the next one; return the place and the problems, None where it came through."""
    caught: BaseException | None = None
    lost: list[object] = []
    hook, sys.unraisablehook = sys.unraisablehook, lambda problem: lost.append(problem.exc_value)
    try:
        with watch.over():
            prepared = way.run(way.prepare, client)
        gc.disable()  # otherwise chance decides what is deleted during the call
        try:
            with watch.over():
                interruption.make(way, client, prepared)
        except BaseException as error:
            caught = error
        finally:
            gc.enable()
        if not interruption.place:
            if caught is not None:
                raise caught
            with watch.over():
                way.run(way.recover, client, prepared)
            return None
        problems = []
        if interruption.error not in lost or caught is not None:
            problem = interruption.problem(caught)
            problems += [problem] if problem else []
        try:
            with watch.over():
                way.run(way.recover, client, prepared)
                if not way.held:
                    way.run(way.again, client)
        except BaseException as error:
            problems.append(f"the next call: {error!r}")
        return interruption.place, problems
    finally:
        sys.unraisablehook = hook
        # The frames of its traceback, this one too, must go with it.
        caught = interruption.error = None
        lost.clear()


def _dropped(way: Way, client: Any, watch: Watch, expected: tuple[int, int] | None) -> list[str]:
    """Name what a call left behind after its exception was dropped."""
    try:
        if way.held:
            with watch.over():
                gc.collect()
                way.run(way.again, client)
        way.check(client)
        if expected is not None:
            way.settle(expected)
    except BaseException as error:
        return [f"once it was dropped: {type(error).__name__}: {error}"]
    return []


def _closed(way: Way, client: Any, watch: Watch, expected: tuple[int, int] | None) -> list[str]:
    """Close a client, and name what it left behind."""
    try:
        with watch.over():
            way.run(way.close, client)
        if expected is not None:
            way.settle(expected)
    except BaseException as error:
        return [f"once the client was closed: {type(error).__name__}: {error}"]
    return []


def open_now() -> tuple[int, int]:
    """Return how many sockets and pipes this process has, and how many threads."""
    count = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{number}").startswith(("socket:", "pipe:"))
        except OSError:
            continue
    return count, threading.active_count()


def settled(expected: tuple[int, int], rest: Callable[[], object] = lambda: time.sleep(0.001)) -> None:
    """Wait until no more than that is open; the collector may close what only it can."""
    began = time.monotonic()
    collected = False
    while any(map(operator.gt, found := open_now(), expected)):
        spent = time.monotonic() - began
        assert spent < 2, f"expected at most {expected} sockets and threads, found {found}"
        if spent > 0.02 and not collected:
            collected = True
            gc.collect()
        rest()
