"""Who has given all away and gone counts no more in what a write or a read needs; who only went does."""

from random import Random

import pytest

from kdht.client import _calls as calls
from kdht.client._calls import Call
from kdht.client._exchange import Exchange
from kdht.errors import NotFound, RequestError
from kdht.lab.virtual import Member, VirtualCluster
from kdht.lab.virtual.client import VirtualRequest
from kdht.node.events import ContactDrained, Drained
from kdht.node.replicas import Policy
from kdht.wire import Address

CLIENT = Address.of("192.0.2.7", 40000)
SETTLED = 30.0


def grown(size: int) -> VirtualCluster:
    cluster = VirtualCluster(1, policy=Policy())
    cluster.grow(size, pause=0.5)
    cluster.run(SETTLED)
    return cluster


def ask(cluster: VirtualCluster, through: Member, call: Call) -> bytes:
    """The answer's body; raises as a client does."""
    ended: list[Exchange] = []
    VirtualRequest(
        cluster.network,
        CLIENT,
        [through.contact.address],
        call,
        lambda exchange, seconds: ended.append(exchange),
        Random(1),
    )
    cluster.run(6)
    (exchange,) = ended
    return exchange.result().body


def drain(cluster: VirtualCluster, member: Member) -> None:
    member.node.drain(cluster.network.now)
    member.flush()
    cluster.run(SETTLED)
    assert any(type(event) is Drained for event in member.seen)
    cluster.kill(member)


def leave(cluster: VirtualCluster, member: Member) -> None:
    member.node.leave(cluster.network.now)
    member.flush()
    cluster.run(1)
    cluster.kill(member)


def others(member: Member) -> int:
    assert member.records is not None
    return member.records.coordinator.cluster.others


def test_the_last_node_of_a_drained_cluster_serves() -> None:
    cluster = grown(3)
    last = cluster.members[0]
    ask(cluster, last, calls.put("there", b"value", None))
    for member in cluster.members[1:]:
        drain(cluster, member)
    assert others(last) == 0
    assert ask(cluster, last, calls.get("there", quorum=True)).endswith(b"value")
    with pytest.raises(NotFound):
        ask(cluster, last, calls.get("never was"))
    ask(cluster, last, calls.put("new", b"value", None))


def test_a_node_that_left_without_draining_still_counts() -> None:
    cluster = grown(3)
    last = cluster.members[0]
    for member in cluster.members[1:]:
        leave(cluster, member)
    assert others(last) == 2
    with pytest.raises(RequestError) as refused:
        ask(cluster, last, calls.put("new", b"value", None))
    assert refused.value.status == "TOO_FEW"


def test_a_drained_node_that_returns_counts_again() -> None:
    cluster = grown(3)
    last, gone, other = cluster.members
    gone.node.drain(cluster.network.now)
    gone.flush()
    cluster.run(SETTLED)
    leave(cluster, gone)  # as a daemon says when it stops
    heard = [event for event in last.seen if type(event) is ContactDrained]
    assert [event.contact for event in heard] == [gone.contact]
    assert others(last) == others(other) == 1
    cluster.add(2)
    cluster.run(SETTLED)
    assert others(last) == others(other) == 2
