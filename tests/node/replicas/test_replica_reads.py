"""Reads from several replicas: who is asked, whose word counts, and what a majority is."""

import pytest
from replica_cluster import Cluster
from replica_steps import plant, taken

from kdht.storage import StoredRecord
from kdht.wire._shared import Op, RecordFlag, Status


def test_an_owner_without_the_record_asks_the_others():
    cluster = Cluster(8)
    owner, second, _ = cluster.replicas("a")
    plant(second, 7, b"only here")
    assert cluster.get("a") == b"only here"
    cluster.network.run(cluster.network.now + 1)
    assert owner.has("a") == StoredRecord(7, 0, 0, b"only here")


def test_an_owner_behind_reads_from_a_majority():
    cluster = Cluster(8)
    owner, second, third = cluster.replicas("a")
    plant(owner, 7, b"old")
    plant(second, 8, b"new")
    plant(third, 8, b"new")
    assert cluster.get("a") == b"old"
    owner.repair.caught_up = lambda key: False
    assert cluster.get("a") == b"new"
    assert owner.has("a") == StoredRecord(8, 0, 0, b"new")


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("behind", [0, 1, 2])
def test_a_replica_behind_does_not_count_in_a_quorum_read(behind, old):
    """It was away when the write came to one of the others and to the node that then stood in its place."""
    cluster = Cluster(8)
    replicas = cluster.replicas("a")
    late = replicas[behind]
    having, lacking = (member for member in replicas if member is not late)
    for member in (late, lacking) if old else ():
        plant(member, 7, old)
    plant(having, 8, b"new")
    late.repair.caught_up = lambda key: False
    for _ in range(5):
        assert cluster.get("a", Op.QUORUM_GET) == b"new"
    assert lacking.has("a") == StoredRecord(8, 0, 0, b"new")


def test_replicas_behind_give_records_but_never_not_found():
    cluster = Cluster(8)
    for member in cluster.members:
        member.repair.caught_up = lambda key: False
    plant(cluster.replicas("a")[1], 7, b"there")
    assert cluster.get("a") == b"there"
    for op, name in ((Op.QUORUM_GET, "a"), (Op.GET, "b")):
        reply = cluster.ask(op, name, bytes(1120))
        assert reply is not None
        assert reply.status is Status.UNCONFIRMED


def test_a_quorum_read_repairs_a_majority_before_it_answers():
    for holder in range(3):
        cluster = Cluster(8)
        replicas = cluster.replicas("a")
        for number, member in enumerate(replicas):
            plant(member, 8 if number == holder else 7, b"new" if number == holder else b"old")
        value = cluster.get("a", Op.QUORUM_GET)
        having = sum(member.has("a").value == b"new" for member in replicas)
        if value == b"new":
            assert having >= 2
        assert cluster.get("a", Op.QUORUM_GET) == value or value == b"old"


def test_a_quorum_read_without_a_majority_is_unconfirmed():
    cluster = Cluster(3)
    owner, *others = cluster.replicas("a")
    plant(owner, 7, b"value")
    cluster.kill(*others)
    reply = cluster.ask(Op.QUORUM_GET, "a", bytes(1120))
    assert reply is not None
    assert reply.status is Status.UNCONFIRMED
    assert cluster.get("a") == b"value"


def test_not_found_needs_a_majority_of_replicas():
    """Both other replicas are too slow to be waited for; those after them answer at once."""
    cluster = Cluster(8)
    owner, second, third = cluster.replicas("a")
    plant(second, 7, b"there")
    for member in (second, third):
        cluster.network.set_loss(owner.contact.address, member.contact.address, 1.0)
    for op in (Op.GET, Op.QUORUM_GET):
        reply = cluster.ask(op, "a", bytes(1120))
        assert reply is not None
        assert reply.status is Status.UNCONFIRMED


def test_a_stand_in_may_give_the_record():
    """It took a silent replica's place when the record was written."""
    cluster = Cluster(8)
    owner, second, third = cluster.replicas("a")
    *_, fourth = cluster.replicas("a", [m for m in cluster.members if m is not third])
    plant(fourth, 7, b"there")
    cluster.kill(second, third)
    assert cluster.get("a") == b"there"
    assert owner.has("a") == StoredRecord(7, 0, 0, b"there")


def test_a_leftover_record_is_ignored_while_replicas_may_answer():
    """Both other replicas are slow, so the nodes after them are asked beside; one has a record that was deleted long ago."""
    for seed in range(8):
        cluster = Cluster(8, seed=seed)
        owner, second, third = cluster.replicas("a")
        _, fourth, *_ = cluster.replicas("a", [m for m in cluster.members if m not in (second, third)])
        plant(fourth, 7, b"left over")
        fourth.repair.caught_up = lambda key: False
        for member in (second, third):
            plant(member, 8, b"", int(RecordFlag.TOMBSTONE))
            cluster.network.set_loss(owner.contact.address, member.contact.address, 1.0)
        cluster.send(Op.GET, "a", bytes(1120))
        cluster.network.run(cluster.network.now + 0.19)
        for member in (second, third):
            cluster.network.set_loss(owner.contact.address, member.contact.address, 0.0)
        cluster.network.run(cluster.network.now + 2)
        assert [reply.status for reply in taken(cluster)] == [Status.NOT_FOUND]


def test_an_owner_behind_does_not_count_towards_a_majority():
    """The owner was away while the others acknowledged a write, of which one of them lags."""
    cluster = Cluster(8)
    owner, second, third = cluster.replicas("a")
    for member, version, value in ((owner, 7, b"old"), (second, 8, b"new"), (third, 7, b"old")):
        plant(member, version, value)
    cluster.network.set_loss(owner.contact.address, second.contact.address, 1.0)
    owner.repair.caught_up = lambda key: False
    reply = cluster.ask(Op.QUORUM_GET, "a", bytes(1120))
    assert reply is not None
    assert reply.status is Status.UNCONFIRMED
    cluster.network.set_loss(owner.contact.address, second.contact.address, 0.0)
    assert cluster.get("a", Op.QUORUM_GET) == b"new"


@pytest.mark.parametrize("held", [None, b"old"])
def test_replies_say_whether_a_replica_has_caught_up(held):
    cluster = Cluster(8)
    _, second, third = cluster.replicas("a")
    if held is not None:
        plant(second, 7, held)
    for member in (second, third):
        member.repair.caught_up = lambda key: False
    reply = cluster.ask(Op.GET if held is None else Op.QUORUM_GET, "a", bytes(1120))
    assert reply is not None
    assert reply.status is Status.UNCONFIRMED
    third.repair.caught_up = lambda key: True
    assert cluster.get("a", Op.QUORUM_GET) == held
