"""Soft members in virtual time: what they cost, and what a power cut does to them and to all others."""

from random import Random

import pytest
from set_site import NAME, Site

from kdht.client import _sets as sets
from kdht.lab.virtual.disk import CrashStore
from kdht.wire.sets import MAX_MEMBER_TTL

PAYLOADS = [b"%02d" % number for number in range(20)]


def site_of(nodes: int, seed: int = 1) -> Site:
    """On disks that lose in a power cut what was not synced."""
    return Site(seed, nodes, CrashStore)


def syncs(site: Site) -> int:
    return sum(store.syncs for store in site.cluster.stores.values())


def cut_power(site: Site, count: int) -> None:
    """Of the last `count` nodes, at once; then they start again."""
    dead = site.cluster.members[-count:]
    for member in dead:
        site.cluster.kill(member)
    nodes = len(site.cluster.stores)
    for number in range(nodes - count + 1, nodes + 1):
        site.cluster.add(number, bootstrap=site.cluster.contacts()[:1])


def test_a_soft_announcement_waits_for_no_disk():
    site = site_of(3)
    before = syncs(site)
    site.announce(1, PAYLOADS, 600, soft=True)
    assert syncs(site) == before
    assert site.members(2) == set(PAYLOADS)
    site.announce(1, [b"hard"], 600)
    assert syncs(site) == before + 3


@pytest.mark.parametrize("seed", range(4))
def test_one_replica_with_power_keeps_soft_members(seed):
    site = site_of(3, seed)
    site.announce(1, PAYLOADS, 600, soft=True)
    site.cluster.run(1)
    cut_power(site, 2)
    site.cluster.run(10)
    assert site.members(1) == site.members(3) == set(PAYLOADS)


def test_a_power_cut_everywhere_ends_soft_members_until_they_are_renewed():
    """It ends no others, and brings back nobody who withdrew."""
    lost = set()
    for seed in range(4):
        site = site_of(3, seed)
        site.announce(1, [b"hard", b"gone"], 600)
        site.announce(1, [b"gone"], 600, soft=True)
        site.ask(1, sets.withdraw(NAME, b"gone", 600, b"gone"))
        site.announce(1, PAYLOADS, 600, soft=True)
        site.cluster.run(1)
        cut_power(site, 3)
        site.cluster.run(20)
        found = site.members(2)
        assert b"hard" in found
        assert b"gone" not in found
        lost |= set(PAYLOADS) - found
        site.announce(3, PAYLOADS, 600, soft=True)
        assert site.members(1) == {b"hard", *PAYLOADS}
    assert lost


def test_a_hard_announcement_of_a_soft_member_is_kept():
    site = site_of(3)
    site.announce(1, [b"both"], 600, soft=True)
    site.announce(2, [b"both"], 600)
    # And a soft one of a hard member never shortens what is on the disks.
    site.announce(2, [b"first hard"], MAX_MEMBER_TTL)
    site.announce(2, [b"first hard"], MAX_MEMBER_TTL, soft=True)
    site.cluster.run(1)
    cut_power(site, 3)
    site.cluster.run(20)
    assert site.members(2) == {b"both", b"first hard"}


def test_soft_members_are_repaired_and_handed_off_as_others():
    site = site_of(4)
    site.announce(1, PAYLOADS, 3600, soft=True)
    for number in range(5, 13):
        site.cluster.add(number, bootstrap=site.cluster.contacts()[:1])
        site.cluster.run(5)
    site.cluster.run(60)
    chance = Random(1)
    for _ in range(4):
        leaves = chance.choice(site.cluster.members[1:])
        leaves.drain()
        while not leaves.drained:
            site.cluster.run(1)
        site.cluster.kill(leaves)
    site.cluster.run(60)
    assert site.members(1) == set(PAYLOADS)
