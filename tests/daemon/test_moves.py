"""How real daemons get their ID, and another: on loopback, the socket datapath."""

import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from ctl import Ctl, bad, good
from daemons import KDHTD, run

from kdht import Client
from kdht.errors import KdhtError, NoDaemon
from kdht.lab.cluster import Cluster, LabNode, places_on_loopback
from kdht.lab.wait import wait_until
from kdht.node.place.shares import kept, least_greatest, owned
from kdht.wire._shared import ID_BITS, ID_LEN

VALUES = {f"key {n}": f"value {n}".encode() for n in range(200)}


def numbers(nodes: list[LabNode]) -> list[int]:
    return sorted(int(node.status()["node_id"], 16) for node in nodes)


def uneven(count: int) -> list[bytes]:
    """IDs of which the first owns half of all keys, the next half of what is left, and so on."""
    rng = Random(count)
    low = [ID_BITS - 1 - n for n in range(count)]
    return [
        ((((1 << n) - 1) << 1) << low[n] | rng.getrandbits(low[n])).to_bytes(ID_LEN, "big")
        for n in range(count)
    ]


def cluster_of(count: int, path: Path, ids: list[bytes] | None = None, **node: Any) -> Cluster:
    return Cluster(places_on_loopback(count), path, datapath="socket", ids=ids, settings={"node": node})


@pytest.fixture
def some(tmp_path: Path) -> Iterator[Cluster]:
    """Six nodes, the first of which owns half of all keys and the last two next to nothing."""
    with cluster_of(6, tmp_path, uneven(6)) as cluster:
        yield cluster


def ctl(node: LabNode) -> Ctl:
    return Ctl(node.control)


# --- The first start


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("first", "all_nodes"), [(3, 12), (1, 24)])
def test_daemons_that_start_together_share_as_evenly_as_can_be(
    first: int, all_nodes: int, tmp_path: Path
) -> None:
    cluster = cluster_of(all_nodes, tmp_path)
    nodes = cluster.nodes
    try:
        cluster.nodes = nodes[:first]
        cluster.start()
        for node in nodes[first:]:
            node.start()
        cluster.nodes = nodes
        cluster.wait_ready()
        ids = numbers(nodes)
        assert max(owned(ids)) * all_nodes == least_greatest(all_nodes) == 1.5
        assert max(kept(ids, 3)) * all_nodes / 3 <= 1.65
    finally:
        cluster.nodes = nodes
        cluster.stop()


def test_an_id_is_chosen_once(tmp_path: Path) -> None:
    with cluster_of(3, tmp_path) as cluster:
        before = [node.status()["node_id"] for node in cluster.nodes]
        for node in cluster.nodes[1:]:
            assert node.stop() == 0
            node.start()
        cluster.wait_ready()
        assert [node.status()["node_id"] for node in cluster.nodes] == before
        assert [node.log.read_text().count("ID chosen") for node in cluster.nodes] == [0, 1, 1], (
            "the first asked nobody"
        )


def test_the_configuration_can_name_the_id(tmp_path: Path) -> None:
    with cluster_of(1, tmp_path, id="AB" * ID_LEN) as cluster:
        (node,) = cluster.nodes
        assert node.status()["node_id"] == "ab" * ID_LEN
        bad(ctl(node)("move"), 1, "node.id names this node's ID", '"balanced"')


def test_another_id_than_the_directory_has_is_refused(tmp_path: Path) -> None:
    with cluster_of(1, tmp_path) as cluster:
        (node,) = cluster.nodes
    kept_id = (node.records.parent / "node_id").read_text().strip()
    node.config.write_text(node.config.read_text().replace("[node]", f'[node]\nid = "{"cd" * ID_LEN}"'))
    for arguments in ([], ["--check"]):
        done = run([*KDHTD, "--config", node.config, *arguments])
        assert done.returncode == 2
        assert f"is of the node {kept_id}" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_node_without_answers_starts_and_can_be_stopped(tmp_path: Path) -> None:
    """Its bootstrap is a host where nobody is: it knocks, and takes any ID."""
    cluster = cluster_of(2, tmp_path)
    _, second = cluster.nodes
    second.start()
    try:
        wait_until(lambda: state(second) == "starting", "it to knock")
        second.terminate()
        assert second.wait_end() == 0
        assert not (second.records.parent / "node_id").exists()
        second.start()
        wait_until(lambda: state(second) == "running", "it to run")
        assert "by chance: nobody answered" in second.log.read_text()
    finally:
        cluster.stop()


def state(node: LabNode) -> str:
    try:
        return str(node.status()["state"])
    except NoDaemon:
        return "not there"


# --- Shares and moves


def test_cluster_shows_shares_and_who_should_move(some: Cluster) -> None:
    found = ctl(some.nodes[0]).json("cluster")
    ids = [int(node["id"], 16) for node in sorted(found["nodes"], key=lambda node: node["id"])]
    by_id = {int(node["id"], 16): node for node in found["nodes"]}
    assert [by_id[id]["owns"] for id in ids] == owned(ids)
    assert [by_id[id]["keeps"] for id in ids] == kept(ids, 3)
    assert found["shares"]["complete"]
    assert found["shares"]["greatest_owner"] == 3.0
    move = found["shares"]["move"]
    assert (move["beside"], move["owns"], move["would_own"]) == (str(some.nodes[0].address), 1 / 32, 1 / 4)
    assert move["address"] in {str(node.address) for node in some.nodes[4:]}
    shown = good(ctl(some.nodes[0])("cluster")).decode()
    assert f"kdhtctl move on {move['address']} makes it more even" in shown
    assert "50.00%" in shown


def test_nodes_that_a_node_has_no_room_for_are_counted_too(tmp_path: Path) -> None:
    with cluster_of(16, tmp_path, bucket_size=5) as cluster:
        node = cluster.nodes[0]
        found = ctl(node).json("cluster", "--no-views")
        assert node.status()["contacts"] < 15
        assert sorted(int(each["id"], 16) for each in found["nodes"]) == numbers(cluster.nodes)
        assert found["shares"]["complete"]
        assert sum(each["owns"] for each in found["nodes"]) == 1


def test_moves_make_a_cluster_even_and_lose_nothing(some: Cluster) -> None:
    with Client([str(node.address) for node in some.nodes], timeout=30) as client:
        for key, value in VALUES.items():
            client.put(key, value)
        moves = 0
        while (move := ctl(some.nodes[0]).json("cluster")["shares"]["move"]) is not None:
            (node,) = (node for node in some.nodes if str(node.address) == move["address"])
            former = node.status()["node_id"]
            done = ctl(node).json("move")
            assert (done["from"], done["to"]) == (former, node.status()["node_id"])
            assert done["from"] != done["to"]
            assert node.status()["ready"]
            assert {key: client.get(key, quorum=True) for key in VALUES} == VALUES
            moves += 1
            assert moves <= 4
        ids = numbers(some.nodes)
        assert max(owned(ids)) * 6 == least_greatest(6)
    bad(ctl(some.nodes[0])("move"), 1, "makes nothing more even", "--anyway")


def test_an_interrupted_move_goes_on_in_the_daemon(some: Cluster) -> None:
    node = some.nodes[5]
    with Client([str(each.address) for each in some.nodes], timeout=30) as client:
        for key, value in VALUES.items():
            client.put(key, value)
    former = node.status()["node_id"]
    started = ctl(node).start("move")
    assert started.stderr is not None
    assert started.stderr.readline(), "it waits for the daemon now, and says how far that is"
    started.send_signal(signal.SIGINT)
    _, said = started.communicate(timeout=30)
    assert started.returncode == 130
    assert b"the daemon continues the move" in said
    assert b"Traceback" not in said
    wait_until(
        lambda: state(node) == "running" and node.ready(5) and node.status()["node_id"] != former, "it"
    )


def test_a_move_killed_midway_leaves_the_old_or_the_new_id(some: Cluster) -> None:
    node = some.nodes[5]
    with Client([str(each.address) for each in some.nodes], timeout=30) as client:
        for key, value in VALUES.items():
            client.put(key, value)
        node.call("move", anyway=True)
        node.kill()
        node.start()
        some.wait_ready()
        assert {key: client.get(key, quorum=True) for key in VALUES} == VALUES


def test_a_move_needs_others_and_a_node_that_is_ready(tmp_path: Path) -> None:
    with cluster_of(1, tmp_path) as cluster:
        bad(ctl(cluster.nodes[0])("move"), 1, "no other node is known")
        with pytest.raises(KdhtError, match="bad parameters"):
            cluster.nodes[0].call("move", anyway="yes")
        assert cluster.nodes[0].status()["state"] == "running"


def test_a_move_that_cannot_remove_the_id_ends_the_daemon(some: Cluster) -> None:
    """A daemon that has left its cluster and stays would serve nobody, and say nothing."""
    node = some.nodes[5]
    kept_id = node.records.parent / "node_id"
    kept_id.unlink()
    kept_id.mkdir()
    (kept_id / "file").touch()
    node.call("move", anyway=True)
    wait_until(lambda: not node.alive(), "it to end")
    assert node.wait_end() == 3
    last = node.log.read_text().splitlines()[-1]
    assert last.startswith("kdhtd: ")
    assert "node_id" in last


def test_two_requests_for_a_move_start_one(some: Cluster) -> None:
    node = some.nodes[5]
    former = node.status()["node_id"]
    assert node.call("move", anyway=True)["node_id"] == former
    with suppress(KdhtError):  # it may be choosing by now
        assert node.call("move", anyway=True)["node_id"] == former
    wait_until(
        lambda: state(node) == "running" and node.ready(5) and node.status()["node_id"] != former, "it"
    )
    assert node.log.read_text().count("moving: records are given away") == 1
