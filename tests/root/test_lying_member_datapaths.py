"""A member's lies behind every datapath: versions and expiries beyond all clocks stop no write, and stay out of every store.

liar .250   n1 .1   n2 .2   n3 .3
   |          |       |       |
---+----------+-------+-------+--- br0

The liar has the cluster's secret. It is no member of the routing tables: it says what it likes.
"""

import os
import socket
import time
from pathlib import Path

import pytest

from kdht import Client
from kdht.lab.cluster import Cluster, LabNode, places_in
from kdht.lab.netns import Lab
from kdht.lab.wait import wait_until
from kdht.node.messages import CONTROL_HOPS
from kdht.wire import FIELD, RECORD, Address, hash_key, keys, pack_promise, pack_request, seal
from kdht.wire._shared import PORT, Op

pytestmark = pytest.mark.root

EPOCH = 1
LIAR = {4: "10.53.48.250", 6: "fd53:48::fa"}
WAYS = [(kind, version) for kind in ("socket", "nfqueue", "ebpf") for version in (4, 6)]
# Those with the top bit belong to self-certified records, and these have none.
VERSIONS = (2**64 - 1, 2**63, 2**63 - 1)


def say(sock: socket.socket, key: keys.ClusterSecret, to: str, op: Op, name: str, body: bytes) -> None:
    """A sealed message from this socket."""
    message = pack_request(op, hash_key(name), time.monotonic_ns(), body, hops=CONTROL_HOPS)
    own = Address.of(*sock.getsockname()[:2])
    message[FIELD["client_port"]] = own.port.to_bytes(2, "big")
    message[FIELD["client_ip"]] = own.ip
    seal(message, key, int(time.time()))
    sock.sendto(message, (to, PORT))


def counted(nodes: list[LabNode], *names: str) -> int:
    return sum(node.stats()["replication"][name] for node in nodes for name in names)


@pytest.mark.parametrize(("kind", "version"), WAYS)
def test_a_lie_about_a_version_stops_no_write(tmp_path: Path, kind: str, version: int) -> None:
    with Lab(f"t-lie-{os.getpid() % 1000}") as lab:
        host = lab.host("liar", **{f"ipv{version}": f"{LIAR[version]}/{24 if version == 4 else 64}"})
        places = places_in(lab, 3, ipv4=version == 4, ipv6=version == 6)
        if kind == "ebpf":
            lab.let_xdp_send()
        with Cluster(places, tmp_path, datapath=kind) as cluster:
            key, nodes = keys.derive(EPOCH, cluster.secret.encode()), cluster.nodes
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            with (
                host.enter(),
                Client([str(node.address) for node in nodes]) as client,
                socket.socket(family, socket.SOCK_DGRAM) as sock,
            ):
                sock.bind((LIAR[version], 0))
                client.put("a", b"before")
                for lie in VERSIONS:
                    for node in nodes:
                        to = node.address.host
                        say(sock, key, to, Op.STORE, "a", RECORD.pack(lie, 0, 0) + b"lie")
                        say(sock, key, to, Op.STORE, "b", RECORD.pack(lie, 2**32 - 1, 0) + b"lie")
                        say(sock, key, to, Op.PROMISE, "a", pack_promise(lie, 7))
                wait_until(
                    lambda: counted(nodes, "stores_ahead", "stores_uncertified") >= 6 * len(VERSIONS),
                    "the lies to be refused",
                )
                assert client.get("a", quorum=True) == b"before"
                for name in ("a", "b", "c"):
                    client.put(name, b"after")
                    assert client.get(name, quorum=True) == b"after"
                client.put("a", b"swapped", if_version=client.get_record("a").version)
                assert counted(nodes, "faults") == 0
            assert all("Traceback" not in node.log.read_text() for node in nodes)
