"""Hot records of real daemons on ebpf: exact beside writes, counted, and not answered once the daemon hangs or is gone.

client   n1   n2   n3
  |      |    |    |
--+------+----+----+-- br0
"""

import multiprocessing
import os
import random
import signal
import socket
import stat
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import pytest
from pins import pins_removed

from histories.linear import Step, search
from kdht import Client
from kdht.lab.cluster import Cluster, LabNode, places_in
from kdht.lab.ids import spread
from kdht.lab.netns import Lab
from kdht.lab.wait import wait_until
from kdht.wire import Message, Record, hash_key, pack_request, parse
from kdht.wire._shared import Op, Reason, Status
from kdht.wire.bodies import pack_write

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

NODES = 3
NAME = "a hot key"
KEY = hash_key(NAME)
SECONDS = 4.0
LEASE = 0.5

STALE = '''
"""The daemon with a cache that does not hear of changes: for a test that has to fail then."""
import runpy, sys, time
from kdht.daemon import wiring
from kdht.storage._cache import RecordCache

class Deaf(RecordCache):
    def invalidate(self, key):
        pass

    def fill(self, key, *record):
        """A confirmed write would bring the new record by this way."""
        return self.get(key, time.time()) is None and super().fill(key, *record)

wiring.RecordCache = Deaf
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
'''


class Read(NamedTuple):
    """One GET: its times, and the version that it found."""

    start: float
    end: float
    version: int


class Write(NamedTuple):
    start: float
    end: float
    before: int
    """The version that had to be stored."""
    version: int
    """0: it was refused, or its outcome is not known."""


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

    def get(self, timeout: float = 1.0) -> Read | None:
        """None: no answer, or none with a record."""
        start = time.monotonic()
        reply = self.ask(Op.GET, bytes(1120), timeout)
        end = time.monotonic()
        if reply is None or reply.status is not Status.OK:
            return None
        return Read(start, end, Record.parse(reply.body).version)

    def put(self, value: bytes, condition: int) -> Write:
        """On the condition that this version is stored."""
        start = time.monotonic()
        reply = self.ask(Op.PUT, pack_write(Record(value=value), condition))
        done = reply is not None and reply.status is Status.OK
        return Write(start, time.monotonic(), condition, Record.parse(reply.body).version if done else 0)


def heat(owner: LabNode, writer: Client) -> None:
    """Until the program answers the key's GETs."""
    writer.put(NAME, b"first")
    reader, before = Asker(owner), answered(owner)

    def is_hot() -> bool:
        for _ in range(50):
            assert reader.get() is not None
        return answered(owner) > before

    wait_until(is_hot, "the key to be hot", 20)


def read_on(node: LabNode, seed: int, until: float, found: "multiprocessing.Queue[list[Read]]") -> None:
    reader = Asker(node, seed)
    reads = []
    while time.monotonic() < until:
        if (read := reader.get()) is not None:
            reads.append(read)
    found.put(reads)


def write_on(node: LabNode, seed: int, until: float, found: "multiprocessing.Queue[list[Write]]") -> None:
    """Conditional writes: each on the version that its writer read last."""
    rng, writes = random.Random(seed), []
    asker = Asker(node, seed + 1000)
    while time.monotonic() < until:
        known = asker.get()
        if known is not None:
            time.sleep(rng.random() * 0.004)
            writes.append(asker.put(rng.randbytes(rng.randrange(1000)), known.version))
    found.put(writes)


def history(owner: LabNode, entry: LabNode) -> tuple[list[Read], list[Write]]:
    """What readers and writers saw, side by side."""
    spawn = multiprocessing.get_context("fork")
    reads, writes = spawn.Queue(), spawn.Queue()
    until = time.monotonic() + SECONDS
    readers = [spawn.Process(target=read_on, args=(node, seed, until, reads)) for seed, node in
               enumerate([owner, owner, owner, entry])]  # fmt: skip
    writers = [spawn.Process(target=write_on, args=(owner, seed, until, writes)) for seed in range(3)]
    for process in readers + writers:
        process.start()
    found = (
        [read for _ in readers for read in reads.get(timeout=60)],
        [write for _ in writers for write in writes.get(timeout=60)],
    )
    for process in readers + writers:
        process.join()
    return found


def stale(reads: list[Read], writes: list[Write]) -> list[Read]:
    """Reads that found a version older than one that was acknowledged before they began."""
    done = sorted((write.end, write.version) for write in writes if write.version)
    ends, newest = [end for end, _ in done], list(accumulate((version for _, version in done), max))
    return [read for read in reads
            if (count := bisect_right(ends, read.start)) and read.version < newest[count - 1]]  # fmt: skip


def is_linearizable(reads: list[Read], writes: list[Write]) -> bool | None:
    """Whether there is an order of all of them, by the checker of the histories."""
    first = min(read.version for read in reads)
    begin = min(each.start for each in [*reads, *writes]) - 1
    steps = [Step(begin, begin + 0.5, None, first)]
    steps += [Step(read.start, read.end, read.version, None) for read in reads]
    steps += [
        Step(write.start, write.end, write.before or None, write.version) for write in writes if write.version
    ]
    # A write without an answer may have been done; its version shows in the reads alone.
    known = {step.sets for step in steps}
    lost = {read.version for read in reads} - known
    steps += [Step(begin, float("inf"), None, version, optional=True) for version in lost]
    return search(steps, budget=20_000_000).linearizable


def test_reads_beside_writes_are_linearizable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with cluster_of(tmp_path) as (cluster, owner, entry):
        with Client([str(node.address) for node in cluster.nodes]) as writer:
            heat(owner, writer)
        before = answered(owner)
        reads, writes = history(owner, entry)
        hot = answered(owner) - before
    done = [write for write in writes if write.version]
    with capsys.disabled():
        print(
            f"\n{len(reads):,} reads, {hot:,} answered by the program, {len(done):,} of {len(writes):,} writes done"
        )
    assert len(done) > 100
    assert hot > len(reads) / 10
    assert stale(reads, writes) == []
    assert is_linearizable(reads, writes)


def test_the_check_finds_a_cache_that_does_not_hear_of_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same, with the invalidation switched off."""
    script, python = tmp_path / "deaf.py", tmp_path / "python"
    script.write_text(STALE)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr("kdht.lab.cluster.sys.executable", str(python))
    with cluster_of(tmp_path) as (cluster, owner, entry):
        monkeypatch.undo()
        with Client([str(node.address) for node in cluster.nodes]) as writer:
            heat(owner, writer)
        reads, writes = history(owner, entry)
    assert stale(reads, writes)
    assert not is_linearizable(reads, writes)


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
