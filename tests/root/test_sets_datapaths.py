"""Sets behind every datapath, over IPv4 and IPv6: the packet path itself forwards MEMBERS and relays full answers.

client --- br0 --- n1, n2, n3
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest

from kdht.client import Client
from kdht.lab.cluster import Cluster, places_in
from kdht.lab.netns import Host, Lab

pytestmark = pytest.mark.root

CLIENT = {4: "10.53.48.250", 6: "fd53:48::fa"}
ASKED = 20
MEMBERS = 55
"""As many endpoints as one answer has room for."""


class Stage(NamedTuple):
    cluster: Cluster
    client: Host
    path: str


# Nodes of one IP version: a request that changes the version goes through the socket.
@pytest.fixture(params=list(product(("socket", "nfqueue", "ebpf"), (4, 6))), ids="{0[0]}-IPv{0[1]}".format)
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    path, version = request.param
    with Lab(f"t-set-{path}{version}") as lab:
        host = lab.host("client", ipv4=f"{CLIENT[4]}/24", ipv6=f"{CLIENT[6]}/64")
        places = places_in(lab, 3, ipv4=version == 4, ipv6=version == 6)
        if path == "ebpf":
            lab.let_xdp_send()
        with Cluster(places, tmp_path, datapath=path) as cluster:
            yield Stage(cluster, host, path)


def counted(cluster: Cluster, path: str, reason: str) -> int:
    """Packets with this verdict in the nodes' datapath."""
    return sum(node.stats()["packets"][path][reason] for node in cluster.nodes)


def test_members_of_a_set_through_every_node(stage: Stage) -> None:
    cluster, host, path = stage
    name = "web"
    entries = [str(node.address) for node in cluster.nodes]
    payloads = [b"%06d" % number for number in range(MEMBERS)]
    with host.enter():
        with Client(entries) as client:
            for number, payload in enumerate(payloads):
                client.announce_once(name, payload, 600, soft=number % 2 == 0)
        seen = []
        before = [counted(cluster, path, reason) for reason in ("ENTERED", "RELAYED")]
        for entry in entries:
            with Client([entry]) as client:
                for _ in range(ASKED):
                    members = client.members(name, sample=True)
                    seen.append(sorted(member.payload for member in members))
        after = [counted(cluster, path, reason) for reason in ("ENTERED", "RELAYED")]
        assert seen == [payloads] * ASKED * 3
        # Two of the three entry nodes are not the owner. What is left to the socket, as a neighbour's first packet, is little.
        assert all(now - then >= 1.5 * ASKED for then, now in zip(before, after, strict=True))
        with Client(entries[0]) as client:
            assert client.withdraw(name, payloads[0], 600)
            assert len(client.members(name, quorum=True)) == MEMBERS - 1
