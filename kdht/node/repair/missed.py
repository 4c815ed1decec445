"""Writes that not every replica confirmed: what one may lack is compared soon, not in the next round.

Contract: `note` is for any thread.
"""

from collections import deque

from kdht.node.repair.plan import Plan
from kdht.node.repair.ranges import Share, number
from kdht.node.repair.room import Room

MOST = 4096
"""Keys that are remembered; past that the oldest are left to the next round."""


class Missed:
    """One node's, as coordinator of such writes."""

    def __init__(self, room: Room, plan: Plan) -> None:
        self._room = room
        self._plan = plan
        self._keys: deque[bytes] = deque(maxlen=MOST)

    def note(self, key: bytes) -> None:
        """A replica of this key was silent, or refused."""
        self._keys.append(key)

    def start(self, now: float) -> None:
        """Look from time to time."""
        delay = self._room.context.jittered(self._room.options.missed_delay)
        self._room.context.timers.at(now + delay, self._look)

    def _look(self, now: float) -> None:
        for share in sorted(self._shares(), key=lambda share: share.range):
            for peer in sorted(share.replicas - {self._room.context.id}):
                self._plan.want(peer, [share.range], now)
        self.start(now)

    def _shares(self) -> set[Share]:
        """Of the keys so far, which are forgotten. A key that others keep is not this node's to mend.

        Before there is a view nobody knows whose they are: they wait.
        """
        found: set[Share] = set()
        view = self._room.view
        if view is None:
            return found
        for _ in range(len(self._keys)):  # others may add to them meanwhile
            share = view.share(number(self._keys.popleft()))
            if share is not None:
                found.add(share)
        return found
