"""Which replicas this node sees for a range, and whether another node sees the same.

Two nodes agree on a range if each is sure that the other's writes and reads reach it. So the other node must have
counted this one among the replicas for `STABLE_SECONDS`: no write or read lasts longer, and all that began with an older
view have ended. It must also name no replica that is unknown here, unless this node knows a closer one.

A node that has not kept the range for as long writes nothing there. It need not count this node, for which its full
buckets may have no room.
"""

from collections import deque
from collections.abc import Collection

from kdht.node.repair.bodies import CAUGHT_UP, KEEPS, SEES_YOU, Digest, Report, short
from kdht.node.repair.ranges import MAX_KEPT, Range, View, number
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
        self._names: dict[Range, tuple[int, ...]] = {}
        """Of the present view."""

    def look(self, view: View, now: SteadyTime) -> None:
        """Take a new view."""
        self.view = view
        self._names.clear()
        self._recent.append((now, view))
        self._forget(now)

    def word(self, range: Range, peer: bytes, now: SteadyTime, *, caught_up: bool) -> Report:
        """The report of this node on a range for `peer`, with an empty digest."""
        assert self.view is not None
        self._forget(now)
        says = CAUGHT_UP if caught_up else 0
        if self._kept(range):
            says |= KEEPS
        if self._sees(peer, range):
            says |= SEES_YOU
        return Report(Digest(0, 0), says, self._named(range))

    def _named(self, range: Range) -> tuple[int, ...]:
        """The replicas of a range, as a report names them."""
        assert self.view is not None
        named = self._names.get(range)
        if named is None:
            # Other nodes choose the ranges that are asked for, so the memory is bounded.
            if len(self._names) >= MAX_KEPT:
                self._names.clear()
            # The closest first: should some not fit, the farthest are left out.
            closest = sorted(self.view.keepers(range), key=lambda id: number(id) ^ range.start)
            named = self._names[range] = tuple(map(short, closest))
        return named

    def agrees(self, range: Range, report: Report) -> bool:
        """Whether the node with this report sends this one all writes and reads of the range."""
        # It writes here and does not count this node: its writes would pass this node by.
        if self.view is None or report.says & (KEEPS | SEES_YOU) == KEEPS:
            return False
        own = self._named(range)
        is_full = len(own) >= self.view.replicas
        return all(named in own or (is_full and _is_farther(named, own, range)) for named in report.keepers)

    def _sees(self, peer: bytes, range: Range) -> bool:
        # In all views of the last moments: a write that began with an older one may be under way without the
        # peer.
        return all(peer in view.keepers(range) for _, view in self._recent)

    def _kept(self, range: Range) -> bool:
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
