"""The versions of a client's own writes: microseconds since 1970, as the cluster's clocks say, and never the same one twice.

No clock of its own: `unix_us` is handed in. Where a node says that this host's clock is far off, the difference is remembered.
"""

from collections.abc import Callable
from random import Random

from kdht.client._calls import MAX_VERSION

AHEAD = 60_000_000
"""Microseconds: a node refuses a version that is further from its clock."""
SPREAD = 1_000_000
"""Microseconds: a conditional write's version is drawn from the last so many."""
SPREAD_AHEAD = 1 << 14
"""And from the next so many above what stands, where the clock is behind that."""
STEP_AHEAD = 1 << 12
"""The same for a write without a condition: fewer, since with each of many such writes what stands runs ahead of all clocks."""


class WriteClock:
    """Gives each write its version."""

    def __init__(self, unix_us: Callable[[], int], rng: Random) -> None:
        self._unix_us = unix_us
        self._rng = rng
        self._offset = 0
        self._last = 0

    def next(self, least: int, *, alone: bool = False) -> int:
        """A version above every one given before, and at least `least`.

        `alone`: one that no other client gives at the same time, as far as chance allows. Of two conditional writes of one value under one
        version nobody could say which was done; and two clients whose clocks are behind would both take the next after what stands.
        A write without a condition needs that only where its clock is behind what is known of the key.
        """
        now = self._now()
        if not alone and least > max(self._last + 1, now):
            least += self._rng.randrange(STEP_AHEAD)
        least = max(self._last + 1, least)
        if alone and now - least > SPREAD_AHEAD:
            now -= self._rng.randrange(min(now - least, SPREAD))
        elif alone:
            least += self._rng.randrange(SPREAD_AHEAD)
        self._last = min(max(now, least), MAX_VERSION)
        return self._last

    def refused(self, version: int, told: int) -> None:
        """A node refused a version: `told` is what stands, or what its clock says.

        A lower one can only be its clock. A greater one is its clock if it is further off than any version may be.
        """
        now = self._now()
        if told < version or told > now + AHEAD:
            self._offset += told - now
        if told < version:
            self._last = min(self._last, told)

    def _now(self) -> int:
        return self._unix_us() + self._offset
