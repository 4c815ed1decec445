"""Sets of a cluster of 16 in virtual time, under deaths and a cut: who announces is listed, who withdrew or died is not."""

from random import Random

import pytest
from set_site import NAME, Site

from kdht.client import _sets as sets
from kdht.lab.virtual import address_of


@pytest.mark.slow
def test_halves_of_a_cluster_have_the_union_when_they_meet() -> None:
    site = Site(1)
    left, right = set(range(1, 9)), set(range(9, 17))
    site.announce(1, [b"before %d" % n for n in range(40)], 3600)
    site.cut(left, right, 1.0)
    site.cluster.run(30)
    site.announce(2, [b"left %d" % n for n in range(40)], 3600)
    site.announce(10, [b"right %d" % n for n in range(40)], 3600)
    for number in range(20):
        entry = 3 if number % 2 else 11
        site.ask(entry, sets.withdraw(NAME, b"before %d" % number, 3600, b"before %d" % number))
    site.cut(left, right, 0.0)
    wanted = {b"%s %d" % (side, n) for side in (b"left", b"right") for n in range(40)}
    wanted |= {b"before %d" % n for n in range(20, 40)}
    healed = site.now
    while any(site.members(entry) != wanted for entry in (1, 16)):
        assert site.now - healed < 60
        site.cluster.run(1)
    # Nobody who withdrew comes back.
    for _ in range(6):
        site.cluster.run(10)
        assert site.members(5) == site.members(12) == wanted


@pytest.mark.slow
def test_a_thousand_announcers_are_listed_at_every_moment() -> None:
    """Two nodes die and come back meanwhile. Who announces no more is gone everywhere in the same second."""
    site = Site(2)
    ttl, live, mortal = 40, [b"live %d" % n for n in range(950)], [b"mortal %d" % n for n in range(50)]
    listed: list[bytes] = []

    def renew(entry: int, payload: bytes) -> None:
        def acknowledged(version: int) -> None:
            if payload not in listed:
                listed.append(payload)
            site.cluster.network.call_at(site.now + ttl / 3, renew, entry, payload)

        site.start(entry, sets.announce(NAME, payload, ttl, payload), acknowledged)

    chance = Random(1)
    for payload in live:
        begin = site.now + chance.uniform(0, ttl / 3)
        site.cluster.network.call_at(begin, renew, chance.randint(1, 14), payload)
    expiries: list[float] = []
    for payload in mortal:
        site.start(
            chance.randint(1, 14),
            sets.announce(NAME, payload, ttl, payload),
            lambda version: expiries.append(site.now + ttl),
        )
    dead = []
    for second in range(0, 60, 2):
        if second == 14:
            dead = [
                member
                for member in site.cluster.members
                if member.contact.address in (address_of(15), address_of(16))
            ]
            for member in dead:
                site.cluster.kill(member)
        if second == 34:
            for number in (15, 16):
                site.cluster.add(number, bootstrap=site.cluster.contacts()[:1])
        acknowledged, asked = set(listed), site.now
        found = site.members(chance.randint(1, 14))
        assert acknowledged <= found
        if asked > max(expiries, default=asked) + 1:
            assert not found & set(mortal)
        site.cluster.run(2)
    assert len(expiries) == len(mortal)
    assert len(listed) == len(live)
    assert max(expiries) + 1 < site.now
