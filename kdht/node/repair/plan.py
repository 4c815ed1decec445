"""When this node compares its records with which other node.

| event | what is planned |
|---|---|
| the first view of the neighbours | all ranges with all their replicas, within about a second |
| a node is new to a kept range | the closest earlier replica brings it the records at once, the others look after `second_delay` |
| this node is new to a range | it asks, in the same order |
| this node is behind on a range (`CaughtUp`) | the nodes that are waited for, again and again (`pursue`) |
| `interval` is over | everything, with every neighbour not compared with of late |
| a comparison failed | the same ranges again, with growing delays |
| a write was missed, or a DIGEST showed that a node lacks records | these ranges (`want`) |

    wish (peer, ranges, due) --- due, few run, no range is being compared ---> running ---> ended --- failed ---> wish

Contract: all times are jittered. A few comparisons run at a time, one for each neighbour. If a neighbour has compared
everything that two nodes share, the round here leaves it out.
"""

from collections.abc import Callable, Iterable

from kdht.node._timers import Alarm
from kdht.node.context import leave_to_table
from kdht.node.repair.caught_up import UNSEEN
from kdht.node.repair.compare import RangeComparison
from kdht.node.repair.context import RepairContext
from kdht.node.repair.intervals import Intervals
from kdht.node.repair.push import Pusher
from kdht.node.repair.ranges import KeptRange, Range, View, key_bytes
from kdht.times import SteadyTime
from kdht.wire._shared import Op

LOOK_AGAIN = 0.3
"""Seconds between looks at the neighbours during the start, until they change no more."""
FIRST_RETRY = 1.0
"""Seconds until a failed comparison is repeated; doubles up to the interval."""
# One contact is usually all that is unknown. Asking for each of some hundred ranges would be a flood.
LEARNT = 4
"""Ranges for which a node is asked at a time which nodes it knows there."""
# A newcomer is ready after two or three rounds of this, about as soon as others have counted it for 1.5
# seconds.
PURSUIT = 0.4
"""Seconds between looks at the ranges that this node is behind on, or holds."""
PATIENCE = 2.0
"""Seconds at most until the same node is asked again."""
# Both sides have their own rounds. Without this each pair would be compared twice in an interval.
FRESH = 0.75
"""Part of the interval. A neighbour compared with within it is left out of a round."""


class _Wish:
    """Ranges to compare with one neighbour, not before `due`."""

    def __init__(self, due: float) -> None:
        self.due = due
        self.ranges: set[Range] = set()


class Plan:
    """The comparisons of one node. `on_view` is called when it keeps or holds other ranges."""

    def __init__(
        self,
        context: RepairContext,
        pusher: Pusher,
        joined: Callable[[], bool],
        on_view: Callable[[], None],
    ) -> None:
        self._context = context
        self._pusher = pusher
        self._caught_up = context.caught_up
        self._joined = joined
        self._on_view = on_view
        self._wishes: dict[bytes, _Wish] = {}
        self._running: dict[bytes, RangeComparison] = {}
        self._compared: dict[bytes, float] = {}
        self._retries: dict[bytes, float] = {}
        self._asked: dict[bytes, tuple[float, float]] = {}
        """When `pursue` asked a node last, and how long it leaves that node alone, in seconds."""
        self._alarm: Alarm | None = None
        self._look_alarm: Alarm | None = None
        self._pursuit: Alarm | None = None
        self._started = self._changed = 0.0
        self._stopped = False

    def start(self, now: SteadyTime) -> None:
        """Begin, once the node has joined and its neighbours change no more."""
        self._started = self._changed = now
        self._look_later(LOOK_AGAIN, now)
        self._round_later(now)

    def stop(self) -> None:
        """No comparison begins any more, and none is planned."""
        # A drain gives everything away. A comparison would bring records back.
        self._stopped = True
        self._wishes.clear()
        self._arm()

    def contacts_changed(self, now: SteadyTime) -> None:
        """A contact came or went."""
        # Each change begins the wait anew, so that a mass join leads to one view and not to hundreds.
        self._changed = now
        if self._look_alarm is None:
            self._look_later(
                self._context.options.first_delay * self._context.node.rng.uniform(0.5, 1.5), now
            )

    # The DIGESTs of others

    def found_equal(
        self, peer: bytes, ranges: list[Range], sound: list[Range], epoch: int, now: SteadyTime
    ) -> None:
        """Another node compared these ranges, and they are equal."""
        view = self._context.view
        if view is None:
            return
        self._caught_up.compared(peer, ranges, sound, epoch=epoch)
        if peer in view.peers and set(ranges) >= set(view.shared_with(peer)):
            self._compared[peer] = now

    def found_lacking(self, peer: bytes, ranges: list[Range], now: SteadyTime) -> None:
        """Another node lacks most of the records in these ranges."""
        view = self._context.view
        if view is not None and peer in view.others:
            self.want(peer, [part for part in ranges if peer in view.keepers(part)], now)

    # Catching up

    def begin_anew(self, now: SteadyTime) -> None:
        """The node was reset: abandon all comparisons, and ask all nodes again at once."""
        self._asked.clear()
        self._retries.clear()
        self._compared.clear()
        # They began before the reset, so their results would not count.
        for comparison in list(self._running.values()):
            comparison.abandon(now, silent=False)
        self.pursue(now)

    def pursue(self, now: SteadyTime) -> None:
        """Ask the nodes that a range waits for, and the replicas of held ranges whether they have caught up."""
        if self._stopped or self._context.view is None:
            return
        if self._pursuit is not None:
            self._context.node.timers.cancel(self._pursuit)
            self._pursuit = None
        wanted: dict[bytes, list[Range]] = {}
        behind = self._caught_up.renew()
        for kept, nodes in behind:
            for peer in nodes:
                wanted.setdefault(peer, []).append(kept.range)
        for peer, range in self._caught_up.release():
            wanted.setdefault(peer, []).append(range)
        if behind or self._caught_up.held:
            self._pursuit = self._context.node.timers.at(now + PURSUIT, self.pursue)
        unseen = self._caught_up.missing(behind)[UNSEEN]
        for peer, ranges in wanted.items():
            asked, pause = self._asked.get(peer, (-PATIENCE, PURSUIT / 2))
            if peer not in self._running and now - asked >= pause:
                # Ever more seldom: a node may take long to hear of this one.
                self._asked[peer] = now, min(2 * pause, PATIENCE)
                self.want(peer, ranges, now)
                if peer in unseen:
                    self._learn_from(peer, ranges, now)

    def _learn_from(self, peer: bytes, ranges: list[Range], now: SteadyTime) -> None:
        """Ask a node that sees other replicas for the contacts it knows there. One of them may be unknown here."""
        contact, ask = self._context.contact(peer), self._context.node.ask
        if contact is None:
            return
        for range in ranges[:LEARNT]:
            key = key_bytes(range.start)
            ask(Op.FIND_NODE, key, contact.address, peer, leave_to_table, now, tries=1)

    # The neighbours

    def _look_later(self, seconds: float, now: SteadyTime) -> None:
        self._look_alarm = self._context.node.timers.at(now + seconds, self._look)

    def _look(self, now: SteadyTime) -> None:
        self._look_alarm = None
        context = self._context
        if self._stopped:
            return
        # Each contact that enters changes the ranges, so the first view waits for the end of the join.
        if context.view is None and not self._is_calm(now):
            self._look_later(LOOK_AGAIN, now)
            return
        others = [entry.contact.id for entry in context.node.table]
        if not self._joined() and not others:
            # Cut off from its cluster, a node would take all keys for its own.
            self._look_later(LOOK_AGAIN, now)
            return
        if context.factor.renew(others):
            context.on_replicas(context.replicas)
        old, new = context.view, View(context.node.id, others, context.replicas)
        # Before the ranges change: what this node says of itself from now on has to be the new view.
        context.sight.look(new, now)
        self._asked.clear()
        self._caught_up.view_changed(new)
        for kept in new.kept:
            self._range_changed(kept, old, now)
        self._arm()
        # Nobody is there to compare with.
        for gone in set(self._wishes) - new.others:
            del self._wishes[gone]
        for comparison in [each for each in self._running.values() if each.peer not in new.others]:
            comparison.abandon(now, silent=True)
        self._on_view()
        self.pursue(now)

    def _is_calm(self, now: SteadyTime) -> bool:
        options = self._context.options
        calm = now - self._changed >= options.quiet or now - self._started >= options.patience
        return self._joined() and (calm or not len(self._context.node.table))

    def _range_changed(self, kept: KeptRange, old: View | None, now: SteadyTime) -> None:
        """Plan to bring a range to the replicas that are new to it.

        The closest earlier replica does so at once, the others look later. A new replica asks in this order itself.
        The old view may have split the range, and may not have had this node in some parts.
        """
        me, options, rng = self._context.node.id, self._context.options, self._context.node.rng
        others = kept.replicas - {me}
        if old is None:
            for peer in sorted(others):
                self._note(peer, [kept.range], now + rng.uniform(0, 2 * options.first_delay))
            return
        later = now + self._context.node.jittered(options.second_delay)
        for part, before in old.parts(kept.range):
            # All nodes come to the same one, without a word between them, so one brings the records and not
            # three.
            first = next(id for id in [*old.closest(part.start), me] if id in kept.replicas)
            if before is None:
                for peer in sorted(others):
                    self._note(peer, [part], now if peer == first else later)
            else:
                for peer in sorted(others - before.replicas):
                    self._note(peer, [part], now if first == me else later)

    # Rounds

    def _round_later(self, now: SteadyTime) -> None:
        when = now + self._context.node.jittered(self._context.options.interval)
        self._context.node.timers.at(when, self._round)

    def _round(self, now: SteadyTime) -> None:
        """Compare with all neighbours not compared with of late."""
        if self._stopped:
            return
        view, interval = self._context.view, self._context.options.interval
        if view is None:
            view = View(self._context.node.id, (), 0)
        for peer in sorted(view.peers):
            if now - self._compared.get(peer, -interval) >= FRESH * interval:
                self.want(
                    peer, view.shared_with(peer), now + self._context.node.rng.uniform(0, interval / 10)
                )
        self._round_later(now)

    def want(self, peer: bytes, ranges: Iterable[Range], due: float) -> None:
        """Plan a comparison with a neighbour, not before `due`."""
        if self._stopped:
            return
        self._note(peer, ranges, due)
        self._arm()

    def _note(self, peer: bytes, ranges: Iterable[Range], due: float) -> None:
        """The same without `_arm`. A new view plans many at once, and calls `_arm` once."""
        wish = self._wishes.setdefault(peer, _Wish(due))
        wish.due = min(wish.due, due)
        # Wishes for one neighbour are joined: one comparison serves them all.
        wish.ranges.update(ranges)

    def _arm(self) -> None:
        timers = self._context.node.timers
        ready = [self._wishes[peer].due for peer in self._free()]
        if self._alarm is not None:
            timers.cancel(self._alarm)
            self._alarm = None
        if ready and len(self._running) < self._context.options.comparisons:
            self._alarm = timers.at(min(ready), self._begin)

    def _free(self) -> list[bytes]:
        """Neighbours with whom a comparison may begin: none of its keys is being compared with another node.

        Otherwise both would bring the records that this node lacks.
        """
        busy = Intervals((part.start, part.stop) for each in self._running.values() for part in each.ranges)
        return [
            peer
            for peer, wish in self._wishes.items()
            if peer not in self._running
            and not any(busy.touches((part.start, part.stop)) for part in wish.ranges)
        ]

    def _begin(self, now: SteadyTime) -> None:
        self._alarm = None
        due = [peer for peer in self._free() if self._wishes[peer].due <= now]
        due.sort(key=lambda peer: self._wishes[peer].due)
        # One for each call: the next may touch a range that this one has just made busy.
        if due:
            peer = due[0]
            ranges = sorted(self._wishes.pop(peer).ranges)
            self._context.counters["comparisons"] += 1
            comparison = self._running[peer] = RangeComparison(
                self._context, self._pusher, peer, ranges, self._ended
            )
            comparison.step(now)
        self._arm()

    def _ended(self, comparison: RangeComparison, now: SteadyTime) -> None:
        peer, view = comparison.peer, self._context.view
        del self._running[peer]
        missing = Intervals(comparison.open)
        done = [part for part in comparison.ranges if not missing.touches((part.start, part.stop))]
        # It counts as dead for the rule. Should it only be slow, its answer ends that.
        if comparison.silent:
            self._caught_up.silent(peer)
        elif not comparison.failed:
            sound = [part for part in comparison.sound if part in done]
            self._caught_up.compared(peer, done, sound, epoch=comparison.epoch)
        if view is not None and peer in view.peers:
            if comparison.complete:
                self._retries.pop(peer, None)
                # All that both keep: this round need not compare with it again.
                if set(comparison.ranges) >= set(view.shared_with(peer)):
                    self._compared[peer] = now
            else:
                self._try_again(comparison, view, now)
        self.pursue(now)
        self._arm()

    def _try_again(self, comparison: RangeComparison, view: View, now: SteadyTime) -> None:
        peer, options = comparison.peer, self._context.options
        delay = self._retries.get(peer, FIRST_RETRY)
        # Doubled: a node in trouble gets time.
        self._retries[peer] = min(2 * delay, options.interval)
        shared = Intervals((part.start, part.stop) for part in view.shared_with(peer))
        again = [part for part in comparison.ranges if shared.covers((part.start, part.stop))]
        self.want(peer, again or view.shared_with(peer), now + self._context.node.jittered(delay))

    def waits_for(self) -> dict[str, list[str]]:
        """The addresses of the nodes that are waited for, by what is missing of them."""
        is_known = self._context.view is not None
        missing = self._caught_up.missing(self._caught_up.waiting()) if is_known else {}
        contacts = {what: [self._context.contact(id) for id in sorted(ids)] for what, ids in missing.items()}
        return {what: [str(each.address) for each in all if each] for what, all in contacts.items()}

    def status(self) -> dict[str, object]:
        """Plain data: the numbers of running and of planned comparisons."""
        return {"running": len(self._running), "planned": len(self._wishes)}
