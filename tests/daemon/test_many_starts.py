"""A number of replicas that is raised node by node, and whole clusters that start in another order or at other addresses."""

import re
import time
from pathlib import Path

import pytest

from kdht import Client
from kdht.errors import NoDaemon
from kdht.lab.cluster import Cluster, LabNode, places_on_loopback
from kdht.lab.wait import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MANY = 16
READY_S = 30.0
"""Sixteen nodes share two processors with the tests beside them. A node that waits for a time-out of the others takes longer still."""
KEYS = [f"key {number}" for number in range(50)]


def fill(cluster: Cluster) -> None:
    with Client([str(node.address) for node in cluster.nodes]) as client:
        client.put_many(dict.fromkeys(KEYS, b"x" * 100))


@pytest.mark.parametrize("nodes", [5, 6])
def test_each_node_is_ready_when_replicas_go_from_3_to_5_one_by_one(tmp_path: Path, nodes: int) -> None:
    """So a rolling change by readiness does not wait for ever at the first node."""
    settings = {"replication": {"replicas": 3}}
    with Cluster(places_on_loopback(nodes), tmp_path, datapath="socket", settings=settings) as cluster:
        fill(cluster)
        for node in cluster.nodes:
            assert node.stop() == 0
            node.config.write_text(node.config.read_text().replace("replicas = 3", "replicas = 5"))
            node.start()
            wait_until(lambda node=node: node.ready(nodes - 1), f"{node.name} to be ready", 60)
        assert all(node.status()["repair"]["replicas"] == 5 for node in cluster.nodes)
        with Client([str(node.address) for node in cluster.nodes]) as client:
            assert all(client.get(key, quorum=True) == b"x" * 100 for key in KEYS)


@pytest.mark.parametrize("how", ["in reverse order", "at rotated addresses"])
def test_sixteen_nodes_that_start_again_are_ready_soon(tmp_path: Path, how: str) -> None:
    cluster = Cluster(places_on_loopback(MANY), tmp_path, datapath="socket")
    with cluster:
        fill(cluster)
        for node in cluster.nodes:
            node.terminate()
        for node in cluster.nodes:
            node.wait_end()
        if how == "at rotated addresses":
            addresses = [str(node.address) for node in cluster.nodes]
            for node, address in zip(cluster.nodes, [*addresses[1:], addresses[0]], strict=True):
                node.config.write_text(
                    re.sub("listen = .*", f'listen = ["{address}"]', node.config.read_text())
                )
        for node in reversed(cluster.nodes):
            node.start()
        for node in cluster.nodes:
            wait_until(lambda node=node: ran(node), f"{node.name} to run", 120)
        begun = time.monotonic()
        for node in cluster.nodes:
            wait_until(lambda node=node: node.ready(1), f"{node.name} to be ready", 60)
        assert time.monotonic() - begun < READY_S


def ran(node: LabNode) -> bool:
    """Whether its process answers; a loaded machine takes long for that."""
    try:
        return bool(node.status()["node_id"])
    except NoDaemon:
        return False
