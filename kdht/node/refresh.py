"""Buckets in which nothing was looked up for long get a lookup of a random ID.

Contract: after `farther`, each bucket up to the closest contact's is looked up once; from
then on whenever its own, jittered, time has passed since the last lookup in its range, and
soon after it lost a contact that nobody replaces (Kademlia, section 2.3).
"""

from collections.abc import Callable
from functools import partial

from kdht._shared import ID_BITS, ID_LEN
from kdht.node.context import Context
from kdht.node.search import Found, Searches
from kdht.node.timers import Alarm
from kdht.wire import Contact

CHECKS_PER_INTERVAL = 60


def _ignore(closest: list[Contact], now: float) -> None:
    """What a refresh is for, the table has learnt already."""


class Refresher:
    """When which bucket is looked up."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._due: dict[int, float] = {}
        self._repairs: set[int] = set()
        self._alarm: Alarm | None = None
        self.searches: Searches
        """Set by the Node: lookups and refreshes know of each other."""

    def start(self, now: float) -> None:
        """Begin to watch the time, if that has not begun."""
        if self._alarm is None:
            interval = self._context.options.refresh_interval / CHECKS_PER_INTERVAL
            self._alarm = self._context.timers.at(now + self._context.jittered(interval), self._check)

    def looked(self, target: bytes, now: float) -> None:
        """A lookup of `target` begins: its bucket's time starts anew."""
        self._postpone(self._context.table.index(target), now)

    def farther(self, now: float, done: Callable[[float], None]) -> None:
        """Refresh all buckets up to the one of the closest contact; `done(now)` after the last lookup."""
        left = set(range(self._context.table.deepest() + 1))

        def ended(index: int, closest: list[Contact], now: float) -> None:
            left.discard(index)
            if not left:
                done(now)

        for index in sorted(left):
            if not self._refresh(index, now, partial(ended, index)):
                ended(index, [], now)

    def repair(self, index: int, now: float) -> None:
        """A bucket lost a contact, and nobody waits for the place."""
        if index not in self._repairs:
            self._repairs.add(index)
            when = now + self._context.jittered(self._context.options.repair_delay)
            self._context.timers.at(when, partial(self._repair, index))

    def _repair(self, index: int, now: float) -> None:
        self._repairs.discard(index)
        if not self._context.table.is_full(index):
            self._refresh(index, now)

    def _check(self, now: float) -> None:
        self._alarm = None
        for index in range(self._context.table.deepest() + 1):
            due = self._due.get(index)
            if due is None:
                self._postpone(index, now)
            elif due <= now:
                self._refresh(index, now)
        self.start(now)

    def _refresh(self, index: int, now: float, found: Found = _ignore) -> bool:
        self._postpone(index, now)
        return self.searches.start(self._random_id(index), found, now)

    def _postpone(self, index: int, now: float) -> None:
        self._due[index] = now + self._context.jittered(self._context.options.refresh_interval)

    def _random_id(self, index: int) -> bytes:
        """An ID that shares exactly `index` leading bits with this node."""
        below = ID_BITS - 1 - index
        shared = (int.from_bytes(self._context.id, "big") >> below) ^ 1
        return ((shared << below) | self._context.rng.getrandbits(below)).to_bytes(ID_LEN, "big")
