"""What every store does: LevelDB and its in-memory twin under one suite, and against each other."""

import random

import pytest
from records import MICROS, NOW, delete, key_of, put

from kdht._shared import ID_BITS, MAX_VALUE
from kdht.storage import LevelStore, MemoryStore, Result, Store, Stored, Write, neighbourhood


@pytest.fixture(params=["level", "memory"])
def store(request, tmp_path):
    opened = LevelStore(tmp_path / "db") if request.param == "level" else MemoryStore()
    yield opened
    opened.close()


def test_a_record_comes_back_whole(store):
    assert store.apply([put(1, b"x" * MAX_VALUE, int(NOW) + 9, 0xFFFFFFFF)], NOW) == [Result(False, MICROS)]
    assert store.get(key_of(1), NOW) == Stored(MICROS, int(NOW) + 9, 0xFFFFFFFF, b"x" * MAX_VALUE)
    assert store.get(key_of(2), NOW) is None


def test_an_empty_value_is_a_value(store):
    store.apply([put(1, b"")], NOW)
    assert store.get(key_of(1), NOW).value == b""


def test_get_many_keeps_the_order_asked(store):
    store.apply([put(n, b"%d" % n) for n in range(5)], NOW)
    found = store.get_many([key_of(4), key_of(9), key_of(0), key_of(4)], NOW)
    assert [record and record.value for record in found] == [b"4", None, b"0", b"4"]


def test_versions_rise_when_the_clock_goes_back(store):
    (first,) = store.apply([put(1)], NOW)
    (second,) = store.apply([put(1)], NOW - 3600)
    (third,) = store.apply([put(1)], NOW + 1)
    assert (first.version, second.version, third.version) == (MICROS, MICROS + 1, MICROS + 1_000_000)
    assert second == Result(True, MICROS + 1)


def test_writes_of_one_batch_see_each_other(store):
    results = store.apply([put(1, b"a"), put(1, b"b"), delete(1), delete(1), put(1, b"c")], NOW)
    assert [result.existed for result in results] == [False, True, True, False, False]
    assert results[1].version == MICROS + 1
    assert store.get(key_of(1), NOW).value == b"c"
    assert store.stats()[:2] == (1, 1)


def test_delete_tells_whether_it_was_there(store):
    store.apply([put(1)], NOW)
    assert store.apply([delete(1), delete(2)], NOW) == [Result(True, 0), Result(False, 0)]
    assert store.get(key_of(1), NOW) is None


def test_expired_is_absent_to_everyone(store):
    store.apply([put(1, expiry=100)], 50)
    assert store.get(key_of(1), 99.999) is not None
    assert store.get(key_of(1), 100) is None
    assert list(store.scan(100)) == []
    assert store.apply([delete(1)], 100) == [Result(False, 0)]
    store.apply([put(1, expiry=100)], 50)
    assert not store.apply([put(1)], 100)[0].existed


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
    store.apply([put(1, expiry=200), put(2), delete(3)], 50)
    assert store.sweep(150) == 0
    assert store.stats().records == 2
    assert store.sweep(200) == 1


def test_scan_is_a_range_in_key_order(store):
    store.apply([put(n) for n in (7, 3, 5, 1, 9)], NOW)
    assert [int.from_bytes(key, "big") for key, _ in store.scan(NOW, key_of(3), key_of(9))] == [3, 5, 7]
    assert [int.from_bytes(key, "big") for key, _ in store.scan(NOW)] == [1, 3, 5, 7, 9]


def test_a_neighbourhood_is_one_range(store):
    rng = random.Random(5)
    keys = [rng.randbytes(20) for _ in range(300)]
    store.apply([Write(key, b"") for key in keys], NOW)
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
        Write(b"short", b""),
        Write(bytes(21), None),
        Write(bytes(20), b"x" * (MAX_VALUE + 1)),
        Write(bytes(20), b"", expiry=-1),
        Write(bytes(20), b"", expiry=2**64),
        Write(bytes(20), b"", flags=2**32),
    ],
)
def test_what_does_not_fit_the_layout_is_refused_whole(store, write):
    with pytest.raises(ValueError, match=r"key|value|range"):
        store.apply([put(1), write], NOW)
    assert store.get(key_of(1), NOW) is None


def test_the_stores_agree_over_random_operations(tmp_path):
    rng = random.Random(20)
    twins: list[Store] = [LevelStore(tmp_path / "db"), MemoryStore()]
    now = 1000.0
    for _ in range(400):
        now += rng.choice((-3, 0.25, 1, 5))
        numbers = [rng.randrange(12) for _ in range(rng.randrange(5))]
        writes = [
            rng.choice((delete(n), put(n, rng.randbytes(rng.randrange(9)), rng.choice((0, int(now) + 4)))))
            for n in numbers
        ]
        name, *arguments = rng.choice(
            (
                ("apply", writes, now),
                ("get_many", [key_of(n) for n in numbers], now),
                ("sweep", now, rng.randrange(3)),
                ("scan", now, key_of(3)),
            )
        )
        level, memory = (getattr(twin, name)(*arguments) for twin in twins)
        assert (list(level) if name == "scan" else level) == (list(memory) if name == "scan" else memory), (
            name
        )
        assert twins[0].stats()[:2] == twins[1].stats()[:2]
    twins[0].close()
