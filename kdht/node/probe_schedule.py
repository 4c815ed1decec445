"""Which contacts a node probes without a cause, and when.

Contract: each node of a ring (Table.ring) probes the next one that is not under suspicion already. So each is asked once
in `probe_interval`, at four packets a probe and node, whatever the size of the ring. SWIM (Das, Gupta and Motivala, 2002)
probes at random. A ring bounds the time until a death is seen. Where the views of nodes differ, the questions for new
nodes make up for it; they go around in SWIM's random order. Any other contact is probed if it did not answer for long.
Failures come together, so after one death the whole ring is probed.
"""

from functools import partial

from kdht.node._timers import Alarm
from kdht.node.context import NodeContext, leave_to_table
from kdht.node.probe import Prober
from kdht.node.table_contact import TableContact
from kdht.times import SteadyTime
from kdht.wire._shared import Op


class ProbeSchedule:
    """The probe times of one node, and an alarm for each contact."""

    def __init__(self, context: NodeContext, prober: Prober) -> None:
        self._context = context
        self._prober = prober
        self._alarms: dict[bytes, Alarm] = {}
        self._turns: list[bytes] = []
        self._swept = float("-inf")
        self._is_beating = False

    def start(self, now: SteadyTime) -> None:
        """Begin, at random times."""
        # A second join must not double the probes.
        if not self._is_beating:
            self._is_beating = True
            options, rng, timers = self._context.options, self._context.rng, self._context.timers
            timers.at(now + rng.uniform(0, options.probe_interval), self._beat)
            timers.at(now + rng.uniform(0, options.discovery_interval), self._discover)

    def add(self, entry: TableContact, now: SteadyTime) -> None:
        """A contact entered the table."""
        self._schedule(entry, now + self._context.jittered(self._context.options.contact_interval))

    def forget(self, entry: TableContact) -> None:
        """A contact left the table."""
        alarm = self._alarms.pop(entry.contact.id, None)
        if alarm is not None:
            self._context.timers.cancel(alarm)

    def sweep(self, now: SteadyTime, spread: float = 0.0) -> None:
        """A node died: probe the whole ring within `spread` seconds, except nodes that have just answered."""
        context = self._context
        # Many deaths at once cause one sweep, not one for each.
        # Those who died together are found by the one sweep.
        if now - self._swept < context.options.sweep_interval:
            return
        self._swept = now
        for entry in context.table.ring():
            if spread:
                context.timers.at(now + context.rng.uniform(0, spread), partial(self._question, entry))
            else:
                self._question(entry, now)

    def _question(self, entry: TableContact, now: SteadyTime) -> None:
        is_member = self._context.table.get(entry.contact.id) is entry
        if is_member and now - entry.answered >= self._context.options.just_answered:
            self._prober.probe(entry, now)

    def _beat(self, now: SteadyTime) -> None:
        context = self._context
        interval = context.jittered(context.options.probe_interval, context.options.probe_jitter)
        # Before the work, so that an exception in it does not end the beat.
        context.timers.at(now + interval, self._beat)
        for entry in context.table.ring():
            # The first one that is not suspected already: so a row of dead neighbours does not hide the next.
            if entry not in self._prober:
                self._prober.probe(entry, now)
                return

    def _discover(self, now: SteadyTime) -> None:
        """Ask the next contact in turn for the nodes close to this one."""
        context = self._context
        context.timers.at(now + context.jittered(context.options.discovery_interval), self._discover)
        entry = self._next_in_turn()
        if entry is not None:
            address, id = entry.contact.address, entry.contact.id
            context.ask(Op.FIND_NODE, context.id, address, id, leave_to_table, now)

    def _next_in_turn(self) -> TableContact | None:
        table = self._context.table
        while self._turns:
            entry = table.get(self._turns.pop())
            if entry is not None and entry not in self._prober:
                return entry
        # Views of the ring may differ. The answers find newcomers that are not in this node's ring yet.
        ring = [entry.contact for entry in table.ring()]
        closest = table.neighbours(self._context.options.neighbours)
        self._turns = [contact.id for contact in dict.fromkeys([*ring, *closest])]
        self._context.rng.shuffle(self._turns)
        return table.get(self._turns.pop()) if self._turns else None

    def _schedule(self, entry: TableContact, when: float) -> None:
        id = entry.contact.id
        self._alarms[id] = self._context.timers.at(when, lambda now: self._due(id, now))

    def _due(self, id: bytes, now: SteadyTime) -> None:
        entry = self._context.table.get(id)
        if entry is None:
            return
        interval = self._context.jittered(self._context.options.contact_interval)
        if entry.answered + interval > now:
            self._schedule(entry, entry.answered + interval)
            return
        self._prober.probe(entry, now)
        self._schedule(entry, now + interval)
