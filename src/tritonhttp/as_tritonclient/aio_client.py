"""The reference's asyncio client: it shows responses as aiohttp does, and is ours otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .._basics.redaction import masked
from .._clients.awaited import client
from .._clients.awaited.aiohttp_forms import Answer
from .client import lines_of

__all__ = ["InferenceServerClient"]


class CIMultiDictProxy(Mapping[str, str]):
    """Header lines, each of which counts; names are found in any case, and shown as they came."""

    def __init__(self, lines: list[tuple[str, str]]) -> None:
        self._lines = lines

    def getall(self, name: str, *default: Any) -> Any:
        """Return the values of all lines of that name."""
        found = [value for each, value in self._lines if each.lower() == name.lower()]
        if not found and not default:
            raise KeyError(name)
        return found or default[0]

    def __getitem__(self, name: str) -> str:
        first: str = self.getall(name)[0]
        return first

    def getone(self, name: str, *default: Any) -> Any:
        """Return the value of the first line of that name."""
        return self.getall(name, *([each] for each in default))[0]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for name, _ in self._lines))

    def __len__(self) -> int:
        return len(self._lines)

    def items(self) -> list[tuple[str, str]]:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the names and values of all lines."""
        return self._lines

    def values(self) -> list[str]:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the values of all lines."""
        return [value for _, value in self._lines]

    def __repr__(self) -> str:
        shown = (masked([line]).popitem() for line in self._lines)
        return f"<{type(self).__name__}({', '.join(f'{name!r}: {value!r}' for name, value in shown)})>"


class ClientResponse(Answer):
    """A response whose text programs know: ``[404 Not Found]`` stands in it."""

    __slots__ = ()

    @property
    def headers(self) -> CIMultiDictProxy:
        """The header lines."""
        return CIMultiDictProxy(lines_of(self))

    def __repr__(self) -> str:
        first = f"<{type(self).__name__}({self.url}) [{self.status} {self.reason}]>"
        return f"{first}\n{self.headers!r}\n"


class InferenceServerClient(client.InferenceServerClient):
    """The asyncio client; see :class:`tritonhttp.aio.InferenceServerClient`."""

    _as_answer = staticmethod(ClientResponse.of)
