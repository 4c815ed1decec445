"""The node's state machine: clusters of real nodes and cores, joined by a network in memory."""

from random import Random

import pytest
from nodes import SOON, Cluster, Member, address_of, contact_of, id_of

from kdht.node.events import ContactAdded, ContactRemoved, Isolated, Joined, LookupDone, Ready
from kdht.node.options import Options
from kdht.wire import Address, Contact
from kdht.wire._shared import K

pytestmark = pytest.mark.slow

SEED = 11
DETECTED = 30.0
"""Virtual seconds in which neighbours find out that a node is dead."""


def make_cluster(
    count: int, *, loss: float = 0.0, seed: int = SEED, options: Options | None = None
) -> Cluster:
    """A cluster that has come to rest."""
    cluster = Cluster(seed, loss=loss, options=options)
    cluster.grow(count)
    cluster.run(SOON)
    return cluster


def knows(member: Member, contact: Contact) -> bool:
    return contact in member.published()


# --- Joining ---------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [0.0, 0.05])
@pytest.mark.parametrize("pause", [0.0, 0.5], ids=["at once", "one by one"])
@pytest.mark.parametrize("count", [1, 2, 8, 64])
def test_after_joining_every_chain_of_next_hops_ends_at_the_owner(
    count: int, pause: float, loss: float
) -> None:
    cluster = Cluster(SEED, loss=loss)
    cluster.grow(count, pause)
    cluster.run(SOON)
    assert all(member.node.joined for member in cluster.members)
    assert cluster.astray(50) == []


@pytest.mark.slow
@pytest.mark.parametrize("pause", [0.0, 0.1], ids=["at once", "one by one"])
def test_256_nodes_join_over_a_lossy_network(pause: float) -> None:
    cluster = Cluster(SEED, loss=0.05)
    cluster.grow(256, pause)
    cluster.run(SOON / 2)
    assert all(member.node.joined for member in cluster.members)
    assert cluster.astray(40) == []


def test_published_buckets_equal_the_table() -> None:
    cluster = make_cluster(30)
    for member in cluster.members:
        assert set(member.published()) == {entry.contact for entry in member.node.table}
        assert max(len(member.core.bucket(index)) for index in range(160)) <= K


def test_joined_means_found_another_or_first_node() -> None:
    cluster = Cluster(SEED)
    first = cluster.add(1)
    assert first.seen == [Joined(0), Ready()]
    second = cluster.add(2)
    assert not second.node.joined
    cluster.run(1)
    assert second.seen == [ContactAdded(first.contact), Joined(1), Ready()]
    assert ContactAdded(second.contact) in first.seen


def test_a_node_tries_again_until_its_bootstrap_contact_is_there() -> None:
    cluster = Cluster(SEED)
    early = cluster.add(2, bootstrap=[contact_of(1, SEED)])
    cluster.run(100)
    assert not early.node.joined
    cluster.add(1, bootstrap=[])
    cluster.run(SOON * 1.5)
    assert early.node.joined
    assert knows(early, contact_of(1, SEED))


def test_a_supposed_first_node_joins_once_it_is_told_of_others() -> None:
    cluster = Cluster(SEED)
    first, alone = cluster.add(1), cluster.add(2, bootstrap=[])
    cluster.run(5)
    assert alone.node.joined
    assert alone.published() == []
    alone.join([first.contact])
    assert not alone.node.joined
    cluster.run(1)
    assert alone.node.joined
    assert alone.published() == [first.contact]


def test_own_and_unreachable_addresses_are_no_bootstrap() -> None:
    cluster = Cluster(SEED)
    member = cluster.add(1, bootstrap=[contact_of(1, SEED)])
    assert member.node.joined
    member.node.join([Address.of("2001:db8::1", 5348)], cluster.network.now)
    cluster.run(SOON)
    assert member.node.counters["requests_sent"] == 0


def test_the_same_seed_gives_the_same_run() -> None:
    runs = [make_cluster(12, loss=0.05) for _ in range(2)]
    assert runs[0].sent == runs[1].sent
    assert [m.node.status(0.0) for m in runs[0].members] == [m.node.status(0.0) for m in runs[1].members]


# --- Dead nodes ------------------------------------------------------------------------


def test_keys_of_dead_nodes_find_new_owners() -> None:
    cluster = make_cluster(16)
    dead = [cluster.members[i] for i in (3, 9, 12)]
    for member in dead:
        cluster.kill(member)
    cluster.run(15 * 60)
    for member in cluster.members:
        assert not {each.contact for each in dead} & set(member.published())
    assert cluster.astray(50) == []


def test_the_closest_nodes_notice_a_death_in_time() -> None:
    cluster = make_cluster(24)
    dead = cluster.members[5]
    neighbours = sorted(
        cluster.members,
        key=lambda m: int.from_bytes(m.contact.id, "big") ^ int.from_bytes(dead.contact.id, "big"),
    )
    cluster.kill(dead)
    cluster.run(DETECTED)
    assert not any(knows(member, dead.contact) for member in neighbours[1:5])
    assert ContactRemoved(dead.contact) in neighbours[1].seen


def test_a_lossy_network_removes_no_living_node() -> None:
    cluster = make_cluster(8, loss=0.05)
    cluster.run(30 * 60)
    removed = [event for m in cluster.members for event in m.seen if isinstance(event, ContactRemoved)]
    assert removed == []
    assert sum(member.node.counters["timeouts"] for member in cluster.members) > 0


def test_a_returning_node_is_found_again() -> None:
    cluster = make_cluster(8)
    gone = cluster.members[4]
    gone.transport.stop()
    cluster.run(5 * 60)
    assert not any(knows(member, gone.contact) for member in cluster.members if member is not gone)
    cluster.members.remove(gone)
    cluster.add(5)
    cluster.run(DETECTED)
    assert cluster.astray(50) == []


def test_an_empty_table_joins_again_by_bootstrap() -> None:
    cluster = make_cluster(8)
    lonely = cluster.members[4]
    cluster.network.partition(
        [lonely.contact.address], [m.contact.address for m in cluster.members if m is not lonely]
    )
    cluster.run(15 * 60)
    assert lonely.published() == []
    assert Isolated() in lonely.seen
    cluster.network.heal()
    cluster.run(2 * SOON)
    assert lonely.node.joined
    assert cluster.astray(50) == []


def test_two_halves_of_a_partition_merge_again() -> None:
    cluster = make_cluster(12)
    addresses = [member.contact.address for member in cluster.members]
    cluster.network.partition(addresses[:6], addresses[6:])
    cluster.run(15 * 60)
    assert cluster.astray(50) != []
    cluster.network.heal()
    cluster.run(5 * 60)
    assert cluster.astray(50) == []


def test_a_joined_node_pings_named_contacts_at_once() -> None:
    """What `kdhtctl join` does to two clusters that do not know of each other."""
    cluster = make_cluster(2)
    for member in cluster.members:
        assert member.node.joined
    first, second = cluster.members
    cluster.network.partition([first.contact.address], [second.contact.address])
    cluster.run(15 * 60)
    assert not knows(first, second.contact)
    cluster.network.heal()
    first.join([second.contact])
    cluster.run(3)
    assert knows(first, second.contact)
    assert knows(second, first.contact)


def test_an_unreachable_report_is_only_a_hint() -> None:
    cluster = make_cluster(8)
    one, other = cluster.members[2:4]
    cluster.run(1)
    before = one.node.counters["requests_sent"]
    one.node.unreachable(other.contact.address, cluster.network.now)
    one.node.unreachable(address_of(999), cluster.network.now)
    one.flush()
    assert one.node.counters["requests_sent"] == before + 1
    cluster.run(5)
    assert knows(one, other.contact)
    other.transport.stop()
    one.node.unreachable(other.contact.address, cluster.network.now)
    one.flush()
    cluster.run(5)
    assert not knows(one, other.contact)


# --- Restarts --------------------------------------------------------------------------


def test_a_snapshot_is_verified_before_it_is_published() -> None:
    cluster = make_cluster(12)
    old = cluster.members[6]
    snapshot = old.node.snapshot()
    assert len(snapshot) == 11
    dead = cluster.members[3]
    cluster.kill(dead)
    cluster.kill(old)
    fresh = Member(cluster.network, old.contact, SEED + 1)
    fresh.node.restore(snapshot, cluster.network.now)
    fresh.node.join([], cluster.network.now)
    assert fresh.published() == []
    fresh.flush()
    cluster.members.append(fresh)
    cluster.run(SOON)
    assert set(fresh.published()) == set(snapshot) - {dead.contact}
    assert fresh.node.joined


def test_a_snapshot_of_dead_nodes_leaves_a_first_node() -> None:
    cluster = Cluster(SEED)
    member = Member(cluster.network, contact_of(1), SEED)
    member.node.restore([contact_of(n) for n in range(2, 60)], cluster.network.now)
    member.join([])
    cluster.run(SOON)
    assert member.node.joined
    assert member.published() == []


def test_a_new_id_at_an_address_replaces_the_old_one() -> None:
    cluster = make_cluster(8)
    old = cluster.members[5]
    cluster.kill(old)
    new = cluster.add(6, id=id_of(600, SEED))
    assert new.contact.address == old.contact.address
    cluster.run(DETECTED)
    for member in cluster.members:
        assert not knows(member, old.contact)
        assert member is new or knows(member, new.contact)
    assert cluster.astray(50) == []


def test_a_node_that_moved_waits_until_its_old_address_is_known_to_be_dead() -> None:
    cluster = make_cluster(8)
    original = cluster.members[5]
    others = [member for member in cluster.members if member is not original]
    cluster.kill(original)
    moved = cluster.add(600, id=original.contact.id)
    assert not any(knows(member, moved.contact) for member in others)
    cluster.run(2 * SOON)
    assert all(knows(member, moved.contact) for member in others)


# --- Lookups and upkeep ------------------------------------------------------------------


def test_a_lookup_finds_the_k_closest() -> None:
    cluster = make_cluster(30)
    rng = Random(SEED)
    for target in (rng.randbytes(20) for _ in range(5)):
        asker = rng.choice(cluster.members)
        asker.seen.clear()
        assert asker.node.lookup(target, cluster.network.now)
        asker.flush()
        cluster.run(10)
        number = int.from_bytes(target, "big")
        others = [m.contact for m in cluster.members if m is not asker]
        closest = sorted(others, key=lambda contact: int.from_bytes(contact.id, "big") ^ number)[:K]
        assert LookupDone(target, closest) in asker.seen


def test_a_lookup_in_an_empty_table_finds_nobody() -> None:
    member = Cluster(SEED).add(1)
    member.node.lookup(bytes(20), member.network.now)
    assert member.node.events() == [LookupDone(bytes(20), [])]


def test_an_idle_bucket_is_refreshed() -> None:
    options = Options(
        refresh_interval=600.0, probe_interval=1e6, discovery_interval=1e6, contact_interval=1e6
    )
    cluster = make_cluster(4, options=options)
    member = cluster.members[1]
    before = member.node.counters["requests_sent"]
    cluster.run(350)
    assert member.node.counters["requests_sent"] == before
    cluster.run(500)
    assert member.node.counters["requests_sent"] > before


def test_status_is_plain_data() -> None:
    cluster = make_cluster(3)
    status = cluster.members[0].node.status(cluster.network.now)
    assert status["joined"] is True
    assert status["contacts"] == 2
    assert status["address"] == "10.0.0.1:5348"
    rows = [row for bucket in status["buckets"] for row in bucket["contacts"]]  # type: ignore[attr-defined]
    assert {row["id"] for row in rows} == {member.contact.id.hex() for member in cluster.members[1:]}
    assert all(2 < row["rtt_ms"] < 20 for row in rows)
    assert all(abs(row["clock"]) <= 1 for row in rows)


def test_the_clocks_of_others_are_seen_in_their_replies() -> None:
    cluster = make_cluster(2)
    first, second = cluster.members
    second.node.unix_offset += 30.0  # by less than the replay window
    cluster.run(2 * 60)
    (entry,) = first.node.table
    assert entry.clock is not None
    assert abs(entry.clock - 30) <= 1


@pytest.mark.parametrize(
    "wrong", [{"k": 0}, {"k": K + 1}, {"alpha": 0}, {"reply_rate": 0.0}, {"jitter": 1.0}]
)
def test_invalid_options_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)) if "k" not in wrong else "bucket"):
        Options(**wrong)  # type: ignore[arg-type]
