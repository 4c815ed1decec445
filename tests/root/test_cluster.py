"""Eight real daemons over nfqueue, under load and under attack.

client   n1   n2   ...   n8
  |      |    |          |
--+------+----+-- br0 ---+--
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cluster_load import Outcome, get_all, keys, kill, put_all, relayed

from kdht.lab.cluster import Cluster, LabNode, places_in
from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until

pytestmark = pytest.mark.root

NODES = 8
GETS = int(os.environ.get("KDHT_GETS", "100000"))
KEYS = 2000
READDRESSED = ("ENTERED", "NEXT_HOP", "RELAYED")

Built = tuple[Cluster, Host]


@contextmanager
def built(prefix: str, directory: Path, **datapath: object) -> Iterator[Built]:
    """A cluster with KEYS values in it, and the client's host."""
    with Lab(prefix) as lab:
        places = places_in(lab, NODES)
        client = lab.host("client", ipv4="10.53.48.250/24")
        with Cluster(places, directory, datapath="nfqueue", settings={"datapath": datapath}) as cluster:
            with client.enter():
                asyncio.run(put_all(cluster, keys(KEYS)))
            yield cluster, client


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    with built("t-cluster", tmp_path_factory.mktemp("cluster")) as both:
        yield both


def load(both: Built, gets: int, meanwhile: Callable[[], object] | None = None) -> Outcome:
    """Checked gets from the client's host; `meanwhile` runs in a thread beside them."""
    cluster, client = both

    async def work() -> Outcome:
        beside = asyncio.to_thread(meanwhile) if meanwhile else asyncio.sleep(0)
        outcome, _ = await asyncio.gather(get_all(cluster, keys(KEYS), gets), beside)
        return outcome

    with client.enter():
        return asyncio.run(work())


def readdressed(cluster: Cluster, lane: str) -> int:
    """Packets that were sent on by all nodes, as the lane counts them."""
    lanes = [node.stats()["packets"][lane] for node in cluster.nodes]
    return sum(counted[reason] for counted in lanes for reason in READDRESSED)


def nfqueue(node: LabNode) -> dict[str, Any]:
    found: dict[str, Any] = node.stats()["datapaths"]["nfqueue"]
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_none_of_many_gets_is_wrong(cluster: Built) -> None:
    before = readdressed(cluster[0], "nfqueue")
    outcome = load(cluster, GETS)
    assert outcome == Outcome(right=GETS, wrong=[], lost=[])
    # entry and relay count for each get whose entry node is not the owner: 7 of 8
    assert readdressed(cluster[0], "nfqueue") - before > GETS


def test_direct_answers_go_past_the_entry_node(cluster: Built) -> None:
    gets = max(GETS // 20, 1000)
    before = relayed(cluster[0])
    with cluster[1].enter():
        outcome = asyncio.run(get_all(cluster[0], keys(KEYS), gets, direct=True))
    assert outcome == Outcome(right=gets, wrong=[], lost=[])
    # Hedges, at most a tenth of the gets but for a burst of each client, do not ask for direct answers.
    assert relayed(cluster[0]) - before < gets / 5


@pytest.mark.timeout(600)
def test_retries_make_up_for_lost_packets(cluster: Built) -> None:
    gets = max(GETS // 10, 1000)
    hosts = [node.host for node in cluster[0].nodes] + [cluster[1]]
    for host in hosts:
        host.lose(permille=10)
    try:
        outcome = load(cluster, gets)
        dropped = sum(host.counters()["lost"] for host in hosts)
    finally:
        for host in hosts:
            host.lose(permille=0)
    assert outcome == Outcome(right=gets, wrong=[], lost=[])
    assert dropped > gets // 100


def next_worker(node: LabNode, old: int) -> int:
    """Wait until another worker than `old` gives verdicts; its process id."""

    def found() -> int | None:
        status = nfqueue(node)
        return status["worker"] if status["state"] == "up" and status["worker"] != old else None

    return wait_until(found, f"{node.name}'s next worker")


def test_traffic_goes_on_when_workers_are_killed(cluster: Built) -> None:
    gets = max(GETS // 5, 1000)
    victims = cluster[0].nodes[:4]
    before = readdressed(cluster[0], "socket")
    rounds = 2

    def killing() -> None:
        workers = {node.name: nfqueue(node)["worker"] for node in victims}
        for _ in range(rounds):
            for node in victims:
                kill(workers[node.name])
            workers = {node.name: next_worker(node, workers[node.name]) for node in victims}

    assert load(cluster, gets, killing) == Outcome(right=gets, wrong=[], lost=[])
    assert all(nfqueue(node)["workers_started"] == rounds + 1 for node in victims)
    assert readdressed(cluster[0], "socket") > before


def test_a_full_queue_passes_packets_to_the_socket(tmp_path: Path) -> None:
    gets = max(GETS // 20, 1000)
    with built("t-cluster-full", tmp_path, queue_length=1) as both:
        outcome = load(both, gets)
        assert outcome == Outcome(right=gets, wrong=[], lost=[])
        assert readdressed(both[0], "socket") > 0
        assert readdressed(both[0], "nfqueue") > 0


def test_a_dead_node_comes_back(cluster: Built) -> None:
    node = cluster[0].nodes[-1]
    records = node.status()["records"]
    node.kill()
    node.start()
    wait_until(lambda: node.ready(NODES - 1), f"{node.name} to be back", 60)
    assert node.status()["records"] == records
    assert nfqueue(node)["state"] == "up"
    assert load(cluster, 1000) == Outcome(right=1000, wrong=[], lost=[])
