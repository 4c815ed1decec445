"""Work on a cluster that serves: all nodes restarted one by one, and its secret changed, with no request failed.

client   n1   n2   ...   n5
  |      |    |           |
--+------+----+--- br0 ---+--
"""

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from ctl import Ctl

from kdht import Client
from kdht.lab.cluster import Cluster, LabNode, places_in
from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

NODES = 5
WRITERS = 4
KEYS = 100
"""Of each writer."""
LEAST = 50
"""Rounds that every writer makes before the work on the nodes begins, and after its end."""


class Stage(NamedTuple):
    cluster: Cluster
    client: Host


@pytest.fixture(scope="module", params=["nfqueue", "ebpf"])
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    home = tmp_path_factory.mktemp("rolling")
    with Lab("t-rolling") as lab:
        places, client = places_in(lab, NODES), lab.host("client", ipv4="10.53.48.250/24")
        lab.let_xdp_send()
        with Cluster(places, home, datapath=request.param) as cluster:
            yield Stage(cluster, client)


def wait_serving(node: LabNode) -> None:
    wait_until(lambda: node.ready(1), f"{node.name} to be ready", 60)


class Writer:
    """Writes its keys in turn, and reads each back at once, by quorum: what it wrote last must be there."""

    def __init__(self, stage: Stage, number: int, ended: threading.Event) -> None:
        self.rounds = 0
        self.failures: list[str] = []
        self._stage = stage
        self._number = number
        self._ended = ended
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        nodes = [str(node.address) for node in self._stage.cluster.nodes]
        first = self._number % NODES
        with self._stage.client.enter(), Client([*nodes[first:], *nodes[:first]], timeout=20) as client:
            for turn in itertools.count():
                if self._ended.is_set():
                    break
                self._round(client, f"{self._number} {turn % KEYS}", b"%d" % turn)

    def _round(self, client: Client, key: str, value: bytes) -> None:
        try:
            client.put(key, value)
            found = client.get(key, quorum=True)
            client.get(key)
        except Exception as error:
            self.failures.append(f"{time.strftime('%H:%M:%S')} {key}: {error!r}")
        else:
            if found != value:
                self.failures.append(f"{key}: {found!r} in place of {value!r}")
        self.rounds += 1


@contextmanager
def load(stage: Stage) -> Iterator[None]:
    """Writers that never rest while the block runs; fails if a request did, or if none were made."""
    ended = threading.Event()
    writers = [Writer(stage, number, ended) for number in range(WRITERS)]

    def go_on(what: str) -> None:
        aims = [writer.rounds + LEAST for writer in writers]
        wait_until(
            lambda: all(writer.rounds >= aim for writer, aim in zip(writers, aims, strict=True)), what, 60
        )

    for writer in writers:
        writer.thread.start()
    try:
        go_on("load to begin")
        yield
        go_on("load to go on")
    finally:
        ended.set()
        for writer in writers:
            writer.thread.join()
    assert [failure for writer in writers for failure in writer.failures] == []
    print(f"{sum(writer.rounds for writer in writers)} values written and read, none lost")


def test_all_nodes_are_restarted_one_by_one(stage: Stage) -> None:
    before = [node.pid for node in stage.cluster.nodes]
    with load(stage):
        for node in stage.cluster.nodes:
            assert node.stop() == 0
            node.start()
            wait_serving(node)
    assert all(node.pid != pid for node, pid in zip(stage.cluster.nodes, before, strict=True))


def test_the_secret_is_changed(stage: Stage, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    ctls = [Ctl(node.control, KDHT_CONFIG=str(node.config)) for node in stage.cluster.nodes]
    epochs = [1]
    ctls[0].json("key", "new", secret)
    with load(stage):
        for arguments, epochs in (
            (["accept", "--file", str(secret)], [1, 2]),
            (["sign"], [2, 1]),
            (["retire"], [2]),
        ):
            for ctl in ctls:
                done = ctl.json("key", "rotate", "--stage", *arguments)
                assert (done["reloaded"], done["waiting"], done["epochs"]) == (True, [], epochs)
    for node in stage.cluster.nodes:
        assert node.status()["key_epochs"] == epochs
        assert node.stats()["packets"]["socket"]["BAD_EPOCH"] == 0
