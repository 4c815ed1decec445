"""What this node has caught up on: the keys that it may answer for out of its own store.

    new ----------------> caught up -------------> held -----------------> given away
     the rule below holds            it is pushed out     all replicas have caught up

A range is caught up once this node has all that these have, and they see it among the range's replicas:
1. every other replica, as far as it answers;
2. a majority of the closest nodes that have themselves caught up on it. They are looked for outward from the range.
Where fewer can be found than a majority, all within `REACH` count, caught up or not: so begins a new cluster, and one
whose nodes all restarted. docs/design/replicas.md says why no other rule will do.

Contract: `is_caught_up` and `ever` are for any thread, and so is `reset`; all else has one caller at a time. The set is
replaced as a whole, never changed.
"""

import threading
from collections.abc import Callable, Iterable
from enum import Enum
from typing import NamedTuple

from kdht.node.repair.bodies import Says
from kdht.node.repair.intervals import Interval, Intervals
from kdht.node.repair.ranges import KeptRange, Range, View, number

REACH = 64
"""Nodes around a range that are asked at most, where few of them have caught up on it."""
UNHEARD, UNSEEN, UNEQUAL = "unheard", "unseen", "unequal"
"""What may be missed of another node: an answer; that it counts this one among the replicas; its records."""


class _Peer:
    """What is known of another node. All are of this node's own ranges, or of those that it holds."""

    __slots__ = ("caught_up", "equal", "fresh", "sees", "silent", "sound")

    def __init__(self) -> None:
        self.silent = False
        self.equal = Intervals()
        """This node has all that the other one had when it was asked..."""
        self.sound = Intervals()
        """... and it had caught up then, and saw this node among the replicas."""
        self.caught_up = Intervals()
        """It said last that it has caught up."""
        self.fresh = Intervals()
        """It said last that it has not."""
        self.sees = Intervals()
        """It saw this node among the replicas, and no other that this one does not know, when it was asked last."""


class _Judged(NamedTuple):
    """How far a kept range is: who is waited for, whether it is caught up on, and by how many who had caught up."""

    waiting: list[bytes]
    done: bool
    sound: int


class Doubt(Enum):
    """Whether what this node kept from an earlier run may be believed; it is not in its store while that is open."""

    NONE = "none"
    OPEN = "open"
    CONFIRMED = "confirmed"
    """Others have caught up: what counts is what they have."""
    ALONE = "alone"
    """Nobody has caught up on anything: what this node kept is all there is, with what others kept."""


class CaughtUp:
    """The state of all shares of one node.

    `reached` is called when all are settled for the first time, `lost` whenever keys are settled no more. `is_warm`: whether
    all who live near this node are known.
    """

    def __init__(
        self,
        self_id: bytes,
        reached: Callable[[], None],
        lost: Callable[[], None],
        is_warm: Callable[[], bool],
    ) -> None:
        self.ever = False
        """Whether all shares were settled once."""
        self.epoch = 0
        """Counts how often all was unsettled: what was compared before that says nothing."""
        self.doubt = Doubt.NONE
        """While it is OPEN or ALONE, nothing is caught up on by the records of those that have not."""
        self._self_id = self_id
        self._reached = reached
        self._lost = lost
        self._is_warm = is_warm
        self._lock = threading.Lock()
        self._area = Intervals()
        self._held: dict[Range, None] = {}
        self._holding = Intervals()
        self._view: View | None = None
        self._concern = Intervals()
        self._peers: dict[bytes, _Peer] = {}

    # What it is now

    def is_caught_up(self, key: bytes) -> bool:
        """Whether this node keeps a key, and has caught up on it."""
        return number(key) in self._area

    def holds(self, key: bytes) -> bool:
        """The same, or others keep it now that have not all caught up."""
        return self.is_caught_up(key) or self.is_held(key)

    def is_held(self, key: bytes) -> bool:
        return number(key) in self._holding

    def covers(self, range: Range) -> bool:
        """Whether this node answers for all of a range."""
        part = _interval(range)
        return self._area.covers(part) or self._holding.covers(part)

    @property
    def held(self) -> list[Range]:
        """What others keep now, and not all of them have caught up on."""
        return list(self._held)

    @property
    def behind(self) -> list[KeptRange]:
        all_kept = self._view.kept if self._view is not None else []
        return [kept for kept in all_kept if not self._area.covers(_interval(kept.range))]

    # What changes it

    def reset(self) -> None:
        """Nothing is caught up on. Any thread."""
        with self._lock:
            self.epoch += 1
            self._area = Intervals()
            self._hold(())
            self._peers = {}
        self._lost()

    def view_changed(self, view: View) -> None:
        """Other shares: what this node no longer keeps it holds, until all who keep it have caught up."""
        with self._lock:
            before, old, self._view = self._area, self._view, view
            own = Intervals(_interval(kept.range) for kept in view.kept)
            before_kept = [kept.range for kept in old.kept] if old is not None else []
            gone = [
                part
                for each in before_kept
                for part in view.elsewhere(each)
                if before.covers(_interval(part))
            ]
            self._hold([*gone, *(part for each in self._held for part in view.elsewhere(each))])
            self._area = before.within(own)
            self._concern = own.union(self._holding)
            self._peers = {id: peer for id, peer in self._peers.items() if id in view.others}
            for peer in self._peers.values():
                peer.equal, peer.sound = peer.equal.within(own), peer.sound.within(own)
        if list(before) != list(self._area):
            self._lost()
        self.renew()

    def heard(self, id: bytes, range: Range, says: Says, *, agrees: bool, epoch: int) -> None:
        """What the other node says of a range; `agrees`: they see the same replicas."""
        part = _interval(range)
        with self._lock:
            if epoch != self.epoch or not self._concern.touches(part):
                return
            peer = self._peer(id)
            peer.silent = False
            if says & Says.CAUGHT_UP:
                peer.caught_up, peer.fresh = peer.caught_up.union([part]), peer.fresh.minus([part])
            else:
                peer.caught_up, peer.fresh = peer.caught_up.minus([part]), peer.fresh.union([part])
            peer.sees = peer.sees.union([part]) if agrees else peer.sees.minus([part])

    def compared(self, id: bytes, ranges: Iterable[Range], sound: Iterable[Range], *, epoch: int) -> None:
        """This node has all that the other one had when it was asked; in `sound` it had caught up, and agreed."""
        with self._lock:
            if epoch != self.epoch:
                return
            peer = self._peer(id)
            peer.equal = peer.equal.union(map(_interval, ranges))
            peer.sound = peer.sound.union(map(_interval, sound))
        self.renew()

    def silent(self, id: bytes) -> None:
        """The other node does not answer: it is not waited for, if enough others do."""
        self._peer(id).silent = True
        self.renew()

    def renew(self) -> None:
        """See what is caught up on now."""
        with self._lock:
            found = [(kept, self._judge(kept)) for kept in self.behind]
            self._resolve([judged for _, judged in found])
            from_all = self.doubt in (Doubt.NONE, Doubt.CONFIRMED)
            new = [kept for kept, judged in found if judged.done and (judged.sound or from_all)]
            if new:
                self._area = self._area.union(_interval(kept.range) for kept in new)
            first = not self.ever and self._view is not None and not self.behind
        if first:
            self.ever = True
            self._reached()

    def _resolve(self, judged: list["_Judged"]) -> None:
        if self.doubt is Doubt.OPEN and judged:
            if any(each.done and each.sound for each in judged):
                self.doubt = Doubt.CONFIRMED
            elif all(each.done for each in judged):
                self.doubt = Doubt.ALONE

    # Whom it takes

    def waits_for(self, kept: KeptRange) -> list[bytes]:
        """Whom to ask, or to ask again, about a kept range that this node is behind on, the closest first."""
        return self._judge(kept).waiting

    def missing(self) -> dict[str, set[bytes]]:
        """Why it has not caught up on all: the nodes of which something is missed, by what that is."""
        found: dict[str, set[bytes]] = {UNHEARD: set(), UNSEEN: set(), UNEQUAL: set()}
        for kept in self.behind:
            part = _interval(kept.range)
            for id in self.waits_for(kept):
                peer = self._peers.get(id)
                if peer is None or not (peer.caught_up.covers(part) or peer.fresh.covers(part)):
                    found[UNHEARD].add(id)
                else:
                    found[UNEQUAL if peer.sees.covers(part) else UNSEEN].add(id)
        return found

    def _judge(self, kept: KeptRange) -> "_Judged":
        view, part = self._view, _interval(kept.range)
        assert view is not None
        order = view.order(kept.range)
        need = min(view.replicas, len(order)) // 2 + 1 if order else 0
        waiting = [id for id in order if id in kept.replicas and not self._is_done(id, part)]
        sound, stage = 0, 2 * view.replicas
        for place, id in enumerate(order[:REACH], start=1):
            peer = self._peers.get(id)
            is_sound = peer is not None and peer.sound.covers(part)
            sound += is_sound
            if not is_sound and id not in waiting and not _is_excused(peer, part):
                waiting.append(id)
            if place == stage:
                if waiting or sound >= need:
                    break
                stage *= 2
        if not waiting and sound < need:
            waiting = [id for id in order[:REACH] if not self._is_taken(id, part, sound)]
        return _Judged(waiting, not waiting and (sound >= need > 0 or self._is_warm()), sound)

    def _is_taken(self, id: bytes, part: Interval, sound: int) -> bool:
        """Whether a node's records were taken, as everybody's are where too few have caught up."""
        peer = self._peers.get(id)
        return peer is not None and (peer.equal.covers(part) or (peer.silent and sound > 0))

    def _is_done(self, id: bytes, part: Interval) -> bool:
        """Whether a replica of the same range need not be waited for."""
        peer = self._peers.get(id)
        return peer is not None and (peer.silent or (peer.equal.covers(part) and peer.sees.covers(part)))

    def release(self) -> list[tuple[bytes, Range]]:
        """Give up what all who keep it have caught up on; whom to ask about the rest."""
        waiting: list[tuple[bytes, Range]] = []
        for range in self.held:
            late = [id for id in self._keepers(range) if not self._has_caught_up(id, range)]
            waiting += [(id, range) for id in late]
            if not late:
                self._let_go(range)
        return waiting

    def _keepers(self, range: Range) -> list[bytes]:
        return sorted(self._view.keepers(range) - {self._self_id}) if self._view is not None else []

    def _has_caught_up(self, id: bytes, range: Range) -> bool:
        peer = self._peers.get(id)
        return peer is not None and peer.caught_up.covers(_interval(range))

    def _let_go(self, range: Range) -> None:
        with self._lock:
            self._hold(each for each in self._held if each != range)
        self._lost()

    def _hold(self, ranges: Iterable[Range]) -> None:
        self._held = dict.fromkeys(ranges)
        self._holding = Intervals(map(_interval, self._held))

    def _peer(self, id: bytes) -> _Peer:
        return self._peers.setdefault(id, _Peer())


def _is_excused(peer: _Peer | None, part: Interval) -> bool:
    """Whether a node beyond the replicas, or a replica that is done, need not be asked any more."""
    return peer is not None and (peer.silent or peer.fresh.covers(part))


def _interval(range: Range) -> Interval:
    return range.start, range.stop
