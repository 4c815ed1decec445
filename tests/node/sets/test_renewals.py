"""Renewals in virtual time: what they cost beside announcements, and when they have to be written."""

from collections import Counter

import pytest
from set_site import NAME, Site

from kdht.client import _sets as sets
from kdht.client._announcement import RENEWALS
from kdht.datapath.memory import Event
from kdht.lab.virtual import address_of
from kdht.lab.virtual.disk import CrashStore
from kdht.wire import OFFSET
from kdht.wire._shared import Op

TTL = 30
OP = OFFSET["op"]


class Costs:
    """What announcements of a site cost its nodes: messages between them and their bytes, groups on disks."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.counts: Counter[str] = Counter()
        site.cluster.network.observer = self._see

    def _see(self, event: Event) -> None:
        if event.what == "delivered" and event.data[OP] == Op.STORE:
            self.counts["messages"] += 1
            self.counts["bytes"] += len(event.data)

    def take(self) -> Counter[str]:
        """Since the last call."""
        counts, self.counts = self.counts, Counter()
        counts["syncs"] = sum(store.syncs for store in self.site.cluster.stores.values())
        for store in self.site.cluster.stores.values():
            store.syncs = 0
        return counts


def site_of(nodes: int = 3) -> Site:
    return Site(1, nodes, CrashStore)


def announce(site: Site, payload: bytes = b"me", ttl: int = TTL, entry: int = 1, **how: bool) -> int:
    return site.ask(entry, sets.announce(NAME, payload, ttl, b"member", **how))


def left(site: Site) -> int:
    """Seconds that the member has."""
    (member,) = site.ask(2, sets.members(NAME, quorum=True))
    return member.ttl


@pytest.mark.parametrize("soft", [False, True])
def test_renewals_cost_half_of_announcements(soft):
    """Six of each, at the pace at which clients renew."""
    site = site_of()
    costs = Costs(site)
    taken = {}
    for renewal in (False, True):
        announce(site, soft=soft)
        costs.take()
        for _ in range(6):
            site.cluster.run(TTL / RENEWALS)
            announce(site, soft=soft, renewal=renewal)
            assert site.members(2) == {b"me"}
        site.cluster.run(1)
        taken[renewal] = costs.take()
    assert taken[False]["messages"] == 6 * 4  # two STOREs and their answers
    assert taken[False]["syncs"] == (0 if soft else 6 * 3)
    for what, count in taken[False].items():
        assert 2 * taken[True][what] <= count, what


def test_a_spared_renewal_says_what_stands():
    site = site_of()
    first = announce(site)
    site.cluster.run(10)
    assert announce(site, renewal=True) == first
    assert TTL / 2 <= left(site) <= TTL - 9
    site.cluster.run(6)
    assert announce(site, renewal=True) > first
    assert left(site) >= TTL - 1


def test_a_changed_announcement_is_written():
    site = site_of()
    before = announce(site)
    for how in (
        {"payload": b"moved"},
        {"payload": b"moved", "ttl": TTL * 3},
        {"payload": b"moved", "ttl": TTL},
    ):
        version = announce(site, **how, renewal=True)
        assert version > before
        before = version
    assert site.members(2) == {b"moved"}
    assert left(site) <= TTL


def test_a_hard_renewal_of_a_soft_announcement_is_written():
    site = site_of()
    first = announce(site, soft=True)
    assert announce(site, soft=True, renewal=True) == first
    second = announce(site, renewal=True)
    assert second > first
    assert announce(site, renewal=True) == announce(site, soft=True, renewal=True) == second


def test_a_renewal_of_a_member_that_has_withdrawn_is_written():
    site = site_of()
    announce(site)
    site.ask(1, sets.withdraw(NAME, b"me", TTL, b"member"))
    announce(site, renewal=True)
    assert site.members(2) == {b"me"}


def test_another_coordinator_writes():
    """It knows of no confirmation, only of its own copy."""
    site = site_of(5)
    first = announce(site)
    key = sets.announce_call(NAME, b"", TTL, b"member").key
    owner = next(member for member in site.cluster.members if member.contact == site.cluster.owner(key))
    site.cluster.kill(owner)
    site.cluster.run(5)
    entry = next(number for number in range(1, 6) if address_of(number) != owner.contact.address)
    assert announce(site, entry=entry, renewal=True) > first
