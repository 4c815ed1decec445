"""Replicas without room: certain refusals, and no haste of repair."""

import pytest
from replica_cluster import Cluster, key_of
from replica_steps import fill

from kdht.lab.virtual.cluster import VirtualCluster
from kdht.node.replicas import Policy
from kdht.storage import StoredRecord, Write
from kdht.storage.room import Limits, Pressure
from kdht.wire import Record, pack_write
from kdht.wire._shared import Op, Status


def status_of(cluster: Cluster, op: Op, body: bytes, name: str = "a") -> Status:
    reply = cluster.ask(op, name, body)
    assert reply is not None
    return reply.status


VALUE = Record(value=b"value").pack()


def test_a_full_coordinator_refuses_values_and_takes_deletions():
    cluster = Cluster(8)
    cluster.put("a", b"before")
    fill(cluster.replicas("a")[0], pressure=Pressure.CLIENTS)
    assert status_of(cluster, Op.PUT, VALUE) is Status.FULL
    assert cluster.get("a") == b"before"
    assert status_of(cluster, Op.DELETE, b"") is Status.OK
    assert cluster.get("a") is None


def test_one_full_replica_hinders_no_write():
    cluster = Cluster(8)
    owner, second, third = cluster.replicas("a")
    fill(second)
    assert cluster.put("a", b"value").version
    cluster.network.run(cluster.network.now + 1)
    assert third.has("a") is not None
    assert second.has("a") is None
    assert second.coordinator.counters["stores_full"] == 1
    assert owner.repair.missed_keys == []


@pytest.mark.parametrize("acks", [2, 3])
def test_all_full_replicas_change_nothing(acks):
    cluster = Cluster(3, policy=Policy(replicas=3, acks=acks))
    fill(*cluster.members)
    for member in cluster.members:
        member.service._room.lets_in = lambda *_: True  # it was the last with room, a moment ago
    assert status_of(cluster, Op.PUT, VALUE) is Status.FULL
    assert status_of(cluster, Op.PUT, pack_write(Record(value=b"value"), 0)) is Status.FULL
    assert [member.has("a") for member in cluster.members] == [None] * 3
    fill(*cluster.members, pressure=Pressure.NONE)
    assert cluster.put("a", b"value").version


def test_a_full_coordinator_with_room_elsewhere_confirms():
    """It was let in a moment before."""
    cluster = Cluster(8)
    owner, second, third = cluster.replicas("a")
    fill(owner)
    owner.service._room.lets_in = lambda *_: True
    assert cluster.put("a", b"value").version
    assert owner.has("a") is None
    assert second.has("a") == third.has("a") is not None


def test_a_full_replica_takes_what_replaces_an_older_record():
    cluster = Cluster(8)
    cluster.put("a", b"old")
    cluster.network.run(cluster.network.now + 1)
    second = cluster.replicas("a")[1]
    fill(second)
    cluster.put("a", b"new")
    cluster.network.run(cluster.network.now + 1)
    assert second.has("a").value == b"new"


def test_repair_asks_a_full_replica_now_and_then_only():
    cluster = VirtualCluster(3, policy=Policy())
    cluster.grow(3)
    cluster.run(20)
    full, *others = cluster.members
    fill(full)
    for number in range(100):
        key = key_of(f"record {number}")
        for member in others:
            write = Write(key, StoredRecord(1, 0, 0, bytes(100)))
            member.store.apply([write], member.clock(), member.records.on_change)
    before = cluster.network.counts["delivered"]
    cluster.run(600)
    assert full.store.stats().records == 0
    pushed = sum(member.node.repair.counters["bytes_pushed"] for member in others)
    assert pushed == 0, "an offer is refused before the record is sent"
    rate = (cluster.network.counts["delivered"] - before) / 600
    fill(full, pressure=Pressure.NONE)
    cluster.run(180)
    assert full.store.stats().records == 100
    assert rate < 60, f"{rate} datagrams a second among three nodes"


def test_a_writer_is_known_by_its_address():
    cluster = Cluster(8)
    for member in cluster.members:
        room = member.store.room
        room.limits = Limits(writer_records=1)
        room._writers._limits = room.limits
    cluster.put("a", b"1")
    assert status_of(cluster, Op.PUT, VALUE, "a") is Status.FULL
    assert status_of(cluster, Op.DELETE, b"", "a") is Status.OK
    cluster.put("a", b"1")
