"""When a node says that it should serve: after it has joined, with a warm table, and after restarts."""

import pytest
from nodes import SOON, Cluster, Member, contact_of

from kdht.node.events import Ready
from kdht.node.options import Options
from kdht.node.replicas import Policy
from kdht.storage import MemoryStore

SEED = 5
RESTARTED = 10.0
"""Virtual seconds in which a cluster whose nodes all restarted is ready."""


def make_cluster(count: int) -> Cluster:
    cluster = Cluster(SEED)
    cluster.grow(count)
    cluster.run(SOON)
    return cluster


def test_a_first_node_is_ready_at_once() -> None:
    first = Cluster(SEED).add(1)
    assert first.node.ready
    assert first.node.status(0.0)["waiting_for"] == []


def test_a_node_is_ready_once_its_table_is_warm() -> None:
    cluster = make_cluster(16)
    fresh = cluster.add(17)
    assert fresh.node.status(0.0)["waiting_for"] == ["joined", "table"]
    assert cluster.network.run_while(lambda: not fresh.node.ready, SOON)
    assert fresh.seen.count(Ready()) == 1
    assert set(fresh.published()) == {member.contact for member in cluster.members[:-1]}


def test_other_parts_can_delay_readiness() -> None:
    cluster = make_cluster(4)
    fresh = cluster.add(5)
    fresh.node.readiness.require("repair")
    cluster.run(SOON)
    assert fresh.node.joined
    assert not fresh.node.ready
    assert fresh.node.status(0.0)["waiting_for"] == ["repair"]
    fresh.node.readiness.reached("repair")
    assert fresh.node.ready


def test_a_node_without_contacts_is_not_ready() -> None:
    cluster = make_cluster(4)
    lonely = cluster.members[2]
    others = [member.contact.address for member in cluster.members if member is not lonely]
    cluster.network.partition([lonely.contact.address], others)
    cluster.run(10)
    assert not lonely.node.ready
    cluster.network.heal()
    cluster.run(SOON)
    assert lonely.node.ready


def restart(cluster: Cluster, pause: float) -> list[Member]:
    """All nodes but the first, the bootstrap contact of all, which stays dead; their contacts are restored."""
    old = cluster.members[1:]
    for member in list(cluster.members):
        cluster.kill(member)
    for member in old:
        fresh = Member(cluster.network, member.contact, SEED + 1)
        fresh.node.restore(member.node.snapshot(), cluster.network.now)
        cluster.members.append(fresh)
        fresh.join([contact_of(1, SEED)])
        cluster.run(pause)
    return cluster.members


def test_after_a_restart_of_all_nodes_none_needs_the_bootstrap_contact() -> None:
    cluster = make_cluster(16)
    members = restart(cluster, pause=0.2)
    cluster.run(RESTARTED)
    assert [member.node.ready for member in members] == [True] * 15
    cluster.run(SOON)
    assert cluster.astray(30) == []


def test_the_first_node_back_waits_for_the_others() -> None:
    cluster = make_cluster(8)
    snapshot = cluster.members[0].node.snapshot()
    for member in list(cluster.members):
        cluster.kill(member)
    first = Member(cluster.network, contact_of(1, SEED), SEED + 1)
    first.node.restore(snapshot, cluster.network.now)
    first.join([])
    cluster.members.append(first)
    cluster.run(5)
    assert not first.node.ready
    second = cluster.add(2)
    cluster.run(RESTARTED)
    assert first.node.ready
    assert second.node.ready
    assert first.published() == [second.contact]


@pytest.mark.parametrize("acks", [1, 2])
def test_the_only_survivor_serves_after_a_while_if_one_confirms(acks: int) -> None:
    """Where two confirm it cannot write, nor say that a key has no value, until others live or are forgotten."""
    cluster = Cluster(SEED)
    last = Member(cluster.network, contact_of(1, SEED), SEED, policy=Policy(acks=acks), store=MemoryStore())
    lost = [contact_of(number) for number in range(2, 9)]
    last.restore(lost)
    last.join([])
    cluster.run(Options().lonely_time / 2)
    assert not last.node.ready
    cluster.run(Options().lonely_time)
    assert last.node.readiness.missing == ([] if acks == 1 else ["replicas"])
    for contact in lost:
        last.node.census.forget(contact.id)
    assert last.node.ready
