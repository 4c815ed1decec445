"""Virtual nodes by number, and the right owners of keys among the living."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

from kdht.datapath.memory import Event, MemoryNetwork
from kdht.lab.virtual.member import Member, OnPublish
from kdht.node.options import Options
from kdht.node.repair import RepairOptions
from kdht.node.replicas import Policy
from kdht.storage import MemoryStore
from kdht.wire import Address, Contact
from kdht.wire._shared import ID_LEN, PORT


def id_of(number: int, seed: int = 0) -> bytes:
    return hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=ID_LEN).digest()


def contact_of(number: int, seed: int = 0) -> Contact:
    return Contact(id_of(number, seed), *address_of(number))


def address_of(number: int) -> Address:
    return Address.of(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", PORT)


class VirtualCluster:
    """Members by number, in the order of entry; the first is everybody's bootstrap contact.

    With a `policy` they keep records. `new_store` makes a number's store, and it outlives the member.
    """

    def __init__(
        self,
        seed: int,
        *,
        loss: float = 0.0,
        options: Options | None = None,
        policy: Policy | None = None,
        repair: RepairOptions | None = None,
        new_store: Callable[[], MemoryStore] = MemoryStore,
        on_publish: OnPublish | None = None,
    ) -> None:
        self.seed = seed
        self.repair = repair
        self.new_store = new_store
        self.options = options
        self.policy = policy
        self.on_publish = on_publish
        self.sent: Counter[Address] = Counter()
        self.network = MemoryNetwork(seed=seed, loss=loss, observer=self._count)
        self.members: list[Member] = []
        self.stores: dict[int, MemoryStore] = {}
        self._lives: Counter[int] = Counter()

    def add(
        self,
        number: int,
        bootstrap: Sequence[Contact] | None = None,
        id: bytes | None = None,
        *,
        skew: float = 0.0,
        known: Sequence[Contact] = (),
    ) -> Member:
        """Start a node, or start it again, and let it join. Its clock is `skew` seconds ahead; of its life before it
        has `known` contacts."""
        contact = Contact(id or id_of(number, self.seed), *address_of(number))
        member = Member(
            self.network,
            contact,
            self.seed + self._lives[number],
            self.options,
            policy=self.policy,
            store=None if self.policy is None else self._store(number),
            repair=self.repair,
            skew=skew,
            on_publish=self.on_publish,
        )
        self._lives[number] += 1
        if bootstrap is None:
            bootstrap = [self.members[0].contact] if self.members else []
        self.members.append(member)
        if known:
            member.restore(known)
        member.join(bootstrap)
        return member

    def grow(self, count: int, pause: float = 0.0) -> None:
        """More nodes, `pause` virtual seconds apart."""
        for number in range(len(self.members) + 1, len(self.members) + 1 + count):
            self.add(number)
            self.run(pause)

    def contacts(self) -> list[Contact]:
        """Of the living members."""
        return [member.contact for member in self.members]

    def run(self, seconds: float) -> None:
        self.network.run(self.network.now + seconds)

    def kill(self, member: Member) -> None:
        member.stop()
        self.members.remove(member)

    def owner(self, key: bytes) -> Contact:
        """The closest of all nodes."""
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
        """The chains, of `keys` random keys from every node, that do not end at the owner."""
        rng = Random(f"keys {self.seed}")
        wrong = []
        for key in (rng.randbytes(ID_LEN) for _ in range(keys)):
            owner = self.owner(key)
            wrong += [(m.contact, key) for m in self.members if self.end_of_chain(m, key) != owner]
        return wrong

    def _store(self, number: int) -> MemoryStore:
        if number not in self.stores:
            self.stores[number] = self.new_store()
        return self.stores[number]

    def _count(self, event: Event) -> None:
        if event.what == "delivered":
            self.sent[event.source] += 1
