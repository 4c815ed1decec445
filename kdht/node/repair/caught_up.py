"""What this node has caught up on: the keys that it may answer for from its own store.

    behind -------------> caught up -------------> held -----------------> given away
      the rule below holds          it is pushed out     all replicas have caught up

    any state --- reset(): the node was away ---> behind

A node has caught up on a range once it has all that these other nodes have, and they count it among the replicas:

1. every other replica, as far as it answers;
2. a majority of the closest nodes that have themselves caught up on the range. They are looked for outward from it.

If there are fewer such nodes than a majority, all nodes within `REACH` count, caught up or not. A new cluster begins so,
and one whose nodes have all restarted. docs/design/ shows why no simpler rule will do.

Contract: any thread may call `keys`, `ever` and `reset`; all else has one caller at a time. Sets of keys
are replaced as a whole, never changed.
"""

import threading
from collections.abc import Callable, Iterable
from enum import Enum
from typing import NamedTuple

from kdht.node.repair._key_sets import AnswerableKeys, KeySet
from kdht.node.repair.bodies import CAUGHT_UP
from kdht.node.repair.intervals import NONE, Interval, Intervals
from kdht.node.repair.ranges import MAX_KEPT, KeptRange, Range, View

# Doubling from 2r, this is the last step within one routing table's neighbourhood. With more joiners than this
# in one second the rule is not certain (docs/design/replicas.md, Limits).
REACH = 64
"""At most so many nodes around a range are asked, if few of them have caught up on it."""
MAX_STRANGERS = 64
"""Nodes outside of the view whose words are remembered."""
# No node keeps more ranges, and neighbours speak of kept ranges.
MAX_PARTS = MAX_KEPT
"""Separate ranges that are remembered of each kind of another node's words."""
UNHEARD, UNSEEN, UNEQUAL = "unheard", "unseen", "unequal"
"""What is missing of another node: an answer; that it counts this one among the replicas; its records."""


class _Peer:
    """What is known of another node, within the ranges that this node keeps or holds."""

    __slots__ = ("caught_up", "equal", "fresh", "sees", "silent", "sound")

    def __init__(self) -> None:
        self.silent = False
        self.equal = NONE
        """Here this node has all that the other one had when it was asked;"""
        self.sound = NONE
        """and here the other one had caught up then, and counted this node among the replicas."""
        self.caught_up = NONE
        """Here it said last that it has caught up."""
        self.fresh = NONE
        """Here it said last that it has not."""
        self.sees = NONE
        """Here it counted this node among the replicas when asked last, and named none that this node does not know."""


class _Judged(NamedTuple):
    """The state of a kept range: nodes that are waited for, whether it is caught up on, nodes compared that had caught up."""

    waiting: list[bytes]
    done: bool
    sound: int


class Waiting(NamedTuple):
    """A kept range that this node is behind on, and the nodes to ask about it, the closest first."""

    kept: KeptRange
    nodes: list[bytes]


class Doubt(Enum):
    """Whether records of an earlier run may be believed. They are out of the store while that is OPEN."""

    NONE = "none"
    OPEN = "open"
    CONFIRMED = "confirmed"
    """Other nodes have caught up: their records count."""
    ALONE = "alone"
    """No node has caught up on anything: the records of the earlier runs are all there is."""


class CaughtUp:
    """The state of all kept ranges of one node.

    `reached` is called when the node has caught up on all of them for the first time, `lost` whenever it falls behind
    on any key. `is_warm()`: whether all nodes near this one are known.
    """

    def __init__(
        self,
        self_id: bytes,
        reached: Callable[[], None],
        lost: Callable[[], None],
        is_warm: Callable[[], bool],
    ) -> None:
        self.ever = False
        """Whether the node has caught up on all its ranges once."""
        self.epoch = 0
        """The number of resets. What was compared before the last one does not count."""
        self.doubt = Doubt.NONE
        """While it is OPEN or ALONE, records of nodes that are behind make no range caught up."""
        self.keys = AnswerableKeys()
        """What this node answers for: `_area` and `_holding`, for keys of 20 bytes."""
        self._self_id = self_id
        self._reached = reached
        self._lost = lost
        self._is_warm = is_warm
        self._lock = threading.Lock()
        self._area = NONE
        self._held: dict[Range, None] = {}
        self._holding = NONE
        self._view: View | None = None
        self._concern = NONE
        self._peers: dict[bytes, _Peer] = {}
        self._strangers: dict[bytes, None] = {}
        """Those of them that the view does not have, the longest known first."""

    # What it is now

    def covers(self, range: Range) -> bool:
        """Whether this node answers for all keys of a range."""
        part = _interval(range)
        return self._area.covers(part) or self._holding.covers(part)

    @property
    def held(self) -> list[Range]:
        """Ranges that this node kept before nodes that have not all caught up."""
        return list(self._held)

    @property
    def behind(self) -> list[KeptRange]:
        all_kept = self._view.kept if self._view is not None else []
        return [kept for kept in all_kept if not self._area.covers(_interval(kept.range))]

    # What changes it

    def reset(self) -> None:
        """Fall behind on everything. Any thread."""
        with self._lock:
            # Comparisons under way began before the reset, so they must not count.
            self.epoch += 1
            self._catch_up(NONE)
            self._hold(())
            self._peers, self._strangers = {}, {}
        self._lost()

    def view_changed(self, view: View) -> None:
        """Take other kept ranges. The node holds what it no longer keeps, until all new replicas have caught up."""
        with self._lock:
            before, old, self._view = self._area, self._view, view
            own = Intervals(_interval(kept.range) for kept in view.kept)
            before_kept = [kept.range for kept in old.kept] if old is not None else []
            # Held: earlier majorities are still needed until the new replicas have all records.
            gone = [
                part
                for each in before_kept
                for part in view.elsewhere(each)
                if before.covers(_interval(part))
            ]
            self._hold([*gone, *(part for each in self._held for part in view.elsewhere(each))])
            self._catch_up(before.within(own))
            self._concern = own.union(self._holding)
            self._peers = {id: peer for id, peer in self._peers.items() if id in view.others}
            self._strangers = {}
            for peer in self._peers.values():
                peer.equal, peer.sound = peer.equal.within(own), peer.sound.within(own)
        if list(before) != list(self._area):
            self._lost()
        self.renew()

    def heard(self, id: bytes, range: Range, says: int, *, agrees: bool, epoch: int) -> None:
        """Take the report of another node on a range (`bodies.Says`). `agrees`: both see the same replicas."""
        part = _interval(range)
        with self._lock:
            # What began before a reset compared records that this node may have missed changes of.
            if epoch != self.epoch or not self._concern.touches(part):
                return
            peer = self._peer(id)
            peer.silent = False
            if says & CAUGHT_UP:
                # One of the two, never both: the last word counts.
                peer.caught_up, peer.fresh = _with(peer.caught_up, [part]), peer.fresh.minus([part])
            else:
                peer.caught_up, peer.fresh = peer.caught_up.minus([part]), _with(peer.fresh, [part])
            peer.sees = _with(peer.sees, [part]) if agrees else peer.sees.minus([part])

    def compared(self, id: bytes, ranges: Iterable[Range], sound: Iterable[Range], *, epoch: int) -> None:
        """Note that this node has all records of the other one in `ranges`; in `sound` that one had caught up, and agreed."""
        with self._lock:
            # The comparison began before the node was reset.
            if epoch != self.epoch:
                return
            peer = self._peer(id)
            peer.equal = _with(peer.equal, map(_interval, ranges))
            peer.sound = _with(peer.sound, map(_interval, sound))
        self.renew()

    def silent(self, id: bytes) -> None:
        """Stop waiting for a node that does not answer."""
        with self._lock:
            self._peer(id).silent = True
        self.renew()

    def renew(self) -> list[Waiting]:
        """Apply the rule to all ranges that this node is behind on. Returns those that it stays behind on."""
        with self._lock:
            # All are judged before any counts: one range that is done must not make the next one look better.
            found = [(kept, self._judge(kept)) for kept in self.behind]
            self._resolve([judged for _, judged in found])
            from_all = self.doubt in (Doubt.NONE, Doubt.CONFIRMED)
            new = [kept for kept, judged in found if judged.done and (judged.sound or from_all)]
            if new:
                self._catch_up(self._area.union(_interval(kept.range) for kept in new))
            first = not self.ever and self._view is not None and not self.behind
        # Outside of the lock, because the callback asks this object.
        if first:
            self.ever = True
            self._reached()
        return [Waiting(kept, judged.waiting) for kept, judged in found if kept not in new]

    def _resolve(self, judged: list["_Judged"]) -> None:
        # Old records may have been deleted meanwhile. Only nodes that remember deletions can confirm them.
        if self.doubt is Doubt.OPEN and judged:
            if any(each.done and each.sound for each in judged):
                self.doubt = Doubt.CONFIRMED
            elif all(each.done for each in judged):
                self.doubt = Doubt.ALONE

    # Whom it takes

    def waits_for(self, kept: KeptRange) -> list[bytes]:
        """The nodes to ask about a range that this node is behind on, the closest first."""
        return self._judge(kept).waiting

    def waiting(self) -> list[Waiting]:
        """All ranges that this node is behind on."""
        return [Waiting(kept, self.waits_for(kept)) for kept in self.behind]

    def missing(self, waiting: Iterable[Waiting]) -> dict[str, set[bytes]]:
        """Why the node is behind on these: the nodes of which something is missing, by what is missing."""
        found: dict[str, set[bytes]] = {UNHEARD: set(), UNSEEN: set(), UNEQUAL: set()}
        for kept, nodes in waiting:
            part = _interval(kept.range)
            for id in nodes:
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
        # Without any other node there is nobody to miss anything from.
        need = min(view.replicas, len(order)) // 2 + 1 if order else 0
        # Rule 1: every other node of the configuration that answers.
        waiting = [id for id in order if id in kept.replicas and not self._is_done(id, part)]
        # Rule 2: a majority of the closest old nodes, looked for outward.
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
        # Too few have caught up: a new cluster, or all have restarted. Then the records of all count.
        if not waiting and sound < need:
            waiting = [id for id in order[:REACH] if not self._is_taken(id, part, sound)]
        # Before the table is warm, a node that has caught up may exist unknown to this one.
        return _Judged(waiting, not waiting and (sound >= need > 0 or self._is_warm()), sound)

    def _is_taken(self, id: bytes, part: Interval, sound: int) -> bool:
        """Whether this node has all records of another one. Needed of all nodes if too few have caught up."""
        peer = self._peers.get(id)
        return peer is not None and (peer.equal.covers(part) or (peer.silent and sound > 0))

    def _is_done(self, id: bytes, part: Interval) -> bool:
        """Whether a replica of the same range need not be waited for any more."""
        peer = self._peers.get(id)
        return peer is not None and (peer.silent or (peer.equal.covers(part) and peer.sees.covers(part)))

    def release(self) -> list[tuple[bytes, Range]]:
        """Let go of held ranges whose replicas have all caught up. Returns the nodes to ask about the others."""
        waiting: list[tuple[bytes, Range]] = []
        for range in self.held:
            # One replica that has caught up is no majority: all of them must have, before the copies go.
            # As this node sees the cluster. It cannot know more, and holding for longer than needed costs only
            # room.
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

    def _catch_up(self, area: Intervals) -> None:
        self._area = area
        self.keys.caught_up = KeySet(area)

    def _hold(self, ranges: Iterable[Range]) -> None:
        self._held = dict.fromkeys(ranges)
        self._holding = Intervals(map(_interval, self._held))
        self.keys.held = KeySet(self._holding)

    def _peer(self, id: bytes) -> _Peer:
        peer = self._peers.get(id)
        if peer is None:
            peer = self._peers[id] = _Peer()
            if self._view is None or id not in self._view.others:
                self._note_stranger(id)
        return peer

    def _note_stranger(self, id: bytes) -> None:
        self._strangers[id] = None
        # A member can name any number of IDs. A newcomer that is forgotten here speaks again within a round.
        if len(self._strangers) > MAX_STRANGERS:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            self._peers.pop(oldest, None)


def _with(known: Intervals, parts: Iterable[Interval]) -> Intervals:
    """With these too. What a node said is forgotten if it named too many pieces: it says it again."""
    found = known.union(parts)
    return found if found.count <= MAX_PARTS else NONE


def _is_excused(peer: _Peer | None, part: Interval) -> bool:
    """Whether this node need not be asked any more: it is silent, or it said that it is behind."""
    return peer is not None and (peer.silent or peer.fresh.covers(part))


def _interval(range: Range) -> Interval:
    return range.start, range.stop
