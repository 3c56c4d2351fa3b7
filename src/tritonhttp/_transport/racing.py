"""The race for a connection on an asyncio event loop: a task for each attempt, and none left behind."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .race import Race

__all__ = ["drop", "run"]


async def run(loop: asyncio.AbstractEventLoop, race: Race) -> socket.socket | None:
    """Return the socket that connects first, or None where none does in time; all others are closed."""
    socks: dict[int, socket.socket] = {}
    attempts: dict[asyncio.Task[None], int] = {}
    try:
        try:
            winner = await _first(loop, race, socks, attempts)
        except GeneratorExit:  # the loop runs no more: nothing can be waited for
            with contextlib.suppress(RuntimeError):
                for task in attempts:
                    task.cancel()
            raise
        except BaseException:
            await _end(attempts)
            raise
        # The event loop watches a socket until its task has ended; it must not be closed before.
        await _end(attempts)
        return None if winner is None else socks.pop(winner)
    finally:
        for sock in socks.values():
            drop(loop, sock)


def drop(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    """Close a socket that may still be connecting, in a coroutine that was closed; the loop must not watch it."""
    with contextlib.suppress(Exception):  # it does not, or it runs no more
        loop.remove_writer(sock.fileno())
    sock.close()


async def _first(
    loop: asyncio.AbstractEventLoop,
    race: Race,
    socks: dict[int, socket.socket],
    attempts: dict[asyncio.Task[None], int],
) -> int | None:
    """Return the number of the attempt that connects first, or None where none does in time."""
    while True:
        while (number := race.start(loop.time())) is not None:
            family, address = race.addresses[number]
            try:
                sock = socks[number] = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:  # a system without IPv6 may still know addresses of it
                race.failed(number, error, loop.time())
                continue
            sock.setblocking(False)
            attempts[loop.create_task(_attempt(loop, sock, address))] = number
        now = loop.time()
        if race.is_over(now):
            return None
        done, _ = await asyncio.wait(attempts, timeout=race.pause(now), return_when=asyncio.FIRST_COMPLETED)
        for task in sorted(done, key=attempts.__getitem__):
            number = attempts[task]
            failure = OSError("the attempt was cancelled") if task.cancelled() else task.exception()
            if failure is None:
                return number
            if not isinstance(failure, OSError):
                raise failure
            del attempts[task]
            socks.pop(number).close()
            race.failed(number, failure, loop.time())


async def _attempt(loop: asyncio.AbstractEventLoop, sock: socket.socket, address: Any) -> None:
    await loop.sock_connect(sock, address)


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they have ended, also while the caller is cancelled again."""
    again: asyncio.CancelledError | None = None
    for task in tasks:
        task.cancel()
    while pending := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            again = error
    for task in tasks:
        if not task.cancelled():
            task.exception()  # nobody else looks at it, and asyncio would complain
    if again is not None:
        raise again
