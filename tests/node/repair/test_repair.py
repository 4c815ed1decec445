"""Records come to where they belong: repair between real nodes on a network in memory."""

from random import Random

import pytest
from nodes import SOON
from repair_cluster import TOMBSTONE, VALUE, Keeper, RepairCluster

from kdht.node.events import Drained
from kdht.node.repair import RepairOptions
from kdht.storage import MemoryStore

RECORD_BYTES = len(VALUE) + 16


def cluster_of(size: int, seed: int = 1, **how: object) -> RepairCluster:
    """A cluster at rest, whose nodes know each other."""
    cluster = RepairCluster(seed, **how)  # type: ignore[arg-type]
    cluster.grow(size)
    assert cluster.run_until(lambda: all(m.repair.caught_up for m in cluster.members), SOON)
    return cluster


@pytest.mark.slow
def test_equal_stores_exchange_one_request_and_one_reply() -> None:
    cluster = cluster_of(16)
    cluster.load(300)
    cluster.run(130)
    pairs = sum(int(m.repair.status()["neighbours"]) for m in cluster.members) / 2  # type: ignore[call-overload]
    cluster.forget_counts()
    cluster.run(600)
    assert cluster.packets["OFFER"] == cluster.packets["STORE"] == 0
    # Ten rounds; ranges of more than one datagram, and pairs that both began, cost some more.
    assert cluster.packets["DIGEST"] <= 10 * pairs * 1.5
    assert cluster.packets["DIGEST reply"] == cluster.packets["DIGEST"]


def test_differences_are_repaired_in_both_directions() -> None:
    cluster = cluster_of(8)
    keys = cluster.load(400)
    cluster.run(70)
    rng = Random(3)
    for key in rng.sample(keys, 12):
        first, second, third = rng.sample(cluster.replicas(key), 3)
        first.put(key, 5, b"newer")
        second.put(key, 3, b"new")
        third.store.drop([(key, 1)])
        third.repair.changed(key)
    cluster.forget_counts()
    # A pair that was compared just before is left out of the next round.
    assert cluster.run_until(lambda: same_everywhere(cluster, keys), 2.5 * cluster.repair.interval)
    assert cluster.packets["STORE"] <= 12 * 2 * 2


def test_a_missed_write_is_sent_soon_to_that_replica_only() -> None:
    """Nobody waits for the round in which everything is compared."""
    cluster = cluster_of(8)
    keys = cluster.load(200)
    cluster.run(130)
    first, _, third = cluster.replicas(keys[0])
    third.store.drop([(keys[0], 1)])
    third.repair.changed(keys[0])
    first.repair.missed(keys[0])
    cluster.forget_counts()
    assert cluster.run_until(lambda: not cluster.missing(keys), 2 * cluster.repair.missed_delay)
    assert cluster.packets["STORE"] == 1


def test_repair_makes_two_values_of_one_version_equal() -> None:
    cluster = cluster_of(4)
    key = bytes(range(20))
    one, other, third = cluster.replicas(key)
    one.put(key, 7, b"a")
    other.put(key, 7, b"b")
    third.put(key, 7, b"a")
    assert cluster.run_until(lambda: same_everywhere(cluster, [key]), 120)
    assert one.has(key).value == b"b"  # type: ignore[union-attr]


def test_a_joiner_gets_its_records_and_few_others_move() -> None:
    cluster = cluster_of(12)
    keys = cluster.load(600)
    cluster.run(70)
    cluster.forget_counts()
    newcomer = cluster.add(50)
    least = sum(newcomer in cluster.replicas(key) for key in keys)
    assert least > 20
    assert cluster.run_until(lambda: newcomer.repair.caught_up, SOON)
    assert not cluster.missing(keys)
    assert all(newcomer.repair.is_caught_up(key) for key in keys if newcomer in cluster.replicas(key))
    cluster.run(90)
    assert cluster.surplus(keys) <= len(keys) * 0.02
    assert cluster.store_bytes <= least * RECORD_BYTES * 1.15


def test_a_returning_node_gets_only_what_it_missed() -> None:
    cluster = cluster_of(8)
    keys = cluster.load(300)
    cluster.run(70)
    gone = cluster.members[3]
    cluster.kill(gone)
    changed = keys[:40]
    for key in changed:
        for member in cluster.replicas(key):
            member.put(key, 9, b"later")
    back = cluster.add(4, store=gone.store)
    assert cluster.run_until(lambda: back.repair.caught_up, SOON)
    for key in changed:
        if back in cluster.replicas(key):
            assert back.has(key).version == 9  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.slow
def test_after_two_deaths_every_record_has_its_replicas_again_within_a_minute(seed: int) -> None:
    """Without the rounds, in which all is compared anyway. With two nodes fewer some ranges become one."""
    cluster = cluster_of(16, seed, repair=RepairOptions(interval=3600.0))
    keys = cluster.load(800)
    cluster.run(70)
    cluster.forget_counts()
    for victim in (cluster.members[2], cluster.members[11]):
        cluster.kill(victim)
    least = cluster.lacking(keys)
    assert least > 50
    assert cluster.run_until(lambda: not cluster.missing(keys), 60)
    assert cluster.run_until(lambda: all(m.repair.caught_up for m in cluster.members), 60)
    cluster.run(60)
    assert cluster.store_bytes <= least * RECORD_BYTES * 1.15


def test_records_outside_the_kept_ranges_are_handed_off() -> None:
    cluster = cluster_of(8)
    rng = Random(5)
    keys = [rng.randbytes(20) for _ in range(60)]
    for key in keys:
        stranger = next(m for m in cluster.members if m not in cluster.replicas(key))
        stranger.put(key, 4)
    assert cluster.run_until(lambda: not cluster.missing(keys) and not cluster.surplus(keys), 90)


def test_a_record_is_dropped_only_after_all_replicas_confirm_it() -> None:
    cluster = cluster_of(5)
    key = bytes(range(20))
    stranger = next(m for m in cluster.members if m not in cluster.replicas(key))
    first, *rest = cluster.replicas(key)
    first.deaf = True
    stranger.put(key, 4)
    assert cluster.run_until(lambda: all(m.has(key) for m in rest), 60)
    cluster.run(60)
    assert stranger.has(key)
    first.deaf = False
    assert cluster.run_until(lambda: first.has(key) and not stranger.has(key), 120)


def test_a_drain_hands_off_every_record() -> None:
    cluster = cluster_of(10)
    keys = cluster.load(500)
    cluster.run(70)
    leaver = cluster.members[4]
    cluster.forget_counts()
    least = len(leaver.keys())
    assert least > 50
    leaver.drain()
    assert cluster.run_until(lambda: any(type(e) is Drained for e in leaver.seen), 60)
    cluster.kill(leaver)
    assert not cluster.missing(keys)
    assert not leaver.keys()
    assert not leaver.repair.is_caught_up(keys[0])
    cluster.run(60)
    assert cluster.store_bytes <= least * RECORD_BYTES * 1.15


def test_a_drain_ends_while_clients_work_through_the_node() -> None:
    """Each of their reads leaves a copy there. All others have the record."""
    cluster = cluster_of(4)
    keys = cluster.load(50)
    cluster.run(70)
    leaver = cluster.members[1]
    copies = {key: record for key in keys if (record := leaver.has(key)) is not None}
    assert copies

    def read() -> None:
        for key, record in copies.items():
            leaver.put(key, record.version, record.value)
        cluster.network.call_at(cluster.network.now + 0.05, read)

    leaver.drain()
    read()
    assert cluster.run_until(lambda: any(type(e) is Drained for e in leaver.seen), 20)
    cluster.kill(leaver)
    assert not cluster.missing(keys)


def test_a_drain_calls_off_planned_comparisons() -> None:
    """They never begin any more. One that was due would be looked at again and again, without a pause."""
    cluster = cluster_of(5)
    cluster.run(70)
    leaver, other = cluster.members[:2]
    view, now = leaver.repair._context.view, cluster.network.now
    assert view is not None
    leaver.repair._plan.want(other.contact.id, view.shared_with(other.contact.id), now)
    leaver.node.drain(now)
    for _ in range(3):
        leaver.node.tick(now)
    wake = leaver.node.next_wake()
    assert wake is None or wake > now
    assert leaver.repair.status()["planned"] == 0


def test_the_greater_version_wins_after_a_partition() -> None:
    cluster = cluster_of(10)
    keys = cluster.load(200)
    cluster.run(70)
    left, right = cluster.members[:5], cluster.members[5:]
    cluster.network.partition([m.contact.address for m in left], [m.contact.address for m in right])
    cluster.run(30)
    for n, key in enumerate(keys):
        for side, version in ((left, 2 + n % 3), (right, 3)):
            for member in cluster.replicas(key, side):
                member.put(key, version, b"left" if side is left else b"right")
    cluster.run(60)
    cluster.network.heal()
    assert cluster.run_until(lambda: same_everywhere(cluster, keys), 120)
    for n, key in enumerate(keys):
        assert cluster.replicas(key)[0].has(key).version == max(3, 2 + n % 3)  # type: ignore[union-attr]


def test_tombstones_spread_and_expired_records_stay_away() -> None:
    cluster = cluster_of(6)
    keys = cluster.load(30)
    now = int(cluster.network.now)
    for key in keys[:10]:
        cluster.replicas(key)[1].put(key, 2, b"", TOMBSTONE, now + 1000)
    for key in keys[10:20]:  # the tombstone has expired, and one node has it still: it keeps the old away
        for member in cluster.replicas(key)[:2]:
            member.store.drop([(key, 1)])
            member.repair.changed(key)
        cluster.replicas(key)[2].put(key, 2, b"", TOMBSTONE, now + 5)
    cluster.run(130)
    for key in keys[:10]:
        assert all(m.has(key).deleted for m in cluster.replicas(key))  # type: ignore[union-attr]
    for key in keys[10:20]:
        assert all(m.has(key) is None for m in cluster.replicas(key))


def test_a_restart_of_all_nodes_moves_no_record() -> None:
    cluster = cluster_of(12)
    keys = cluster.load(400)
    cluster.run(70)
    stores: list[MemoryStore] = [m.store for m in cluster.members]
    for member in list(cluster.members):
        cluster.kill(member)
    cluster.forget_counts()
    for number, store in enumerate(stores, 1):
        cluster.add(number, store=store)
    assert cluster.run_until(lambda: all(m.repair.caught_up for m in cluster.members), 30)
    assert not cluster.missing(keys)
    assert cluster.packets["STORE"] == 0
    cluster.run(60)
    cluster.forget_counts()
    cluster.run(120)
    repair = sum(cluster.packets[name] for name in cluster.packets if name.split()[0] in ("DIGEST", "OFFER"))
    assert repair / 120 / 12 < 0.5


def test_repair_succeeds_on_a_lossy_network() -> None:
    cluster = cluster_of(8, loss=0.05)
    keys = cluster.load(200)
    cluster.kill(cluster.members[2])
    assert cluster.run_until(lambda: not cluster.missing(keys), 90)


def test_a_single_replica_moves_to_its_new_owner_at_once() -> None:
    cluster = cluster_of(6, repair=RepairOptions(replicas=1))
    keys = cluster.load(200)
    newcomer = cluster.add(60)
    mine = [key for key in keys if cluster.replicas(key) == [newcomer]]
    assert mine
    assert cluster.run_until(lambda: not cluster.missing(keys), 15)
    cluster.run(60)
    assert len(newcomer.keys()) >= len(mine)


def settled_all(cluster: RepairCluster, keys: list[bytes]) -> bool:
    return all(m.repair.is_caught_up(key) for key in keys for m in cluster.replicas(key))


def test_a_node_that_was_away_is_behind_until_it_has_compared() -> None:
    cluster = cluster_of(8)
    keys = cluster.load(200)
    cluster.run(70)
    away = cluster.members[2]
    mine = [key for key in keys if away in cluster.replicas(key)]
    missed = mine[0]
    for member in cluster.replicas(missed):
        if member is not away:
            member.put(missed, 9, b"later")
    away.repair.catch_up_anew()
    assert not any(map(away.repair.is_caught_up, mine))
    assert cluster.run_until(lambda: all(map(away.repair.is_caught_up, mine)), 10)
    assert away.has(missed).version == 9  # type: ignore[union-attr]


def test_nodes_that_were_all_away_at_once_catch_up_with_each_other() -> None:
    cluster = cluster_of(6)
    keys = cluster.load(100)
    cluster.run(70)
    for member in cluster.members:
        member.repair.catch_up_anew()
    assert not any(m.repair.is_caught_up(key) for key in keys for m in cluster.members)
    assert cluster.run_until(lambda: settled_all(cluster, keys), 15)


def test_a_comparison_from_before_an_absence_does_not_count() -> None:
    cluster = cluster_of(4)
    keys = cluster.load(100)
    away = cluster.members[1]
    others = [m.contact.address for m in cluster.members if m is not away]
    cluster.network.partition([away.contact.address], others)
    away.repair.catch_up_anew()
    cluster.run(3)
    away.repair.catch_up_anew()
    cluster.network.heal()
    cluster.run(0.05)
    assert not any(map(away.repair.is_caught_up, keys))
    assert cluster.run_until(lambda: settled_all(cluster, keys), 40)


def test_a_replaced_replica_answers_until_newcomers_catch_up() -> None:
    cluster = cluster_of(3)
    keys = cluster.load(300)
    for number in range(4, 10):
        cluster.add(number)
    old, held = cluster.members[:3], 0
    for _ in range(400):
        cluster.run(0.1)
        for key in keys[:40]:
            replicas = cluster.replicas(key)
            ready = sum(m.repair.holds(key) for m in cluster.members)
            assert ready >= 2  # a majority of some three nodes that have caught up
            held += any(m.repair.holds(key) and m not in replicas for m in old)
    assert held
    assert [m.repair.status()["held"] for m in cluster.members] == [0] * 9


def same_everywhere(cluster: RepairCluster, keys: list[bytes]) -> bool:
    """Whether all replicas of each key have the same record."""
    return all(len({m.has(key) for m in cluster.replicas(key)} - {None}) == 1 for key in keys) and not (
        cluster.missing(keys)
    )


__all__ = ["Keeper"]
