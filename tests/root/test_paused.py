"""A daemon that was stopped for two seconds: what waited in its socket undoes nothing, and it answers nothing that is old.

client   n1   n2   ...   n5
  |      |    |          |
--+------+----+-- br0 ---+--
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from pins import pins_removed

from kdht import Client
from kdht.errors import RequestError
from kdht.lab.cluster import Cluster, LabNode, places_in
from kdht.lab.ids import spread
from kdht.lab.netns import Lab
from kdht.lab.wait import wait_until
from kdht.wire import OFFSET, Message, Record, hash_key, pack_request, parse
from kdht.wire._shared import Op, Status

pytestmark = pytest.mark.root

NODES = 5
KEY = hash_key("a key")
AWAY = 2.0


class Asker:
    """A client without retries."""

    def __init__(self, node: LabNode) -> None:
        address = node.address
        family = socket.AF_INET if address.is_ipv4 else socket.AF_INET6
        self.sock = socket.socket(family, socket.SOCK_DGRAM)
        self.sock.settimeout(3)
        self._number = 1000

    def send(self, node: LabNode, op: Op, body: bytes, attempt: int = 0) -> int:
        self._number += 1
        request = pack_request(op, KEY, self._number, body)
        request[OFFSET["attempt"]] = attempt
        self.sock.sendto(request, (node.address.host, node.address.port))
        return self._number

    def answer(self, number: int) -> Message | None:
        try:
            while True:
                reply = parse(self.sock.recv(2048))
                if reply.request_id == number:
                    return reply
        except TimeoutError:
            return None

    def ask(self, node: LabNode, op: Op, body: bytes = bytes(1120), attempt: int = 0) -> Message:
        reply = self.answer(self.send(node, op, body, attempt))
        assert reply is not None
        return reply

    def put(self, node: LabNode, value: bytes, attempt: int = 0) -> None:
        assert self.ask(node, Op.PUT, Record(value=value).pack(), attempt).status is Status.OK


def processes(node: LabNode) -> list[int]:
    """The daemon's and its workers'."""
    children = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text()
    return [node.pid, *map(int, children.split())]


def is_stopped(pid: int) -> bool:
    """Every thread of it."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)


@contextmanager
def stopped(node: LabNode) -> Iterator[None]:
    pids = processes(node)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: all(is_stopped(pid) for pid in pids), "all to be stopped")
    begun = time.monotonic()
    try:
        yield
        time.sleep(max(begun + AWAY - time.monotonic(), 0))  # the pause itself
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize(
    ("datapath", "ipv6"),
    [("socket", False), ("socket", True), ("nfqueue", False), ("ebpf", False), ("ebpf", True)],
)
def test_a_resumed_owner_serves_no_stale_record(tmp_path: Path, datapath: str, ipv6: bool) -> None:
    with Lab("t-paused") as lab:
        places = places_in(lab, NODES, ipv4=not ipv6, ipv6=ipv6)
        client = lab.host("client", ipv4="10.53.48.250/24", ipv6="fd53:48::fa/64")
        lab.let_xdp_send()
        cluster = Cluster(places, tmp_path, datapath=datapath, ids=spread(NODES))
        with pins_removed(cluster), cluster:
            by_distance = sorted(
                zip(spread(NODES), cluster.nodes, strict=False),
                key=lambda pair: int.from_bytes(pair[0], "big") ^ int.from_bytes(KEY, "big"),
            )
            owner, entry = by_distance[0][1], by_distance[-1][1]
            with client.enter():
                asker = Asker(owner)
            asker.put(entry, b"first")
            with stopped(owner):
                late = asker.send(owner, Op.PUT, Record(value=b"waited in its socket").pack())
                for number in range(3):
                    asker.put(entry, b"%d" % number, attempt=1)
            read = asker.ask(owner, Op.GET)
            while read.status is Status.UNCONFIRMED:
                read = asker.ask(owner, Op.GET)
            assert Record.parse(read.body).value == b"2"
            assert asker.answer(late) is None
            assert Record.parse(asker.ask(entry, Op.QUORUM_GET).body).value == b"2"
            counted = owner.stats()["datapaths"]["socket"]
            assert counted["late_writes"] == 1
            assert counted["away"] == 1
            wait_until(lambda: not owner.status()["repair"]["behind"], "the owner to catch up")
            assert Record.parse(asker.ask(entry, Op.GET).body).value == b"2"


KEYS = 60
LONG = 8.0
"""Seconds: longer than the others need to take a node for dead and to leave it out."""


def read_all(node: LabNode, sock: socket.socket, rounds: int) -> list[bytes]:
    """GETs of all keys, many at once, from the moment when the node runs again."""
    found = []
    for number in range(rounds):
        for each in range(KEYS):
            request = pack_request(Op.GET, hash_key(f"key {each}"), number * KEYS + each + 1, bytes(1120))
            sock.sendto(request, (node.address.host, node.address.port))
        deadline = time.monotonic() + 0.05
        while (left := deadline - time.monotonic()) > 0:
            sock.settimeout(left)
            with suppress(TimeoutError, BlockingIOError):
                reply = parse(sock.recv(2048))
                if reply.status is Status.OK:
                    found.append(Record.parse(reply.body).value)
    return found


@pytest.mark.parametrize(
    ("datapath", "ipv6", "seconds"),
    [
        ("socket", False, LONG),
        ("nfqueue", False, LONG),
        ("ebpf", True, LONG),
        pytest.param("socket", True, 65.0, marks=[pytest.mark.slow, pytest.mark.timeout(300)]),
    ],
)
def test_a_node_believed_dead_returns_without_stale_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, datapath: str, ipv6: bool, seconds: float
) -> None:
    """All values were replaced while it was away. It may say that it does not know, and nothing older."""
    monkeypatch.setattr(sys.modules[__name__], "AWAY", seconds)
    with Lab("t-paused") as lab:
        places = places_in(lab, NODES, ipv4=not ipv6, ipv6=ipv6)
        client = lab.host("client", ipv4="10.53.48.250/24", ipv6="fd53:48::fa/64")
        lab.let_xdp_send()
        cluster = Cluster(places, tmp_path, datapath=datapath, ids=spread(NODES))
        with pins_removed(cluster), cluster, client.enter():
            paused, *others = cluster.nodes
            sock = Asker(paused).sock
            with Client([str(each.address) for each in others], timeout=10) as writer:
                writer.put_many({f"key {each}": b"old" for each in range(KEYS)})
                with stopped(paused):
                    for each in range(KEYS):
                        put_anyway(writer, f"key {each}")
            found = read_all(paused, sock, rounds=30)
    assert found.count(b"old") == 0
    assert found.count(b"new") > KEYS


def put_anyway(writer: Client, key: str) -> None:
    """Until it is confirmed: at first a write may wait for the node that is away."""

    def put() -> bool:
        try:
            writer.put(key, b"new")
        except RequestError:
            return False
        return True

    wait_until(put, f"{key} to be written")
