"""Clusters of real daemons over loopback: what tests, demo and bench stand on."""

import os
from pathlib import Path

import pytest

from kdht import Client
from kdht.errors import LabError
from kdht.lab.cluster import Cluster, places_on_loopback
from kdht.lab.wait import wait_until


def test_daemons_know_each_other_and_end_with_the_block(tmp_path: Path) -> None:
    with Cluster(places_on_loopback(3), tmp_path, datapath="socket") as cluster:
        pids = [node.pid for node in cluster.nodes]
        assert [node.status()["contacts"] for node in cluster.nodes] == [2, 2, 2]
        with Client(str(cluster.nodes[0].address)) as writer, Client(str(cluster.nodes[2].address)) as reader:
            writer.put("a", b"1")
            assert reader.get("a") == b"1"
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_a_node_is_killed_and_starts_again(tmp_path: Path) -> None:
    with Cluster(places_on_loopback(2), tmp_path, datapath="socket") as cluster:
        one, other = cluster.nodes
        before = other.status()["node_id"]
        other.kill()
        assert not other.alive()
        cluster.wait_ready()
        other.start()
        wait_until(lambda: other.ready(1), "the killed node")
        assert other.status()["node_id"] == before
        assert one.stop() == 0


def test_the_first_node_is_killed_early_and_finds_its_cluster_again(tmp_path: Path) -> None:
    """It has no bootstrap: without its contacts it would be a cluster of its own."""
    with Cluster(places_on_loopback(3), tmp_path, datapath="socket") as cluster:
        first = cluster.nodes[0]
        contacts = first.records.parent / "contacts"
        wait_until(lambda: contacts.exists() and contacts.read_text().count('"id"') == 2, "its contacts", 5.0)
        first.kill()
        first.start()
        wait_until(lambda: first.ready(2), "the first node")


def test_a_daemon_that_ends_shows_its_log(tmp_path: Path) -> None:
    settings = {"node": {"hop_limit": 0}}
    with pytest.raises(LabError, match=r"n1 ended with status 2\n.*node\.hop_limit is 0"):
        Cluster(places_on_loopback(2), tmp_path, datapath="socket", settings=settings).start()


def test_an_error_in_the_block_ends_the_daemons(tmp_path: Path) -> None:
    pids = []

    def failing() -> None:
        with Cluster(places_on_loopback(2), tmp_path, datapath="socket") as cluster:
            pids.extend(node.pid for node in cluster.nodes)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert len(pids) == 2
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_a_node_on_loopback_has_no_host(tmp_path: Path) -> None:
    node = Cluster(places_on_loopback(1), tmp_path, datapath="socket").nodes[0]
    with pytest.raises(LabError, match="no host"):
        _ = node.host
    with pytest.raises(LabError, match="never started"):
        _ = node.pid
