"""Hot records of real daemons on ebpf: exact beside writes, counted, and not answered once the daemon hangs or is gone.

client   n1   n2   n3
  |      |    |    |
--+------+----+----+-- br0
"""

import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from pins import pins_removed

from histories.hot.run import KINDS, Plan, run
from kdht import Client
from kdht.lab.cluster import Cluster, LabNode, places_in
from kdht.lab.ids import spread
from kdht.lab.netns import Lab
from kdht.lab.wait import wait_until
from kdht.wire import Message, Record, hash_key, pack_request, parse
from kdht.wire._shared import Op, Reason, Status

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

NODES = 3
NAME = "a hot key"
KEY = hash_key(NAME)
LEASE = 0.5


@contextmanager
def cluster_of(tmp_path: Path) -> Iterator[tuple[Cluster, LabNode, LabNode]]:
    """Daemons, the owner of KEY and another one. The block runs in the client's namespace."""
    with Lab("t-hot") as lab:
        cluster = Cluster(places_in(lab, NODES), tmp_path, datapath="ebpf", ids=spread(NODES))
        client = lab.host("client", ipv4="10.53.48.250/24")
        lab.let_xdp_send()
        with pins_removed(cluster), cluster, client.enter():
            by_distance = sorted(
                zip(spread(NODES), cluster.nodes, strict=True),
                key=lambda pair: int.from_bytes(pair[0], "big") ^ int.from_bytes(KEY, "big"),
            )
            yield cluster, by_distance[0][1], by_distance[-1][1]


def answered(node: LabNode) -> int:
    """GETs that the XDP program has answered."""
    return node.stats()["packets"]["ebpf"][Reason.ANSWERED.name]


def plan(**fields: object) -> Plan:
    return msgspec.convert({"seed": 5, "reads": 20_000, **fields}, Plan)


class Asker:
    """Asks one node by itself, without retries: a retry may end at another replica, whose writes the owner hears of
    later."""

    def __init__(self, node: LabNode, seed: int = 0) -> None:
        self._to = (node.address.host, node.address.port)
        self._numbers = random.Random(seed)
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def ask(self, op: Op, body: bytes, timeout: float = 1.0) -> Message | None:
        number = self._numbers.getrandbits(56) << 7
        self._sock.settimeout(timeout)
        self._sock.sendto(pack_request(op, KEY, number, body), self._to)
        try:
            while (reply := parse(self._sock.recv(2048))).request_id != number:
                pass
        except TimeoutError:
            return None
        return reply

    def get(self, timeout: float = 1.0) -> Record | None:
        """None: no answer, or none with a record."""
        reply = self.ask(Op.GET, bytes(1120), timeout)
        return Record.parse(reply.body) if reply is not None and reply.status is Status.OK else None


def heat(owner: LabNode, writer: Client) -> None:
    """Until the program answers the key's GETs."""
    writer.put(NAME, b"first")
    reader, before = Asker(owner), answered(owner)

    def is_hot() -> bool:
        for _ in range(50):
            assert reader.get() is not None
        return answered(owner) > before

    wait_until(is_hot, "the key to be hot", 20)


def test_reads_at_the_owner_are_linearizable_under_faults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run(plan(kinds=KINDS, faults=3, minutes=2.0), tmp_path, print)
    with capsys.disabled():
        print(f"\n{report.reads:,} reads, {report.in_xdp:,} answered by the program, {report.acts}")
    assert [str(violation) for violation in report.violations] == []
    assert not report.undecided
    assert report.in_xdp > report.reads / 2
    assert report.at_owners > 1000
    assert report.outcomes["put if ok"] > 100


def test_the_check_finds_a_cache_that_does_not_hear_of_changes(tmp_path: Path) -> None:
    report = run(plan(kinds=("calm",), faults=1, minutes=0.3, deaf=True), tmp_path, print)
    assert {violation.promise for violation in report.violations} == {"order", "linearizable"}


def answers_after(owner: LabNode, wait: float, act: Callable[[], None]) -> tuple[int, int]:
    """GETs answered while `act` takes effect, and after `wait` seconds."""
    reader = Asker(owner)
    assert reader.get() is not None
    act()
    until = time.monotonic() + wait
    early = 0
    while time.monotonic() < until:
        early += reader.get(0.02) is not None
    late = sum(reader.get(0.02) is not None for _ in range(50))
    return early, late


def test_a_hung_daemon_answers_until_its_lease_ends(tmp_path: Path) -> None:
    with cluster_of(tmp_path) as (_cluster, owner, _), Client([str(owner.address)]) as writer:
        heat(owner, writer)
        try:
            early, late = answers_after(owner, LEASE + 0.1, lambda: os.kill(owner.pid, signal.SIGSTOP))
        finally:
            os.kill(owner.pid, signal.SIGCONT)
        assert early > 0
        assert late == 0
        # It was away: it knows nothing until it has caught up. Then the key gets hot again.
        heat(owner, writer)


def test_a_killed_daemon_answers_nothing(tmp_path: Path) -> None:
    """Its lease would go on for half a second, but the kernel ends the program's use of the table with the process."""
    with cluster_of(tmp_path) as (cluster, owner, _):
        with Client([str(node.address) for node in cluster.nodes]) as writer:
            heat(owner, writer)
        _, late = answers_after(owner, 0.05, owner.kill)
        assert late == 0


def test_a_drain_ends_the_answers(tmp_path: Path) -> None:
    with cluster_of(tmp_path) as (cluster, owner, _):
        with Client([str(node.address) for node in cluster.nodes]) as writer:
            heat(owner, writer)
        owner.call("drain")
        before = answered(owner)
        reader = Asker(owner)
        for _ in range(100):
            reader.get(0.02)
        assert answered(owner) == before


def test_short_requests_are_answered_where_the_frame_can_grow(tmp_path: Path) -> None:
    """With max_reply of a proven client a GET has no padding: the answer is longer than the request."""
    with cluster_of(tmp_path) as (_cluster, owner, _), Client([str(owner.address)]) as writer:
        heat(owner, writer)
        for size in (0, 10, 100, 1000):
            writer.put(NAME, bytes(size))
            before = owner.stats()["packets"]["ebpf"]
            for _ in range(200):
                assert writer.get(NAME) == bytes(size)
            after = owner.stats()["packets"]["ebpf"]
            grown = {name: after[name] - before[name] for name in ("ANSWERED", "NO_ROOM", "OWNER")}
            assert grown["ANSWERED"] + grown["NO_ROOM"] > 50, grown
            if size <= 100:
                assert grown["ANSWERED"] > grown["NO_ROOM"], grown
