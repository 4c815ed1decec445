"""Which replicas this node sees for a range, and whether another node sees the same.

Two nodes agree on a range if each is sure that the other's writes and reads reach it. So the other node must have
counted this one among the replicas for `STABLE_SECONDS`: no write or read lasts longer, and all that began with an older
view have ended. It must also name no replica that is unknown here, unless this node knows a closer one.

A node that has not kept the range for as long writes nothing there. It need not count this node, for which its full
buckets may have no room.
"""

from collections import deque
from collections.abc import Collection

from kdht.node.repair.bodies import Digest, Report, Says, short
from kdht.node.repair.ranges import Range, View, number
from kdht.node.replicas.writes import WRITE_DEADLINE
from kdht.times import SteadyTime
from kdht.wire._shared import ID_BITS

STABLE_SECONDS = WRITE_DEADLINE
"""No write and no read lasts longer: what began with an older view has ended."""
_SHORT_BITS = ID_BITS - 32


class Sight:
    """The present view of one node, and its views of the last moments."""

    def __init__(self, self_id: bytes) -> None:
        self.view: View | None = None
        """None until the node knows its neighbours."""
        self._self_id = self_id
        self._recent: deque[tuple[float, View]] = deque()

    def look(self, view: View, now: SteadyTime) -> None:
        """Take a new view."""
        self.view = view
        self._recent.append((now, view))
        self._forget(now)

    def word(self, range: Range, peer: bytes, now: SteadyTime, *, caught_up: bool) -> Report:
        """The report of this node on a range for `peer`, with an empty digest."""
        assert self.view is not None
        keepers = self.view.keepers(range)
        says = Says.CAUGHT_UP if caught_up else Says(0)
        if self._kept(range, now):
            says |= Says.KEEPS
        if self._sees(peer, range, now):
            says |= Says.SEES_YOU
        # The closest first: should some not fit, the farthest are left out.
        named = sorted(keepers, key=lambda id: number(id) ^ range.start)
        return Report(Digest(0, 0), says, tuple(map(short, named)))

    def agrees(self, range: Range, report: Report) -> bool:
        """Whether the node with this report sends this one all writes and reads of the range."""
        # It writes here and does not count this node: its writes would pass this node by.
        if self.view is None or (report.says & Says.KEEPS and not report.says & Says.SEES_YOU):
            return False
        own = {short(id) for id in self.view.keepers(range)}
        is_full = len(own) >= self.view.replicas
        return all(named in own or (is_full and _is_farther(named, own, range)) for named in report.keepers)

    def _sees(self, peer: bytes, range: Range, now: SteadyTime) -> bool:
        self._forget(now)
        # In all views of the last moments: a write that began with an older one may be under way without the
        # peer.
        return all(peer in view.keepers(range) for _, view in self._recent)

    def _kept(self, range: Range, now: SteadyTime) -> bool:
        self._forget(now)
        # In any of them: a write of this node's may be under way.
        return any(self._self_id in view.keepers(range) for _, view in self._recent)

    def _forget(self, now: SteadyTime) -> None:
        """Forget old views. Those of the last STABLE_SECONDS count, and the one before them."""
        while len(self._recent) > 1 and self._recent[1][0] <= now - STABLE_SECONDS:
            self._recent.popleft()


def _is_farther(named: int, own: Collection[int], range: Range) -> bool:
    """Whether all replicas named here are closer. Then this node knows one that the other does not know yet."""
    at = range.start >> _SHORT_BITS
    return all(each ^ at < named ^ at for each in own)
