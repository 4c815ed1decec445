"""A node that comes back after deletions were forgotten: what it kept counts for nothing that others do not confirm."""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from kdht.cli import archive
from kdht.client.sync import Client
from kdht.daemon.aside import AsideRecords
from kdht.daemon.datadir import DataDir
from kdht.errors import NotFound
from kdht.lab.cluster import Cluster, LabNode, places_on_loopback
from kdht.lab.wait import wait_until
from kdht.storage import LevelStore, StoredRecord, Write
from kdht.wire import hash_key

LONG_AGO = 200_000.0
"""Seconds: more than the two days that nobody remembers deletions for."""
NAMES = [f"value {number}" for number in range(40)]
DELETED = [f"deleted {number}" for number in range(20)]


@pytest.fixture
def cluster(tmp_path: Path):  # type: ignore[no-untyped-def]
    with Cluster(places_on_loopback(3), tmp_path, datapath="socket") as cluster:
        with Client([str(node.address) for node in cluster.nodes]) as client:
            client.put_many(dict.fromkeys(NAMES, b"stands"))
        wait_until(lambda: all(n.status()["records"] == len(NAMES) for n in cluster.nodes), "the values", 20)
        yield cluster


def be_away(node: LabNode, records: Sequence[str] = ()) -> None:
    """It stops, and when it starts again it finds these too, and that it was away for long."""
    node.stop()
    if records:
        store = LevelStore(node.records)
        store.apply([Write(hash_key(name), StoredRecord(7, 0, 0, b"gone")) for name in records], time.time())
        store.close()
    (node.records.parent / "caught_up").write_text(f"{int(time.time() - LONG_AGO)}\n")


def files_of(node: LabNode) -> list[Path]:
    return sorted(node.records.parent.glob("set-aside-*"))


def test_records_deleted_meanwhile_do_not_come_back(cluster: Cluster) -> None:
    late = cluster.nodes[2]
    be_away(late, DELETED)
    late.start()
    cluster.wait_ready()
    wait_until(lambda: late.status()["set_aside"] == len(DELETED), "records set aside", 30)
    wait_until(lambda: late.status()["records"] == len(NAMES), "the others' records", 30)
    with Client([str(node.address) for node in cluster.nodes]) as client:
        assert set(client.get_many(NAMES).values()) == {b"stands"}
        for name in DELETED:
            with pytest.raises(NotFound):
                client.get(name, quorum=True)
    (file,) = files_of(late)
    assert archive.check(file) == len(DELETED)
    assert str(file) in " ".join(late.status()["warnings"])
    assert not list(late.records.parent.glob("doubted-*"))


def test_confirmed_records_are_not_set_aside(cluster: Cluster) -> None:
    late = cluster.nodes[1]
    be_away(late)
    late.start()
    cluster.wait_ready()
    wait_until(lambda: not list(late.records.parent.glob("doubted-*")), "the comparison", 30)
    assert late.status()["records"] == len(NAMES)
    assert (late.status()["set_aside"], files_of(late)) == (0, [])


def test_if_all_nodes_were_away_their_records_count(cluster: Cluster) -> None:
    for node in cluster.nodes:
        be_away(node)
    for node in cluster.nodes:
        node.start()
    cluster.wait_ready()
    with Client([str(node.address) for node in cluster.nodes]) as client:
        assert set(client.get_many(NAMES).values()) == {b"stands"}
    assert [files_of(node) for node in cluster.nodes] == [[], [], []]


def test_a_node_that_is_alone_keeps_what_it_has(tmp_path: Path) -> None:
    with Cluster(places_on_loopback(1), tmp_path, datapath="socket") as cluster:
        (node,) = cluster.nodes
        with Client([str(node.address)]) as client:
            client.put_many(dict.fromkeys(NAMES, b"stands"))
        be_away(node)
        node.start()
        cluster.wait_ready()
        with Client([str(node.address)]) as client:
            assert set(client.get_many(NAMES).values()) == {b"stands"}


def test_a_node_notes_at_its_end_that_it_had_caught_up(tmp_path: Path) -> None:
    with Cluster(places_on_loopback(1), tmp_path, datapath="socket") as cluster:
        (node,) = cluster.nodes
        node.stop()
        noted = float((node.records.parent / "caught_up").read_text())
        assert abs(noted - time.time()) < 60


@pytest.mark.parametrize("text", ["", "soon\n", "nan"])
def test_a_damaged_note_makes_no_record_hearsay(tmp_path: Path, text: str) -> None:
    data = DataDir.open(tmp_path)
    LevelStore(data.records).close()
    (tmp_path / "caught_up").write_text(text)
    assert not AsideRecords.prepare(data, 60, time.time()).waits
    data.close()
