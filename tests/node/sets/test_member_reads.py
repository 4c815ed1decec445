"""MEMBERS of a majority: equal pages are not read twice, and what is kept of them is never old."""

import pytest
from replica_cluster import Cluster, key_of

from kdht.node.replicas import member_reads
from kdht.node.sets import index
from kdht.storage import StoredRecord, Write
from kdht.wire._shared import Op, Status
from kdht.wire.sets import (
    ANYWHERE,
    FIRST,
    NOBODYS,
    QUORUM,
    Member,
    member_key,
    member_value,
    pack_announcement,
    pack_question,
    parse_members,
)

SET = key_of("services")


def name(number: int) -> bytes:
    return number.to_bytes(8, "big")


def planted(cluster: Cluster, number: int, seconds: int = 60, lacking: int = 0) -> None:
    """A member of which so many nodes know nothing."""
    record = StoredRecord(
        int(cluster.network.now * 1e6), int(cluster.network.now) + seconds, 0, member_value(SET, name(number))
    )
    for member in cluster.members[lacking:]:
        member.store.apply([Write(member_key(SET, NOBODYS, name(number)), record)], member.now)


def asked(cluster: Cluster) -> list[Member]:
    reply = cluster.ask(Op.MEMBERS, SET, pack_question(FIRST, QUORUM).ljust(1120, b"\0"))
    assert reply is not None
    assert reply.status is Status.OK
    return parse_members(reply.body).members


def payloads(cluster: Cluster) -> set[bytes]:
    return {member.payload for member in asked(cluster)}


def test_equal_pages_are_not_read(monkeypatch):
    cluster = Cluster(3)
    for number in range(3):
        planted(cluster, number)
    monkeypatch.setattr(member_reads, "parse_list", None)
    for _ in range(3):
        assert payloads(cluster) == {name(0), name(1), name(2)}
    assert all(not member.coordinator.counters["faults"] for member in cluster.members)


def test_other_pages_are_joined_and_the_own_store_is_mended():
    cluster = Cluster(3)
    owner = cluster.replicas(SET)[0]
    cluster.members.sort(key=lambda member: member is not owner)
    planted(cluster, 0)
    planted(cluster, 1, lacking=1)
    assert payloads(cluster) == {name(0), name(1)}
    assert owner.coordinator.counters["read_repairs"] == 1
    assert payloads(cluster) == {name(0), name(1)}
    assert owner.coordinator.counters["read_repairs"] == 1


def test_a_change_an_end_and_the_passing_seconds_are_told():
    cluster = Cluster(3)
    planted(cluster, 0, seconds=600)
    planted(cluster, 1, seconds=5)
    (first,) = [member for member in asked(cluster) if member.payload == name(0)]
    assert cluster.ask(Op.ANNOUNCE, SET, pack_announcement(name(2), 60, name(2))).status is Status.OK
    assert payloads(cluster) == {name(0), name(1), name(2)}
    cluster.network.run(cluster.network.now + 10)
    assert payloads(cluster) == {name(0), name(2)}
    (later,) = [member for member in asked(cluster) if member.payload == name(0)]
    assert 9 <= first.ttl - later.ttl <= 11
    assert cluster.ask(Op.WITHDRAW, SET, pack_announcement(name(2), 60)).status is Status.OK
    assert payloads(cluster) == {name(0)}


def test_a_member_that_ends_while_the_replicas_are_asked_is_not_told():
    cluster = Cluster(3)
    planted(cluster, 0, seconds=600)
    planted(cluster, 1, seconds=5)
    cluster.network.delay = 0.15, 0.15
    assert payloads(cluster) == {name(0), name(1)}
    end = int(cluster.network.now) + 5
    # All nodes look before the end, and the answers arrive behind it.
    cluster.network.run(end - 0.4)
    assert payloads(cluster) == {name(0)}


@pytest.mark.parametrize("number", [index.MAX_LISTINGS + 10])
def test_what_is_kept_is_bounded(number):
    cluster = Cluster(1)
    planted(cluster, 0)
    found = index.SetIndex(cluster.members[0].store)
    for start in range(1, number):
        found.listing(SET, start, cluster.network.now)
    assert len(found._listings) == index.MAX_LISTINGS


def test_a_node_that_caught_up_after_its_look_is_not_heard():
    """Members that came in between, and settled the set, are not in what it saw."""
    cluster = Cluster(3)
    owner, _, third = cluster.replicas(SET)
    cluster.kill(third)
    caught_up = [False]
    owner.repair.caught_up = lambda key: caught_up[0]
    listing = owner.coordinator._sets.listing

    def look(*which):
        found = listing(*which)
        caught_up[0] = True
        return found

    owner.coordinator._sets.listing = look
    reply = cluster.ask(Op.MEMBERS, SET, pack_question(ANYWHERE, QUORUM).ljust(1120, b"\0"))
    assert reply is not None
    assert reply.status is Status.UNCONFIRMED
