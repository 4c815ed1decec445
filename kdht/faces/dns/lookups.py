"""What the cluster has under names, kept for a second.

One event loop. A name that many ask for is read once a second. While the cluster does not answer, what was read before goes on
until it expires: an announcement holds for its TTL, wherever it is kept.
"""

import asyncio
from collections.abc import Callable

from kdht.client import AsyncClient
from kdht.errors import NotFound, RequestError
from kdht.faces.dns.records import Entry, entry_of_member, entry_of_record
from kdht.times import SteadyTime, UnixTime

# A second is the shortest TTL that an answer can have, so nobody sees anything older than without this
# cache.
FRESH_S = 1.0
MAX_MEMBERS = 200
"""Of one set in an answer. Their longest records fit into one by TCP. Of a larger set others are drawn each time."""
# Names. Strangers choose them, so their number has a bound.
MAX_KEPT = 16384
MAX_UNDER_WAY = 512
"""Names that are being read. A flood of names that do not exist costs the cluster no more."""

Entries = tuple[Entry, ...]


class Lookups:
    """Reads names through a client. `count` counts what failed."""

    def __init__(
        self,
        client: AsyncClient,
        unix: Callable[[], UnixTime],
        steady: Callable[[], SteadyTime],
        count: Callable[[str], None],
    ) -> None:
        self._client = client
        self._unix = unix
        self._steady = steady
        self._count = count
        self._kept: dict[bytes, tuple[float, Entries]] = {}
        """Until when they are fresh, and what they are, the longest unread first."""
        self._under_way: dict[bytes, asyncio.Task[Entries | None]] = {}

    def known(self, name: bytes) -> Entries | None:
        """What is under a name, if that was read within the last second."""
        fresh_until, entries = self._kept.get(name, (0.0, ()))
        return entries if self._steady() < fresh_until else None

    async def find(self, name: bytes) -> Entries | None:
        """What is under a name; None if the cluster does not answer."""
        task = self._under_way.get(name)
        if task is None:
            if len(self._under_way) >= MAX_UNDER_WAY:
                self._count("busy")
                return None
            task = self._under_way[name] = asyncio.create_task(self._read(name))
            task.add_done_callback(lambda _: self._under_way.pop(name))
        # One who gives up does not end it for the others.
        return await asyncio.shield(task)

    async def stop(self) -> None:
        """End what is under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, name: bytes) -> Entries | None:
        self._count("lookups")
        try:
            entries = await self._entries(name)
        except RequestError as error:
            self._count(f"lookups_{(error.status or type(error).__name__).lower()}")
            _, old = self._kept.get(name, (0.0, ()))
            now = self._unix()
            entries = tuple(entry for entry in old if entry.expiry > now)
            if not entries:
                return None
        self._kept.pop(name, None)
        self._kept[name] = self._steady() + FRESH_S, entries
        if len(self._kept) > MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        return entries

    async def _entries(self, name: bytes) -> Entries:
        members = await self._client.members(name, most=MAX_MEMBERS)
        if members:
            now = self._unix()
            return tuple(entry_of_member(member, now) for member in members)
        # Not both at once: a read of an absent key asks a majority of its replicas, and most names are sets.
        return await self._record(name)

    async def _record(self, name: bytes) -> Entries:
        try:
            record = await self._client.get_record(name)
        except NotFound:
            # An absent record is an answer too, and is kept like one.
            return ()
        return (entry_of_record(record, self._unix()),)
