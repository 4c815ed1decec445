"""Two nodes with one ID, of a copied data directory: the younger serves nothing, and all who meet both know of them."""

import pytest
from nodes import Cluster, Member, id_of

from kdht.node.events import HasTwin, SeesTwins, YieldsToTwin
from kdht.node.readiness import OWN_ID
from kdht.node.replicas import Policy
from kdht.node.twins import REMEMBERED_S

SEED = 5
NODES = 6
COPY = 40
SETTLED_S = 30.0
SOON_S = 3.0


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster(SEED, policy=Policy())
    cluster.grow(NODES)
    cluster.run(SETTLED_S)
    assert all(member.node.ready for member in cluster.members)
    return cluster


def copy_of(cluster: Cluster, original: Member, number: int = COPY) -> Member:
    """A node with the same ID at another address, which enters through a neighbour."""
    through = [member.contact for member in cluster.members if member is not original][:1]
    return cluster.add(number, through, original.contact.id)


def kinds(member: Member) -> set[type]:
    return {type(event) for event in member.seen}


def serves(member: Member) -> bool:
    return member.node.ready and not member.node.aside


def test_the_younger_serves_nothing_and_the_older_goes_on(cluster: Cluster) -> None:
    original = cluster.members[3]
    copy = copy_of(cluster, original)
    cluster.run(SOON_S)
    assert not serves(copy)
    assert OWN_ID in copy.node.readiness.missing
    assert YieldsToTwin(original.contact.address) in copy.seen
    assert serves(original)
    assert HasTwin(copy.contact.address) in original.seen
    cluster.run(SETTLED_S)
    others = [member for member in cluster.members if member not in (original, copy)]
    assert all(original.contact in member.published() for member in others)
    assert all(copy.contact not in member.published() for member in others)
    assert copy.published() == []


def test_a_neighbour_that_meets_both_tells_of_them_for_a_while(cluster: Cluster) -> None:
    original = cluster.members[3]
    copy = copy_of(cluster, original)
    cluster.run(SOON_S)
    (first, *_) = cluster.members
    assert SeesTwins(original.contact, copy.contact.address) in first.seen
    (pair,) = first.node.twins.pairs(first.network.now)
    assert (pair.id, set(pair.addresses)) == (
        original.contact.id,
        {original.contact.address, copy.contact.address},
    )
    assert first.node.twins.pairs(first.network.now + REMEMBERED_S) == []


def test_a_copy_that_serves_already_keeps_its_place_and_the_returning_original_yields(
    cluster: Cluster,
) -> None:
    original = cluster.members[3]
    cluster.kill(original)
    cluster.run(SOON_S)
    copy = copy_of(cluster, original)
    cluster.run(SETTLED_S)
    assert serves(copy)
    back = copy_of(cluster, copy, 4)
    cluster.run(SOON_S)
    assert serves(copy)
    assert not serves(back)


def test_two_halves_of_a_network_that_meet_again_agree_on_the_younger(cluster: Cluster) -> None:
    """Neither of them joins when they meet: their neighbours tell them."""
    original = cluster.members[3]
    original.pause()
    cluster.run(SETTLED_S)
    copy = copy_of(cluster, original)
    cluster.run(SETTLED_S)
    assert serves(copy)
    original.resume()
    cluster.run(SETTLED_S)
    assert [serves(each) for each in (original, copy)].count(True) == 1
    assert serves(original)


def test_three_copies_leave_one_node(cluster: Cluster) -> None:
    original = cluster.members[3]
    copies = [copy_of(cluster, original, number) for number in (COPY, COPY + 1, COPY + 2)]
    cluster.run(SETTLED_S)
    assert serves(original)
    assert not any(serves(each) for each in copies)


def test_a_node_that_moved_to_another_address_has_no_twin(cluster: Cluster) -> None:
    """As after a change of its host's address: nobody answers at the old one."""
    original = cluster.members[3]
    cluster.kill(original)
    moved = copy_of(cluster, original)
    cluster.run(SETTLED_S)
    assert serves(moved)
    assert all(kinds(member).isdisjoint({HasTwin, SeesTwins, YieldsToTwin}) for member in cluster.members)


def test_a_node_that_took_the_address_of_another_has_no_twin(cluster: Cluster) -> None:
    """Addresses were handed out anew: each node answers with its own ID only."""
    first, second = cluster.members[3], cluster.members[4]
    for member in (first, second):
        cluster.kill(member)
    swapped = [cluster.add(5, id=first.contact.id), cluster.add(4, id=second.contact.id)]
    cluster.run(SETTLED_S)
    assert all(serves(member) for member in swapped)
    assert all(kinds(member).isdisjoint({HasTwin, SeesTwins, YieldsToTwin}) for member in cluster.members)
    assert id_of(4, SEED) == first.contact.id
