"""Which dead nodes count in what a write needs, and for how long."""

import pytest
from test_departures import SETTLED, ask, drain, grown, others

from kdht.client import _calls as calls
from kdht.errors import NotFound, Unconfirmed
from kdht.lab.virtual import Member, VirtualCluster
from kdht.node.forget import Fate, Told


def kill(cluster: VirtualCluster, *members: Member) -> None:
    for member in members:
        cluster.kill(member)
    cluster.run(SETTLED)


def refused(cluster: VirtualCluster, through: Member) -> None:
    with pytest.raises(Unconfirmed, match="nothing was changed") as error:
        ask(cluster, through, calls.put("refused", b"value", None))
    assert error.value.status == "TOO_FEW"


def forget(cluster: VirtualCluster, through: Member, who: Member) -> dict[bytes, Fate | None]:
    """What each contact said; empty if the node itself says that it lives."""
    told: list[Told] = []
    through.node.forget(who.contact.id, told.extend, cluster.network.now)
    through.flush()
    cluster.run(12)
    return {each.contact.id: each.fate for each in told}


def test_a_cluster_serves_after_a_regular_shrink() -> None:
    """Three were left, as many as a key has replicas: what the dead had was copied among them."""
    cluster = grown(5)
    kill(cluster, *cluster.members[3:])
    last = cluster.members[0]
    ask(cluster, last, calls.put("there", b"value", None))
    for member in cluster.members[1:]:
        drain(cluster, member)
    assert others(last) == 0
    ask(cluster, last, calls.put("new", b"value", None))
    assert ask(cluster, last, calls.get("there", quorum=True)).endswith(b"value")


def test_a_dead_node_counts_until_it_is_forgotten() -> None:
    cluster = grown(3)
    last, drained, dead = cluster.members
    kill(cluster, dead)
    drain(cluster, drained)
    refused(cluster, last)
    assert last.node.census.gone == [dead.contact]
    assert forget(cluster, last, dead) == {}
    assert (last.node.census.gone, others(last)) == ([], 0)
    ask(cluster, last, calls.put("new", b"value", None))
    with pytest.raises(NotFound):
        ask(cluster, last, calls.get("never was"))


def test_a_dead_node_is_forgotten_once_and_by_all() -> None:
    cluster = grown(3)
    one, two, dead = cluster.members
    kill(cluster, dead)
    assert one.node.census.gone == two.node.census.gone == [dead.contact]
    ends = forget(cluster, one, dead)
    assert ends == {two.contact.id: Fate.FORGOTTEN}
    assert one.node.census.gone == two.node.census.gone == []
    assert forget(cluster, one, dead) == {two.contact.id: Fate.UNKNOWN}


def test_a_living_node_cannot_be_forgotten() -> None:
    cluster = grown(3)
    one, two, three = cluster.members
    assert one.node.forget(three.contact.id, lambda told: None, cluster.network.now) is Fate.LIVES
    assert one.node.forget(one.contact.id, lambda told: None, cluster.network.now) is Fate.LIVES
    cluster.network.partition([one.contact.address], [three.contact.address])
    cluster.run(SETTLED)
    assert one.node.table.get(three.contact.id) is None
    assert forget(cluster, one, three) == {two.contact.id: Fate.LIVES}
    assert others(two) == 2


def test_a_forgotten_node_that_returns_counts_again() -> None:
    cluster = grown(2)
    one, two = cluster.members
    kill(cluster, two)
    forget(cluster, one, two)
    ask(cluster, one, calls.put("alone", b"value", None))
    cluster.add(2)
    cluster.run(SETTLED)
    assert others(one) == 1
    kill(cluster, cluster.members[1])
    refused(cluster, one)


def test_a_restart_keeps_dead_nodes_and_drops_drained_ones() -> None:
    cluster = grown(4)
    one, two, three, four = cluster.members
    for dead in (two, three):
        kill(cluster, dead)
    drain(cluster, four)
    saved = [*one.node.snapshot(), *one.node.census.gone]
    assert [contact for contact in saved if contact == four.contact] == []
    cluster.kill(one)
    fresh = cluster.add(1, bootstrap=[])
    fresh.restore(saved)
    cluster.run(SETTLED)
    refused(cluster, fresh)
    for dead in (two, three):
        forget(cluster, fresh, dead)
    ask(cluster, fresh, calls.put("alone", b"value", None))


def test_quorum_reads_say_that_too_few_nodes_live() -> None:
    cluster = grown(3)
    one, two, three = cluster.members
    ask(cluster, one, calls.put("there", b"value", None))
    kill(cluster, two, three)
    assert ask(cluster, one, calls.get("there")).endswith(b"value")
    with pytest.raises(Unconfirmed) as error:
        ask(cluster, one, calls.get("there", quorum=True))
    assert error.value.status == "TOO_FEW"
