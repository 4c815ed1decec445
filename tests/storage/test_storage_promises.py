"""Promises in both stores: what is granted, what is refused for them, when they end, what a restart leaves."""

import itertools
import random

import plyvel
import pytest
from records import NOW, delete, key_of, put

from kdht.errors import StorageDamaged
from kdht.storage import Granted, LevelStore, MemoryStore, Promise, Result, layout, promises

KEY = key_of(1)


@pytest.fixture(params=["level", "memory"])
def store(request, tmp_path):
    opened = LevelStore(tmp_path / "db") if request.param == "level" else MemoryStore()
    yield opened
    opened.close()


def ask(store, version: int, nonce: int, now: float = NOW, *, given_back: bool = False) -> Granted:
    (granted,) = store.apply([Promise(KEY, version, nonce, given_back)], now)
    return granted


def test_a_promise_returns_the_stored_version(store):
    assert ask(store, 5, 1) == Granted(True, 0)
    store.apply([put(1, version=7), delete(2, version=3)], NOW)
    assert ask(store, 8, 1) == Granted(True, 7)
    store.apply([delete(1, version=9, expiry=2_000_000_000)], NOW)
    assert ask(store, 10, 1) == Granted(True, 9, 2_000_000_000, 2)


def test_a_version_must_exceed_the_stored_and_the_promised_one(store):
    store.apply([put(1, version=7)], NOW)
    assert [ask(store, version, 1) for version in (6, 7)] == [Granted(False, 7)] * 2
    assert ask(store, 9, 5).accepted
    assert ask(store, 8, 6) == Granted(False, 9)
    assert ask(store, 9, 4) == Granted(False, 9)
    assert ask(store, 9, 5) == Granted(True, 7), "the same once more"
    assert ask(store, 9, 6) == Granted(True, 7), "a later try of the same version"


def test_a_lower_version_is_refused_while_a_greater_one_is_promised(store):
    ask(store, 9, 1)
    assert store.apply([put(1, version=8)], NOW) == [Result(False, False, 0, 9)]
    assert store.get(KEY, NOW) is None
    assert store.apply([put(2, version=8)], NOW) == [Result(True, False, 8)], "another key"
    assert store.apply([put(1, version=9)], NOW) == [Result(True, False, 9)]
    assert store.apply([put(1, b"z", version=9)], NOW) == [Result(True, True, 9)], "the promise has ended"


def test_a_decided_write_is_taken_only_under_its_own_promise(store):
    write = put(1, version=9, nonce=1)
    assert store.apply([write], NOW) == [Result(False, False, 0, 9)], "none was given"
    ask(store, 9, 2)
    assert store.apply([write], NOW) == [Result(False, False, 0, 9)], "another's"
    ask(store, 10, 1)
    assert store.apply([write], NOW) == [Result(False, False, 0, 10)], "of another version"
    assert ask(store, 10, 1, given_back=True).accepted
    assert store.apply([put(1, version=9, nonce=2)], NOW) == [Result(True, False, 9)]
    assert store.apply([put(1, version=9, nonce=2)], NOW) == [Result(True, True, 9)], "it stands"


def test_a_decided_write_is_refused_if_the_record_changed_since_the_promise(store):
    store.apply([put(1, version=7)], NOW)
    ask(store, 9, 1)
    store.drop([(KEY, 7)])
    assert store.apply([put(1, version=9, nonce=1)], NOW) == [Result(False, False, 0, 9)]
    store.apply([put(1, version=10)], NOW)
    assert store.apply([put(1, version=9, nonce=1)], NOW) == [Result(False, True, 10)]


def test_an_earlier_promise_outlives_a_later_one(store):
    ask(store, 8, 1)
    ask(store, 9, 2)
    ask(store, 9, 2, given_back=True)
    assert not store.apply([put(1, version=7)], NOW)[0].accepted
    ask(store, 8, 1, given_back=True)
    assert store.apply([put(1, version=7)], NOW)[0].accepted


def test_many_promises_of_one_key_all_hold(store):
    for version in range(10, 30):
        ask(store, version, version)
    for version in range(29, 9, -1):
        ask(store, version, version, given_back=True)
    assert not store.apply([put(1, version=9)], NOW)[0].accepted
    assert not store.apply([put(1, version=25)], NOW)[0].accepted
    assert store.apply([put(1, version=29)], NOW)[0].accepted


def test_a_promise_ends_after_its_time_swept_or_not(store):
    ask(store, 9, 1)
    late = NOW + promises.LIFETIME
    assert store.sweep(late - 2) == 0
    assert ask(store, 7, 1, late - 2) == Granted(False, 9)
    assert store.apply([put(1, version=7)], late)[0].accepted
    ask(store, 9, 1)
    store.sweep(late)
    assert ask(store, 8, 1, NOW) == Granted(True, 7)


def test_promises_of_too_many_keys_are_not_given(store, monkeypatch):
    for module in (
        promises,
        __import__("kdht.storage._change").storage._change,
        __import__("kdht.storage.memory").storage.memory,
    ):
        monkeypatch.setattr(module, "MAX_KEYS", 3)
    given = [store.apply([Promise(key_of(n), 9, 1)], NOW)[0] for n in range(5)]
    assert given == [Granted(True, 0)] * 3 + [Granted(False, 0)] * 2
    assert store.apply([Promise(key_of(0), 10, 1)], NOW)[0].accepted


def test_writes_and_promises_of_one_batch_see_each_other(store):
    wishes = [
        put(1, version=5),
        Promise(KEY, 9, 1),
        put(1, version=8),
        put(1, b"new", version=9, nonce=1),
        put(1, version=8),
    ]
    accepted = [outcome.accepted for outcome in store.apply(wishes, NOW)]
    assert accepted == [True, True, False, True, False]
    assert store.get(KEY, NOW).value == b"new"


@pytest.mark.parametrize(
    "wrong", [Promise(b"short", 9, 1), Promise(KEY, 0, 1), Promise(KEY, 2**64, 1), Promise(KEY, 9, 2**64)]
)
def test_an_impossible_promise_is_refused_before_any_write(store, wrong):
    with pytest.raises(ValueError, match="promise"):
        store.apply([put(1), wrong], NOW)
    assert store.get(KEY, NOW) is None


def test_promises_outlive_the_process_and_are_no_records(tmp_path):
    store = LevelStore(tmp_path / "db")
    store.apply([put(2, version=1)], NOW)
    ask(store, 8, 1)
    ask(store, 9, 2)
    store.close()
    store = LevelStore(tmp_path / "db")
    assert store.stats().records == 1
    assert [key for key, _ in store.scan(NOW)] == [key_of(2)]
    assert store.audit(NOW).problems == []
    assert store.apply([put(1, version=8)], NOW) == [Result(False, False, 0, 9)]
    store.apply([put(1, version=9, nonce=2)], NOW)
    store.close()
    store = LevelStore(tmp_path / "db")
    assert store.apply([put(1, b"z", version=9)], NOW)[0].accepted
    store.close()


def test_garbled_promises_are_damage(tmp_path):
    store = LevelStore(tmp_path / "db")
    ask(store, 8, 1)
    store.close()
    raw = plyvel.DB(str(tmp_path / "db"))
    raw.put(layout.PROMISE + KEY, bytes(33))
    raw.close()
    with pytest.raises(StorageDamaged):
        LevelStore(tmp_path / "db")


@pytest.mark.parametrize("before", [2])
def test_a_database_without_promises_is_upgraded(tmp_path, before):
    store = LevelStore(tmp_path / "db")
    store.apply([put(1)], NOW)
    store.close()
    raw = plyvel.DB(str(tmp_path / "db"))
    raw.put(layout.FORMAT_KEY, layout.FORMAT_VALUE.pack(before))
    raw.close()
    store = LevelStore(tmp_path / "db")
    assert ask(store, 9, 1).accepted
    store.close()
    raw = plyvel.DB(str(tmp_path / "db"))
    assert raw.get(layout.FORMAT_KEY) == layout.FORMAT_VALUE.pack(layout.FORMAT)
    raw.close()


def test_both_stores_say_the_same_to_anything(tmp_path):
    rng = random.Random(7)
    level, memory = LevelStore(tmp_path / "db"), MemoryStore()
    numbers = itertools.count()
    for _ in range(300):
        wishes = []
        for _ in range(rng.randint(1, 4)):
            key, version, nonce = rng.randrange(3), rng.randint(1, 40), rng.randint(0, 2)
            if rng.random() < 0.5:
                wishes.append(Promise(key_of(key), version, nonce, rng.random() < 0.3))
            else:
                wishes.append(put(key, b"%d" % rng.randrange(3), 0, 0, version, rng.choice((None, nonce))))
        now = NOW + 20 * next(numbers)
        assert level.apply(wishes, now) == memory.apply(wishes, now)
        if rng.random() < 0.1:
            key, version = key_of(rng.randrange(3)), rng.randint(1, 40)
            assert level.drop([(key, version)]) == memory.drop([(key, version)])
            assert level.sweep(now) == memory.sweep(now)
        if rng.random() < 0.05:
            level.close()
            level = LevelStore(tmp_path / "db")
    level.close()


def test_an_abandoned_promise_delays_repair_for_seconds_only(store):
    """A coordinator that died leaves it; its write is refused where something else stands by then."""
    store.apply([put(1, b"x", version=5)], NOW)
    store.apply([Promise(KEY, 10, 7)], NOW)
    late = NOW + promises.HINDERS
    assert store.apply([put(1, b"y", version=8)], late - 1) == [Result(False, True, 5, 10)]
    assert store.apply([put(1, b"y", version=8)], late) == [Result(True, True, 8)]
    (result,) = store.apply([put(1, b"z", version=10, nonce=7)], late)
    assert not result.accepted
    assert store.get(KEY, late).value == b"y"
