"""Blocks as the server knows them: registered, forgotten, refused."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

from .. import errors
from .._basics.log import logger
from .._protocol import operations
from .._protocol.operations import Operation
from .._protocol.refusals import own_words, shares_nothing
from .pool import Block, BlockPool
from .region import sweep

__all__ = ["GATEWAY", "Registrations"]

#: Statuses of a gateway, or of a server that gave up; the server behind a gateway may still be at work.
GATEWAY = ("408", "429", "499", "502", "503", "504")

#: A single refusal may come from a gateway. After so many in a row the server shares no memory.
_REFUSALS = 3
#: After so many calls that lost their regions twice the server does not keep them.
_LOSSES = 3


class Registrations:
    """The blocks of one client that its server knows.

    Attributes
    ----------
    pool : BlockPool
    refused : bool
        Whether the server shares no memory, so that no more blocks are used.
    """

    def __init__(self, pool: BlockPool) -> None:
        self.pool = pool
        self.refused = self._accepted = self._warned = False
        #: Refusals in a row.
        self._refusals = 0
        self._losses = 0
        #: While the client closes: blocks that the server has yet to forget.
        self._left: list[Block] = []

    def register(self, block: Block) -> Generator[Operation[Any], Any, bool]:
        """Register a block unless the server knows it; return whether it does."""
        if block.registered:
            return True
        # Until the answer says otherwise the server may have it, or have it without being able to find it again.
        block.registered = block.spent = True
        try:
            yield operations.register_system_shared_memory(block.name, f"/{block.name}", block.byte_size, 0)
            block.spent = False
            self._refusals = 0
        except errors.ServerError as error:
            status = str(error.status())
            if shares_nothing(error):
                self.refuse(error)
            elif status not in GATEWAY:
                # With its own 4xx a gateway has not passed the request on; with another status it may have.
                block.registered = not (status.startswith("4") or own_words(error) is not None)
                self._refusals += 1
                if _is_final(error) or self._refusals >= _REFUSALS:
                    # A server that took other blocks has no room for more.
                    self._refuse(error, self.pool.taken - block.byte_size if self._accepted else 0)
            return False
        except errors.InferenceServerException as error:
            block.registered = not isinstance(error, errors.ConnectError)
            return False
        finally:
            block.unlink()
        if not self._accepted:
            self._accepted = True
            yield from sweep()
        return True

    def tidy(self) -> Generator[Operation[Any], Any, None]:
        """Have the server forget the blocks that are no longer used."""
        doomed = self.pool.doomed()
        left = list(doomed)
        try:
            yield from _unregister(left)
        finally:
            self.pool.settle(doomed, left)

    def close(self) -> Generator[Operation[Any], Any, None]:
        """Have the server forget all blocks; a second call goes on with those that are left."""
        self._left += self.pool.close()
        yield from _unregister(self._left, closing=True)

    def lose(self, error: errors.ServerError) -> None:
        """Count a call whose regions were forgotten twice, as by several servers behind one address."""
        self._losses += 1
        if self._losses >= _LOSSES:
            self._refuse(error, 0)

    def refuse(self, error: errors.ServerError) -> None:
        """Use no shared memory from now on: the server shares none, and has none of the blocks."""
        self.pool.abandon()
        self._refuse(error, 0, "shares no memory with clients")

    def _refuse(
        self,
        error: errors.ServerError,
        limit: int,
        why: str = "does not share this machine's memory"
        " (one in a container needs --ipc=host, or the same /dev/shm)",
    ) -> None:
        """From now on use no more shared memory than `limit`."""
        self.pool.limit = limit
        self.refused = self.refused or limit == 0
        if not self._warned:
            self._warned = True
            logger.warning("tensors travel over HTTP, since the server %s: %s", why, error)


def _is_final(error: errors.ServerError) -> bool:
    """Return whether a server that refuses a region this way will refuse all."""
    if error.status() in ("400", "501"):
        return True
    return "shared memory" in (own_words(error) or "").lower()


def _unregister(blocks: list[Block], *, closing: bool = False) -> Generator[Operation[Any], Any, None]:
    """Have the server forget blocks, and remove those from the list that it has forgotten.

    A connection that fails, or a gateway that does not pass the request on, ends it: the next call goes on here. A
    client that closes has no next call, so it tries each block twice, and ends when the server does not answer at
    all.
    """
    for block in list(blocks):
        for last in (False, True) if closing else (True,):
            try:
                yield operations.unregister_shared_memory("system", block.name)
            except errors.ServerError as error:
                if shares_nothing(error):
                    blocks.clear()  # it was restarted, and has none of them
                    return
                if str(error.status()) in GATEWAY and own_words(error) is None and not closing:
                    return
                break  # in use by a request that was given up
            except (errors.ConnectionLost, errors.ProtocolError):
                if last and not closing:
                    return
            except (errors.ConnectError, errors.DeadlineExceeded):
                if last:
                    return
            except errors.InferenceServerException:
                return
            else:
                with contextlib.suppress(ValueError):  # another thread closes the client, too
                    blocks.remove(block)
                break
