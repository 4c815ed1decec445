"""Outsiders fill the disks of a cluster behind every datapath, over IPv4 and IPv6: reads and deletions go on.

client   n1   n2   n3
  |      |    |    |
--+------+----+----+-- br0
"""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from kdht.client import Client
from kdht.errors import RequestError
from kdht.lab.cluster import Cluster, places_in
from kdht.lab.netns import Lab
from kdht.lab.wait import wait_until
from kdht.wire import Record, hash_key, pack_request
from kdht.wire._shared import PORT, TRY_BITS, Op

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

NODE = {4: "10.53.48.{}", 6: "fd53:48::{}"}
CLIENT = {4: "10.53.48.250/24", 6: "fd53:48::fa/64"}
SIZE, MORE_SIZE = 40, 140
"""MiB."""
AT_ONCE = 100
"""Requests between two looks, so that no queue overflows."""


@contextmanager
def small_disks(cluster: Cluster) -> Iterator[list[Path]]:
    """One for each node's records."""
    with ExitStack() as stack:
        disks = [node.config.parent / "data" for node in cluster.nodes]
        for disk in disks:
            disk.mkdir()
            options = f"size={SIZE}m,mode=700"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "kdht-test", disk], check=True)
            stack.callback(subprocess.run, ["umount", disk], check=True)
        yield disks


def flood(sock: socket.socket, nodes: list[str], first: int) -> None:
    """PUTs of other keys each time. Nobody waits for the answers."""
    for number in range(first, first + AT_ONCE):
        record = Record(value=os.urandom(1100)).pack()
        request = pack_request(Op.PUT, hash_key(f"forged {number}"), number << TRY_BITS | 1, record)
        sock.sendto(request, (nodes[number % len(nodes)], PORT))


def is_refused(client: Client) -> bool:
    try:
        client.put("refused", b"2")
    except RequestError as error:
        return error.status == "FULL"
    return False


def fill(cluster: Cluster, client: Client, nodes: list[str], version: int) -> None:
    """Until no node takes writes. LevelDB's compaction may make a little room again, so this takes some turns."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        for first in range(1, 100_000, AT_ONCE):
            flood(sock, nodes, first)
            if not any(node.status()["writable"] for node in cluster.nodes) and is_refused(client):
                return
    pytest.fail("the disk never filled")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", ["socket", "nfqueue", "ebpf"])
def test_a_flood_of_writes_stops_neither_reads_nor_deletions(tmp_path: Path, kind: str, version: int) -> None:
    nodes = [NODE[version].format(number) for number in (1, 2, 3)]
    with Lab(f"t-dsk-{os.getpid() % 1000}") as lab:
        host = lab.host("client", **{f"ipv{version}": CLIENT[version]})
        places = places_in(lab, 3, ipv4=version == 4, ipv6=version == 6)
        if kind == "ebpf":
            lab.let_xdp_send()
        cluster = Cluster(places, tmp_path, datapath=kind)
        with (
            small_disks(cluster) as disks,
            cluster,
            host.enter(),
            Client(nodes) as client,
        ):
            for name in ("kept", "deleted"):
                client.put(name, b"1")
            fill(cluster, client, nodes, version)
            assert client.get("kept", quorum=True) == b"1"
            client.delete("deleted")
            for node in cluster.nodes:
                storage = node.stats()["storage"]
                assert node.status()["ready"]
                assert storage["full"] > 0
                assert (storage["failed"], storage["disk_failed"]) == (0, False)
            for disk in disks:
                subprocess.run(["mount", "-o", f"remount,size={MORE_SIZE}m", disk], check=True)
            wait_until(lambda: all(node.status()["writable"] for node in cluster.nodes), "room", 30)
            client.put("written", b"3")
            assert client.get("written", quorum=True) == b"3"
