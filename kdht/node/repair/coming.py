"""What others are about to bring: nobody else is asked for it meanwhile, nor told that it is missing."""

from kdht.node.repair.bodies import Offered
from kdht.node.repair.ranges import number
from kdht.times import SteadyTime

SECONDS = 3.0
"""So long a record counts as coming after one node was told to bring it, or said that it does."""
MOST = 8192


class Coming:
    """One node's."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[Offered, float]] = {}

    def note(self, offered: Offered, now: SteadyTime) -> None:
        """Somebody brings it."""
        self._known.pop(offered.key, None)
        if len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        self._known[offered.key] = offered, now + SECONDS

    def has(self, offered: Offered, now: SteadyTime) -> bool:
        """Whether somebody brings it, or a newer one."""
        known, until = self._known.get(offered.key, (None, now))
        return known is not None and known.version >= offered.version and now < until

    def within(self, start: int, stop: int, now: SteadyTime) -> list[Offered]:
        """What comes for the keys from `start` until before `stop`."""
        while self._known and next(iter(self._known.values()))[1] <= now:
            del self._known[next(iter(self._known))]
        return [offered for offered, _ in self._known.values() if start <= number(offered.key) < stop]
