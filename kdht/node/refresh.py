"""Lookups of random IDs in buckets where nothing was looked up for long.

Contract: after `farther`, each bucket up to that of the closest contact is looked up once. Later that happens whenever its
own, jittered, time has passed since the last lookup in its range, and soon after it lost a contact without a replacement
(Kademlia, section 2.3). A wide bucket should have all nodes of its range. If a lookup finds k of them, each half is looked
up too.
"""

from collections.abc import Callable
from functools import partial

from kdht.node._timers import Alarm
from kdht.node.context import NodeContext
from kdht.node.search import Found, Searches
from kdht.times import SteadyTime
from kdht.wire import Contact
from kdht.wire._shared import ID_BITS, ID_LEN

CHECKS_PER_INTERVAL = 60
# Each death may make a bucket wide. A lookup for each of eight deaths at once would find the same nodes eight
# times.
WIDEN_DELAY = 0.3
"""Seconds until buckets that became wide are looked up: several deaths are taken together."""


def _ignore(closest: list[Contact], now: SteadyTime) -> None:
    """What a refresh is for, the table has learnt already."""


class Refresher:
    """The times at which the buckets of one node are looked up."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._due: dict[int, float] = {}
        self._repairs: set[int] = set()
        self._alarm: Alarm | None = None
        self._widening: Alarm | None = None
        self.searches = Searches(context, self.looked)
        """All lookups of the node. Each one counts as a refresh of its bucket."""

    def start(self, now: SteadyTime) -> None:
        """Begin, unless that was done already."""
        if self._alarm is None:
            interval = self._context.options.refresh_interval / CHECKS_PER_INTERVAL
            self._alarm = self._context.timers.at(now + self._context.jittered(interval), self._check)

    def looked(self, target: bytes, now: SteadyTime) -> None:
        """A lookup of `target` begins: its bucket's time starts anew."""
        # Any lookup teaches the table as much as a refresh.
        self._postpone(self._context.table.index(target), now)

    def farther(self, now: SteadyTime, done: Callable[[SteadyTime], None]) -> None:
        """Refresh all buckets up to the one of the closest contact; `done(now)` after the last lookup."""
        # Deeper buckets are empty: nobody shares more bits with this node.
        left = set(range(self._context.table.deepest() + 1))

        def ended(index: int, closest: list[Contact], now: SteadyTime) -> None:
            left.discard(index)
            if not left:
                done(now)

        for index in sorted(left):
            # Too many lookups wait. The join must end all the same, and the bucket's own time comes.
            if not self._refresh(index, now, partial(ended, index)):
                ended(index, [], now)

    def repair(self, index: int, now: SteadyTime) -> None:
        """A bucket lost a contact and has no replacement."""
        if index not in self._repairs:
            self._repairs.add(index)
            # Not at once: most deaths are restarts, and the contact is back by then.
            when = now + self._context.jittered(self._context.options.repair_delay)
            self._context.timers.at(when, partial(self._repair, index))

    def widen(self, now: SteadyTime) -> None:
        """Some buckets may have become wide, and have room for more contacts."""
        if self._widening is None:
            self._widening = self._context.timers.at(now + self._context.jittered(WIDEN_DELAY), self._widen)

    def _widen(self, now: SteadyTime) -> None:
        self._widening = None
        for index in self._context.table.wide():
            self._refresh(index, now)

    def _repair(self, index: int, now: SteadyTime) -> None:
        self._repairs.discard(index)
        # A newcomer may have taken the place meanwhile.
        if not self._context.table.is_full(index):
            self._refresh(index, now)

    def _check(self, now: SteadyTime) -> None:
        self._alarm = None
        for index in range(self._context.table.deepest() + 1):
            due = self._due.get(index)
            if due is None:
                self._postpone(index, now)
            elif due <= now:
                self._refresh(index, now)
        self.start(now)

    def _refresh(self, index: int, now: SteadyTime, found: Found = _ignore) -> bool:
        self._postpone(index, now)
        return self._look_up(self._sibling(index), index + 1, found, now)

    def _look_up(self, prefix: int, bits: int, found: Found, now: SteadyTime) -> bool:
        """A random ID that begins with these bits; then, in a wide bucket that may have more, each half."""

        def ended(closest: list[Contact], now: SteadyTime) -> None:
            below = ID_BITS - bits
            inside = [each for each in closest if int.from_bytes(each.id, "big") >> below == prefix]
            index = self._context.table.index(target)
            # A lookup ends with k contacts. As many in this part mean that there may be more.
            if len(inside) >= self._context.options.k and self._context.table.is_wide(index) and below:
                for half in (2 * prefix, 2 * prefix + 1):
                    self._look_up(half, bits + 1, _ignore, now)
            found(closest, now)

        target = self._random_id(prefix, bits)
        return self.searches.start(target, ended, now)

    def _postpone(self, index: int, now: SteadyTime) -> None:
        self._due[index] = now + self._context.jittered(self._context.options.refresh_interval)

    def _sibling(self, index: int) -> int:
        """The first `index` + 1 bits of all IDs that share exactly `index` leading bits with this node."""
        return (int.from_bytes(self._context.id, "big") >> (ID_BITS - 1 - index)) ^ 1

    def _random_id(self, prefix: int, bits: int) -> bytes:
        below = ID_BITS - bits
        return ((prefix << below) | self._context.rng.getrandbits(below)).to_bytes(ID_LEN, "big")
