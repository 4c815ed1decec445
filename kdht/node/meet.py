"""Contacts that other nodes name. This node verifies those that it can talk to; the others are doubts (Reach).

MEET introduces two nodes when each is known only by an address that the other cannot use. One of them asks a go-between
that knows both. The go-between tells the other node, which then writes.
"""

from kdht.node.context import NodeContext, leave_to_table
from kdht.node.members import Members
from kdht.node.messages import untrusted_suspect
from kdht.node.notice import Notices
from kdht.node.reach import Reach
from kdht.node.twins import Twins
from kdht.times import SteadyTime
from kdht.wire import Contact, Message


class Meetings:
    """The contacts that others name to one node."""

    def __init__(
        self, context: NodeContext, members: Members, notices: Notices, reach: Reach, twins: Twins
    ) -> None:
        self._context = context
        self._members = members
        self._notices = notices
        self._reach = reach
        self._twins = twins

    def named(self, contact: Contact, namer: Contact, now: SteadyTime) -> bool:
        """A member names another one. Returns whether this node can talk to it."""
        if self._context.is_of_other_version(contact):
            self._context.counters["other_version"] += 1
            self._reach.named(contact, namer, now)
            return False
        return self._reach.aside or self._members.learn(contact, now, heard=False)

    def untrusted_told(self, message: Message, sender: Contact, now: SteadyTime) -> None:
        """Handle a MEET: pass it on to the node that is meant, or write to the named one. Raises BadPacket."""
        context = self._context
        context.counters["meetings"] += 1
        self._members.learn(sender, now, heard=True)
        if message.key == context.id:
            other = untrusted_suspect(message)
            if other.id == context.id:
                self._twins.own_id_at(other.address, now)
            elif self.named(other, sender, now):
                # The ping shows the other node an address of this one that it can use.
                context.ping(other.address, other.id, leave_to_table, now)
        elif (entry := context.table.get(message.key)) is not None:
            self._notices.meet(message.key, sender, entry.contact, now)
