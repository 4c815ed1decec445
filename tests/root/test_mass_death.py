"""More nodes die at once than there are replicas: what is missing are the keys that only dead nodes had, and no others.

client   n1   n2   ...   n12
  |      |    |           |
--+------+----+-- br0 ----+--
"""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from cluster_load import keys, value_of

from kdht import AsyncClient
from kdht.errors import RequestError
from kdht.lab import census
from kdht.lab.cluster import Cluster, LabNode, places_in
from kdht.lab.ids import spread
from kdht.lab.netns import Lab
from kdht.lab.wait import wait_until
from kdht.wire import hash_key

pytestmark = [pytest.mark.root, pytest.mark.slow]

NODES = 12
DYING = 5
REPLICAS = 3
VALUES = 300
WINDOW = 64


def ids_of(nodes: Sequence[LabNode]) -> list[tuple[bytes, str]]:
    return [(bytes.fromhex(node.status()["node_id"]), node.name) for node in nodes]


async def missing(client: AsyncClient, names: Sequence[str]) -> set[str]:
    """The keys that have no value now; every value that comes is the right one."""
    gone: set[str] = set()
    waiting = iter(names)

    async def reader() -> None:
        for name in waiting:
            try:
                assert await client.get(name) == value_of(name)
            except RequestError:
                gone.add(name)

    await asyncio.gather(*(reader() for _ in range(WINDOW)))
    return gone


@pytest.mark.parametrize("how", ["process", "host"])
def test_missing_is_what_only_dead_nodes_had(tmp_path: Path, how: str) -> None:
    names = keys(VALUES)
    with Lab("t-mass") as lab:
        places = places_in(lab, NODES)
        host = lab.host("client", ipv4="10.53.48.250/24")
        with Cluster(places, tmp_path, datapath="socket", ids=spread(NODES)) as cluster:
            ids, some = ids_of(cluster.nodes), random.Random(how).choice(names)
            dead = set(census.closest(ids, hash_key(some), DYING))  # neighbours
            victims = [node for node in cluster.nodes if node.name in dead]
            lost = {name for name in names if dead.issuperset(census.closest(ids, hash_key(name), REPLICAS))}
            assert lost, "otherwise this shows nothing"

            async def work() -> set[str]:
                staying = [str(node.address) for node in cluster.nodes if node not in victims]
                async with AsyncClient(staying) as client:
                    await client.put_many({name: value_of(name) for name in names}, window=WINDOW)
                    await asyncio.to_thread(wait_until, all_there, "three replicas of each")
                    await asyncio.to_thread(die)
                    return await missing(client, names)

            def all_there() -> bool:
                return sum(node.status()["records"] for node in cluster.nodes) == REPLICAS * VALUES

            def die() -> None:
                for victim in victims if how == "host" else ():
                    victim.host.set_link("eth0", up=False)
                for victim in victims:
                    victim.kill()

            with host.enter():
                assert asyncio.run(work()) == lost
