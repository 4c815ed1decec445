"""kdht: a distributed hash table whose routing runs in the packet path.

An application needs `Client` or `AsyncClient` (docs/client.md). docs/protocol.md shows how to do without them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdht.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load the clients on first use, so that importing a part of kdht stays cheap."""
    if name in ("AsyncClient", "Client"):
        return getattr(import_module("kdht.client"), name)
    raise AttributeError(f"module 'kdht' has no attribute {name!r}")
