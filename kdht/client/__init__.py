"""What an application imports: get, put, delete, watch and trace through any node of a cluster.

It needs layer 0 alone. Without I/O and without a clock: `_calls` (what the operations mean), `_exchange` (one
request, in the datagrams of `_datagram`), `_session` (all of them), `_entries` and `_versions` (what is
known from earlier ones), `_watching`, `_steps`, `_large` and `_manifest` (what takes several requests).
`sync` and `aio` add sockets and time.
"""

from typing import TYPE_CHECKING, Any

from kdht.client._calls import Hop
from kdht.client._manifest import MAX_LARGE, is_manifest
from kdht.client.sync import Client
from kdht.wire.limits import MAX_LEASE

if TYPE_CHECKING:
    from kdht.client.aio import AsyncClient

__all__ = ["MAX_LARGE", "MAX_LEASE", "AsyncClient", "Client", "Hop", "is_manifest"]


def __getattr__(name: str) -> Any:
    """Load asyncio for those who want it: a program that puts one value does not wait for it."""
    if name == "AsyncClient":
        from kdht.client.aio import AsyncClient

        return AsyncClient
    raise AttributeError(f"module 'kdht.client' has no attribute {name!r}")
