"""Real daemons with IPv4 only and with IPv6 only, in one cluster through one that has both.

      client
        |
--------+---- br0 ------+-----------+-----------+--
        |               |           |           |
   n1 IPv4, IPv6     n2 IPv4     n3 IPv4     n4 IPv6
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pages import ask

from kdht.client import Client
from kdht.errors import RequestError
from kdht.lab.cluster import LabNode, Place, _tables, _toml
from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until
from kdht.wire import Address
from kdht.wire._shared import PORT

pytestmark = pytest.mark.root

PATIENT = 90.0
LASTING = 15.0
"""Seconds after which nobody gives way any more: a node that was ready does so after 12."""
HTTP = 9551


def four(number: int) -> Address:
    return Address.of(f"10.53.48.{number}", PORT)


def six(number: int) -> Address:
    return Address.of(f"fd53:48::{number:x}", PORT)


class Site(NamedTuple):
    lab: Lab
    client: Host
    nodes: dict[int, LabNode]
    home: Path

    def add(self, number: int, *versions: int, through: Address | None = None) -> LabNode:
        """A host with both addresses, whose daemon listens on those of the versions named."""
        host = self.lab.hosts.get(f"n{number}") or self.lab.host(
            f"n{number}", ipv4=f"{four(number).host}/24", ipv6=f"{six(number).host}/64"
        )
        node = self._made(number, versions, through, host)
        node.start()
        return node

    def again(self, number: int, *versions: int, through: Address | None) -> LabNode:
        """Stopped, and started with other addresses."""
        old = self.nodes[number]
        old.stop()
        tables = self._configured(number, versions, through, old.host)
        old.config.write_text(_toml(tables))
        old.start()
        return old

    def _made(self, number: int, versions: tuple[int, ...], through: Address | None, host: Host) -> LabNode:
        place = _place(number, versions, host)
        tables = self._configured(number, versions, through, host)
        node = self.nodes[number] = LabNode(place, self.home / place.name, _toml(tables))
        return node

    def _configured(
        self, number: int, versions: tuple[int, ...], through: Address | None, host: Host
    ) -> dict[str, Any]:
        place = _place(number, versions, host)
        first = str(through or place.addresses[0])
        tables = _tables(place, self.home / place.name, first, "a secret of this cluster", "socket")
        return {**tables, "metrics": {"listen": f"127.0.0.1:{HTTP}"}}


def _place(number: int, versions: tuple[int, ...], host: Host) -> Place:
    addresses = {4: four(number), 6: six(number)}
    return Place(f"n{number}", tuple(addresses[version] for version in versions), host)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Lab("t-versions") as lab:
        client = lab.host("client", ipv4="10.53.48.250/24", ipv6="fd53:48::250/64")
        made = Site(lab, client, {}, tmp_path)
        try:
            yield made
        finally:
            for node in made.nodes.values():
                if node.alive():
                    node.stop()


def ready(node: LabNode) -> bool:
    return bool(node.status()["ready"])


def overwritten(site: Site, nodes: list[LabNode], count: int) -> list[str]:
    """Keys written through one node and overwritten through another; what any then reads otherwise, plain and by quorum."""
    wrong = []
    with site.client.enter():
        clients = [Client(str(node.address), timeout=10) for node in nodes]
        try:
            for number in range(count):
                clients[number % len(clients)].put(f"key {number}", b"old")
            for number in range(count):
                clients[(number + 2) % len(clients)].put(f"key {number}", b"new %d" % number)
            for number in range(count):
                wrong += [
                    f"key {number} at {node.name}, quorum={quorum}"
                    for node, client in zip(nodes, clients, strict=True)
                    for quorum in (False, True)
                    if client.get(f"key {number}", quorum=quorum) != b"new %d" % number
                ]
        finally:
            for client in clients:
                client.close()
    return wrong


def refuses_writes(site: Site, node: LabNode) -> bool:
    with site.client.enter(), Client(str(node.address), timeout=2) as client:
        try:
            client.put("key", b"lost")
        except RequestError:
            return True
    return False


def page(node: LabNode, path: str) -> tuple[int, str]:
    with node.host.enter():
        said = ask(f"http://127.0.0.1:{HTTP}{path}")
    return said.status, said.body


def grown(site: Site) -> list[LabNode]:
    first = site.add(1, 4, 6)
    wait_until(lambda: first.ready(0), "n1 to be ready", PATIENT)
    others = [site.add(number, 4, through=four(1)) for number in (2, 3)]
    for node in (first, *others):
        wait_until(lambda node=node: node.ready(2), f"{node.name} to be ready", PATIENT)
    return [first, *others]


def test_a_node_that_cannot_reach_members_does_not_serve(site: Site) -> None:
    members = grown(site)
    stranger = site.add(4, 6, through=six(1))
    wait_until(
        lambda: stranger.alive() and "left its cluster" in stranger.log.read_text(), "n4 to say so", PATIENT
    )
    status = stranger.status()
    assert not status["ready"]
    assert "reach" in status["waiting_for"]
    assert sorted(status["unreachable"]) == [str(four(2)), str(four(3))]
    why = "speak IPv4 only, and this node has no IPv4 address: give it one in node.listen"
    for text in (status["why_unreachable"], status["not_writable"], page(stranger, "/readyz")[1]):
        assert why in text
    assert page(stranger, "/readyz")[0] == 503
    assert "\nkdht_unreachable_members 2.0\n" in page(stranger, "/metrics")[1]
    assert str(four(2)) in stranger.log.read_text()
    assert refuses_writes(site, stranger)
    assert all(map(ready, members))
    assert overwritten(site, members, 60) == []
    assert all("left its cluster" not in node.log.read_text() for node in members)
    site.again(4, 6, 4, through=six(1))
    wait_until(lambda: stranger.ready(3), "n4 to be ready with both", PATIENT)
    wait_until(lambda: members[1].ready(3), "all to know it", PATIENT)
    assert overwritten(site, [*members, stranger], 60) == []


def test_of_two_sides_of_one_size_never_both_serve(site: Site) -> None:
    """All start together: whoever is ready afterwards reads what was acknowledged, and who is not takes no writes."""
    site.add(1, 4, 6)
    for number, version in ((2, 4), (3, 4), (12, 6), (13, 6)):
        site.add(number, version, through=four(1) if version == 4 else six(1))
    sides = ({2, 3}, {12, 13})

    def serving() -> set[int]:
        return {number for number, node in site.nodes.items() if node.ready(0)}

    found: set[int] = set()
    since = time.monotonic()

    def one_side_serves() -> bool:
        nonlocal found, since
        now = serving()
        if now != found:
            found, since = now, time.monotonic()
        return found in ({1} | sides[0], {1} | sides[1]) and time.monotonic() - since > LASTING

    wait_until(one_side_serves, "one side to serve", PATIENT)
    assert overwritten(site, [site.nodes[number] for number in sorted(found)], 150) == []
    for number in site.nodes.keys() - found:
        status = site.nodes[number].status()
        assert status["unreachable"] or status["waiting_for"], "it says why it does not serve"
        assert refuses_writes(site, site.nodes[number])
    assert serving() == found


def test_a_single_stack_node_joins_over_a_dual_stack_node(site: Site) -> None:
    first = site.add(1, 6, 4)
    wait_until(lambda: first.ready(0), "n1 to be ready", PATIENT)
    both = [site.add(number, 6, 4, through=six(1)) for number in (2, 3)]
    for node in (first, *both):
        wait_until(lambda node=node: node.ready(2), f"{node.name} to be ready", PATIENT)
    only = site.add(4, 4, through=four(1))
    for node in (first, *both, only):
        wait_until(lambda node=node: node.ready(3), f"{node.name} to know all", PATIENT)
    assert overwritten(site, [first, *both, only], 60) == []
    assert "left its cluster" not in only.log.read_text()
