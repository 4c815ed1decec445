"""Random schedules of requests and faults for a cluster of coordinators: played twice, they must end alike."""

from collections import Counter
from random import Random

from replica_cluster import Cluster, Member, key_of

from kdht.node.replicas import Policy
from kdht.storage import StoredRecord, Write
from kdht.wire import Record, pack_write
from kdht.wire._shared import Op

KEYS = [f"key {number}" for number in range(6)]


class Schedule:
    """One cluster under a seed's faults and requests. `plain`: all in plain Python."""

    keys = KEYS
    reads = 0.1
    """Part of the requests."""

    def __init__(self, seed: int, *, plain: bool) -> None:
        self.draw = Random(seed)
        policy = Policy(replicas=self.draw.choice((1, 2, 3, 3, 3, 5)), acks=1)
        policy = Policy(replicas=policy.replicas, acks=self.draw.choice((policy.majority, policy.replicas)))
        self.cluster = Cluster(self.draw.choice((1, 2, 3, 5, 8)), seed=seed, policy=policy, plain=plain)
        self.network = self.cluster.network
        self.network.loss = self.draw.choice((0.0, 0.0, 0.05, 0.3))
        self.network.duplicate = self.draw.choice((0.0, 0.1))
        self.trace: list[tuple[object, ...]] = []
        self.network.observer = lambda event: self.trace.append(tuple(event))
        self.sent: list[tuple[Op, str, bytes, int]] = []

    def play(self) -> None:
        for _ in range(60):
            self.draw.choice((self.request, self.request, self.request, self.again, self.fault))()
            self.network.run(self.network.now + self.draw.choice((0.0, 0.002, 0.02, 0.3)))
        self.network.run(self.network.now + 10)

    @property
    def member(self) -> Member:
        return self.draw.choice(self.cluster.members)

    def request(self) -> None:
        version = self.draw.choice((0, 0, int(self.network.now * 1e6) + self.draw.randint(-5, 5), 7, 2**63))
        ttl, value = self.draw.choice((0, 0, 30)), self.draw.choice((b"", b"a value", bytes(1000)))
        if self.draw.random() < self.reads:
            self.send(self.draw.choice((Op.GET, Op.QUORUM_GET, Op.QUORUM_GET)), bytes(1120))
            return
        kind = self.draw.random()
        if kind < 0.8:
            self.send(Op.PUT, Record(version=version, ttl=ttl, value=value).pack())
        elif kind < 0.9:
            condition = self.draw.choice((0, version))
            self.send(Op.PUT, pack_write(Record(version=version, value=value), condition))
        else:
            self.send(Op.DELETE, Record(version=version).pack())

    def send(self, op: Op, body: bytes) -> None:
        name = self.draw.choice(self.keys)
        via = self.draw.choice((None, None, self.member))
        self.sent.append((op, name, body, self.cluster.send(op, name, body, via=via)))

    def again(self) -> None:
        if self.sent:
            op, name, body, request_id = self.draw.choice(self.sent[-8:])
            attempt = self.draw.randint(0, 2)
            self.cluster.send(op, name, body, via=self.member, request_id=request_id, attempt=attempt)

    def fault(self) -> None:
        member, other = self.member, self.member
        here, there = member.contact.address, other.contact.address
        choices = (self.plant, self.behind, self.one_link, self.silence, self.closed)
        self.draw.choice(choices)(member, here, there)

    def plant(self, member: Member, *_: object) -> None:
        """A replica has something newer, or of the same version."""
        version = int(self.network.now * 1e6) + self.draw.choice((-1, 0, 1, 10**6))
        record = StoredRecord(version, 0, 0, b"another")
        member.store.apply([Write(key_of(self.draw.choice(self.keys)), record)], member.now)

    def behind(self, member: Member, *_: object) -> None:
        caught_up = self.draw.random() < 0.5
        member.repair.caught_up = lambda key: caught_up

    def one_link(self, _member: Member, here: object, there: object) -> None:
        self.network.set_loss(here, there, self.draw.choice((0.0, 0.5, 1.0)))  # type: ignore[arg-type]

    def silence(self, member: Member, *_: object) -> None:
        if self.draw.random() < 0.3:
            member.transport.stop()

    def closed(self, _member: Member, _here: object, there: object) -> None:
        """An ICMP error that quotes the last message to an address."""
        for _, what, source, target, data in reversed(self.trace[-50:]):
            sender = next((m for m in self.cluster.members if m.contact.address == source), None)
            if target == there and what == "delivered" and sender is not None:
                request_id = int.from_bytes(data[8:16], "big")  # type: ignore[index]
                sender.coordinator.unreachable(there, request_id, sender.now)
                return

    def state(self) -> list[object]:
        return [
            (
                list(member.store.scan(member.now)),
                +Counter(member.coordinator.counters),
                member.service.counters(),
                member.silent,
            )
            for member in self.cluster.members
        ]


def play_both(schedule: type[Schedule], seed: int) -> tuple[Schedule, Schedule]:
    """The same schedule in plain Python and in Cython: each datagram, its time, and all records are the same."""
    plain, common = schedule(seed, plain=True), schedule(seed, plain=False)
    plain.play()
    common.play()
    for number, (one, other) in enumerate(zip(plain.trace, common.trace, strict=False)):
        assert one == other, number
    assert len(plain.trace) == len(common.trace)
    assert plain.state() == common.state()
    return plain, common
