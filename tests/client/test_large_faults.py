"""Large values while nodes are killed, paused and restarted: real daemons on loopback, both clients.

client --> 127.0.0.1 .. 127.0.0.3, three kdhtd with the socket datapath, no root
"""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kdht import Client
from kdht.client._manifest import CHUNK_SIZE, journal_name, parse_journal
from kdht.errors import NotFound, RequestError
from kdht.lab.cluster import Cluster, LabNode, places_on_loopback
from kdht.lab.wait import wait_until
from kdht.wire import hash_key

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NODES = 3
SETTLED = 60.0
# A daemon that starts on a busy machine is away for many seconds.
PATIENT_S = 60.0
VALUE = random.Random(53).randbytes(6 << 20)
OTHER = random.Random(54).randbytes(2 << 20)
Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(places_on_loopback(NODES), tmp_path_factory.mktemp("large"), datapath="socket") as cluster:
        yield cluster


@pytest.fixture
def nodes(cluster: Cluster) -> list[LabNode]:
    """All of them live and are ready."""
    for node in cluster.nodes:
        if not node.alive():
            node.start()
        wait_until(lambda node=node: node.ready(NODES - 1), f"{node.name} to be ready", SETTLED)  # type: ignore[misc]
    return cluster.nodes


class Midway:
    """A `progress` that starts `work` in a thread of its own once a third is done; wait for it at the end of the block."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=work)
        self._begun = False

    def __call__(self, done: int, total: int) -> None:
        if done > total / 3 and not self._begun:
            self._begun = True
            self._thread.start()

    def __enter__(self) -> "Midway":
        return self

    def __exit__(self, *_: object) -> None:
        if self._begun:
            self._thread.join()


def restart(node: LabNode, away_s: float = 0.5) -> None:
    """Killed, and started again."""
    node.kill()
    time.sleep(away_s)
    node.start()


def pause(nodes: list[LabNode], seconds: float) -> None:
    for node in nodes:
        os.kill(node.pid, signal.SIGSTOP)
    time.sleep(seconds)
    for node in nodes:
        os.kill(node.pid, signal.SIGCONT)


def both_ways(ask: Ask, names: list[str], fault: Callable[[], None], timeout: float) -> None:
    """The fault strikes in the middle of an upload, and again in the middle of a read. Both go on."""
    options = {"timeout": timeout}
    with Midway(fault) as progress:
        ask(names, "put_large", "big", VALUE, progress=progress, client_options=options)
    with Midway(fault) as progress:
        assert ask(names, "get_large", "big", progress=progress, client_options=options) == VALUE


def named(nodes: list[LabNode], key: str) -> int:
    """Uploads in the key's journal."""
    with Client([str(node.address) for node in nodes]) as client:
        try:
            return len(parse_journal(client.get(journal_name(hash_key(key)), quorum=True)))
        except NotFound:
            return 0


def test_a_node_is_killed_and_restarted(ask: Ask, nodes: list[LabNode]) -> None:
    both_ways(ask, [str(node.address) for node in nodes], lambda: restart(nodes[1]), PATIENT_S)


def test_the_only_node_that_the_client_knows_is_killed_and_restarted(ask: Ask, nodes: list[LabNode]) -> None:
    both_ways(ask, [str(nodes[0].address)], lambda: restart(nodes[0]), PATIENT_S)


def test_two_nodes_of_three_are_killed_and_restarted(ask: Ask, nodes: list[LabNode]) -> None:
    def fault() -> None:
        for node in nodes[1:]:
            node.kill()
        time.sleep(1.0)
        for node in nodes[1:]:
            node.start()

    both_ways(ask, [str(node.address) for node in nodes], fault, PATIENT_S)


def test_all_nodes_are_paused(ask: Ask, nodes: list[LabNode]) -> None:
    both_ways(ask, [str(node.address) for node in nodes], lambda: pause(nodes, 2.0), PATIENT_S)


def test_an_upload_that_ends_leaves_the_old_value_and_no_garbage(ask: Ask, nodes: list[LabNode]) -> None:
    """Two of three nodes are away for longer than the time-out. A deletion finds every chunk that was written."""
    names = [str(node.address) for node in nodes]
    ask(names, "put_large", "old", OTHER)
    before = [node.status()["records"] for node in nodes]

    def fault() -> None:
        for node in nodes[1:]:
            node.kill()

    with Midway(fault) as progress, pytest.raises(RequestError):
        ask(names, "put_large", "old", VALUE, progress=progress, client_options={"timeout": 1.0})
    for node in nodes[1:]:
        node.start()
    for node in nodes:
        wait_until(lambda node=node: node.ready(NODES - 1), f"{node.name} to be ready", SETTLED)  # type: ignore[misc]
    options = {"timeout": PATIENT_S}
    assert ask(names, "get_large", "old", client_options=options) == OTHER
    assert named(nodes, "old") == 2
    assert ask(names, "delete_large", "old", client_options=options)
    assert named(nodes, "old") == 0
    # The value and its journal are gone, and so are all chunks.
    expected = [count - len(OTHER) // CHUNK_SIZE - 3 for count in before]
    wait_until(
        lambda: [node.status()["records"] for node in nodes] == expected, "all chunks to be gone", SETTLED
    )
