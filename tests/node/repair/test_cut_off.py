"""A node that the others have given up falls behind before another node has its place."""

import pytest

from kdht.lab.virtual import Member, VirtualCluster
from kdht.lab.virtual.disk import CrashStore
from kdht.node.repair import RepairOptions
from kdht.node.repair.cut_off import SILENCE_SECONDS
from kdht.node.replicas import Policy
from kdht.wire import hash_key

KEYS = [hash_key(f"key {number}") for number in range(120)]
STEP = 0.1


def cluster_of(count: int, seed: int, acks: int = 2) -> VirtualCluster:
    cluster = VirtualCluster(seed, policy=Policy(acks=acks), repair=RepairOptions(), new_store=CrashStore)
    cluster.network.delay = 0.0005, 0.004
    for number in range(1, count + 1):
        cluster.add(number, bootstrap=cluster.contacts())
    cluster.run(15)
    return cluster


def says_caught_up(member: Member, key: bytes) -> bool:
    assert member.node.repair is not None
    return member.node.repair.is_caught_up(key)


def cut(cluster: VirtualCluster, one: Member, *, hears: bool = False) -> None:
    for other in cluster.members:
        if other is not one:
            cluster.network.set_loss(one.contact.address, other.contact.address, 1.0)
            cluster.network.set_loss(other.contact.address, one.contact.address, 0.0 if hears else 1.0)


@pytest.mark.parametrize("seconds", [2.5, 3.5, 5.2, 8.0])
@pytest.mark.parametrize("hears", [False, True], ids=["cut off", "unheard"])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_node_and_its_successor_never_both_answer(seed: int, hears: bool, seconds: float) -> None:
    """Its answers and the successor's absence would make a majority without the writes confirmed meanwhile."""
    cluster = cluster_of(5, seed)
    lost, *others = cluster.members
    first = {key: [m for m in cluster.members if says_caught_up(m, key)] for key in KEYS}
    kept = [key for key in KEYS if lost in first[key]]
    assert len(kept) > 30
    successors = {key: [m for m in others if m not in first[key]] for key in kept}
    end = cluster.network.now + seconds
    back = end + 10
    cut(cluster, lost, hears=hears)
    had_place = False
    while cluster.network.now < back:
        cluster.run(STEP)
        if end <= cluster.network.now < end + STEP:
            cluster.network.forget_losses()
        for key in kept:
            succeeded = any(says_caught_up(m, key) for m in successors[key])
            had_place |= succeeded
            # Back, with all that the others have, it may have its place again before they let go of theirs.
            assert not (succeeded and says_caught_up(lost, key) and cluster.network.now < end + 1.5)
    assert had_place or seconds < 3
    assert all(says_caught_up(lost, key) for key in kept)


@pytest.mark.parametrize(("count", "deaths", "loss"), [(3, 1, 0.0), (3, 1, 0.1), (5, 2, 0.05), (8, 3, 0.0)])
def test_deaths_of_others_are_no_silence(count: int, deaths: int, loss: float) -> None:
    cluster = cluster_of(count, 3)
    cluster.network.loss = loss
    alive = cluster.members[deaths:]
    for member in cluster.members[:deaths]:
        cluster.kill(member)
    longest = 0.0
    for _ in range(100):
        cluster.run(STEP)
        heard = [member.node._context.rpcs.answered_at for member in alive]
        longest = max(longest, cluster.network.now - min(heard))
    assert longest < 0.75 * SILENCE_SECONDS


def test_a_first_node_answers_alone() -> None:
    cluster = cluster_of(1, 1)
    assert all(says_caught_up(cluster.members[0], key) for key in KEYS)


@pytest.mark.parametrize(("acks", "goes_on"), [(1, True), (2, False)])
def test_the_last_of_two_goes_on_if_one_confirms(acks: int, goes_on: bool) -> None:
    cluster = cluster_of(2, 1, acks)
    cluster.kill(cluster.members[0])
    for _ in range(60):
        cluster.run(STEP)
        assert not goes_on or all(says_caught_up(cluster.members[0], key) for key in KEYS)
    assert goes_on or not any(says_caught_up(cluster.members[0], key) for key in KEYS)
