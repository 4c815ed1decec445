"""A number of replicas that is raised node by node, and whole clusters that start in another order or at other addresses."""

import itertools
import re
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from kdht import Client
from kdht.errors import NoDaemon, NotFound, RequestError, RequestTimeout, Unconfirmed
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


@pytest.mark.parametrize(("before", "after", "nodes"), [(2, 3, 4), (3, 5, 6)])
def test_replicas_are_raised_under_traffic_without_a_wrong_word(
    tmp_path: Path, before: int, after: int, nodes: int
) -> None:
    """No value is missing for a moment, and no increment of a counter is lost."""
    settings = {"replication": {"replicas": before}}
    with Cluster(places_on_loopback(nodes), tmp_path, datapath="socket", settings=settings) as cluster:
        fill(cluster)
        ended, counts = threading.Event(), Counter[str]()
        traffic = threading.Thread(target=count_on, args=(cluster, ended, counts), daemon=True)
        traffic.start()
        for node in cluster.nodes:
            assert node.stop() == 0
            node.config.write_text(
                node.config.read_text().replace(f"replicas = {before}", f"replicas = {after}")
            )
            node.start()
            wait_until(lambda node=node: node.ready(nodes - 1), f"{node.name} to be ready", 60)
        ended.set()
        traffic.join()
        with Client([str(node.address) for node in cluster.nodes]) as client:
            assert all(client.get(key, quorum=True) == b"x" * 100 for key in KEYS)
            stands = int(client.get("counter", quorum=True))
        assert counts["missing"] == 0
        assert 0 < counts["added"] <= stands <= counts["added"] + counts["in doubt"]


def count_on(cluster: Cluster, ended: threading.Event, counts: Counter[str]) -> None:
    """Increments of one counter, and reads of values that stand, until the end."""
    with Client([str(node.address) for node in cluster.nodes]) as client:
        client.put("counter", b"0")
        for number in itertools.takewhile(lambda _: not ended.is_set(), itertools.count()):
            try:
                client.get(KEYS[number % len(KEYS)], quorum=number % 2 == 0)
                record = client.get_record("counter", quorum=True)
                client.put("counter", b"%d" % (int(record.value) + 1), if_version=record.version)
                counts["added"] += 1
            except NotFound:
                counts["missing"] += 1
            except (Unconfirmed, RequestTimeout):
                counts["in doubt"] += 1
            except RequestError:
                counts["refused"] += 1


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
