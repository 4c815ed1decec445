"""The parts of repair on their own: digests, slices, bodies."""

from collections import Counter
from contextlib import suppress
from functools import reduce
from operator import xor
from random import Random
from threading import Thread
from types import SimpleNamespace

import pytest

from kdht.errors import BadPacket, StorageError
from kdht.faults import Faults
from kdht.node._timers import Timers
from kdht.node.repair import bodies
from kdht.node.repair.bodies import Digest, Lack, Offer, Offered, Report, Says, Want
from kdht.node.repair.digests import LEAF, Digests, mark
from kdht.node.repair.missed import Missed
from kdht.node.repair.ranges import Range, View
from kdht.node.repair.work import SLICE, Steps, Work
from kdht.storage import MemoryStore, StoredRecord, Write, neighbourhood


class CountingStore(MemoryStore):
    """Counts the records that are read."""

    read = 0

    def scan(self, now, start=b"", stop=None):  # type: ignore[no-untyped-def]
        for each in super().scan(now, start, stop):
            self.read += 1
            yield each


class Scene:
    def __init__(self) -> None:
        self.now = 1000.0
        self.store = CountingStore()
        self.digests = Digests(self.store, lambda: self.now)

    def put(self, key: bytes, version: int = 1, expiry: int = 0) -> None:
        write = Write(key, StoredRecord(version, expiry, 0, b"x"))
        self.store.apply([write], self.now, lambda key, record: self.digests.kept.changed(key))

    def of(self, part: Range) -> Digest:
        steps = self.digests.of(part)
        try:
            while True:
                next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    def plain(self, part: Range) -> Digest:
        start, stop = neighbourhood(part.start.to_bytes(20, "big"), part.bits)
        marks = [mark(key, record) for key, record in self.store.scan(self.now, start, stop)]
        return Digest(len(marks), reduce(xor, marks, 0))


def test_digests_equal_those_of_a_full_scan() -> None:
    rng = Random(7)
    scene = Scene()
    keys = [bytes([rng.choice((0x10, 0x11, 0xA0))]) + rng.randbytes(19) for _ in range(1500)]
    parts = [
        Range(0, 0),
        Range(1 << 156, 4),
        Range(0x10 << 152, 7),
        Range(0x11 << 152, 9),
        Range(0xA << 156, 5),
    ]
    for n, key in enumerate(keys):
        scene.put(key, expiry=rng.choice((0, 0, 1500, 2000)))
        if n % 100 == 99:
            for part in parts:
                assert scene.of(part) == scene.plain(part)
    for scene.now in (1499.0, 1500.0, 2001.0):
        for part in parts:
            assert scene.of(part) == scene.plain(part)


def test_digests_are_cached_and_updated_in_part() -> None:
    scene = Scene()
    rng = Random(8)
    keys = [rng.randbytes(20) for _ in range(4000)]
    for key in keys:
        scene.put(key)
    scene.of(Range(0, 0))
    scene.store.read = 0
    scene.of(Range(0, 0))
    assert scene.store.read == 0
    scene.put(keys[0], 2)
    assert scene.of(Range(0, 0)) == scene.plain(Range(0, 0))
    assert scene.store.read - 4000 <= LEAF


def test_a_change_during_a_digest_is_counted() -> None:
    scene = Scene()
    keys = [bytes([n]) + bytes(19) for n in range(200)]
    for key in keys:
        scene.put(key)
    steps = scene.digests.of(Range(0, 0))
    next(steps)  # has read
    scene.put(keys[7], 2)
    with pytest.raises(StopIteration):
        next(steps)
    assert scene.of(Range(0, 0)) == scene.plain(Range(0, 0))


def test_long_work_yields_to_others() -> None:
    timers, ends = Timers(Faults(Counter())), []

    def steps(count: int) -> Steps[int]:
        for _ in range(count):
            yield SLICE // 2
        return count

    work = Work(timers, pytest.fail, Faults(Counter()), lambda: False)
    work.start(steps(20), lambda result, now: ends.append((result, now)), 0.0)
    work.start(steps(1), lambda result, now: ends.append((result, now)), 0.0)
    slices = 0
    while (due := timers.next()) is not None:
        timers.run(due)
        slices += 1
    assert [result for result, _ in ends] == [1, 20]
    assert slices >= 9


@pytest.mark.parametrize(("behind", "most"), [(False, 0.3), (True, 0.15)])
def test_a_node_that_is_behind_reads_with_short_pauses(behind: bool, most: float) -> None:
    """600,000 records are 2,344 slices. Until they are read, two nodes of three confirm no write."""
    timers, ends = Timers(Faults(Counter())), []

    def steps() -> Steps[None]:
        for _ in range(250):
            yield SLICE

    work = Work(timers, pytest.fail, Faults(Counter()), lambda: behind)
    work.start(steps(), lambda result, now: ends.append(now), 0.0)
    while (due := timers.next()) is not None:
        timers.run(due)
    assert most / 2 < ends[0] < most


def test_a_disk_failure_ends_only_its_job() -> None:
    failures: list[StorageError] = []
    ends: list[object] = []

    def bad() -> Steps[int]:
        yield SLICE
        raise StorageError("no")

    def good() -> Steps[int]:
        yield 1
        return 5

    timers = Timers(Faults(Counter()))
    work = Work(timers, failures.append, Faults(Counter()), lambda: False)
    work.start(bad(), lambda result, now: ends.append(result), 0.0)
    work.start(good(), lambda result, now: ends.append(result), 0.0)
    for now in range(10):
        timers.run(float(now))
    assert sorted(ends, key=str) == [5, None]
    assert len(failures) == 1


KEY = bytes(range(20))


def test_bodies_survive_a_round_trip() -> None:
    reports = [Report(Digest(n, n * 7), Says(n % 8), tuple(range(n % 5))) for n in range(bodies.MAX_RANGES)]
    ranges = [(Range(n << 152, 8), report) for n, report in enumerate(reports)][: bodies.fitting(reports)]
    assert len(ranges) > 20
    assert bodies.untrusted_ranges(bodies.pack_ranges(3, ranges)) == (3, ranges)
    sent = [report for _, report in ranges]
    assert bodies.untrusted_reports(bodies.pack_reports(3, sent), len(sent)) == (3, sent)
    offer = Offer(1, 2**160 - 1, [Offered(KEY, 9, 8)] * bodies.MAX_OFFERS)
    assert bodies.untrusted_offer(bodies.pack_offer(offer)) == offer
    wants, lacks = [Want.WANTED, Want.HAS, Want.FOREIGN], [Lack(KEY, 5)] * bodies.MAX_LACKS
    assert bodies.untrusted_wants(bodies.pack_wants(wants, lacks), 3) == (wants, lacks)
    assert max(len(bodies.pack_ranges(3, ranges)), len(bodies.pack_offer(offer))) + 20 <= 1120


@pytest.mark.parametrize(
    "read",
    [
        bodies.untrusted_ranges,
        bodies.untrusted_offer,
        lambda body: bodies.untrusted_reports(body, 3),
        lambda body: bodies.untrusted_wants(body, 3),
    ],
)
def test_bad_bodies_end_in_bad_packet_only(read) -> None:  # type: ignore[no-untyped-def]
    rng = Random(9)
    for length in range(1200):
        with suppress(BadPacket):
            read(rng.randbytes(length))


def test_an_invalid_range_is_refused() -> None:
    report = bytes(bodies.REPORT.size)
    for key, bits in ((bytes(20), 161), (bytes([255] * 20), 4)):
        with pytest.raises(BadPacket):
            bodies.untrusted_ranges(b"\3" + bodies.RANGE.pack(key, bits) + report)


@pytest.mark.parametrize("replicas", [0, 17, 255])
def test_an_invalid_number_of_replicas_is_refused(replicas: int) -> None:
    with pytest.raises(BadPacket):
        bodies.untrusted_ranges(bytes([replicas]))
    with pytest.raises(BadPacket):
        bodies.untrusted_reports(bytes([replicas]), 0)


def test_keepers_beyond_a_replys_size_are_left_out() -> None:
    reports = [Report(Digest(1, 2), Says.CAUGHT_UP, tuple(range(32)))] * bodies.MAX_RANGES
    body = bodies.pack_reports(16, reports)
    assert len(body) + 20 <= 1120
    _, read = bodies.untrusted_reports(body, len(reports))
    assert [report.digest for report in read] == [report.digest for report in reports]
    assert bodies.fitting(reports) < 10


def test_missed_keys_wait_until_the_cluster_is_known() -> None:
    """A node that has just started answers writes before it knows who else keeps the keys."""
    wanted: list[bytes] = []
    timers = Timers(Faults(Counter()))
    node = SimpleNamespace(id=bytes(20), jittered=lambda seconds: seconds, timers=timers)
    options = SimpleNamespace(missed_delay=1.0)
    context = SimpleNamespace(view=None, node=node, options=options)
    plan = SimpleNamespace(want=lambda peer, ranges, now: wanted.append(peer))
    missed = Missed(context, plan)  # type: ignore[arg-type]
    missed.start(0.0)
    for number in range(3):
        missed.note(bytes([number]) * 20)
    looks = Thread(target=timers.run, args=(1.5,), daemon=True)
    looks.start()
    looks.join(10)
    assert not looks.is_alive(), "it looks for ever"
    context.view = View(node.id, [b"\x01" * 20, b"\x02" * 20], 3)
    timers.run(2.5)
    assert wanted == [b"\x01" * 20, b"\x02" * 20]
