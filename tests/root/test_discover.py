"""Nodes on one link find each other without a name: node.discover.

   n1      n2      n3   other
    |       |       |     |
----+--br0--+-------+-----+---
"""

import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from kdht.client import Client
from kdht.lab.cluster import LabNode, Place, _tables, _toml
from kdht.lab.netns import Lab
from kdht.lab.wait import wait_until
from kdht.wire import Address, discovery
from kdht.wire._shared import DISCOVERY_PORT, PORT
from kdht.wire.discovery import Discovery, Kind
from kdht.wire.keys import derive

pytestmark = pytest.mark.root

PATIENT = 60.0
SECRET = "the secret of this cluster"


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator["Link"]:
    with Lab("t-found") as lab:
        link = Link(lab, tmp_path)
        try:
            yield link
        finally:
            for node in link.nodes:
                if node.alive():
                    node.stop()


class Link:
    """Hosts on one bridge, and nodes that name nobody."""

    def __init__(self, lab: Lab, home: Path) -> None:
        self.lab = lab
        self.nodes: list[LabNode] = []
        self._home = home

    def add(
        self, name: str, hosts: Sequence[str], *, datapath: str = "socket", secret: str = SECRET
    ) -> LabNode:
        host = self.lab.hosts.get(name) or self.lab.host(
            name,
            ipv4=next((f"{each}/24" for each in hosts if ":" not in each), None),
            ipv6=next((f"{each}/64" for each in hosts if ":" in each), None),
        )
        place = Place(f"{name}-{len(self.nodes)}", tuple(Address.of(each, PORT) for each in hosts), host)
        home = self._home / place.name
        tables = _tables(place, home, str(place.addresses[0]), secret, datapath)
        node = LabNode(
            place, home, _toml({**tables, "node": {**tables["node"], "bootstrap": [], "discover": True}})
        )
        self.nodes.append(node)
        node.start()
        return node


def number(at: int, version: int) -> str:
    return f"10.53.48.{at}" if version == 4 else f"fd53:48::{at:x}"


@pytest.mark.parametrize(("datapath", "version"), [("socket", 4), ("nfqueue", 6), ("ebpf", 4), ("ebpf", 6)])
def test_nodes_that_start_together_find_each_other(nodes: Link, datapath: str, version: int) -> None:
    if datapath == "ebpf":
        nodes.lab.let_xdp_send()
    found = [nodes.add(f"n{at}", [number(at, version)], datapath=datapath) for at in (1, 2, 3)]
    for node in found:
        wait_until(lambda node=node: node.ready(2), f"{node.name} to know both others", PATIENT)
    with nodes.lab.hosts["n1"].enter(), Client(str(found[0].address), timeout=10) as client:
        client.put("key", b"value")
        assert client.get("key", quorum=True) == b"value"


def test_clusters_of_one_link_do_not_meet(nodes: Link) -> None:
    ours = [nodes.add(f"n{at}", [number(at, 4), number(at, 6)]) for at in (1, 2)]
    for node in ours:
        wait_until(lambda node=node: node.ready(1), f"{node.name} to know the other one", PATIENT)
    other = nodes.add("other", [number(9, 4)], secret="the secret of another cluster")
    wait_until(lambda: other.ready(0), "the other cluster to be ready", PATIENT)
    wait_until(lambda: ours[0].status()["discovery"].get("BAD_TAG", 0) > 0, "its question to be refused")
    assert other.status()["contacts"] == 0
    assert ours[0].status()["contacts"] == 1


def test_a_node_that_comes_later_joins(nodes: Link) -> None:
    first = nodes.add("n1", [number(1, 4)])
    wait_until(lambda: first.ready(0), "n1 to be ready", PATIENT)
    second = nodes.add("n2", [number(2, 4)])
    wait_until(lambda: second.ready(1), "n2 to join", PATIENT)
    assert first.status()["discovery"]["answered"] > 0


def test_an_answer_goes_to_the_asker_alone_and_only_so_often(nodes: Link) -> None:
    first = nodes.add("n1", [number(1, 4)])
    wait_until(lambda: first.ready(0), "n1 to be ready", PATIENT)
    asker = nodes.lab.host("asker", ipv4=f"{number(7, 4)}/24")
    key = derive(1, SECRET.encode())
    with asker.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.bind((number(7, 4), 0))
        sock.settimeout(PATIENT)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(number(7, 4)))
        question = discovery.pack(Discovery(Kind.QUESTION, b"12345678"), key, int(time.time()))
        for data in (b"", b"x" * 2000, question[:-1] + b"?", question):
            sock.sendto(data, (discovery.GROUP4, DISCOVERY_PORT))
        answer, source = sock.recvfrom(2048)
        assert source[0] == number(1, 4)
        assert len(answer) == len(question)
        said = discovery.parse(answer, [key], int(time.time()))
        assert said == Discovery(Kind.ANSWER, b"12345678", Address.of(number(1, 4), PORT))
        for _ in range(500):
            sock.sendto(question, (discovery.GROUP4, DISCOVERY_PORT))
        wait_until(lambda: first.status()["discovery"].get("RATE_LIMITED", 0) > 0, "most to be dropped")
    counted = first.status()["discovery"]
    assert counted["BAD_LENGTH"] == 2
    assert counted["BAD_TAG"] == 1
