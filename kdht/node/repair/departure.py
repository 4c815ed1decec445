"""Runs of Handoff: for records that belong elsewhere, as they are found, and for all records when the node leaves."""

from collections.abc import Callable

from kdht.node.repair.context import RepairContext
from kdht.node.repair.handoff import Handoff, KeepingNodes
from kdht.node.repair.intervals import Intervals
from kdht.node.repair.push import Pusher
from kdht.node.repair.ranges import SPACE, View, number
from kdht.times import SteadyTime
from kdht.wire import Contact

FIRST_RETRY = 1.0
"""Seconds until records that could not be given away are tried again; doubles."""
LAST_RETRY = 60.0
# An operator waits for a drain. Other records may wait for a minute.
LAST_DRAIN_RETRY = 2.0
PASS_DELAY = 0.2
"""Seconds between two runs: dropped records may still be in the store."""
QUIET_RUNS = 5
"""After so many runs that brought nobody anything, a drain is over, though copies were found."""


class Foreign:
    """Gives away records that this node does not keep, or no longer keeps."""

    def __init__(self, context: RepairContext, pusher: Pusher) -> None:
        self.stray = True
        """Whether there may be such records. Any thread may set it."""
        self._context = context
        self._pusher = pusher
        self._stopped = False
        self._retry = FIRST_RETRY

    def start(self, now: SteadyTime) -> None:
        """Look from time to time."""
        options = self._context.options
        # With one replica, readers miss the record until it is given away.
        delay = options.foreign_delay if options.replicas > 1 else options.first_delay
        self._context.node.timers.at(now + self._context.node.jittered(delay), self._look)

    def stop(self) -> None:
        self._stopped = True

    def _look(self, now: SteadyTime) -> None:
        view = self._context.view
        if self._stopped:
            return
        if view is None or not self.stray:
            self.start(now)
            return
        # Before the run: a change meanwhile sets it again.
        self.stray = False
        kept = [*(each.range for each in view.kept), *self._context.caught_up.held]
        own = Intervals((part.start, part.stop) for part in kept)
        # Held ranges are left alone: other nodes still read from them.
        Handoff(self._context, self._pusher, KeepingNodes(self._context), own.complement(), self._ended).step(
            now
        )

    def _ended(self, left: int, now: SteadyTime) -> None:
        if not left:
            self._retry = FIRST_RETRY
            self.start(now)
            return
        self.stray = True
        delay, self._retry = self._retry, min(2 * self._retry, LAST_RETRY)
        self._context.node.timers.at(now + self._context.node.jittered(delay), self._look)


class _Remembered(KeepingNodes):
    """The contacts at the start of a drain. A leaving node no longer probes its contacts, so its table grows stale."""

    def __init__(self, context: RepairContext) -> None:
        super().__init__(context)
        self._contacts = {number(entry.contact.id): entry.contact for entry in context.node.table}

    def closest(self, key: bytes) -> list[Contact]:
        at = number(key)
        nearest = sorted(self._contacts, key=lambda id: id ^ at)[: self._context.replicas]
        return [self._contacts[id] for id in nearest]

    def silent(self, contact: Contact) -> None:
        self._contacts.pop(number(contact.id), None)


class Drain:
    """Gives all records away. It is over once a whole run found none.

    It is over, too, if what comes in is known to all others: while clients go on working through this node, their reads and
    writes leave copies here again and again.
    """

    def __init__(self, context: RepairContext, pusher: Pusher, drained: Callable[[], None]) -> None:
        self.over = False
        self._context = context
        self._pusher = pusher
        self._drained = drained
        self._retry = FIRST_RETRY
        self._quiet = 0
        self._others = _Remembered(context)
        self._run: Handoff

    def start(self, now: SteadyTime) -> None:
        context = self._context
        # A view with no replicas: this node keeps nothing any more, as all others should see.
        context.sight.look(View(context.node.id, [entry.contact.id for entry in context.node.table], 0), now)
        self._begin(now)

    @property
    def given(self) -> int:
        return self._context.counters["records_dropped"]

    def _begin(self, now: SteadyTime) -> None:
        self._run = Handoff(self._context, self._pusher, self._others, [(0, SPACE)], self._ended)
        self._run.step(now)

    def _ended(self, left: int, now: SteadyTime) -> None:
        # Writes may arrive during a run, so only an empty run is the end, or several that moved nothing: a copy here
        # confirms no write any more, because this node has caught up on nothing.
        self._quiet = 0 if left or self._run.brought else self._quiet + 1
        if not left and (not self._run.given or self._quiet >= QUIET_RUNS):
            self.over = True
            self._drained()
            return
        delay = PASS_DELAY
        if left:
            delay, self._retry = self._retry, min(2 * self._retry, LAST_DRAIN_RETRY)
        self._context.node.timers.at(now + delay, self._begin)
