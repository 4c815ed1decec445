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

from kdht._shared import Flag, Op, Reason
from kdht.datapath.base import Datagram, Outgoing
from kdht.errors import BadPacket
from kdht.keys import ClusterKey
from kdht.node.context import Context
from kdht.node.events import ContactAdded, ContactRemoved, Event, LookupDone
from kdht.node.join import Joiner
from kdht.node.messages import CONTROL_HOPS, Reply, untrusted_contacts, untrusted_id
from kdht.node.options import Options
from kdht.node.probe import Prober
from kdht.node.refresh import Refresher
from kdht.node.rpc import Mismatch, Rpc, Rpcs
from kdht.node.search import Searches
from kdht.node.table import Entry, Publish, Standing, Table
from kdht.node.timers import TokenBucket
from kdht.node.verify import Verifier
from kdht.wire import Address, Contact, Message, pack_contacts, parse, seal


class Node:
    """One node's control plane.

    `contact`: what others learn of this node. `keys`: the cluster keys, the first signs.
    `publish(index, contacts)` gets each bucket that changed, whole. `rng` should be
    SystemRandom where it matters that nobody guesses request IDs. `own`: all addresses that
    are this node's alone, at most one used per IP version; without it, the contact's.
    """

    def __init__(
        self,
        contact: Contact,
        keys: Sequence[ClusterKey],
        publish: Publish,
        rng: Random,
        options: Options | None = None,
        own: Sequence[Address] = (),
    ) -> None:
        options = options or Options()
        self.contact = contact
        self.unix_offset = 0.0
        self.table = Table(contact.id, publish, k=options.k, replacements=options.replacements)
        self._context = context = Context(contact, own or (contact.address,), self.table, options, rng)
        self.counters = context.counters
        self._signing_key = keys[0]
        self._outgoing: list[Outgoing] = []
        self._reply_budget = TokenBucket(options.reply_rate)
        context.rpcs = Rpcs(options, rng, context.timers, context.counters, self._send_request, self._missed)
        self._prober = Prober(context)
        self._verifier = Verifier(context, self._prober)
        self._refresher = Refresher(context)
        self._searches = self._refresher.searches = Searches(context, self._refresher.looked)
        self._joiner = Joiner(context, self._searches, self._refresher)
        self._answers: dict[Op, Callable[[Message, bytes], bytes]] = {
            Op.PING: self._pong,
            Op.FIND_NODE: self._found,
        }
        self._standings: dict[Standing, Callable[[Contact, float], None]] = {
            Standing.KNOWN: lambda contact, now: None,
            Standing.ADDED: self._added,
            Standing.FULL: self._has_no_place,
            Standing.ELSEWHERE: self._is_elsewhere,
        }

    # What the daemon calls

    def join(self, bootstrap: Sequence[Address], now: float) -> None:
        """Join the cluster through any of these addresses, and again whenever that is needed.

        Own addresses, and those of an IP version that this node does not speak, are left out.
        """
        self._joiner.start(bootstrap, now)
        self._refresher.start(now)

    def restore(self, contacts: Iterable[Contact], now: float) -> None:
        """Contacts of an earlier `snapshot`: each is in the table again once it answers."""
        for contact in contacts:
            if self._context.usable(contact):
                self._joiner.remember(contact.address)
                self._verifier.offer(contact, now, heard=False)

    def receive(self, datagram: Datagram, now: float) -> None:
        """Take a control message, whose verdict was LOCAL for the reason CONTROL."""
        try:
            self._receive_untrusted(datagram, now)
        except BadPacket as bad:
            self.counters[bad.reason] += 1
        except Mismatch as mismatch:
            self.counters[mismatch.reason] += 1

    def tick(self, now: float) -> None:
        """Do what is due: time-outs, probes, refreshes."""
        self._context.timers.run(now)

    def unreachable(self, address: Address, now: float) -> None:
        """ICMP said so, which anybody can forge: the contact there is asked at once, no more."""
        entry = self.table.at(address)
        if entry is not None:
            self._prober.question(entry, self._context.options.min_timeout, now)

    def lookup(self, target: bytes, now: float) -> bool:
        """Look for the contacts closest to `target`; the result is a LookupDone. False: too many wait."""

        def found(closest: list[Contact], now: float) -> None:
            self._context.events.append(LookupDone(target, closest))

        return self._searches.start(target, found, now)

    def set_keys(self, keys: Sequence[ClusterKey]) -> None:
        """The cluster's keys changed: the first signs from now on."""
        self._signing_key = keys[0]

    def datagrams_to_send(self) -> list[Outgoing]:
        """What has to be sent, each datagram once."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def events(self) -> list[Event]:
        """What happened, each event once."""
        events = list(self._context.events)
        self._context.events.clear()
        return events

    def next_wake(self) -> float | None:
        """When `tick` has something to do; None: not before something comes in."""
        return self._context.timers.next()

    @property
    def joined(self) -> bool:
        """Whether this node knows its place in the cluster."""
        return self._joiner.joined

    def snapshot(self) -> list[Contact]:
        """The contacts in the table, nearest first: what `restore` takes."""
        return self.table.neighbours(len(self.table))

    def status(self, now: float) -> dict[str, object]:
        """Plain data for `kdhtctl table` and `kdhtctl status`; ages in seconds."""
        return {
            "id": self.contact.id.hex(),
            "address": str(self.contact.address),
            "joined": self.joined,
            "contacts": len(self.table),
            "pending": len(self._context.rpcs),
            "verifying": len(self._verifier),
            "buckets": self.table.status(now),
            "counters": dict(self.counters),
        }

    # Messages in

    def _receive_untrusted(self, datagram: Datagram, now: float) -> None:
        message = parse(datagram.data)
        if message.op not in self._answers or datagram.reason is not Reason.CONTROL:
            raise Mismatch("not_control")
        if datagram.target not in self._context.own:
            raise Mismatch("not_own_address")
        if message.client != datagram.source:
            raise Mismatch("wrong_client")
        sender = Contact(untrusted_id(message), *datagram.source)
        if sender.id == self.contact.id:
            raise Mismatch("own_id")
        if message.flags & Flag.REPLY:
            self._take_reply(message, sender, now)
        else:
            self._answer(message, sender, datagram, now)

    def _answer(self, message: Message, sender: Contact, datagram: Datagram, now: float) -> None:
        """Answer a request, then see who it is that asks."""
        self.counters["requests"] += 1
        if self._reply_budget.take(now):
            self.counters["replies_sent"] += 1
            self._send(
                Message(
                    op=message.op,
                    key=message.key,
                    request_id=message.request_id,
                    flags=Flag.REPLY,
                    hops=CONTROL_HOPS,
                    attempt=message.attempt,
                    body=self._answers[message.op](message, sender.id),
                    client=datagram.target,
                ),
                datagram.source,
                now,
            )
        else:
            self.counters["reply_rate"] += 1
        self._learn(sender, now, heard=True)

    def _pong(self, message: Message, asker: bytes) -> bytes:
        return self.contact.id

    def _found(self, message: Message, asker: bytes) -> bytes:
        closest = self.table.closest(message.key, self._context.options.k, without=asker)
        return self.contact.id + pack_contacts(closest)

    def _take_reply(self, message: Message, sender: Contact, now: float) -> None:
        named = untrusted_contacts(message)
        try:
            rpc, rtt = self._context.rpcs.match(message, sender.address, sender.id, now)
        except Mismatch as mismatch:
            if mismatch.reason == "wrong_id":
                self._learn(sender, now, heard=True)
            raise
        self.counters["replies"] += 1
        self._enter(sender, rtt, now)
        contacts = [contact for contact in named if self._learn(contact, now, heard=False)]
        rpc.done(rpc, Reply(sender.id, contacts, rtt), now)

    def _learn(self, contact: Contact, now: float, *, heard: bool) -> bool:
        """Somebody, the contact itself if `heard`, says that it exists. Whether that is possible."""
        entry = self.table.get(contact.id)
        if entry is not None and entry.contact == contact:
            if heard:
                self.table.heard(entry, now)
            return True
        if not self._context.usable(contact):
            self.counters["unusable_contact"] += 1
            return False
        self._verifier.offer(contact, now, heard=heard)
        return True

    # Contacts in and out

    def _enter(self, contact: Contact, rtt: float, now: float) -> None:
        """A matched reply came from this contact: its address has no other ID any more."""
        former = self.table.at(contact.address)
        if former is not None and former.contact.id == contact.id:
            former = None
        if former is not None:
            self.table.remove(former)
        self._standings[self.table.answered(contact, rtt, now)](contact, now)
        if former is not None:
            self._removed(former, now)

    def _added(self, contact: Contact, now: float) -> None:
        entry = self.table.get(contact.id)
        assert entry is not None
        self._context.events.append(ContactAdded(contact))
        self._prober.watch(entry, now)
        self._joiner.added(contact, now)

    def _has_no_place(self, contact: Contact, now: float) -> None:
        self._prober.question_oldest(self.table.index(contact.id), now)

    def _is_elsewhere(self, contact: Contact, now: float) -> None:
        entry = self.table.get(contact.id)
        assert entry is not None
        self._prober.question(entry, self._context.options.first_timeout, now)

    def _missed(self, rpc: Rpc, now: float) -> None:
        """A transmission had no answer in time: suspicion first, then out."""
        entry = self.table.at(rpc.address)
        if entry is None or rpc.id not in (None, entry.contact.id):
            return
        if self.table.missed(entry, rpc.sent[-1], now) and entry.misses >= self._context.options.max_misses:
            self.table.remove(entry)
            self._verifier.refuse(rpc.address, now)
            self._joiner.remember(rpc.address)
            self._removed(entry, now)
        elif len(rpc.sent) >= rpc.tries:
            self._prober.suspect(entry, now)

    def _removed(self, entry: Entry, now: float) -> None:
        self._context.events.append(ContactRemoved(entry.contact))
        self._prober.forget(entry, now)
        if not self._verifier.refill(entry.index, now):
            self._refresher.repair(entry.index, now)
        self._joiner.removed(now)

    # Messages out

    def _send_request(self, rpc: Rpc, now: float) -> None:
        source = self._context.source(rpc.address)
        assert source is not None, "addresses of the other IP version were left out"
        self._send(
            Message(
                op=rpc.op,
                key=rpc.key,
                request_id=rpc.request_id,
                hops=CONTROL_HOPS,
                attempt=len(rpc.sent) - 1,
                body=self.contact.id,
                client=source,
            ),
            rpc.address,
            now,
        )

    def _send(self, message: Message, target: Address, now: float) -> None:
        data = message.pack()
        seal(data, self._signing_key, int(now + self.unix_offset))
        self._outgoing.append(Outgoing(bytes(data), target, message.client))
