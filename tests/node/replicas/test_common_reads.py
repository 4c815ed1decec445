"""The common reads in Cython do what the plain Python does: the same datagrams at the same times, and the same records.

Each schedule is played twice from one seed: with loss, repetition, silence, closed ports, joiners that are behind, records
that only some replicas have, and writes between the reads.
"""

import pytest
from replica_cluster import Cluster, key_of
from replica_schedule import Schedule, play_both

from kdht.datapath.memory import transport
from kdht.storage import StoredRecord, Write
from kdht.storage.record import TOMBSTONE
from kdht.wire import Record
from kdht.wire._shared import Op, Status


class Reads(Schedule):
    """Most requests are reads, of fewer keys. Some records exist already, at all replicas or some, or end soon."""

    keys = tuple(f"key {number}" for number in range(4))
    reads = 0.7

    def play(self) -> None:
        now = self.network.now
        for name in self.keys:
            expiry = self.draw.choice((0, 0, 0, int(now) + 3))
            flags, value = self.draw.choice(((0, b"a value"), (0, b"a value"), (0, b""), (TOMBSTONE, b"")))
            if flags:
                expiry = int(now) + 100
            record = StoredRecord(int(now * 1e6), expiry, flags, value)
            missing = self.draw.choice((0.0, 0.0, 0.3, 1.0))
            for member in self.cluster.members:
                if self.draw.random() >= missing:
                    member.store.apply([Write(key_of(name), record)], member.now)
        super().play()


@pytest.mark.parametrize("seed", range(100))
def test_a_schedule_is_the_same_with_and_without_the_common_reads(seed, monkeypatch):
    # Alarms ring at their times: not later because of another one that was cancelled meanwhile.
    monkeypatch.setattr(transport, "TICK", 1e-6)
    _, common = play_both(Reads, seed)
    assert all(len(member.coordinator.common_reads) == 0 for member in common.cluster.members)


def test_most_reads_are_common_ones(monkeypatch):
    """Else the schedules above compare the plain Python with itself."""
    cluster = Cluster(5)
    cluster.put("key", b"value")
    taken = []
    for member in cluster.members:
        gather = member.coordinator._reads.gather
        monkeypatch.setattr(
            member.coordinator._reads,
            "gather",
            lambda *a, _gather=gather, **k: (taken.append(a), _gather(*a, **k)),
        )
    assert cluster.get("key", Op.QUORUM_GET) == b"value"
    assert cluster.get("no such key", Op.QUORUM_GET) is None
    assert cluster.get("key", Op.QUORUM_GET, via=cluster.replicas("key")[1], attempt=1) == b"value"
    assert taken == []
    assert sum(member.coordinator.counters["gathered_quorum"] for member in cluster.members) == 3


@pytest.mark.parametrize("plain", [False, True])
def test_a_node_that_caught_up_after_its_look_is_not_heard(plain):
    """The record that came in between, and settled the key, is not in what it saw."""
    cluster = Cluster(3, plain=plain)
    owner, _, third = cluster.replicas("key")
    cluster.kill(third)
    caught_up = [False]
    owner.repair.caught_up = lambda key: caught_up[0]
    get = owner.store.get

    def get_before_the_record_came(key, now):
        found = get(key, now)
        caught_up[0] = True
        return found

    owner.store.get = get_before_the_record_came
    reply = cluster.ask(Op.QUORUM_GET, "key", bytes(1120))
    # One other node has no record, and one is silent: nobody may say that there is none.
    assert reply.status is Status.UNCONFIRMED


def test_a_record_of_the_own_store_that_a_majority_has_is_told_with_its_seconds_left():
    cluster = Cluster(3)
    expiry = int(cluster.network.now) + 100
    record = StoredRecord(int(cluster.network.now * 1e6), expiry, 0, b"value")
    for member in cluster.members:
        member.store.apply([Write(key_of("key"), record)], member.now)
    reply = cluster.ask(Op.QUORUM_GET, "key", bytes(1120))
    told = Record.parse(reply.body)
    assert (told.version, told.value) == (record.version, b"value")
    assert 98 <= told.ttl <= 100
