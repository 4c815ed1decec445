"""Repair of self-certified records: a copy that was altered on one disk is replaced, and never spreads."""

import pytest
from nodes import SOON
from repair_cluster import Keeper, RepairCluster
from signing import KEY, PLAIN, forgeries, signed, stored

from kdht.storage import StoredRecord
from kdht.wire.certified import CERTIFIED, immutable_key

TRUTH = stored(signed(5))


def cluster_of(size: int) -> RepairCluster:
    cluster = RepairCluster(1)
    cluster.grow(size)
    assert cluster.run_until(lambda: all(m.repair.caught_up for m in cluster.members), SOON)
    return cluster


def give(member: Keeper, key: bytes, record: StoredRecord) -> None:
    member.put(key, record.version, record.value, record.flags, record.expiry)


ALTERED = {
    "another value": TRUTH._replace(value=TRUTH.value[:-1] + b"!"),
    "a greater version": TRUTH._replace(version=CERTIFIED + 9),
    "another salt": forgeries()["another salt"]._replace(version=CERTIFIED + 7),
    "a rolled back value": stored(signed(4)),
}


@pytest.mark.parametrize("what", ALTERED)
def test_an_altered_copy_is_replaced_by_the_replicas_copies(what: str) -> None:
    cluster = cluster_of(4)
    first, second, third = cluster.replicas(KEY)
    for member in (first, second):
        give(member, KEY, TRUTH)
    third.store._records[KEY] = ALTERED[what]
    third.repair.changed(KEY)
    right = lambda: all(member.has(KEY) == TRUTH for member in (first, second, third))  # noqa: E731
    assert cluster.run_until(right, 4 * cluster.repair.interval)
    # Only a copy that might win is offered, and found out before it is sent.
    offered = what in ("a greater version", "another salt")
    assert third.repair.counters["records_uncertified"] == offered or what == "another value"


def test_proven_records_move_to_joiners() -> None:
    cluster = cluster_of(4)
    key = immutable_key(PLAIN)
    for member in cluster.replicas(KEY):
        give(member, KEY, TRUTH)
    for member in cluster.replicas(key):
        give(member, key, stored(PLAIN))
    for number in range(20, 24):
        cluster.add(number)
    wanted = {KEY: TRUTH, key: stored(PLAIN)}
    assert cluster.run_until(
        lambda: all(m.has(each) == wanted[each] for each in wanted for m in cluster.replicas(each)), SOON * 4
    )
