"""The measured clusters: real daemons, each in a host of its own, and a host for the client.

client   n1   n2   ...   nN
  |      |    |          |
--+------+----+-- br0 ---+--
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kdht.lab.cluster import Cluster, LabNode, places_in
from kdht.lab.ids import spread
from kdht.lab.neighbours import introduce
from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until

SETTLED = 120.0
"""Seconds until all must be ready and hold their records."""
CLIENT = "10.53.48.250/24"


class Built(NamedTuple):
    """A cluster at rest."""

    cluster: Cluster
    client: Host

    @property
    def nodes(self) -> list[LabNode]:
        return self.cluster.nodes

    @property
    def living(self) -> list[LabNode]:
        return [node for node in self.nodes if node.alive()]

    def ids(self) -> dict[str, bytes]:
        """The living nodes' IDs by their names."""
        return {node.name: bytes.fromhex(node.status()["node_id"]) for node in self.living}


@contextmanager
def running(nodes: int, replicas: int, datapath: str) -> Iterator[Built]:
    """`nodes` daemons, all ready. Raises LabError without root."""
    with tempfile.TemporaryDirectory(prefix="kdht-bench-") as directory, Lab("bench") as lab:
        places = places_in(lab, nodes)
        client = lab.host("client", ipv4=CLIENT)
        introduce(lab)
        settings = {"replication": {"replicas": replicas}}
        ids = spread(nodes)
        with Cluster(places, Path(directory), datapath=datapath, settings=settings, ids=ids) as cluster:
            yield Built(cluster, client)


def wait_records(nodes: Sequence[LabNode], count: int, timeout: float = SETTLED) -> None:
    """Wait until the nodes together hold that many records. Raises LabError."""
    wait_until(lambda: records(nodes) == count, f"{count} records on {len(nodes)} nodes", timeout)


def records(nodes: Sequence[LabNode]) -> int:
    return sum(int(node.status()["records"]) for node in nodes)
