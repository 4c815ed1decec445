"""The common writes in Cython do what the plain Python does: the same datagrams at the same times, and the same records.

Each schedule is played twice from one seed: with loss, repetition, silence, closed ports, joiners that are behind, and
writes of several clients to few keys.
"""

import sys
from collections import Counter
from random import Random
from types import FrameType

import pytest
from replica_cluster import Cluster, Member, key_of

from kdht.datapath.memory import transport
from kdht.node.replicas import Policy
from kdht.storage import MemoryStore, StoredRecord, Write
from kdht.wire import Record, pack_write
from kdht.wire._shared import Op

KEYS = [f"key {number}" for number in range(6)]


class Schedule:
    """One cluster under a seed's faults and requests."""

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
        kind = self.draw.random()
        if kind < 0.7:
            self.send(Op.PUT, Record(version=version, ttl=ttl, value=value).pack())
        elif kind < 0.8:
            condition = self.draw.choice((0, version))
            self.send(Op.PUT, pack_write(Record(version=version, value=value), condition))
        elif kind < 0.9:
            self.send(Op.DELETE, Record(version=version).pack())
        else:
            self.send(self.draw.choice((Op.GET, Op.QUORUM_GET)), bytes(1120))

    def send(self, op: Op, body: bytes) -> None:
        name = self.draw.choice(KEYS)
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
        member.store.apply([Write(key_of(self.draw.choice(KEYS)), record)], member.now)

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


@pytest.mark.parametrize("seed", range(60))
def test_a_schedule_is_the_same_with_and_without_the_common_writes(seed, monkeypatch):
    # Alarms ring at their times: not later because of another one that was cancelled meanwhile.
    monkeypatch.setattr(transport, "TICK", 1e-6)
    plain, common = Schedule(seed, plain=True), Schedule(seed, plain=False)
    plain.play()
    common.play()
    for number, (one, other) in enumerate(zip(plain.trace, common.trace, strict=False)):
        assert one == other, number
    assert len(plain.trace) == len(common.trace)
    assert plain.state() == common.state()
    assert all(len(member.coordinator.common) == 0 for member in common.cluster.members)


SOCKET_LOOP = "/kdht/datapath/memory/"
"""What stands in for it in this cluster."""


class PythonCalls:
    """Calls of Python functions of kdht during a block, outside the store's groups and what the test itself calls."""

    def __init__(self) -> None:
        self.count = 0
        self._group: FrameType | None = None

    def __enter__(self) -> None:
        sys.setprofile(self._note)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        if event == "return" and frame is self._group:
            self._group = None
        elif event == "call" and self._group is None:
            if frame.f_code is MemoryStore.apply.__code__:
                self._group = frame
            # A named tuple's constructor is text without a file: it is its caller's.
            is_named_tuple = frame.f_code.co_filename == "<string>"
            caller = frame.f_back if is_named_tuple and frame.f_back else frame
            names = [each.f_code.co_filename for each in (caller, caller.f_back) if each is not None]
            if "/kdht/" in names[0] and SOCKET_LOOP not in names[0] and "/tests/" not in names[-1]:
                self.count += 1


def python_calls(together: int, *, plain: bool, version: int = 0) -> float:
    """Python calls for each PUT of so many that the owner takes at once, and for their answers."""
    cluster = Cluster(3, plain=plain)
    owner = cluster.members[0]
    names = [name for name in map(str, range(2000)) if cluster.replicas(name)[0] is owner][:together]
    calls = PythonCalls()

    def take() -> None:
        with calls:
            owner.transport.resume()

    owner.transport.pause()
    for name in names:
        cluster.send(Op.PUT, name, Record(version=version, value=b"value").pack())
    cluster.network.run(cluster.network.now + 0.02)
    take()
    owner.transport.pause()
    cluster.network.run(cluster.network.now + 0.04)
    take()
    assert owner.coordinator.counters["writes_ok"] == together
    return calls.count / together


@pytest.mark.parametrize("versioned", [False, True])
def test_a_common_put_costs_its_coordinator_few_python_calls(versioned):
    version = int(Cluster(1).members[0].now * 1e6) if versioned else 0
    plain, common = (python_calls(32, plain=way, version=version) for way in (True, False))
    assert common <= 5, "2.1 when this was written, 110 and 114 in plain Python"
    assert common < plain / 4
