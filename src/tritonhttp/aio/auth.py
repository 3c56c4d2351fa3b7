"""The plugins of :mod:`tritonhttp.auth`, under the reference's name for the asyncio client."""

from ..auth import ApiKeyAuth, BasicAuth, BearerAuth

__all__ = ["ApiKeyAuth", "BasicAuth", "BearerAuth"]
