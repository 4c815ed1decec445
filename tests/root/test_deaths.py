"""Eight real daemons, two of which die: one as a process, one as a host.

n1   n2   ...   n8
 |    |          |
-+----+-- br0 ---+-
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kdht.lab.cluster import Cluster, LabNode, places_in
from kdht.lab.netns import Lab
from kdht.lab.wait import wait_until

pytestmark = pytest.mark.root

NODES = 8
DETECTED = 5.0
"""Seconds after which nobody knows a dead node any more: 2 by a clock of their own (tests/node/test_failures.py), and
some more where other programs have the processors."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Lab("t-failures") as lab, Cluster(places_in(lab, NODES), tmp_path, datapath="socket") as cluster:
        for node in cluster.nodes:
            wait_until(lambda node=node: node.status()["ready"], f"{node.name} to be ready")  # type: ignore[misc]
        yield cluster


def knows(node: LabNode, dead: str) -> bool:
    rows = [row for bucket in node.call("table")["buckets"] for row in bucket["contacts"]]
    return dead in [row["id"] for row in rows]


def time_until_forgotten(cluster: Cluster, victim: LabNode, die: Callable[[], object]) -> float:
    """Seconds from the death until no other node has the victim in its table."""
    dead = victim.status()["node_id"]
    others = [node for node in cluster.nodes if node is not victim and node.alive()]
    assert all(knows(node, dead) for node in others)
    died = time.monotonic()
    die()
    wait_until(lambda: not any(knows(node, dead) for node in others), f"all to forget {victim.name}")
    return time.monotonic() - died


def test_a_killed_process_and_a_silent_host_are_forgotten_by_all(cluster: Cluster) -> None:
    *_, silent, killed = cluster.nodes
    seconds = time_until_forgotten(cluster, killed, killed.kill)
    print(f"a killed process (ICMP): {seconds:.2f} s")
    assert seconds < DETECTED
    cluster.nodes.remove(killed)
    seconds = time_until_forgotten(cluster, silent, lambda: silent.host.set_link("eth0", up=False))
    print(f"a host whose interface is down (silence): {seconds:.2f} s")
    assert seconds < DETECTED
    silent.host.set_link("eth0", up=True)
    known = silent.status()["node_id"]
    others = [node for node in cluster.nodes if node is not silent]
    wait_until(lambda: all(knows(node, known) for node in others), f"{silent.name} to be known again")
    assert all(node.status()["ready"] for node in others)
