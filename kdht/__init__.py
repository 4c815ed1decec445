"""kdht: a distributed hash table whose routing runs in the packet path.

An application needs `Client` or `AsyncClient`, and the exceptions that they raise (docs/client.md). docs/protocol.md shows how to do without them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdht.client import AsyncClient, Client
    from kdht.errors import (
        BadArgument,
        BadToken,
        ConfigError,
        Conflict,
        Denied,
        KdhtError,
        NotFound,
        PortClosed,
        RequestError,
        RequestTimeout,
        Unconfirmed,
        ValueTooLarge,
    )

__all__ = [
    "AsyncClient",
    "BadArgument",
    "BadToken",
    "Client",
    "ConfigError",
    "Conflict",
    "Denied",
    "KdhtError",
    "NotFound",
    "PortClosed",
    "RequestError",
    "RequestTimeout",
    "Unconfirmed",
    "ValueTooLarge",
    "__version__",
]
__version__ = "0.1.0"


# A type checker that saw it would take every misspelled name for one of these.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Load the clients on first use, so that importing a part of kdht stays cheap."""
        if name in ("AsyncClient", "Client"):
            return getattr(import_module("kdht.client"), name)
        if name in __all__:
            return getattr(import_module("kdht.errors"), name)
        raise AttributeError(f"module 'kdht' has no attribute {name!r}")
