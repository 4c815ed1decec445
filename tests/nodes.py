"""A cluster of real nodes on a MemoryNetwork: cores, transports and control planes, one virtual clock."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from random import Random

from kdht._routing import Core
from kdht.datapath.base import Datagram
from kdht.datapath.memory import Event as NetworkEvent
from kdht.datapath.memory import MemoryNetwork
from kdht.keys import derive
from kdht.node.events import Event
from kdht.node.node import Node
from kdht.node.options import Options
from kdht.wire import Address, Contact

KEY = derive(0, b"the cluster's secret in the tests")
SOON = 60.0
"""Virtual seconds in which a cluster of this size comes to rest."""


def id_of(number: int, seed: int = 0) -> bytes:
    return hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=20).digest()


def contact_of(number: int, seed: int = 0) -> Contact:
    return Contact(id_of(number, seed), *address_of(number))


def address_of(number: int) -> Address:
    return Address.of(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 5348)


class Member:
    """One node with its core and transport. What it publishes goes to the core."""

    def __init__(
        self, network: MemoryNetwork, contact: Contact, seed: int, options: Options | None = None
    ) -> None:
        self.contact = contact
        self.network = network
        self.core = Core()
        self.core.configure(
            self_id=contact.id,
            port=contact.port,
            own=[contact.ip],
            source4=contact.ip,
            source6=None,
            keys=[(KEY.epoch, KEY.tag)],
            cookie_key=KEY.cookie,
        )
        self.node = Node(contact, [KEY], self.core.set_bucket, Random(f"{seed}/{contact}"), options)
        self.transport = network.attach(self.core, contact.address, self._receive)
        self.seen: list[Event] = []
        self._wake = float("inf")

    def join(self, bootstrap: Iterable[Contact]) -> None:
        self.node.join([contact.address for contact in bootstrap], self.network.now)
        self.flush()

    def flush(self) -> None:
        """Send what is to be sent, keep the events, arrange the next tick."""
        self.transport.send(self.node.datagrams_to_send())
        self.seen += self.node.events()
        wake = self.node.next_wake()
        if wake is not None and wake < self._wake:
            self._wake = wake
            self.network.call_at(wake, self._tick, wake)

    def stop(self) -> None:
        """Die without a word."""
        self.transport.stop()

    def published(self) -> list[Contact]:
        return [contact for index in range(160) for contact in self.core.bucket(index)]

    def _receive(self, batch: list[Datagram]) -> None:
        for datagram in batch:
            self.node.receive(datagram, self.network.now)
        self.flush()

    def _tick(self, wake: float) -> None:
        if wake != self._wake or self.transport.status()["state"] != "up":
            return
        self._wake = float("inf")
        self.node.tick(self.network.now)
        self.flush()


class Cluster:
    """Members by number, in the order of entry; the first is everybody's bootstrap contact."""

    def __init__(self, seed: int, *, loss: float = 0.0, options: Options | None = None) -> None:
        self.seed = seed
        self.options = options
        self.sent: Counter[Address] = Counter()
        self.network = MemoryNetwork(seed=seed, loss=loss, observer=self._count)
        self.members: list[Member] = []

    def add(self, number: int, bootstrap: Sequence[Contact] | None = None, id: bytes | None = None) -> Member:
        contact = Contact(id or id_of(number, self.seed), *address_of(number))
        member = Member(self.network, contact, self.seed, self.options)
        if bootstrap is None:
            bootstrap = [self.members[0].contact] if self.members else []
        self.members.append(member)
        member.join(bootstrap)
        return member

    def grow(self, count: int, pause: float = 0.0) -> None:
        """More nodes, `pause` virtual seconds apart."""
        for number in range(len(self.members) + 1, len(self.members) + 1 + count):
            self.add(number)
            self.run(pause)

    def run(self, seconds: float) -> None:
        self.network.run(self.network.now + seconds)

    def kill(self, member: Member) -> None:
        member.stop()
        self.members.remove(member)

    def owner(self, key: bytes) -> Contact:
        """Who is closest, looking at everybody."""
        wanted = int.from_bytes(key, "big")
        contacts = (member.contact for member in self.members)
        return min(contacts, key=lambda contact: int.from_bytes(contact.id, "big") ^ wanted)

    def end_of_chain(self, start: Member, key: bytes) -> Contact:
        """Where the published tables lead from `start`; a dead end if a next hop is gone."""
        by_address = {member.contact.address: member for member in self.members}
        here = start
        while (hop := here.core.next_hop(key)) is not None:
            if hop.address not in by_address:
                return hop
            here = by_address[hop.address]
        return here.contact

    def astray(self, keys: int) -> list[tuple[Contact, bytes]]:
        """Of `keys` random keys, from every node: those whose chain does not end at the owner."""
        rng = Random(f"keys {self.seed}")
        wrong = []
        for key in (rng.randbytes(20) for _ in range(keys)):
            owner = self.owner(key)
            wrong += [(m.contact, key) for m in self.members if self.end_of_chain(m, key) != owner]
        return wrong

    def _count(self, event: NetworkEvent) -> None:
        if event.what == "delivered":
            self.sent[event.source] += 1
