"""The node's half of the lease under which the XDP program answers GETs of hot records.

The other half is the socket's loop's (kdht/datapath/socket/_socket.pyx). Both write until when they vouch for the
records; docs/design/hot.md says why.
"""

import time
from collections.abc import Callable

from kdht.storage._cache import RecordCache
from kdht.storage._hot import HotTable

BEAT_SECONDS = 0.1
LEASE_NS = 500_000_000
"""As long as the socket's loop may be away before what it knows counts for nothing."""


class HotKeeper:
    """`beat` runs in the event loop, so it shows that the loop lives. `serves`: whether this node may answer from its
    own store alone."""

    def __init__(self, table: HotTable, cache: RecordCache, serves: Callable[[], bool]) -> None:
        self._table = table
        self._cache = cache
        self._serves = serves

    async def beat(self) -> None:
        """Renew the lease or end it, and put into the table what has become hot."""
        if not self._table.is_open:
            return
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._table.serve_until(now + LEASE_NS if self._serves() else 0)
        self._cache.heat(self._table.take_noted())
