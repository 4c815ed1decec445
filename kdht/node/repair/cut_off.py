"""Notices that this node was cut off: the others may have gone on without it.

They take a silent node for dead. The next closest node takes its place, and confirms writes once it has been counted as a
replica for `STABLE_SECONDS`. The node that was cut off sees nothing of that. When it is back, its answers from before and
the newcomer's absence would make a majority that lacks those writes. So a node that hears nobody falls behind before
another one can have its place.

Only replies count: if nobody hears this node, it may still hear others' requests.
"""

from collections.abc import Callable

from kdht.node.repair.context import RepairContext
from kdht.times import SteadyTime

SILENCE_SECONDS = 2.0
"""Less than the others need: eight missed pings, 0.75 s, and then STABLE_SECONDS. More than the 0.8 s between two pings,
even if the pinged node has just died."""
AGAIN = SILENCE_SECONDS / 4
"""Seconds between looks while nobody is heard."""


class CutOff:
    """Calls `fall_behind` once for each time of silence. A node that never heard anybody is the first of its cluster."""

    def __init__(self, context: RepairContext, fall_behind: Callable[[], None]) -> None:
        self._node = context.node
        self._fall_behind = fall_behind
        self._last = self._node.rpcs.answered_at
        """The last reply before the silence that was noticed last."""

    def start(self, now: SteadyTime) -> None:
        """Look from now on."""
        self._node.timers.at(now + SILENCE_SECONDS, self._look)

    def _look(self, now: SteadyTime) -> None:
        last = self._node.rpcs.answered_at
        if now - last < SILENCE_SECONDS:
            self._node.timers.at(last + SILENCE_SECONDS, self._look)
            return
        if last != self._last:
            self._last = last
            self._fall_behind()
        self._node.timers.at(now + AGAIN, self._look)
