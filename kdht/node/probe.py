"""Whether the contacts in the table still live: regular probes, and quick ones on suspicion.

Contract: each member has exactly one alarm or one probe under way. The closest contacts,
on whom correct routing hangs most, are asked often, and for whoever is closest to this node:
so neighbours that came are found as fast as neighbours that went. Who misses an answer is
asked again at once until it answers or the table drops it.
"""

from kdht._shared import Op
from kdht.node.context import Context
from kdht.node.messages import Reply
from kdht.node.rpc import Rpc
from kdht.node.table import Entry
from kdht.node.timers import Alarm


class Prober:
    """The alarms of all members."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._alarms: dict[bytes, Alarm] = {}
        self._probing: set[bytes] = set()
        self._neighbours: frozenset[bytes] = frozenset()

    def watch(self, entry: Entry, now: float) -> None:
        """A member came in."""
        self._renew_neighbours(now)
        if entry.contact.id not in self._neighbours:
            self._schedule(entry, now)

    def forget(self, entry: Entry, now: float) -> None:
        """A member went."""
        id = entry.contact.id
        self._probing.discard(id)
        self._cancel(id)
        if id in self._neighbours:
            self._renew_neighbours(now)

    def suspect(self, entry: Entry, now: float) -> None:
        """Ping a member at once, as often as it takes, unless that is going on already."""
        if entry.contact.id not in self._probing:
            self._probe(entry, Op.PING, self._context.options.probe_tries, now)

    def question(self, entry: Entry, quiet: float, now: float) -> None:
        """Something speaks against a member: ping it, if it was not heard for `quiet` seconds."""
        if now - entry.seen >= quiet:
            self.suspect(entry, now)

    def question_oldest(self, index: int, now: float) -> None:
        """A full bucket has a newcomer: does the member that was not heard for longest still live?"""
        self.question(self._context.table.oldest(index), self._context.options.quiet, now)

    def _renew_neighbours(self, now: float) -> None:
        """Who came among the closest contacts is probed in a short while, not in a long one."""
        table = self._context.table
        closest = table.neighbours(self._context.options.neighbours)
        before, self._neighbours = self._neighbours, frozenset(contact.id for contact in closest)
        for contact in closest:
            entry = table.get(contact.id)
            if entry is not None and contact.id not in before | self._probing:
                self._schedule(entry, now)

    def _schedule(self, entry: Entry, now: float) -> None:
        context, id = self._context, entry.contact.id
        is_near = id in self._neighbours
        interval = context.options.neighbour_interval if is_near else context.options.contact_interval
        self._cancel(id)
        self._alarms[id] = context.timers.at(now + context.jittered(interval), lambda at: self._due(id, at))

    def _cancel(self, id: bytes) -> None:
        alarm = self._alarms.pop(id, None)
        if alarm is not None:
            self._context.timers.cancel(alarm)

    def _due(self, id: bytes, now: float) -> None:
        context = self._context
        entry = context.table.get(id)
        if entry is None:
            return
        op = Op.FIND_NODE if id in self._neighbours else Op.PING
        self._probe(entry, op, context.options.tries, now)

    def _probe(self, entry: Entry, op: Op, tries: int, now: float) -> None:
        context, contact = self._context, entry.contact
        key = context.id if op is Op.FIND_NODE else contact.id
        self._cancel(contact.id)
        if context.ask(op, key, contact.address, contact.id, self._done, now, tries):
            self._probing.add(contact.id)
        else:
            self._schedule(entry, now)

    def _done(self, rpc: Rpc, reply: Reply | None, now: float) -> None:
        assert rpc.id is not None
        entry = self._context.table.get(rpc.id)
        if rpc.id not in self._probing or entry is None:
            return
        self._probing.discard(rpc.id)
        if reply is None:
            self.suspect(entry, now)
        else:
            self._schedule(entry, now)
