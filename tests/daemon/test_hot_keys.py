"""Any replica of a key answers a GET that is sent to it by its place, from its own store: so a hot key has as many nodes.

Attempt n of a request ends at the node with n nodes closer to the key (docs/protocol.md, Retries).
"""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdht import Client
from kdht.lab.census import closest
from kdht.lab.cluster import Cluster, LabNode, places_on_loopback
from kdht.lab.ids import spread
from kdht.lab.wait import wait_until
from kdht.wire import OFFSET, Message, hash_key, pack_request, parse
from kdht.wire._shared import HEADER_LEN, RECORD_LEN, Op, Status

KEY = "a hot key"
VALUE = b"read by all"
READS = 20


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    path: Path = tmp_path_factory.mktemp("hot")
    with Cluster(places_on_loopback(5), path, datapath="socket", ids=spread(5)) as cluster:
        with Client([str(node.address) for node in cluster.nodes]) as client:
            client.put(KEY, VALUE)
        replicas = ranked(cluster)[:3]
        wait_until(lambda: all(node.status()["records"] for node in replicas), "all three to have it")
        yield cluster


def ranked(cluster: Cluster) -> list[LabNode]:
    """Nearest to the key first."""
    named = {node.name: node for node in cluster.nodes}
    ids = [(bytes.fromhex(node.status()["node_id"]), name) for name, node in named.items()]
    return [named[name] for name in closest(ids, hash_key(KEY), len(ids))]


def ask(node: LabNode, attempt: int, request_id: int) -> Message:
    """The answer to a GET by way of this node."""
    request = pack_request(Op.GET, hash_key(KEY), request_id)
    # Room for the answer: the body of a GET is padding, so that it needs no cookie.
    request += bytes(RECORD_LEN + len(VALUE))
    request[OFFSET["attempt"]] = attempt
    request[OFFSET["body_len"] : OFFSET["body_len"] + 2] = (len(request) - HEADER_LEN).to_bytes(2, "big")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.sendto(request, (node.address.host, node.address.port))
        return parse(sock.recv(4096))


def answered(node: LabNode) -> int:
    """GETs that it answered with the record, from its store or from the cache."""
    stats = node.stats()
    socket_path = stats["datapaths"]["socket"]
    return int(stats["requests"].get("GET OK", 0)) + int(socket_path["cache_answers"])


@pytest.mark.parametrize("attempt", [0, 1, 2])
def test_the_replica_at_that_place_answers_alone(cluster: Cluster, attempt: int) -> None:
    nodes = ranked(cluster)
    before = [answered(node) for node in nodes]
    gathered = [node.stats()["replication"]["gathered_miss"] for node in nodes]
    for number in range(READS):
        answer = ask(nodes[4], attempt, 1000 * attempt + number)
        assert (answer.status, answer.body[RECORD_LEN:]) == (Status.OK, VALUE)
    after = [answered(node) for node in nodes]
    wanted = [READS if place == attempt else 0 for place in range(5)]
    assert [late - early for early, late in zip(before, after, strict=True)] == wanted
    assert [node.stats()["replication"]["gathered_miss"] for node in nodes] == gathered, (
        "no replica asked another"
    )


def test_a_node_that_is_no_replica_refuses(cluster: Cluster) -> None:
    assert ask(ranked(cluster)[4], 3, 9000).status is Status.NOT_RESPONSIBLE


@pytest.mark.parametrize("attempt", [0, 1, 2])
def test_a_replica_answers_for_its_own_and_later_attempts(cluster: Cluster, attempt: int) -> None:
    nodes = ranked(cluster)
    before = [answered(node) for node in nodes]
    assert ask(nodes[1], attempt, 7000 + attempt).body[RECORD_LEN:] == VALUE
    grown = [late > early for early, late in zip(before, map(answered, nodes), strict=True)]
    assert grown.index(True) == (0 if attempt == 0 else 1)
