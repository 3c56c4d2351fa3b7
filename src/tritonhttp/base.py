"""What the blocking and the asyncio client have in common, under the name that programs know."""

from ._clients.base import ClientBase

__all__ = ["ClientBase"]
