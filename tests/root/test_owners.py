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
from kdht.lab.wait import wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]

NAMES = keys(200)
FEW = len(NAMES) / 5
AGAIN_S = 10.0
READDRESSED = ("ENTERED", "NEXT_HOP", "RELAYED")


def readdressed(cluster: Cluster) -> int:
    packets = [node.stats()["packets"] for node in cluster.nodes]
    return sum(lane[reason] for each in packets for lane in each.values() for reason in READDRESSED)


def read(cluster: Cluster, client: Client) -> int:
    """How many datagrams the nodes passed on for one read of each key."""
    before = readdressed(cluster)
    for name in NAMES:
        assert client.get(name) == value_of(name)
    return readdressed(cluster) - before


async def read_until_direct(cluster: Cluster, addresses: list[str]) -> None:
    """The same by an AsyncClient, until nearly all reads enter at owners; at most a dozen times."""
    async with AsyncClient(addresses, direct=True) as client:
        for _ in range(12):
            before = readdressed(cluster)
            for name in NAMES:
                assert await client.get(name) == value_of(name)
            if readdressed(cluster) - before < FEW:
                return
            await asyncio.sleep(AGAIN_S)
    raise AssertionError("reads enter at other nodes")


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
                # Three nodes of four are not the one that is asked first. Hedges come by other nodes.
                first = read(cluster, client)
                assert first > len(NAMES) / 3
                # On a busy machine answers come late: the client hedges, or asks for no direct ones for a minute.
                wait_until(lambda: read(cluster, client) < FEW, "reads that enter at owners", 120)
                asyncio.run(read_until_direct(cluster, addresses))
                cluster.nodes[3].kill()
                for name in NAMES:
                    assert client.get(name) == value_of(name)
