"""Runs a Node in the event loop: passes time, datagrams and wake-ups to it, and sends its datagrams.

Contract: every method is called in the loop's thread. The node's `now` is the loop's own
clock, which is monotonic; the time in messages is Unix time, from the offset between both.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from kdht.datapath.base import Datagram, Outgoing
from kdht.errors import KdhtError
from kdht.histogram import Histogram
from kdht.node.events import (
    Admitted,
    Barred,
    ContactAdded,
    ContactDrained,
    ContactRemoved,
    Drained,
    Event,
    HasTwin,
    Isolated,
    Joined,
    LeftCluster,
    LookupDone,
    Ready,
    Resumes,
    SeesTwins,
    YieldsToTwin,
)
from kdht.node.forget import Fate, Told
from kdht.node.node import Node
from kdht.node.readiness import Readiness
from kdht.node.summary import Heard
from kdht.node.twins import Pair
from kdht.times import SteadyTime
from kdht.wire import Address, Contact
from kdht.wire._shared import Op
from kdht.wire.keys import ClusterSecret

log = logging.getLogger(__name__)

LEVELS: dict[type[Event], int] = {
    Joined: logging.INFO,
    Ready: logging.INFO,
    Isolated: logging.WARNING,
    Drained: logging.INFO,
    Barred: logging.DEBUG,
    Admitted: logging.DEBUG,
    LeftCluster: logging.WARNING,
    Resumes: logging.INFO,
    YieldsToTwin: logging.ERROR,
    HasTwin: logging.ERROR,
    SeesTwins: logging.WARNING,
    ContactAdded: logging.DEBUG,
    ContactRemoved: logging.DEBUG,
    ContactDrained: logging.DEBUG,
}
WORDS: dict[type[Event], str] = {
    Joined: "joined",
    Ready: "ready",
    Isolated: "no contact is left",
    Barred: "no writes yet: members are named that this node cannot reach",
    Admitted: "all members can be reached",
    LeftCluster: "this node left its cluster and serves nothing, for it cannot reach members of it",
    Resumes: "nobody names members any more that this node cannot reach",
    YieldsToTwin: "an older node has this node's ID: this one left the cluster and serves nothing",
    HasTwin: "a younger node has this node's ID",
    SeesTwins: "two nodes have one ID",
    Drained: "all records are given away",
    ContactAdded: "contact added",
    ContactRemoved: "contact removed",
    ContactDrained: "contact has given all its records away",
}


class Driver:
    """Drives `node`. `send` sends its datagrams. `on_resumes` is called when the node must be started again."""

    def __init__(
        self, node: Node, send: Callable[[list[Outgoing]], object], on_resumes: Callable[[], None]
    ) -> None:
        self._node = node
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._alarm: asyncio.TimerHandle | None = None
        self._stopped = False
        self._lookups: dict[bytes, list[asyncio.Future[list[Contact]]]] = {}
        self._on_resumes = on_resumes

    def restore(self, contacts: Sequence[Contact]) -> None:
        """Ask the contacts of an earlier run."""
        self._node.restore(contacts, self._now())
        self._follow_up()

    def join(self, bootstrap: Sequence[Address]) -> None:
        """Join the cluster through these addresses. The first node of a cluster has none."""
        self._node.join(bootstrap, self._now())
        self._follow_up()

    async def lookup(self, target: bytes) -> list[Contact]:
        """The contacts closest to the 20-byte `target` that answered. Raises KdhtError if too many lookups wait."""
        if not self._node.lookup(target, self._now()):
            raise KdhtError("too many lookups wait already: try again later")
        done: asyncio.Future[list[Contact]] = self._loop.create_future()
        self._lookups.setdefault(target, []).append(done)
        self._follow_up()
        return await done

    async def forget(self, id: bytes) -> list[Told] | None:
        """Tell all contacts that a dead node does not come back. Returns their answers, or None if the node lives."""
        done: asyncio.Future[list[Told]] = self._loop.create_future()

        def told(answers: list[Told]) -> None:
            if not done.done():  # its caller may have gone
                done.set_result(answers)

        fate = self._node.forget(id, told, self._now())
        self._follow_up()
        return None if fate is Fate.LIVES else await done

    async def summaries(self, contacts: Sequence[Contact]) -> list[Heard]:
        """How these contacts are, as they say themselves. The silent ones are among them."""
        done: asyncio.Future[list[Heard]] = self._loop.create_future()

        def told(answers: list[Heard]) -> None:
            if not done.done():  # its caller may have gone
                done.set_result(answers)

        self._node.summaries.ask(contacts, told, self._now())
        self._follow_up()
        return await done

    def receive(self, batch: list[Datagram]) -> None:
        """Control messages for the node."""
        if self._stopped:
            return
        now = self._now()
        try:
            for datagram in batch:
                self._node.receive(datagram, now)
        finally:
            self._follow_up()

    def unreachable(self, addresses: Sequence[Address]) -> None:
        """Hints that nobody listens at these addresses."""
        if self._stopped:
            return
        now = self._now()
        for address in addresses:
            self._node.unreachable(address, now)
        self._follow_up()

    def silent(self, addresses: Sequence[Address]) -> None:
        """Requests of other parts to these addresses had no answer in time."""
        if self._stopped:
            return
        now = self._now()
        for address in addresses:
            self._node.silent(address, now)
        self._follow_up()

    def drain(self) -> None:
        """Leave, and hand off all records. May be called again."""
        self._node.drain(self._now())
        self._follow_up()

    def set_keys(self, keys: Sequence[ClusterSecret]) -> None:
        """Seal with the first key from now on."""
        self._node.set_keys(keys)

    def stop(self) -> None:
        """Stop: no more wake-ups, no more datagrams. May be called again."""
        self._stopped = True
        if self._alarm is not None:
            self._alarm.cancel()

    @property
    def joined(self) -> bool:
        return self._node.joined

    @property
    def round_trips(self) -> dict[str, dict[Op, Histogram]]:
        """Answer times of other nodes, by the asking part and by op."""
        return self._node.round_trips

    @property
    def readiness(self) -> Readiness:
        """The unmet conditions for serving. Other parts may add conditions."""
        return self._node.readiness

    def speaks_to(self, address: Address) -> bool:
        """Whether this node has an address of that IP version."""
        return self._node.speaks_to(address)

    @property
    def out_of_reach(self) -> list[Contact]:
        """Members known to other nodes but out of this node's reach."""
        return self._node.reach.unreachable

    @property
    def aside(self) -> bool:
        """Whether the node has left its cluster by itself, for one of the reasons in `Node.aside`."""
        return self._node.aside

    @property
    def twins(self) -> list[Pair]:
        """Nodes with one ID that were seen not long ago, this node among them or not."""
        return self._node.twins.pairs(self._now())

    @property
    def yields_to_twin(self) -> bool:
        """Whether this node serves nothing, because an older one has its ID."""
        return self._node.twins.aside

    @property
    def gone(self) -> list[Contact]:
        """Dead nodes that may come back."""
        return self._node.census.gone

    @property
    def silent_for(self) -> list[tuple[Contact, float]]:
        """The same, and for how many seconds each has been silent."""
        now = self._now()
        return [(gone.contact, max(now - gone.since, 0.0)) for gone in self._node.census.lost_at]

    @property
    def asked(self) -> list[Address]:
        """Whom the node asks while it has not joined."""
        return self._node.asked

    def contacts(self) -> list[Contact]:
        """All contacts in the table, nearest first."""
        return self._node.snapshot()

    @property
    def bucket_size(self) -> int:
        """The size of a bucket, and of a lookup's result."""
        return self._node.bucket_size

    def status(self) -> dict[str, Any]:
        """The node's status, as plain data."""
        return self._node.status(self._now())

    def _now(self) -> SteadyTime:
        now = SteadyTime(self._loop.time())
        # At each call: the wall clock may be stepped at any time, and message times have to follow it.
        self._node.unix_offset = time.time() - now
        return now

    def _wake(self) -> None:
        try:
            self._node.tick(self._now())
        finally:
            # Else no alarm would be set, and the node would stand still.
            self._follow_up()

    def _follow_up(self) -> None:
        """Send the node's datagrams and process its events. Required after each call to the node."""
        # Datagrams before events: what an event leads to may send more.
        outgoing = self._node.datagrams_to_send()
        if outgoing:
            self._send(outgoing)
        events = self._node.events()
        for event in events:
            _tell(event)
            if isinstance(event, LookupDone):
                self._looked_up(event)
            elif isinstance(event, Resumes):
                self._on_resumes()
        if self._alarm is not None:
            self._alarm.cancel()
        when = self._node.next_wake()
        self._alarm = None if when is None or self._stopped else self._loop.call_at(when, self._wake)

    def _looked_up(self, found: LookupDone) -> None:
        for done in self._lookups.pop(found.target, []):
            if not done.done():  # its caller may have gone
                done.set_result(found.closest)


def _tell(event: Event) -> None:
    level = LEVELS.get(type(event))
    if level is None or not log.isEnabledFor(level):
        return
    fields: dict[str, object] = {}
    match event:
        case Joined(contacts):
            fields = {"contacts": contacts}
        case LeftCluster(members):
            fields = {"members": ", ".join(str(member.address) for member in members)}
        case YieldsToTwin(address) | HasTwin(address):
            fields = {"address": address}
        case SeesTwins(contact, other):
            fields = {"node_id": contact.id.hex(), "addresses": f"{contact.address}, {other}"}
        case ContactAdded(contact) | ContactRemoved(contact) | ContactDrained(contact):
            fields = {"node_id": contact.id.hex(), "address": contact.address}
    log.log(level, WORDS[type(event)], extra=fields)
