"""The Kademlia node: datagrams and `now` in, datagrams and the next wake-up out.

Contract: no I/O, no clock, no threads; one caller at a time. After each call that takes
`now`, take `datagrams_to_send` and `events`, and call `tick` again at `next_wake`. `now` is
seconds of a clock that never runs backwards; `unix_offset` added to it is Unix time. What
comes in is trusted as far as the datapath's verdict CONTROL goes: form, epoch, tags, replay
window. Nothing here raises for what a datagram holds: it is counted and ignored.
A contact enters the table, and so the datapaths, only after a matched reply.
"""

from collections.abc import Iterable, Sequence
from random import Random

from kdht.datapath.base import Datagram, Outgoing
from kdht.errors import BadPacket
from kdht.histogram import Histogram
from kdht.node.census import Census
from kdht.node.cluster import ClusterState, Policy
from kdht.node.context import NodeContext
from kdht.node.control_inbox import ControlInbox
from kdht.node.control_outbox import ControlOutbox
from kdht.node.events import Drained, Event, LookupDone
from kdht.node.forget import Done as Told
from kdht.node.forget import Fate, Forgetting
from kdht.node.join import Joiner
from kdht.node.meet import Meetings
from kdht.node.members import Members
from kdht.node.notice import Notices
from kdht.node.options import Options
from kdht.node.probe import Prober
from kdht.node.probe_schedule import ProbeSchedule
from kdht.node.reach import Reach
from kdht.node.readiness import LEAVING, REPLICAS, Readiness
from kdht.node.refresh import Refresher
from kdht.node.repair import Keeping, Repair
from kdht.node.rpc import Mismatch, Rpc
from kdht.node.summary import Summaries
from kdht.node.suspicion import Suspicion
from kdht.node.table import Publish, Table
from kdht.node.table_contact import TableContact
from kdht.node.twins import Twins
from kdht.node.verify import Verifier
from kdht.times import SteadyTime
from kdht.wire import OFFSET, Address, Contact
from kdht.wire._shared import Op
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
        self._prober = Prober(context)
        self._schedule = ProbeSchedule(context, self._prober)
        self._suspicion = Suspicion(context, self._prober, self._schedule, self._notices, self._fell_silent)
        self._verifier = Verifier(context, self._prober)
        self._refresher = Refresher(context)
        self._searches = self._refresher.searches
        self._joiner = Joiner(context, self._searches, self._refresher, cluster)
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
        self._inbox = ControlInbox(
            context,
            outbox,
            members=self._members,
            meetings=Meetings(context, self._members, self._notices, self._reach, self.twins),
            reach=self._reach,
            suspicion=self._suspicion,
            twins=self.twins,
            forgetting=self._forgetting,
            summaries=self.summaries,
            repair=self.repair,
        )

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
            self._inbox.take(datagram, now)
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
            respond=self._outbox.respond,
            joined=lambda: self.joined,
        )

    def _drained(self) -> None:
        self._context.events.append(Drained())
        self.leave(self._context.timers.now)

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

    def _missed(self, rpc: Rpc, now: SteadyTime) -> None:
        self._suspicion.missed(rpc, now)

    def _fell_silent(self, entry: TableContact, now: SteadyTime) -> None:
        self._members.fell_silent(entry, now)


def _ignore(now: SteadyTime) -> None:
    """A node that only routes needs nothing else when its contacts change."""
