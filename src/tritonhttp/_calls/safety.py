"""The one rule: may an operation run twice, or be asked for again?

What is known of a try is not decided here: a connection knows whether the server can have seen the request
(`policy.may_resend`), and :class:`Retry` for which outcomes its caller wants another try.
"""

from __future__ import annotations

from typing import Any

from .._protocol.operations import Operation

__all__ = ["may_be_asked_again", "may_run_twice"]


def may_run_twice(operation: Operation[Any]) -> bool:
    """Return whether running an operation twice, even at the same time, does no more than running it once.

    The caller or the endpoint has to say so, and it must not be part of a sequence. An inference must not write to
    memory of the caller's: a first run may still write there when the second has ended. `Operation.renew` gives
    each run memory of its own.
    """
    return (
        operation.idempotent is True
        and operation.sequence is None
        and (operation.renew is not None or not operation.is_placed)
    )


def may_be_asked_again(operation: Operation[Any]) -> bool:
    """Return whether an operation may be sent again in another form when the server has refused it or its result.

    It has run at most once to an end. Only a caller that says so, or a sequence, forbids it.
    """
    return operation.idempotent is not False and operation.sequence is None
