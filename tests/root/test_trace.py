"""What `trace` tells is the way that packets take: 16 nodes with small buckets, heard at the bridge between them.

client   n1   n2   ...   n16
  |      |    |           |
--+------+----+--- br0 ---+--    an ear at every port
"""

import json
import socket
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest
from chain import request

from kdht import Client
from kdht.errors import BadPacket
from kdht.lab.cluster import Cluster, LabNode, places_in
from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until
from kdht.wire import Address, Message, hash_key, parse
from kdht.wire._shared import Flag, Op, Status

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

NODES = 16
BUCKET = 2
KEYS = [f"key {number}" for number in range(32)]
SETTINGS = {
    # Without cookies a request is one datagram, whose way is the whole path.
    "node": {"bucket_size": BUCKET, "cookies": False},
    "replication": {"replicas": BUCKET, "write": "all"},
}
HEADERS = 20 + 8
ETH_P_ALL = 3
SO_RCVBUFFORCE = 33


class Stage(NamedTuple):
    cluster: Cluster
    client: Host
    ears: socket.socket
    """Gives every IP packet that came in at a port of the bridge, so what each host sent."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    home = tmp_path_factory.mktemp("trace")
    with Lab("t-trace") as lab:
        places, client = places_in(lab, NODES), lab.host("client", ipv4="10.53.48.250/24")
        lab.let_xdp_send()
        with Cluster(places, home, datapath="nfqueue", settings=SETTINGS) as cluster:
            with client.enter(), Client([str(node.address) for node in cluster.nodes]) as writer:
                writer.put_many(dict.fromkeys(KEYS, b"value"))
            with lab.bridge.enter():
                ears = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
            with ears:
                ears.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
                ears.setblocking(False)
                yield Stage(cluster, client, ears)


@pytest.fixture(params=["nfqueue", "ebpf", "socket"])
def switched(stage: Stage, request: pytest.FixtureRequest) -> Stage:
    """All nodes on this datapath."""
    for node in stage.cluster.nodes:
        node.call("switch", kind=request.param)
    return stage


def heard(ears: socket.socket) -> Iterator[tuple[Address, Message]]:
    """The messages sent since the last call, with where to."""
    while True:
        try:
            packet, origin = ears.recvfrom(4096)
        except BlockingIOError:
            return
        if origin[2] == socket.PACKET_OUTGOING or packet[0] != 0x45 or packet[9] != socket.IPPROTO_UDP:
            continue
        try:
            message = parse(packet[HEADERS:])
        except BadPacket:
            continue
        yield Address(bytes(10) + b"\xff\xff" + packet[16:20], int.from_bytes(packet[22:24], "big")), message


def way_of_a_get(stage: Stage, entry: Address, key: str) -> list[Address]:
    """One datagram of a client without any logic, and the nodes that it was sent to in turn."""
    asked = request(Op.GET, hash_key(key), max_reply=1000)
    for _ in heard(stage.ears):
        pass
    with stage.client.enter(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.sendto(asked, (entry.host, entry.port))
        assert parse(sock.recv(2048)).status is Status.OK
    number = parse(asked).request_id
    sent = [
        (-message.hops if Flag.FORWARDED in message.flags else -256, target)
        for target, message in heard(stage.ears)
        if message.request_id == number and Flag.REPLY not in message.flags
    ]
    return [target for _, target in sorted(sent, key=lambda each: each[0])]


def told(hops: list[Any]) -> list[Address]:
    """The way as `Client.trace` tells it; empty where a node did not answer."""
    return [hop.contact.address for hop in hops] if hops[-1].owner else []


def test_the_trace_matches_the_route(switched: Stage) -> None:
    """A contact that leaves a table meanwhile changes the way: what is compared are traces that stay."""
    same: list[list[Address]] = []
    for number, key in enumerate(KEYS):
        entry = switched.cluster.nodes[number % NODES].address
        with switched.client.enter(), Client(str(entry)) as client:
            before = told(client.trace(key))
            way = way_of_a_get(switched, entry, key)
            after = told(client.trace(key))
        if before == after:
            assert way == before, key
            same.append(way)
    assert len(same) > 0.8 * len(KEYS)
    lengths = [len(way) for way in same]
    print(f"nodes on the way: {lengths}")
    assert max(lengths) >= 3


def traced(stage: Stage, node: LabNode, key: str) -> dict[str, Any]:
    """`kdhtctl trace`, typed on the node's host."""
    command = [sys.executable, "-m", "kdht.cli.main", "trace", key, "--node", str(node.address)]
    done = node.host.run([*command, "--socket", str(node.control), "--json"])
    return dict(json.loads(done.stdout))


def test_trace_shows_the_route_and_the_replicas(stage: Stage) -> None:
    key = KEYS[0]
    for node in stage.cluster.nodes[:3]:
        found = traced(stage, node, key)
        way = way_of_a_get(stage, node.address, key)
        assert [hop["address"] for hop in found["hops"]] == [str(address) for address in way]
        assert found["hops"][-1]["owner"]
        shared = [hop["bits_shared"] for hop in found["hops"]]
        assert shared == sorted(shared)
        replicas = found["replicas"]["replicas"]
        assert len(replicas) == BUCKET
        assert replicas[0]["id"] == found["hops"][-1]["id"]
        # On a busy machine one of them may not answer in time, once.
        wait_until(partial(all_have_it, stage, node, key), "the value at all replicas")


def all_have_it(stage: Stage, node: LabNode, key: str) -> bool:
    replicas = traced(stage, node, key)["replicas"]["replicas"]
    return {replica["bytes"] for replica in replicas} == {len(b"value")}


def test_buckets_are_small(stage: Stage) -> None:
    for node in stage.cluster.nodes:
        buckets = node.call("table")["buckets"]
        assert max(len(bucket["contacts"]) for bucket in buckets) == BUCKET
        assert sum(len(bucket["contacts"]) for bucket in buckets) < NODES - 1
