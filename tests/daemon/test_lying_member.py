"""A member's lies to real daemons: their writes go on, for their own clients and those of their neighbours."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import DevNode, free_port

from kdht import Client
from kdht.config import dev
from kdht.lab.wait import wait_until
from kdht.node.messages import CONTROL_HOPS
from kdht.wire import FIELD, RECORD, Address, hash_key, keys, pack_promise, pack_request, seal
from kdht.wire._shared import Op

KEY = keys.derive(0, dev.SECRET.encode())
HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
LIAR = "127.0.0.9"


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[DevNode]]:
    port = free_port(*HOSTS, LIAR)
    started: list[DevNode] = []
    try:
        for number, host in enumerate(HOSTS):
            bootstrap = ["--bootstrap", started[0].listen] if started else []
            started.append(DevNode(tmp_path / f"n{number}", f"{host}:{port}", *bootstrap))
            started[-1].wait_ready()
        yield [node.wait_ready(contacts=2) for node in started]
    finally:
        for node in started:
            node.close()


def say(sock: socket.socket, to: DevNode, op: Op, key: bytes, body: bytes) -> None:
    """A sealed message from this socket."""
    message = pack_request(op, key, time.monotonic_ns(), body, hops=CONTROL_HOPS)
    own = Address.of(*sock.getsockname())
    message[FIELD["client_port"]] = own.port.to_bytes(2, "big")
    message[FIELD["client_ip"]] = own.ip
    seal(message, KEY, int(time.time()))
    host, _, port = to.listen.rpartition(":")
    sock.sendto(message, (host, int(port)))


def counted(nodes: list[DevNode], name: str) -> int:
    return sum(node.call("stats")["replication"][name] for node in nodes)


def refused(nodes: list[DevNode]) -> int:
    """Versions with the top bit belong to self-certified records, and these have none."""
    return counted(nodes, "stores_ahead") + counted(nodes, "stores_uncertified")


@pytest.mark.parametrize("version", [2**64 - 1, 2**63 - 1])
def test_a_version_beyond_all_clocks_stops_no_write(nodes: list[DevNode], version: int) -> None:
    entries = [node.listen for node in nodes]
    with Client(entries) as client, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LIAR, 0))
        client.put("a", b"before")
        for node in nodes:
            say(sock, node, Op.STORE, hash_key("a"), RECORD.pack(version, 0, 0) + b"lie")
            say(sock, node, Op.PROMISE, hash_key("a"), pack_promise(version, 7))
        wait_until(lambda: refused(nodes) == 3, "the lies to be refused")
        assert client.get("a", quorum=True) == b"before"
        for name in ("a", "b", "c"):
            client.put(name, b"after")
            assert client.get(name, quorum=True) == b"after"
        stands = client.get_record("a").version
        client.put("a", b"swapped", if_version=stands)
        assert counted(nodes, "faults") == 0
    for node in nodes:
        code, said = node.end()
        assert (code, "Traceback" in said) == (0, False), said
