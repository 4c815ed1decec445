"""Writes that not every replica confirmed. Their keys are compared soon, not only in the next round.

Contract: `note` is for any thread.
"""

from collections import deque

from kdht.node.repair.context import RepairContext
from kdht.node.repair.plan import Plan
from kdht.node.repair.ranges import KeptRange, number
from kdht.times import SteadyTime

# Many misses together mean that a node is gone. Then its ranges are compared anyway.
MOST = 4096
"""Keys that are remembered. Older ones are left to the next round."""


class Missed:
    """The missed writes of one coordinator."""

    def __init__(self, context: RepairContext, plan: Plan) -> None:
        self._context = context
        self._plan = plan
        self._keys: deque[bytes] = deque(maxlen=MOST)

    def note(self, key: bytes) -> None:
        """A replica of this key was silent or refused a write."""
        self._keys.append(key)

    def start(self, now: SteadyTime) -> None:
        """Look from time to time."""
        delay = self._context.node.jittered(self._context.options.missed_delay)
        self._context.node.timers.at(now + delay, self._look)

    def _look(self, now: SteadyTime) -> None:
        for kept in sorted(self._kept_ranges(), key=lambda kept: kept.range):
            for peer in sorted(kept.replicas - {self._context.node.id}):
                self._plan.want(peer, [kept.range], now)
        self.start(now)

    def _kept_ranges(self) -> set[KeptRange]:
        """The kept ranges of the noted keys, which are then forgotten. Keys of other nodes are ignored.

        Without a view the replicas are unknown, so the keys wait.
        """
        found: set[KeptRange] = set()
        view = self._context.view
        if view is None:
            return found
        for _ in range(len(self._keys)):  # others may add to them meanwhile
            kept = view.kept_range(number(self._keys.popleft()))
            if kept is not None:
                found.add(kept)
        return found
