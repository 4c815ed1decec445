"""What an application imports: get, put, delete, watch and trace through any node of a cluster.

It imports layer 0 alone. Most modules have no I/O and no clock:

    _calls, _arguments           the meaning of the operations
    _exchange, _retries          one request: a table of its replies, and the policy of its tries
    _reads, _writes, _watch      the rules of each kind
    _session, _client_state      all requests of one client, and their common state
    _nodes, _versions, _clock,   the parts of that state
    _direct, _hedging, _routes,
    _learning, _rights
    _datagram                    the bytes of a request's tries
    _steps, _certified           operations of several requests
    _large, _large_streams,      large values
    _chunks, _sources, _journal,
    _manifest
    _transfer, _window,          the bursts of a large value's chunks
    _repeats
    _sets, _set_watch            members of sets
    _timed                       reads with the time in their proof
    _seal                        encrypted values
    _record_checks, _keyfiles    whether a record may be believed; secret keys in files

`sync` and `aio` (with `_driver` and `_aio_large`) add sockets (`_sockets`, `_pump`, `_bulk` with its plain twin `_plain_bulk`) and time, `_announcement` and `_aio_announcement` renewals. `_options` are
those of both clients.
"""

from typing import TYPE_CHECKING, Any

from kdht.client._announcement import Announcement
from kdht.client._calls import Hop
from kdht.client._certified import NO_VALUE, SignedRecord
from kdht.client._keyfiles import SealKey, SigningKey
from kdht.client._manifest import MAX_LARGE, is_manifest, large_size
from kdht.client.sync import Client
from kdht.wire.limits import MAX_LEASE
from kdht.wire.sets import Member

if TYPE_CHECKING:
    from kdht.client._aio_large import OpenValue
    from kdht.client.aio import AsyncClient

__all__ = [
    "MAX_LARGE", "MAX_LEASE", "NO_VALUE", "Announcement", "AsyncClient", "Client", "Hop", "Member", "OpenValue", "SealKey", "SignedRecord", "SigningKey",
    "is_manifest", "large_size",
]  # fmt: skip


# A type checker that saw it would take every misspelled name for one of these.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Load asyncio only on first use: a program with one `put` does not wait for it."""
        if name == "AsyncClient":
            from kdht.client.aio import AsyncClient

            return AsyncClient
        if name == "OpenValue":
            from kdht.client._aio_large import OpenValue

            return OpenValue
        raise AttributeError(f"module 'kdht.client' has no attribute {name!r}")
