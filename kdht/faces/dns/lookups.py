"""What the cluster has under names, and for how long others may keep it.

One event loop. A name that many ask for is read once a second. A later question gets the last answer at once, and the name is read
anew. The TTL of such an answer is shorter by its age, so nobody keeps it for longer than after a read of its own. While the
cluster does not answer, what was read before goes on until it expires: an announcement holds for its TTL, wherever it is kept.
"""

import asyncio
import math
from collections.abc import Callable
from typing import NamedTuple

from kdht.client import AsyncClient
from kdht.errors import NotFound, RequestError
from kdht.faces.dns.records import Entry, entry_of_member, entry_of_record
from kdht.times import SteadyTime, UnixTime

FRESH_S = 1.0
"""The most that a second in a TTL can differ from what was read."""
GATHERED_S = 0.05
"""So long names are gathered that are to be read anew, and nobody waits for them: one wake-up of face and node reads many."""
MAX_MEMBERS = 200
"""Of one set in an answer. Their longest records fit into one by TCP. Of a larger set others are drawn each time."""
# Names. Strangers choose them, so their number has a bound.
MAX_KEPT = 16384
MAX_UNDER_WAY = 512
"""Names that are being read. A flood of names that do not exist costs the cluster no more."""

Entries = tuple[Entry, ...]


class Known(NamedTuple):
    """What is under a name, as far as it may be told without a read."""

    entries: Entries
    shape: object
    """The same object as long as the entries differ in their ends alone."""
    soonest: float
    """Unix seconds at which the first entry ends; infinite for none."""
    most_ttl: int
    """Seconds that others may keep it."""


class _Kept(NamedTuple):
    read_at: SteadyTime
    known: Known


class Lookups:
    """Reads names through a client. `ttl`: the zone's. `count` counts what failed."""

    def __init__(
        self,
        client: AsyncClient,
        ttl: int,
        unix: Callable[[], UnixTime],
        steady: Callable[[], SteadyTime],
        count: Callable[[str], None],
    ) -> None:
        self._client = client
        self._ttl = ttl
        self._unix = unix
        self._steady = steady
        self._count = count
        self._kept: dict[bytes, _Kept] = {}
        """The longest unread first."""
        self._under_way: dict[bytes, asyncio.Task[Entries | None]] = {}
        self._due: set[bytes] = set()
        """Names to be read anew with the next timer."""
        self._timer: asyncio.TimerHandle | None = None

    def known(self, name: bytes) -> Known | None:
        """What was read under a name. If that is older than a second, it is read anew soon. None: wait for one (`find`)."""
        kept = self._kept.get(name)
        if kept is None:
            return None
        age = self._steady() - kept.read_at
        if age < FRESH_S:
            return kept.known
        most_ttl = self._ttl - int(age)
        # A new name shall not wait for the second question. And an entry that ended here may have been renewed since.
        if most_ttl < 1 or not kept.known.entries or kept.known.soonest <= self._unix():
            return None
        self._gather(name)
        return kept.known._replace(most_ttl=most_ttl)

    async def find(self, name: bytes) -> Entries | None:
        """What is under a name now; None if the cluster does not answer."""
        task = self._begun(name)
        if task is None:
            self._count("busy")
            return None
        # One who gives up does not end it for the others.
        return await asyncio.shield(task)

    async def stop(self) -> None:
        """End what is under way."""
        if self._timer is not None:
            self._timer.cancel()
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _gather(self, name: bytes) -> None:
        if name in self._under_way:
            return
        if not self._due:
            self._timer = asyncio.get_running_loop().call_later(GATHERED_S, self._read_due)
        self._due.add(name)

    def _read_due(self) -> None:
        due, self._due = self._due, set()
        for name in due:
            kept = self._kept.get(name)
            # Somebody who had to wait may have read it meanwhile.
            if kept is not None and self._steady() - kept.read_at >= FRESH_S:
                self._begun(name)

    def _begun(self, name: bytes) -> asyncio.Task[Entries | None] | None:
        """The read of a name that is under way, or begins now. None: too many are."""
        task = self._under_way.get(name)
        if task is None and len(self._under_way) < MAX_UNDER_WAY:
            task = self._under_way[name] = asyncio.create_task(self._read(name))
            task.add_done_callback(lambda _: self._under_way.pop(name))
        return task

    async def _read(self, name: bytes) -> Entries | None:
        self._count("lookups")
        try:
            entries = await self._entries(name)
        except RequestError as error:
            self._count(f"lookups_{(error.status or type(error).__name__).lower()}")
            now = self._unix()
            entries = tuple(entry for entry in self._old(name) if entry.expiry > now)
            if not entries:
                return None
        self._keep(name, entries)
        return entries

    def _old(self, name: bytes) -> Entries:
        kept = self._kept.get(name)
        return kept.known.entries if kept else ()

    def _keep(self, name: bytes, entries: Entries) -> None:
        old = self._kept.pop(name, None)
        shape: object = tuple(entry._replace(expiry=0.0) for entry in entries)
        if old is not None and old.known.shape == shape:
            shape = old.known.shape
        soonest = min((entry.expiry for entry in entries), default=math.inf)
        self._kept[name] = _Kept(self._steady(), Known(entries, shape, soonest, self._ttl))
        if len(self._kept) > MAX_KEPT:
            del self._kept[next(iter(self._kept))]

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
