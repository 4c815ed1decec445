"""The Kademlia node: datagrams and `now` in, datagrams and the next wake-up out.

Contract: no I/O, no clock, no threads; one caller at a time. After each call that takes
`now`, take `datagrams_to_send` and `events`, and call `tick` again at `next_wake`. `now` is
seconds of a clock that never runs backwards; `unix_offset` added to it is Unix time. What
comes in is trusted as far as the datapath's verdict CONTROL goes: form, epoch, tags, replay
window. Nothing here raises for what a datagram holds: it is counted and ignored.
A contact enters the table, and so the datapaths, only after a matched reply.
"""

from collections.abc import Callable, Iterable, Sequence
from random import Random

from kdht.datapath.base import Datagram, Outgoing
from kdht.errors import BadPacket
from kdht.histogram import Histogram
from kdht.node._timers import TokenBucket
from kdht.node.census import Census
from kdht.node.cluster import ClusterState, Policy
from kdht.node.context import NodeContext
from kdht.node.control_outbox import ControlOutbox
from kdht.node.events import Drained, Event, LookupDone
from kdht.node.forget import Done as Told
from kdht.node.forget import Fate, Forgetting
from kdht.node.join import Joiner
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
from kdht.node.notice import Notices
from kdht.node.options import Options
from kdht.node.place.claims import Claims
from kdht.node.probe import Prober
from kdht.node.probe_schedule import ProbeSchedule
from kdht.node.reach import Reach
from kdht.node.readiness import LEAVING, REPLICAS, Readiness
from kdht.node.refresh import Refresher
from kdht.node.repair import Keeping, Repair
from kdht.node.repair.repair import OPS as REPAIR_OPS
from kdht.node.rpc import Mismatch, Rpc
from kdht.node.summary import SUMMARY, Summaries
from kdht.node.suspicion import Suspicion
from kdht.node.table import Publish, Table
from kdht.node.table_contact import TableContact
from kdht.node.twins import Twins
from kdht.node.verify import Verifier
from kdht.times import SteadyTime
from kdht.wire import OFFSET, Address, Contact, Message, pack_contacts, parse
from kdht.wire._shared import ID_LEN, Op, Reason, Status
from kdht.wire.keys import ClusterSecret


class Node:
    """One node's control plane.

    `contact`: what others learn of this node. `keys`: the cluster keys, the first signs.
    `publish(index, contacts)` gets each bucket that changed, whole. `rng` should be
    SystemRandom where it matters that nobody guesses request IDs. `own`: all addresses that
    are this node's alone, at most one used per IP version; without it, the contact's.
    `keeping`: for a node that keeps records; without it, it only routes.
    """

    def __init__(
        self,
        contact: Contact,
        keys: Sequence[ClusterSecret],
        publish: Publish,
        rng: Random,
        options: Options | None = None,
        own: Sequence[Address] = (),
        keeping: Keeping | None = None,
    ) -> None:
        options = options or Options()
        cluster = keeping.cluster if keeping is not None else ClusterState(Policy())
        self._cluster = cluster
        self.contact = contact
        self.table = Table(
            contact.id,
            publish,
            k=options.k,
            replacements=options.replacements,
            replicas=options.replicas,
        )
        # The outbox needs the context, and the context's requests the outbox. Nothing is sent before both are made.
        self._context = context = NodeContext(
            contact,
            own or (contact.address,),
            self.table,
            options,
            rng,
            transmit=lambda rpc, now: self._outbox.request(rpc, now),
            missed=self._missed,
        )
        self.counters = context.counters
        self.census = Census(self.table, options.replicas, cluster, self._is_alone)
        """How many nodes there are."""
        self._outbox = outbox = ControlOutbox(context, keys[0])
        # A rate of their own, so that answers to a flood of questions delay no probe.
        self._notices = Notices(context, outbox)
        self._reply_budget = TokenBucket(options.reply_rate)
        self._prober = Prober(context)
        self._schedule = ProbeSchedule(context, self._prober)
        self._suspicion = Suspicion(context, self._prober, self._schedule, self._notices, self._fell_silent)
        self._verifier = Verifier(context, self._prober)
        self._refresher = Refresher(context)
        self._searches = self._refresher.searches
        self._joiner = Joiner(context, self._searches, self._refresher, cluster)
        self._claims = Claims(self.table)
        self._forgetting = Forgetting(context, self.census)
        self.repair = None if keeping is None else self._repair(keeping)
        self.twins = Twins(context, self._notices, self._yield)
        store = None if keeping is None else keeping.store
        self.summaries = Summaries(context, self.twins, self.repair, store)
        self._members = Members(
            context,
            census=self.census,
            prober=self._prober,
            schedule=self._schedule,
            verifier=self._verifier,
            refresher=self._refresher,
            joiner=self._joiner,
            twins=self.twins,
            on_change=_ignore if self.repair is None else self.repair.contacts_changed,
        )
        self._reach = Reach(context, self._notices, self._bar, self._withdraw)
        self._meetings = Meetings(context, self._members, self._notices, self._reach, self.twins)
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

    def _is_alone(self, left: bool) -> None:
        """Alone after it had others, the node can neither confirm a write nor be sure that a key has no value."""
        # Where one node confirms a write, the last one goes on.
        if left and self._cluster.policy.acks > 1:
            self.readiness.require(REPLICAS)
        else:
            self.readiness.reached(REPLICAS)

    # What the daemon calls

    def join(self, bootstrap: Sequence[Address], now: SteadyTime) -> None:
        """Join the cluster through any of these addresses, and again whenever that is needed.

        Own addresses, and those of an IP version that this node does not speak, are left out.
        """
        self.twins.run(now)
        self._joiner.start(bootstrap, now)
        self._refresher.start(now)
        self._schedule.start(now)
        if self.repair is not None:
            self.repair.start(now)

    def leave(self, now: SteadyTime) -> None:
        """Tell all contacts that this node goes. From now on it asks nobody and answers nobody.

        The messages leave at a rate, in `tick` too: `status` has how many wait. There is no way back.
        """
        # First, so that a load balancer that asks meanwhile sends nobody here any more.
        self.readiness.require(LEAVING)
        self._context.rpcs.close(now)
        self._notices.leave(self.snapshot(), now, drained=self.repair is not None and self.repair.drained)

    def drain(self, now: SteadyTime) -> None:
        """Leave, and give all records to the nodes that keep them from now on; the end is a Drained."""
        assert self.repair is not None
        # A second `drain` only asks for the progress.
        if not self._context.leaving:
            self.leave(now)
            self.repair.drain(now, self._drained)

    def restore(self, contacts: Iterable[Contact], now: SteadyTime) -> None:
        """Contacts of an earlier `snapshot`, and the dead of its census: each is in the table once it answers."""
        self.twins.run(now)
        usable = [contact for contact in contacts if self._context.usable(contact)]
        # Before they are asked: until they answer they may come back with writes, so a majority counts them.
        self.census.remember(usable, now)
        for contact in usable:
            self._joiner.remember(contact.address)
            # Not straight into the table: an address may belong to another node by now.
            self._verifier.offer(contact, now, heard=False)

    def forget(self, id: bytes, done: Told, now: SteadyTime) -> Fate:
        """A dead node does not come back: wait for it no more, and have all contacts do so (Forgetting)."""
        return self._forgetting.forget(id, done, now)

    def receive(self, datagram: Datagram, now: SteadyTime) -> None:
        """Take a control message, whose verdict was LOCAL for the reason CONTROL."""
        try:
            self._receive_untrusted(datagram, now)
        except BadPacket as bad:
            self.counters[bad.reason] += 1
        except Mismatch as mismatch:
            self.counters[mismatch.reason] += 1
        except Exception:
            self._context.faults.note(f"a control message, op {datagram.data[OFFSET['op']]:#x}")

    def tick(self, now: SteadyTime) -> None:
        """Do what is due: time-outs, probes, refreshes."""
        self._context.timers.run(now)
        if self.repair is not None:
            self.repair.go_on(now)

    def unreachable(self, address: Address, now: SteadyTime) -> None:
        """ICMP said so: the contact there is left out of what is published until it answers a ping."""
        self._suspicion.unreachable(address, now)

    def silent(self, address: Address, now: SteadyTime) -> None:
        """Some other request to there had no answer in time: the contact is pinged at once, no more."""
        self._suspicion.silent(address, now)

    def lookup(self, target: bytes, now: SteadyTime) -> bool:
        """Look for the contacts closest to `target`; the result is a LookupDone. False: too many wait."""

        def found(closest: list[Contact], now: SteadyTime) -> None:
            self._context.events.append(LookupDone(target, closest))

        return self._searches.start(target, found, now)

    def set_keys(self, keys: Sequence[ClusterSecret]) -> None:
        """The cluster's keys changed: the first signs from now on."""
        self._outbox.key = keys[0]

    def datagrams_to_send(self) -> list[Outgoing]:
        """What has to be sent, each datagram once."""
        return self._outbox.take()

    def events(self) -> list[Event]:
        """What happened, each event once."""
        events = list(self._context.events)
        self._context.events.clear()
        return events

    def next_wake(self) -> float | None:
        """When `tick` has something to do; None: not before something comes in."""
        return self._context.timers.next()

    def speaks_to(self, address: Address) -> bool:
        """Whether this node has an address of that IP version."""
        return self._context.source(address) is not None

    @property
    def reach(self) -> Reach:
        """Whether there are members that this node cannot talk to."""
        return self._reach

    @property
    def aside(self) -> bool:
        """Whether it has left its cluster by itself: members are out of its reach, or an older node has its ID."""
        return self._reach.aside or self.twins.aside

    @property
    def joined(self) -> bool:
        """Whether this node knows its place in the cluster."""
        return self._joiner.joined

    @property
    def bucket_size(self) -> int:
        """Contacts that a bucket has room for."""
        return self._context.options.k

    @property
    def round_trips(self) -> dict[str, dict[Op, Histogram]]:
        """How long other nodes took to answer, by the part that asked and by op."""
        repair = self.repair.round_trips if self.repair is not None else {}
        return {"control": self._context.rpcs.round_trips, "repair": repair}

    @property
    def asked(self) -> list[Address]:
        """Whom it asks while it has not joined."""
        return self._joiner.asked

    @property
    def readiness(self) -> Readiness:
        """What it still waits for before it should serve; other parts may `require` more."""
        return self._context.readiness

    @property
    def ready(self) -> bool:
        """Whether it should serve: it has joined, its table is warm, and whatever else is required."""
        return self.readiness.ready

    @property
    def unix_offset(self) -> float:
        """Seconds that make `now` Unix time."""
        return self._context.unix_offset

    @unix_offset.setter
    def unix_offset(self, seconds: float) -> None:
        self._context.unix_offset = seconds

    def snapshot(self) -> list[Contact]:
        """The contacts in the table, nearest first: what `restore` takes."""
        return self.table.neighbours(len(self.table))

    def status(self, now: SteadyTime) -> dict[str, object]:
        """Plain data for `kdhtctl table` and `kdhtctl status`; ages in seconds."""
        return {
            "id": self.contact.id.hex(),
            "address": str(self.contact.address),
            "joined": self.joined,
            "ready": self.ready,
            "waiting_for": self.readiness.missing,
            "contacts": len(self.table),
            "pending": len(self._context.rpcs),
            "verifying": len(self._verifier),
            "notices": len(self._notices),
            "repair": self.repair.status() if self.repair is not None else {},
            "buckets": self.table.status(now),
            "counters": dict(self.counters),
        }

    def _repair(self, keeping: Keeping) -> Repair:
        return Repair(
            self._context,
            keeping,
            transmit=self._outbox.request,
            respond=self._respond,
            joined=lambda: self.joined,
        )

    # Messages in

    def _receive_untrusted(self, datagram: Datagram, now: SteadyTime) -> None:
        message = parse(datagram.data)
        is_repair = self.repair is not None and message.op in REPAIR_OPS
        # It has said LEAVE, and an answer would bring it back into tables. Only replies to its hand-off count.
        if self._context.leaving and not (is_repair and message.is_reply):
            raise Mismatch("leaving")
        asks_about_id = message.body[:ID_LEN] == self.contact.id
        if self.aside and not message.is_reply and not asks_about_id:
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
            assert self.repair is not None
            self.repair.receive(message, datagram, now)
            if message.op is Op.DIGEST and not message.is_reply:
                # Who waits to be counted among the replicas asks those who do not know it.
                self._members.learn(Contact(untrusted_id(message), *datagram.source), now, heard=True)
            return
        if is_newcomers(message):
            self._place(message, datagram, now)
            return
        sender = Contact(untrusted_id(message), *datagram.source)
        if sender.id == self.contact.id:
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
        self.counters["own_id"] += 1
        if message.is_reply:
            rpc, rtt = self._context.rpcs.match(message, datagram.source, self.contact.id, now)
            rpc.done(rpc, Reply(self.contact.id, [], rtt, body=message.body[ID_LEN:]), now)
            return
        if message.op is Op.PING:
            self._respond(message, datagram, self.twins.run(now).pack(), Status.OK, now)
        self.twins.own_id_at(datagram.source, now)

    def _answer(self, message: Message, sender: Contact, datagram: Datagram, now: SteadyTime) -> None:
        """Answer a request, then see who it is that asks."""
        self.counters["requests"] += 1
        if self._reply_budget.take(now):
            self.counters["replies_sent"] += 1
            self._outbox.reply(message, datagram, self._answers[message.op](message, sender.id), now)
        else:
            self.counters["reply_rate"] += 1
        self._members.learn(sender, now, heard=True)

    def _place(self, message: Message, datagram: Datagram, now: SteadyTime) -> None:
        """A node that has no ID yet asks who is near one, or for a place there. It is no member."""
        self.counters["newcomers"] += 1
        # The owner of a gap lets one newcomer in at a time, so two do not choose the same one.
        status = self._claims.claim(message.key, now) if is_claim(message) else Status.OK
        self._respond(message, datagram, pack_contacts(self._closest(message.key)), status, now)

    def _respond(
        self, message: Message, datagram: Datagram, body: bytes, status: Status, now: SteadyTime
    ) -> None:
        """Send an answer whose status or body is not the usual."""
        if self._reply_budget.take(now):
            self._outbox.reply(message, datagram, self.contact.id + body, now, status)
        else:
            self.counters["reply_rate"] += 1

    def _pong(self, message: Message, asker: bytes) -> bytes:
        wants = message.body[ID_LEN:] == SUMMARY
        return self.contact.id + (self.summaries.here().pack() if wants else b"")

    def _found(self, message: Message, asker: bytes) -> bytes:
        return self.contact.id + pack_contacts(self._closest(message.key, asker))

    def _closest(self, key: bytes, asker: bytes = b"") -> list[Contact]:
        return self.table.closest(key, self._context.options.k, without=asker)

    def _forgot(self, message: Message, asker: bytes) -> bytes:
        return self.contact.id + bytes([self._forgetting.here(message.key)])

    def _is_suspected(self, message: Message, sender: Contact, now: SteadyTime) -> None:
        suspect = untrusted_suspect(message)
        self.counters["suspects"] += 1
        self._suspicion.told(suspect, now)
        self._members.learn(sender, now, heard=True)

    def _meets(self, message: Message, sender: Contact, now: SteadyTime) -> None:
        if self._reply_budget.take(now):
            self._meetings.untrusted_told(message, sender, now)
        else:
            self.counters["reply_rate"] += 1

    def _leaves(self, message: Message, sender: Contact, now: SteadyTime) -> None:
        entry = self.table.at(sender.address)
        # Else a member could take another one out of all tables by naming its address.
        if entry is not None and entry.contact != sender:
            raise Mismatch("wrong_id")
        if entry is not None and message.time < int(entry.added + self.unix_offset):
            # A replay of what it said before it came back; or its clock is behind.
            self.counters["left_stale"] += 1
            self._suspicion.silent(sender.address, now)
            return
        self.counters["left"] += 1
        self._members.left(sender, now, drained=is_drained(message))

    def _drained(self) -> None:
        self._context.events.append(Drained())
        self.leave(self._context.timers.now)

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
        self.counters["replies"] += 1
        if not self.aside:
            self._members.answered(sender, rtt, now)
        # After the table, because a new contact has its entry only now.
        self._note_clock(sender.id, message.time, now)
        contacts = [contact for contact in named if self._meetings.named(contact, sender, now)]
        rpc.done(rpc, Reply(sender.id, contacts, rtt, body=message.body[ID_LEN:]), now)

    def _bar(self, barred: bool) -> None:
        barred = barred or self.twins.aside
        self._cluster.bar(barred)
        if self.repair is not None:
            self.repair.withhold(barred)

    def _withdraw(self, now: SteadyTime) -> None:
        """Leave, but for asking whether this node can come back."""
        self._notices.leave(self.snapshot(), now, drained=False)
        # A node that stands aside must not join by itself again before its doubts are over.
        self._joiner.suspend()
        self._context.rpcs.abandon(now)
        self._members.clear(now)

    def _yield(self, now: SteadyTime) -> None:
        """Leave for good: an older node has this node's ID."""
        self._bar(True)
        self._withdraw(now)

    def _note_clock(self, id: bytes, said: int, now: SteadyTime) -> None:
        """For the operator only: a reply tells the second in which it was sealed."""
        entry = self.table.get(id)
        if entry is not None:
            # Half a second is the mean error of a time in whole seconds.
            entry.clock = said + 0.5 - (now + self.unix_offset)

    def _missed(self, rpc: Rpc, now: SteadyTime) -> None:
        self._suspicion.missed(rpc, now)

    def _fell_silent(self, entry: TableContact, now: SteadyTime) -> None:
        self._members.fell_silent(entry, now)


def _ignore(now: SteadyTime) -> None:
    """A node that only routes needs nothing else when its contacts change."""
