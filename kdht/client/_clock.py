"""The versions of a client's own writes: microseconds since 1970, as the cluster's clocks say, and never the same one twice.

No clock of its own: `unix_us` is handed in. Where a node says that this host's clock is far off, the difference is remembered.
So it is where a version that this client knows is ahead of its clock: of two clients that are behind the same version each would else
choose the next number, and both the same.
"""

from collections.abc import Callable
from random import Random

from kdht.wire.limits import MAX_VERSION

AHEAD = 60_000_000
"""Microseconds: a node refuses a version that is further from its clock."""
SPREAD = 1_000_000
"""Microseconds: a conditional write's version is drawn from the last so many."""
SPREAD_AHEAD = 1 << 14
"""Where the clock is not past what stands: from the next so many above that."""


class WriteClock:
    """Gives each write its version."""

    def __init__(self, unix_us: Callable[[], int], rng: Random) -> None:
        self._unix_us = unix_us
        self._rng = rng
        self._offset = 0
        self._last = 0

    def next(self, least: int, *, alone: bool = False) -> int:
        """A version above every one given before, and at least `least`.

        `alone`: one that no other client gives at the same time, as far as chance allows: of two conditional writes of one value under one
        version nobody could say which was done.
        """
        now = self._now()
        own = max(now, self._last + 1)
        room = now - max(least, self._last + 1)
        if alone and room > SPREAD_AHEAD:
            own -= self._rng.randrange(min(room, SPREAD))
        elif alone or least > own:
            least = max(least, self._last + 1) + self._rng.randrange(SPREAD_AHEAD)
            behind = least - now
            self._offset += behind if 0 < behind <= AHEAD else 0
            own = least
        self._last = min(max(own, least), MAX_VERSION)
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
