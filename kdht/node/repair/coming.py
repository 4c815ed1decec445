"""Records that other nodes are about to bring. Nobody else is asked for them meanwhile, nor told that they are missing."""

from kdht.node.repair.bodies import Offered
from kdht.node.repair.ranges import number
from kdht.times import SteadyTime

# Longer than a STORE with its first repetition takes. If the sender dies, another brings the record after that.
SECONDS = 3.0
"""A record counts as coming for so long after a node was told to bring it, or said so itself."""
# Twice the records that pushers have under way. What is forgotten may come twice, which does no harm.
MOST = 8192


class Coming:
    """One node's."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[Offered, float]] = {}

    def note(self, offered: Offered, now: SteadyTime) -> None:
        """A node brings this record."""
        self._known.pop(offered.key, None)
        if len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        self._known[offered.key] = offered, now + SECONDS

    def has(self, offered: Offered, now: SteadyTime) -> bool:
        """Whether a node brings this record or a newer one."""
        known, until = self._known.get(offered.key, (None, now))
        return known is not None and known.version >= offered.version and now < until

    def within(self, start: int, stop: int, now: SteadyTime) -> list[Offered]:
        """Records that come for the keys start <= key < stop."""
        while self._known and next(iter(self._known.values()))[1] <= now:
            del self._known[next(iter(self._known))]
        return [offered for offered, _ in self._known.values() if start <= number(offered.key) < stop]
