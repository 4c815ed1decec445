"""Pings that find out whether a contact still lives.

Contract: a contact has at most one probe under way. The pings of a probe follow each other by the measured round-trip time
(RFC 6298) until one is answered or the contact leaves the table. `suspicion` decides what a missed answer leads to.
"""

from kdht.node.context import NodeContext
from kdht.node.messages import Reply
from kdht.node.rpc import Rpc
from kdht.node.table_contact import TableContact
from kdht.times import SteadyTime
from kdht.wire._shared import Op


class Prober:
    """The probes of all members."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._probes: dict[bytes, Rpc] = {}

    def __contains__(self, entry: TableContact) -> bool:
        return entry.contact.id in self._probes

    def probe(self, entry: TableContact, now: SteadyTime) -> None:
        """Ping a member, as often as it takes, unless that is going on already."""
        id = entry.contact.id
        # Two probes would count the same silence twice.
        if id in self._probes:
            return
        options = self._context.options
        timeout = entry.timeout(options.first_timeout, options.probe_timeout, options.max_timeout)
        rpc = Rpc(
            Op.PING,
            id,
            entry.contact.address,
            id,
            self._done,
            # One Rpc for the whole probe: its misses follow each other, so each counts as one more in a row.
            tries=options.max_misses,
            timeout=timeout,
            longest=max(timeout, options.probe_spacing),
            # Probes have a rate of their own: a flood of other requests must not make contacts look dead.
            urgent=True,
        )
        if self._context.rpcs.start(rpc, now):
            self._probes[id] = rpc

    def hurry(self, entry: TableContact, now: SteadyTime) -> None:
        """Find out as fast as the network allows, with few pings."""
        self.probe(entry, now)
        rpc = self._probes.get(entry.contact.id)
        options = self._context.options
        if rpc is not None:
            timeout = entry.timeout(options.first_timeout, options.probe_timeout, options.max_timeout)
            self._context.rpcs.hurry(rpc, options.unreachable_misses, timeout, now)

    def question(self, entry: TableContact, quiet: float, now: SteadyTime) -> None:
        """Something speaks against a member: ping it, if it was not heard for `quiet` seconds."""
        if now - entry.seen >= quiet:
            self.probe(entry, now)

    def question_oldest(self, index: int, now: SteadyTime) -> None:
        """A full bucket has a candidate: does the member that was not heard for longest still live?"""
        self.question(self._context.table.oldest(index), self._context.options.quiet, now)

    def forget(self, entry: TableContact) -> None:
        """A member went: what is under way ends without it."""
        self._probes.pop(entry.contact.id, None)

    def _done(self, rpc: Rpc, reply: Reply | None, now: SteadyTime) -> None:
        assert rpc.id is not None
        # The contact left the table, and perhaps came back: this is the end of an old probe.
        if self._probes.get(rpc.id) is not rpc:
            return
        del self._probes[rpc.id]
        entry = self._context.table.get(rpc.id)
        # Still in the table after all tries: misses under way together counted once. So it goes on.
        if reply is None and entry is not None:
            self.probe(entry, now)
