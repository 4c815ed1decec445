"""Sets of a cluster of 16 in virtual time, under deaths and a cut: who announces is listed, who withdrew or died is not."""

from collections.abc import Callable
from itertools import product
from random import Random
from typing import Any

import pytest

from kdht.client import _sets as sets
from kdht.client._steps import Steps
from kdht.errors import KdhtError
from kdht.lab.virtual import VirtualCluster, address_of
from kdht.lab.virtual.client import VirtualClient
from kdht.node.repair import RepairOptions
from kdht.node.replicas import Policy
from kdht.wire import Address

NODES = 16
NAME = "services"


class Site:
    """16 nodes, and a client of each one."""

    def __init__(self, seed: int) -> None:
        self.cluster = VirtualCluster(seed, policy=Policy(), repair=RepairOptions())
        self.cluster.network.delay = 0.0005, 0.004
        for number in range(1, NODES + 1):
            self.cluster.add(number, bootstrap=self.cluster.contacts())
        self.cluster.run(20)
        self.clients = [self._client(number) for number in range(1, NODES + 1)]

    @property
    def now(self) -> float:
        return self.cluster.network.now

    def _client(self, entry: int) -> VirtualClient:
        own = Address.of(f"192.0.2.{entry}", 40000)
        return VirtualClient(
            self.cluster.network, own, [address_of(entry)], Random(entry), timeout=20.0, attempts=64
        )

    def start(self, entry: int, steps: Steps[Any], then: Callable[[Any], None]) -> None:
        """Through the node `entry` (1 to 16). What it refuses or loses is tried again."""

        def ended(result: Any, error: KdhtError | None) -> None:
            assert error is None, error
            then(result)

        self.clients[entry - 1].run(steps, ended)

    def ask(self, entry: int, steps: Steps[Any]) -> Any:
        found: list[Any] = []
        self.start(entry, steps, found.append)
        while not found:
            self.cluster.run(0.05)
        return found[0]

    def members(self, entry: int) -> set[bytes]:
        return {member.payload for member in self.ask(entry, sets.members(NAME, quorum=True))}

    def cut(self, left: set[int], right: set[int], loss: float) -> None:
        for one, other in product(left, right):
            self.cluster.network.set_loss(address_of(one), address_of(other), loss)
            self.cluster.network.set_loss(address_of(other), address_of(one), loss)

    def announce(self, entry: int, payloads: list[bytes], ttl: int) -> None:
        """All at once; at the end all are acknowledged."""
        acknowledged: list[int] = []
        for payload in payloads:
            self.start(entry, sets.announce(NAME, payload, ttl, payload), acknowledged.append)
        while len(acknowledged) < len(payloads):
            self.cluster.run(0.05)


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
