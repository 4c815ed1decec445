"""Nodes that know each other, with stores and coordinators on a MemoryNetwork: no control plane.

Every member's clock may be off by some seconds (`skew`); the network's clock is the true one.
"""

import hashlib
from collections.abc import Sequence
from random import Random

from scripted_repair import ScriptedRepair

from kdht._routing import Core
from kdht.datapath.base import Datagram
from kdht.datapath.memory import MemoryClient, MemoryNetwork, MemoryTransport
from kdht.node.access import OPEN, Access
from kdht.node.assembly import assemble
from kdht.node.observer import Unobserved
from kdht.node.replicas import ClusterState, Policy
from kdht.storage import InlineWriter, MemoryStore, StoredRecord
from kdht.wire import Address, Contact, Message, Record, make_cookie, parse
from kdht.wire._shared import ID_BITS, Flag, Op, Status
from kdht.wire.keys import derive

KEY = derive(0, b"the cluster's secret in the tests")


def key_of(name: str | bytes) -> bytes:
    """The key of a name. Bytes are a key already: that of a self-certified record."""
    if isinstance(name, bytes):
        return name
    return hashlib.blake2b(name.encode(), digest_size=20).digest()


class Member:
    """One node whose table is given."""

    def __init__(
        self, network: MemoryNetwork, number: int, policy: Policy, skew: float, plain: bool = False
    ) -> None:
        address = Address.of(f"10.0.0.{number + 1}", 5348)
        self.contact = Contact(key_of(f"node {number}"), *address)
        self.network = network
        self.core = Core()
        self.core.configure(
            self_id=self.contact.id,
            port=address.port,
            own=[address.ip],
            source4=address.ip,
            source6=None,
            keys=[(KEY.epoch, KEY.tag)],
            cookie_key=KEY.cookie,
            cookies=False,
        )
        self.cluster = ClusterState(policy)
        self.cluster.found()
        self.repair = ScriptedRepair(lambda key: self.coordinator.responsible(key))
        self.input = _NodeInput()
        self.transport = MemoryTransport(network, self.core, [address], skew=skew)
        self.store = MemoryStore()
        self._skew = skew
        records = assemble(
            core=self.core,
            contact=self.contact,
            own=[address],
            transport=self.transport,
            store=self.store,
            open_writer=lambda on_change: InlineWriter(self.store, on_change),
            cache=None,
            reader=None,
            cluster=self.cluster,
            repair=self.repair,
            node=self.input,
            access=Access(OPEN),
            observer=Unobserved(),
            rng=Random(number),
            clock=lambda: self.now,
            room=self.store.room,
            steady=lambda: self.network.now,
            plain=plain,
        )
        self.coordinator, self.service, self.writer = records.coordinator, records.service, records.writer
        self.transport.start(records.handlers)

    @property
    def now(self) -> float:
        return self.network.now + self._skew

    @property
    def silent(self) -> list[Address]:
        return self.input.addresses

    def know(self, others: Sequence["Member"]) -> None:
        """Have these in the table, and no others."""
        buckets: dict[int, list[Contact]] = {index: [] for index in range(ID_BITS)}
        number = int.from_bytes(self.contact.id, "big")
        for other in others:
            if other is not self:
                distance = number ^ int.from_bytes(other.contact.id, "big")
                buckets[ID_BITS - distance.bit_length()].append(other.contact)
        for index, contacts in buckets.items():
            self.core.set_bucket(index, contacts)
        living = len([other for other in others if other is not self])
        self.cluster.count(living, max(self.cluster.others, living))

    def has(self, name: str | bytes) -> StoredRecord | None:
        return self.store.get(key_of(name), self.now)


class _NodeInput:
    """There is no node; what it would hear of silence is kept."""

    def __init__(self) -> None:
        self.addresses: list[Address] = []

    def control(self, batch: list[Datagram]) -> None:
        pass

    def unreachable(self, address: Address) -> None:
        pass

    def silent(self, address: Address) -> None:
        self.addresses.append(address)


class Cluster:
    """`size` members that all know each other, and one client. `plain`: their writes are all in plain Python."""

    def __init__(
        self,
        size: int,
        *,
        seed: int = 1,
        policy: Policy | None = None,
        skews: Sequence[float] = (),
        loss: float = 0.0,
        plain: bool = False,
    ) -> None:
        self.network = MemoryNetwork(seed=seed, loss=loss)
        self.policy = policy or Policy()
        offsets = [*skews, *[0.0] * size]
        self.members = [Member(self.network, n, self.policy, offsets[n], plain) for n in range(size)]
        for member in self.members:
            member.know(self.members)
        self.client: MemoryClient = self.network.client(Address.of("192.0.2.7", 40000))
        self._requests = 0

    def replicas(self, name: str | bytes, among: Sequence[Member] | None = None) -> list[Member]:
        """The nodes that should keep a key, the owner first."""
        key = int.from_bytes(key_of(name), "big")
        members = sorted(
            among if among is not None else self.members,
            key=lambda m: int.from_bytes(m.contact.id, "big") ^ key,
        )
        return members[: self.policy.replicas]

    def kill(self, *members: Member) -> None:
        """Silence, as of a host that is gone."""
        for member in members:
            member.transport.stop()

    def ask(
        self,
        op: Op,
        name: str | bytes,
        body: bytes = b"",
        *,
        via: Member | None = None,
        attempt: int = 0,
        wait: float = 3.0,
    ) -> Message | None:
        """One request and its reply; None if there was none in time. No retries."""
        request_id = self.send(op, name, body, via=via, attempt=attempt)
        replies: list[Message] = []

        def pending() -> bool:
            replies.extend(
                m for m in map(parse, (r.data for r in self.client.take())) if m.request_id == request_id
            )
            return not replies

        self.network.run_while(pending, wait)
        return replies[0] if replies else None

    def send(
        self,
        op: Op,
        name: str | bytes,
        body: bytes = b"",
        *,
        via: Member | None = None,
        attempt: int = 0,
        request_id: int | None = None,
    ) -> int:
        """One request, through the owner unless `via` is given; its request ID."""
        if request_id is None:
            self._requests += 1
            request_id = self._requests
        # A WATCH needs one. The cluster asks for none else.
        cookie = (
            make_cookie(KEY.cookie, self.client.address.ip, int(self.network.now)) if op is Op.WATCH else 0
        )
        message = Message(
            op=op, key=key_of(name), request_id=request_id, body=body, attempt=attempt, cookie=cookie
        )
        entry = via or self.replicas(name)[0]
        self.client.send(message.pack(), entry.contact.address)
        return request_id

    def put(self, name: str, value: bytes, **how: object) -> Record:
        """A PUT that must be confirmed; what the confirmation says."""
        reply = self.ask(Op.PUT, name, Record(value=value).pack(), **how)  # type: ignore[arg-type]
        assert reply is not None
        assert reply.status is Status.OK, reply.status
        assert reply.flags & Flag.REPLY
        return Record.parse(reply.body)

    def get(self, name: str | bytes, op: Op = Op.GET, **how: object) -> bytes | None:
        """The value, or None for NOT_FOUND; nothing else may come."""
        reply = self.ask(op, name, bytes(1120), **how)  # type: ignore[arg-type]
        assert reply is not None
        if reply.status is Status.NOT_FOUND:
            return None
        assert reply.status is Status.OK, reply.status
        return Record.parse(reply.body).value
