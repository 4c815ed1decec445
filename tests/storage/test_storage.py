"""What every store does: LevelDB and its in-memory twin under one suite, and against each other."""

import itertools
import random
from collections import Counter

import pytest
from records import MICROS, NOW, TOMBSTONE, delete, key_of, put

from kdht.storage import (
    Granted,
    LevelStore,
    MemoryStore,
    Promise,
    Result,
    Store,
    StoredRecord,
    Write,
    neighbourhood,
)
from kdht.storage.versions import latest_version
from kdht.wire._shared import ID_BITS, MAX_VALUE, REPLAY_WINDOW, RecordFlag
from kdht.wire.certified import KINDS

LATEST = latest_version(NOW, REPLAY_WINDOW)


@pytest.fixture(params=["level", "memory"])
def store(request, tmp_path):
    opened = LevelStore(tmp_path / "db") if request.param == "level" else MemoryStore()
    yield opened
    opened.close()


def test_a_record_comes_back_whole(store):
    flags = 0xFFFFFFFF ^ (TOMBSTONE | KINDS)
    write = put(1, b"x" * MAX_VALUE, int(NOW) + 9, flags, LATEST)
    assert store.apply([write], NOW) == [Result(True, False, LATEST)]
    assert store.get(key_of(1), NOW) == StoredRecord(LATEST, int(NOW) + 9, flags, b"x" * MAX_VALUE)
    assert store.get(key_of(2), NOW) is None


def test_a_version_beyond_any_clock_is_refused_with_the_time(store):
    store.apply([put(1, b"old", version=MICROS)], NOW)
    for version in (LATEST + 1, 2**63, 2**64 - 1):
        refused = Result(False, True, MICROS, MICROS)
        assert store.apply([put(1, b"lie", version=version)], NOW) == [refused]
    for version in (LATEST + 1, 2**63 - 1):
        assert store.apply([Promise(key_of(2), version, 7)], NOW) == [Granted(False, MICROS)]
    assert store.get(key_of(1), NOW).value == b"old"
    assert store.apply([put(2, b"good", version=MICROS)], NOW)[0].accepted


@pytest.mark.parametrize("kind", [int(RecordFlag.IMMUTABLE), int(RecordFlag.SIGNED)])
def test_a_certified_version_needs_its_flag(store, kind):
    store.apply([put(1, b"plain", version=LATEST)], NOW)
    assert not store.apply([put(1, b"lie", version=2**63 + 7)], NOW)[0].accepted
    assert not store.apply([put(1, b"lie", flags=kind, version=MICROS)], NOW)[0].accepted
    assert store.apply([put(1, b"proven", flags=kind, version=2**63 + 7)], NOW)[0].accepted
    assert store.get(key_of(1), NOW).value == b"proven"
    assert not store.apply([put(1, b"plain", version=LATEST)], NOW)[0].accepted
    assert store.apply([Promise(key_of(1), 2**63 + 8, 7)], NOW)[0].accepted


def test_a_record_from_the_future_is_hidden_and_replaceable(store):
    """As a fault of the disk leaves it, or a clock that was set back."""
    later = NOW + 90_000
    store.apply([put(1, b"ahead", version=int(later * 1_000_000)), put(2, b"ahead", version=MICROS)], later)
    assert store.get(key_of(1), NOW) is None
    assert [key for key, _ in store.scan(NOW)] == [key_of(2)]
    assert store.get(key_of(1), later).value == b"ahead"
    assert store.apply([put(1, b"copy", version=MICROS)], NOW) == [Result(True, False, MICROS)]
    assert store.get(key_of(1), later).value == b"copy"
    assert store.stats()[:3] == (2, 0, 9)


def test_a_clock_set_back_neither_hides_records_nor_blocks_writes(store):
    written = NOW + 3600
    store.apply([put(1, b"hour", version=int(written * 1_000_000))], written)
    assert store.get(key_of(1), NOW).value == b"hour"
    assert [record.value for _, record in store.scan(NOW)] == [b"hour"]
    assert store.apply([Promise(key_of(1), MICROS, 7)], NOW) == [Granted(True, 0)]
    assert store.get(key_of(1), NOW).value == b"hour", "a promise changes no record"
    assert store.apply([put(1, b"after", version=MICROS)], NOW)[0].accepted
    assert store.get(key_of(1), written).value == b"after"


def test_an_empty_value_is_a_value(store):
    store.apply([put(1, b"")], NOW)
    assert store.get(key_of(1), NOW).value == b""


def test_get_many_keeps_the_order_asked(store):
    store.apply([put(n, b"%d" % n) for n in range(5)], NOW)
    found = store.get_many([key_of(4), key_of(9), key_of(0), key_of(4)], NOW)
    assert [record and record.value for record in found] == [b"4", None, b"0", b"4"]


def test_the_greater_version_wins_in_any_order(store):
    assert store.apply([put(1, b"5", version=5)], NOW) == [Result(True, False, 5)]
    assert store.apply([put(1, b"4", version=4)], NOW) == [Result(False, True, 5)]
    assert store.apply([put(1, b"6", version=6)], NOW) == [Result(True, True, 6)]
    assert store.get(key_of(1), NOW) == StoredRecord(6, 0, 0, b"6")


def test_equal_versions_end_alike_in_any_order():
    writes = [
        put(1, b"a", version=5),
        put(1, b"b", version=5, expiry=2000),
        put(1, b"b", version=5),
        put(1, b"b", version=5, flags=4),
        delete(1, version=5),
    ]
    for last in range(1, len(writes) + 1):
        for order in itertools.permutations(writes[:last]):
            twin = MemoryStore()
            twin.apply(order, 1000)
            assert twin.get(key_of(1), 1000) == writes[last - 1].record


def test_a_deletion_leaves_a_tombstone(store):
    assert store.apply([put(1, version=1), delete(1, version=2)], NOW) == [
        Result(True, False, 1),
        Result(True, True, 2),
    ]
    found = store.get(key_of(1), NOW)
    assert found == StoredRecord(2, 0, TOMBSTONE, b"")
    assert found.deleted
    assert store.apply([put(1, version=1)], NOW) == [Result(False, False, 2)]
    assert store.apply([delete(2, version=2)], NOW) == [Result(True, False, 2)]
    assert [record.deleted for _, record in store.scan(NOW)] == [True, True]
    assert store.stats()[:3] == (0, 2, 0)
    store.apply([put(1, b"back", version=3)], NOW)
    assert store.stats()[:3] == (1, 1, 4)


def test_tombstones_are_swept_when_their_time_has_come(store):
    store.apply([put(1, version=1), delete(1, version=2, expiry=100)], 50)
    assert store.sweep(99) == 0
    assert store.apply([put(1, version=1)], 100) == [Result(False, False, 2)], "it stands until swept"
    assert store.sweep(100) == 1
    assert store.stats()[:3] == (0, 0, 0)
    assert store.apply([put(1, version=1)], 100) == [Result(True, False, 1)]


def test_writes_of_one_batch_see_each_other(store):
    writes = [
        put(1, b"a", version=1),
        put(1, b"b", version=3),
        put(1, b"c", version=2),
        delete(1, version=4),
        put(1, b"dd", version=5),
        put(1, b"e", version=6, nonce=4),
    ]
    results = store.apply(writes, NOW)
    assert [result.accepted for result in results] == [True, True, False, True, True, False]
    assert [result.existed for result in results] == [False, True, True, True, False, True]
    assert [result.version for result in results] == [1, 3, 3, 4, 5, 5]
    assert store.get(key_of(1), NOW).value == b"dd"
    assert store.stats()[:3] == (1, 0, 2)


def test_the_same_again_is_accepted_and_no_change(store):
    heard = []
    writes = [put(1, b"a", 2000, version=5), delete(2, version=6)]
    assert [result.accepted for result in store.apply(writes, 1000)] == [True, True]
    assert store.apply(writes, 1001, lambda key, record: heard.append(key)) == [
        Result(True, True, 5),
        Result(True, False, 6),
    ]
    assert heard == []
    assert store.stats()[:3] == (1, 1, 1)


def test_the_hook_gets_changes_in_order(store):
    heard = []
    writes = [put(1, b"a", version=5), put(1, b"old", version=4), put(2, version=1), delete(1, version=6)]
    store.apply(
        [*writes, writes[2]], NOW, lambda key, record: heard.append((key, record, store.get(key, NOW)))
    )
    stands = {write.key: write.record for write in writes}
    assert heard == [(write.key, write.record, stands[write.key]) for write in (writes[0], *writes[2:])]


def test_a_hook_that_raises_fails_no_write(store, caplog):
    heard = []

    def hook(key, record):
        heard.append(key)
        raise LookupError("in the hook")

    assert [result.accepted for result in store.apply([put(1), put(2)], NOW, hook)] == [True, True]
    assert heard == [key_of(1), key_of(2)]
    assert "in the hook" in caplog.text


def test_expired_is_absent_to_everyone(store):
    store.apply([put(1, expiry=100)], 50)
    assert store.get(key_of(1), 99.999) is not None
    assert store.get(key_of(1), 100) is None
    assert list(store.scan(100)) == []
    assert store.apply([delete(1, version=2)], 100) == [Result(True, False, 2)]
    store.apply([put(2, expiry=100)], 50)
    assert not store.apply([put(2, version=2)], 100)[0].existed


def test_an_expiry_in_the_past_is_seen_by_nobody(store):
    assert store.apply([put(1, expiry=100)], 200) == [Result(True, False, 1)]


def test_drop_forgets_what_still_has_that_version(store):
    store.apply([put(n, version=n) for n in range(1, 6)], NOW)
    before = list(store.scan(NOW))
    store.apply([put(2, b"newer", version=20), delete(3, version=30)], NOW)
    assert store.drop([(key_of(1), 1), (key_of(1), 1), (key_of(2), 2), (key_of(3), 30), (key_of(9), 9)]) == 2
    assert [(key, r.version) for key, r in store.scan(NOW)] == [
        (key_of(n), v) for n, v in ((2, 20), (4, 4), (5, 5))
    ]
    assert store.stats()[:2] == (3, 0)
    store.apply([put(n, version=n) for n in (1, 3)], NOW)
    assert store.drop([(key_of(2), 20)]) == 1
    store.apply([put(2, version=2)], NOW)
    assert list(store.scan(NOW)) == before
    assert store.drop([(key_of(n), n) for n in range(1, 6)] * 500) == 5


def test_sweep_takes_the_expired_and_only_them(store):
    store.apply([put(n, expiry=100 + n) for n in range(10)] + [put(50), put(51, expiry=1000)], 50)
    assert store.sweep(99.9) == 0
    assert store.sweep(109, limit=4) == 4
    assert store.stats().records == 8
    assert store.sweep(109, limit=100) == 6
    assert store.sweep(109) == 0
    assert [key for key, _ in store.scan(109)] == [key_of(50), key_of(51)]


def test_sweep_ignores_expiries_that_were_replaced(store):
    store.apply([put(1, expiry=100), put(2, expiry=100), put(3, expiry=100)], 50)
    store.apply([put(1, expiry=200, version=2), put(2, version=2), delete(3, version=2)], 50)
    assert store.sweep(150) == 0
    assert store.stats()[:2] == (2, 1)
    assert store.sweep(200) == 1


def test_scan_is_a_range_in_key_order(store):
    store.apply([put(n) for n in (7, 3, 5, 1, 9)], NOW)
    assert [int.from_bytes(key, "big") for key, _ in store.scan(NOW, key_of(3), key_of(9))] == [3, 5, 7]
    assert [int.from_bytes(key, "big") for key, _ in store.scan(NOW)] == [1, 3, 5, 7, 9]


def test_a_neighbourhood_is_one_range(store):
    rng = random.Random(5)
    keys = [rng.randbytes(20) for _ in range(300)]
    store.apply([Write(key, StoredRecord(1, 0, 0, b"")) for key in keys], NOW)
    for bits in (0, 1, 3, 8, ID_BITS):
        near = keys[bits]
        shift = ID_BITS - bits
        wanted = {
            key for key in keys if int.from_bytes(key, "big") >> shift == int.from_bytes(near, "big") >> shift
        }
        assert {key for key, _ in store.scan(NOW, *neighbourhood(near, bits))} == wanted
    assert neighbourhood(b"\xff" * 20, 3) == (b"\xe0" + bytes(19), None)


@pytest.mark.parametrize(
    "write",
    [
        Write(b"short", StoredRecord(1, 0, 0, b"")),
        Write(bytes(21), StoredRecord(1, 0, TOMBSTONE, b"")),
        put(2, version=0),
        put(2, version=2**64),
        put(2, b"x" * (MAX_VALUE + 1)),
        put(2, expiry=-1),
        put(2, expiry=2**64),
        put(2, flags=2**32),
    ],
)
def test_an_impossible_write_is_refused_whole(store, write):
    with pytest.raises(ValueError, match=r"key|version|value|range"):
        store.apply([put(1), write], NOW)
    assert store.get(key_of(1), NOW) is None


def random_write(rng: random.Random, now: float) -> Write:
    """Of a few keys and versions, so that they meet."""
    number, version = rng.randrange(12), rng.randrange(1, 40)
    condition = rng.choice((None, None, None, 0, rng.randrange(40)))
    expiry = rng.choice((0, int(now) + 4))
    if rng.random() < 0.3:
        return delete(number, version, expiry, condition)
    return put(number, rng.randbytes(rng.randrange(3)), expiry, 0, version, condition)


def test_the_stores_agree_over_random_operations(tmp_path):
    rng = random.Random(20)
    twins: list[Store] = [LevelStore(tmp_path / "db"), MemoryStore()]
    heard: list[list[object]] = [[], []]

    def call(place: int, name: str, arguments: list[object]) -> object:
        tell = [lambda key, record: heard[place].append((key, record))] if name == "apply" else []
        return getattr(twins[place], name)(*arguments, *tell)

    now = 1000.0
    done = Counter()
    for _ in range(1500):
        now += rng.choice((-3, 0.25, 1, 5))
        some = [key_of(rng.randrange(12)) for _ in range(rng.randrange(5))]
        held = [
            (key, record.version + (rng.random() < 0.2)) for key, record in twins[1].scan(now) if key in some
        ]
        name, *arguments = rng.choice(
            (
                ("apply", [random_write(rng, now) for _ in range(rng.randrange(5))], now),
                ("get_many", some, now),
                ("sweep", now, rng.randrange(3)),
                ("scan", now, key_of(3)),
                ("scan", now, key_of(3), key_of(8)),
                ("drop", held),
            )
        )
        level, memory = (call(place, name, arguments) for place in range(2))
        if name == "scan":
            level, memory = list(level), list(memory)
        assert level == memory, name
        assert twins[0].stats()[:3] == twins[1].stats()[:3]
        done[name] += bool(level)
    assert heard[0] == heard[1] != []
    assert min(done.values()) > 10, done
    twins[0].close()
