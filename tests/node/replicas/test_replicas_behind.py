"""Writes while nodes join or have not caught up: who confirms, and in whose place."""

import pytest
from replica_cluster import Cluster, Member
from replica_steps import plant

from kdht.wire import Record, parse
from kdht.wire._shared import TRY_BITS, Op, Status


def join(cluster: Cluster, count: int = 1) -> tuple[list[Member], list[Member]]:
    """The nodes closest to "a" have just come: nobody else knows them, and they have not caught up. Who kept it, too."""
    joiners = cluster.replicas("a")[:count]
    old = [member for member in cluster.members if member not in joiners]
    for member in old:
        member.know(old)
    for joiner in joiners:
        joiner.repair.caught_up = lambda key: False
        joiner.know([*old, joiner])
    kept = cluster.replicas("a", old)
    for member in kept:
        member.repair.holding = lambda key: True
    return joiners, kept


def test_an_unknown_joiner_does_not_count_towards_a_writes_majority():
    """Who kept the key before make a majority for a quorum read without it."""
    cluster = Cluster(8)
    (joiner,), (first, *others) = join(cluster)
    for member in others:
        cluster.network.set_loss(joiner.contact.address, member.contact.address, 1.0)
    reply = cluster.ask(Op.PUT, "a", Record(value=b"value").pack(), via=joiner)
    assert reply is not None
    assert reply.status is Status.UNCONFIRMED
    assert first.has("a") is not None
    assert joiner.coordinator.counters["confirmed_behind"] > 0
    cluster.network.set_loss(first.contact.address, others[0].contact.address, 1.0)
    assert cluster.get("a", Op.QUORUM_GET, via=others[1]) in (None, b"value")


@pytest.mark.parametrize("count", [1, 2, 3, 12], ids=lambda count: f"{count} joiners")
def test_former_replicas_confirm_in_place_of_joiners(count):
    cluster = Cluster(20)
    joiners, kept = join(cluster, count)
    cluster.network.set_loss(joiners[0].contact.address, kept[1].contact.address, 1.0)
    cluster.put("a", b"value", via=joiners[0])
    assert [member.has("a") is not None for member in kept] == [True, False, True]
    assert cluster.get("a", Op.QUORUM_GET, via=kept[1]) == b"value"


def test_a_silent_joiner_keeps_its_seat():
    """It may have compared its records before the write, and catch up without it."""
    cluster = Cluster(8)
    (joiner, silent), (first, *_) = join(cluster, 2)
    joiner.know(cluster.members)
    cluster.network.set_loss(joiner.contact.address, silent.contact.address, 1.0)
    cluster.network.set_loss(joiner.contact.address, first.contact.address, 1.0)
    reply = cluster.ask(Op.PUT, "a", Record(value=b"value").pack(), via=joiner)
    assert reply is not None
    assert reply.status is Status.UNCONFIRMED


def test_joiners_never_confirm_an_older_write():
    cluster = Cluster(8)
    joiners, kept = join(cluster, 2)
    for joiner in joiners:
        joiner.know(cluster.members)
    older = int(joiners[0].now * 1_000_000)
    for member in kept[:2]:
        plant(member, older + 1, b"newer")
    cluster.network.set_loss(joiners[0].contact.address, kept[0].contact.address, 1.0)
    reply = cluster.ask(Op.PUT, "a", Record(older, value=b"older").pack(), via=joiners[0])
    assert reply is not None
    assert reply.status is Status.UNCONFIRMED


def test_a_retried_write_is_confirmed_once_its_replicas_have_caught_up():
    """All were away at once: nobody has caught up on anything."""
    cluster = Cluster(8)
    body = Record(int(cluster.members[0].now * 1_000_000), value=b"value").pack()
    for member in cluster.members:
        member.repair.caught_up = lambda key: False
    request = cluster.send(Op.PUT, "a", body, request_id=1 << TRY_BITS)
    cluster.network.run(cluster.network.now + 2)
    assert [parse(each.data).status for each in cluster.client.take()] == [Status.UNCONFIRMED]
    for member in cluster.members:
        member.repair.caught_up = lambda key: True
    cluster.send(Op.PUT, "a", body, request_id=request + 1)
    cluster.network.run(cluster.network.now + 2)
    assert [parse(each.data).status for each in cluster.client.take()] == [Status.OK]


def test_a_coordinator_behind_does_not_count_itself():
    cluster = Cluster(8)
    owner, _, third = cluster.replicas("a")
    owner.repair.caught_up = lambda key: False
    cluster.put("a", b"value")
    cluster.network.set_loss(owner.contact.address, third.contact.address, 1.0)
    reply = cluster.ask(Op.PUT, "a", Record(value=b"again").pack())
    assert reply is not None
    assert reply.status is Status.UNCONFIRMED


@pytest.mark.parametrize("caught_up", [True, False])
def test_a_node_alone_confirms_once_it_has_caught_up(caught_up):
    cluster = Cluster(1)
    cluster.members[0].repair.caught_up = lambda key: caught_up
    reply = cluster.ask(Op.PUT, "a", Record(value=b"value").pack())
    assert reply is not None
    assert reply.status is (Status.OK if caught_up else Status.UNCONFIRMED)


def test_a_quorum_read_writes_back_to_a_majority_of_caught_up_replicas():
    """That a joiner has it helps nobody who asks those that were there before."""
    cluster = Cluster(8)
    joiners, kept = join(cluster)
    joiner = joiners[0]
    joiner.know(cluster.members)
    for member in (joiner, kept[0]):
        plant(member, 7, b"value")
    cluster.network.set_loss(joiner.contact.address, kept[2].contact.address, 1.0)
    assert cluster.get("a", Op.QUORUM_GET, via=joiner) == b"value"
    assert kept[1].has("a") is not None


@pytest.mark.parametrize("third_says", ["newer", "nothing"])
def test_a_write_is_refused_only_if_every_asked_replica_refused_it(third_says):
    """One has not caught up and has something newer, too; who kept the key before is asked in its place."""
    cluster = Cluster(8)
    joiners, kept = join(cluster)
    older = int(joiners[0].now * 1_000_000)
    for member in (*joiners, *kept):
        plant(member, older + 1, b"newer")
    if third_says == "nothing":
        cluster.kill(kept[2])
    reply = cluster.ask(Op.PUT, "a", Record(older, value=b"older").pack(), via=joiners[0])
    assert reply is not None
    assert reply.status is (Status.BAD_VERSION if third_says == "newer" else Status.UNCONFIRMED)
