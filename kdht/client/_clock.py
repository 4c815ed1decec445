"""The versions of a client's writes: microseconds since 1970 by the cluster's clocks, never the same one twice.

The clock, `unix_us`, is passed in. If a node says that this host's clock is far off, the difference is remembered. The
same happens if the client knows a version ahead of its clock: otherwise two clients behind the same version would both
choose the next number.
"""

from collections.abc import Callable
from random import Random

from kdht.wire.limits import MAX_CLOCK_ERROR, MAX_VERSION

SPREAD = 1_000_000
"""Microseconds before now, from which a conditional write's version is drawn."""
SPREAD_AHEAD = 1 << 14
"""If the clock is not past the present version: how many above that to draw from."""


class WriteClock:
    """Gives each write its version."""

    def __init__(self, unix_us: Callable[[], int], rng: Random) -> None:
        self._unix_us = unix_us
        self._rng = rng
        self._offset = 0
        self._last = 0

    def next(self, least: int, *, alone: bool = False) -> int:
        """A version above every earlier one of this clock, and at least `least`.

        `alone`: very likely no other client gives the same one at the same time. If two conditional writes of one
        value had one version, nobody could tell which of them was done.
        """
        now = self.now()
        own = max(now, self._last + 1)
        room = now - max(least, self._last + 1)
        # From the last second: two conditional writes of one value would both be told OK under one version.
        if alone and room > SPREAD_AHEAD:
            own -= self._rng.randrange(min(room, SPREAD))
        # Clients behind the same version would all take the next number.
        elif alone or least > own:
            least = max(least, self._last + 1) + self._rng.randrange(SPREAD_AHEAD)
            behind = least - now
            self._offset += behind if 0 < behind <= MAX_CLOCK_ERROR else 0
            own = least
        self._last = min(max(own, least), MAX_VERSION)
        return self._last

    def refused(self, version: int, told: int) -> None:
        """A node refused `version`; `told` is the key's version, or the node's clock.

        If it is lower, it can only be the clock. If it is greater than any version may be, it is the clock too.
        """
        now = self.now()
        # Both mean: this host's clock is off. The difference is kept.
        if told < version or told > now + MAX_CLOCK_ERROR:
            self._offset += told - now
        if told < version:
            self._last = min(self._last, told)

    def now(self) -> int:
        """Microseconds since 1970, by the cluster's clocks as far as they are known."""
        return self._unix_us() + self._offset
