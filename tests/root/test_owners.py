"""Clients that enter a read at the node which answered one of that range before, on each datapath.

client   n1   n2   n3   n4
  |      |    |    |    |
--+------+----+----+----+-- br0
"""

import asyncio
from pathlib import Path

import pytest
from cluster_load import keys, put_all, value_of
from pins import pins_removed

from kdht import AsyncClient, Client
from kdht.lab.cluster import Cluster, places_in
from kdht.lab.netns import Lab

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]

NAMES = keys(200)
READDRESSED = ("ENTERED", "NEXT_HOP", "RELAYED")


def readdressed(cluster: Cluster) -> int:
    packets = [node.stats()["packets"] for node in cluster.nodes]
    return sum(lane[reason] for each in packets for lane in each.values() for reason in READDRESSED)


def read_twice(cluster: Cluster, client: Client) -> tuple[int, int]:
    """How many datagrams the nodes passed on for the first reads of all keys, and for the second ones."""
    counts = [readdressed(cluster)]
    for _ in range(2):
        for name in NAMES:
            assert client.get(name) == value_of(name)
        counts.append(readdressed(cluster))
    return counts[1] - counts[0], counts[2] - counts[1]


async def read_by(client: AsyncClient) -> None:
    async with client:
        for name in NAMES * 2:
            assert await client.get(name) == value_of(name)


@pytest.mark.parametrize("kind", ["socket", "nfqueue", "ebpf"])
def test_a_second_read_enters_at_its_owner_and_a_death_loses_none(tmp_path: Path, kind: str) -> None:
    with Lab(f"own-{kind[0]}") as lab:
        cluster = Cluster(places_in(lab, 4), tmp_path, datapath=kind)
        host = lab.host("client", ipv4="10.53.48.250/24")
        lab.let_xdp_send()
        with pins_removed(cluster), cluster, host.enter():
            asyncio.run(put_all(cluster, NAMES))
            addresses = [str(node.address) for node in cluster.nodes]
            with Client(addresses, direct=True) as client:
                first, second = read_twice(cluster, client)
                # Three nodes of four are not the one that is asked first. Hedges come by other nodes.
                assert first > len(NAMES) / 3
                assert second < len(NAMES) / 5
                before = readdressed(cluster)
                asyncio.run(read_by(AsyncClient(addresses, direct=True)))
                assert readdressed(cluster) - before < 1.5 * first
                cluster.nodes[3].kill()
                for name in NAMES:
                    assert client.get(name) == value_of(name)
