"""Control messages on their way in: which of them count, and which part of the node takes each.

Contract: the datapath's verdict has checked form, epoch, tags and replay window. All else that a datagram holds is
untrusted: what does not fit ends in BadPacket or Mismatch, before anything has changed.
A contact enters the table only after a matched reply.
"""

from collections.abc import Callable

from kdht.datapath.base import Datagram
from kdht.node.context import NodeContext
from kdht.node.control_outbox import ControlOutbox
from kdht.node.forget import Forgetting
from kdht.node.meet import Meetings
from kdht.node.members import Members
from kdht.node.messages import (
    Reply,
    is_claim,
    is_drained,
    is_newcomers,
    untrusted_contacts,
    untrusted_id,
    untrusted_suspect,
)
from kdht.node.place.claims import Claims
from kdht.node.reach import Reach
from kdht.node.repair import Repair
from kdht.node.repair.repair import OPS as REPAIR_OPS
from kdht.node.rpc import Mismatch
from kdht.node.summary import SUMMARY, Summaries
from kdht.node.suspicion import Suspicion
from kdht.node.twins import Twins
from kdht.times import SteadyTime
from kdht.wire import Contact, Message, pack_contacts, parse
from kdht.wire._shared import ID_LEN, Op, Reason, Status


class ControlInbox:
    """The incoming control messages of one node. `repair`: None for a node that keeps no records."""

    def __init__(
        self,
        context: NodeContext,
        outbox: ControlOutbox,
        *,
        members: Members,
        meetings: Meetings,
        reach: Reach,
        suspicion: Suspicion,
        twins: Twins,
        forgetting: Forgetting,
        summaries: Summaries,
        repair: Repair | None,
    ) -> None:
        self._context = context
        self._outbox = outbox
        self._table = context.table
        self._counters = context.counters
        self._members = members
        self._meetings = meetings
        self._reach = reach
        self._suspicion = suspicion
        self._twins = twins
        self._forgetting = forgetting
        self._summaries = summaries
        self._repair = repair
        self._claims = Claims(context.table)
        # Tables and not a chain of ifs: a new op has one line here, and the check for unknown ops below cannot
        # forget it.
        self._answers: dict[Op, Callable[[Message, bytes], bytes]] = {
            Op.PING: self._pong,
            Op.FIND_NODE: self._found,
            Op.FORGET: self._forgot,
        }
        self._notices_in: dict[Op, Callable[[Message, Contact, SteadyTime], None]] = {
            Op.SUSPECT: self._is_suspected,
            Op.LEAVE: self._leaves,
            Op.MEET: self._meets,
        }

    def take(self, datagram: Datagram, now: SteadyTime) -> None:
        """Raises BadPacket for a bad form, Mismatch for a message that does not belong here."""
        message = parse(datagram.data)
        is_repair = self._repair is not None and message.op in REPAIR_OPS
        # It has said LEAVE, and an answer would bring it back into tables. Only replies to its hand-off count.
        if self._context.leaving and not (is_repair and message.is_reply):
            raise Mismatch("leaving")
        asks_about_id = message.body[:ID_LEN] == self._context.id
        if (self._reach.aside or self._twins.aside) and not message.is_reply and not asks_about_id:
            raise Mismatch("aside")
        is_known = is_repair or message.op in self._answers or message.op in self._notices_in
        if not is_known or datagram.reason is not Reason.CONTROL:
            raise Mismatch("not_control")
        # An anycast address is shared, so it identifies no node.
        # Asked before the sender is looked at: a reply from an address that other nodes share would prove
        # nothing about this one.
        if datagram.target not in self._context.own:
            raise Mismatch("not_own_address")
        # The tag covers the client fields: a replay from another address is refused.
        if message.client != datagram.source:
            raise Mismatch("wrong_client")
        if is_repair:
            assert self._repair is not None
            self._repair.receive(message, datagram, now)
            if message.op is Op.DIGEST and not message.is_reply:
                # Who waits to be counted among the replicas asks those who do not know it.
                self._members.learn(Contact(untrusted_id(message), *datagram.source), now, heard=True)
            return
        if is_newcomers(message):
            self._place(message, datagram, now)
            return
        sender = Contact(untrusted_id(message), *datagram.source)
        if sender.id == self._context.id:
            self._take_own_id(message, datagram, now)
            return
        # Any message shows a way from there to here, whatever it says.
        self._reach.heard(sender.id, now)
        if message.is_reply:
            self._take_reply(message, sender, now)
        elif message.op in self._notices_in:
            self._notices_in[message.op](message, sender, now)
        else:
            self._answer(message, sender, datagram, now)

    def _take_own_id(self, message: Message, datagram: Datagram, now: SteadyTime) -> None:
        """Another node has this node's ID, or this is an echo. Only a matched answer says which."""
        if datagram.source in self._context.own:
            raise Mismatch("own_id")
        self._counters["own_id"] += 1
        if message.is_reply:
            rpc, rtt = self._context.rpcs.match(message, datagram.source, self._context.id, now)
            rpc.done(rpc, Reply(self._context.id, [], rtt, body=message.body[ID_LEN:]), now)
            return
        if message.op is Op.PING:
            self._outbox.respond(message, datagram, self._twins.run(now).pack(), Status.OK, now)
        self._twins.own_id_at(datagram.source, now)

    def _answer(self, message: Message, sender: Contact, datagram: Datagram, now: SteadyTime) -> None:
        """Answer a request, then see who it is that asks."""
        self._counters["requests"] += 1
        if self._outbox.may_reply(now):
            self._counters["replies_sent"] += 1
            self._outbox.reply(message, datagram, self._answers[message.op](message, sender.id), now)
        self._members.learn(sender, now, heard=True)

    def _place(self, message: Message, datagram: Datagram, now: SteadyTime) -> None:
        """A node that has no ID yet asks who is near one, or for a place there. It is no member."""
        self._counters["newcomers"] += 1
        # The owner of a gap lets one newcomer in at a time, so two do not choose the same one.
        status = self._claims.claim(message.key, now) if is_claim(message) else Status.OK
        self._outbox.respond(message, datagram, pack_contacts(self._closest(message.key)), status, now)

    def _pong(self, message: Message, asker: bytes) -> bytes:
        wants = message.body[ID_LEN:] == SUMMARY
        return self._context.id + (self._summaries.here().pack() if wants else b"")

    def _found(self, message: Message, asker: bytes) -> bytes:
        return self._context.id + pack_contacts(self._closest(message.key, asker))

    def _closest(self, key: bytes, asker: bytes = b"") -> list[Contact]:
        return self._table.closest(key, self._context.options.k, without=asker)

    def _forgot(self, message: Message, asker: bytes) -> bytes:
        return self._context.id + bytes([self._forgetting.here(message.key)])

    def _is_suspected(self, message: Message, sender: Contact, now: SteadyTime) -> None:
        suspect = untrusted_suspect(message)
        self._counters["suspects"] += 1
        self._suspicion.told(suspect, now)
        self._members.learn(sender, now, heard=True)

    def _meets(self, message: Message, sender: Contact, now: SteadyTime) -> None:
        if self._outbox.may_reply(now):
            self._meetings.untrusted_told(message, sender, now)

    def _leaves(self, message: Message, sender: Contact, now: SteadyTime) -> None:
        entry = self._table.at(sender.address)
        # Else a member could take another one out of all tables by naming its address.
        if entry is not None and entry.contact != sender:
            raise Mismatch("wrong_id")
        if entry is not None and message.time < int(entry.added + self._context.unix_offset):
            # A replay of what it said before it came back; or its clock is behind.
            self._counters["left_stale"] += 1
            self._suspicion.silent(sender.address, now)
            return
        self._counters["left"] += 1
        self._members.left(sender, now, drained=is_drained(message))

    def _take_reply(self, message: Message, sender: Contact, now: SteadyTime) -> None:
        named = untrusted_contacts(message)
        try:
            rpc, rtt = self._context.rpcs.match(message, sender.address, sender.id, now)
        except Mismatch as mismatch:
            # Another node lives at that address now. It is pinged like any newcomer; the old contact is judged
            # by its own silence.
            if mismatch.reason == "wrong_id":
                self._members.learn(sender, now, heard=True)
            raise
        self._counters["replies"] += 1
        if not (self._reach.aside or self._twins.aside):
            self._members.answered(sender, rtt, now)
        # After the table, because a new contact has its entry only now.
        self._note_clock(sender.id, message.time, now)
        contacts = [contact for contact in named if self._meetings.named(contact, sender, now)]
        rpc.done(rpc, Reply(sender.id, contacts, rtt, body=message.body[ID_LEN:]), now)

    def _note_clock(self, id: bytes, said: int, now: SteadyTime) -> None:
        """For the operator only: a reply tells the second in which it was sealed."""
        entry = self._table.get(id)
        if entry is not None:
            # Half a second is the mean error of a time in whole seconds.
            entry.clock = said + 0.5 - (now + self._context.unix_offset)
