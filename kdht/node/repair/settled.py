"""What this node has caught up on: the keys that it may answer for out of its own store alone.

A range is settled once it was compared with every other live replica of it, or with at least one where others do not
answer, and what was missing has come; or if there is no other replica. It stays so as long as this node keeps it. `is_settled` and
`ever` are for any thread: the set is replaced as a whole, never changed.
"""

from collections.abc import Callable, Iterable

from kdht.node.repair.intervals import Interval, Intervals
from kdht.node.repair.ranges import Share, View, number


class Settled:
    """The state of all shares of one node.

    `reached` is called when all are settled for the first time, `lost` whenever keys are settled no more.
    """

    def __init__(self, self_id: bytes, reached: Callable[[], None], lost: Callable[[], None]) -> None:
        self.ever = False
        """Whether all shares were settled once."""
        self._self_id = self_id
        self._reached = reached
        self._lost = lost
        self._area = Intervals()
        self._shares: list[Share] = []
        self._compared: dict[bytes, Intervals] = {}
        self._excused: set[bytes] = set()

    def is_settled(self, key: bytes) -> bool:
        return number(key) in self._area

    @property
    def unsettled(self) -> list[Share]:
        return [share for share in self._shares if not self._area.covers(_interval(share))]

    def view_changed(self, view: View) -> None:
        """Other shares: what this node no longer keeps is not settled when it comes back."""
        own = Intervals(map(_interval, view.shares))
        self._shares = view.shares
        before, self._area = self._area, self._area.within(own)
        if list(before) != list(self._area):
            self._lost()
        self._excused &= view.peers
        self._compared = {
            peer: area.within(own) for peer, area in self._compared.items() if peer in view.peers
        }
        self._renew()

    def compared(self, peer: bytes, intervals: Iterable[Interval]) -> None:
        """This node has all that the other one has in these intervals."""
        self._excused.discard(peer)
        self._compared[peer] = self._compared.get(peer, Intervals()).union(intervals)
        self._renew()

    def silent(self, peer: bytes) -> None:
        """The other node does not answer: it is not waited for."""
        self._excused.add(peer)
        self._renew()

    def _renew(self) -> None:
        new = [_interval(share) for share in self.unsettled if self._is_done(share)]
        if new:
            self._area = self._area.union(new)
        if not self.ever and self._shares and not self.unsettled:
            self.ever = True
            self._reached()

    def _is_done(self, share: Share) -> bool:
        others = share.replicas - {self._self_id}
        waiting = {peer for peer in others if not self._has_compared(peer, share)}
        return waiting <= self._excused and (len(waiting) < len(others) or not others)

    def _has_compared(self, peer: bytes, share: Share) -> bool:
        area = self._compared.get(peer)
        return area is not None and area.covers(_interval(share))


def _interval(share: Share) -> Interval:
    return share.range.start, share.range.stop
