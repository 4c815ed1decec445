"""Absent keys are known without LevelDB; a key that has a record is never taken for absent."""

import random
from collections import Counter

import pytest
from level_files import filled, only
from records import NOW, delete, key_of, put

from kdht.errors import StorageDamaged
from kdht.storage import LevelStore
from kdht.storage._known_keys import KnownKeys
from kdht.storage.learning import AT_ONCE


class CountingDatabase:
    """LevelDB, with its `get`s counted."""

    def __init__(self, db) -> None:
        self._db = db
        self.gets = 0

    def get(self, *args, **kwargs):
        self.gets += 1
        return self._db.get(*args, **kwargs)

    def __getattr__(self, name):
        return getattr(self._db, name)


def counted(store: LevelStore) -> CountingDatabase:
    store._db = CountingDatabase(store._db)
    return store._db


def complete(most: int | None = None) -> KnownKeys:
    known = KnownKeys() if most is None else KnownKeys(most)
    known.walk([], None)
    return known


def test_a_key_that_was_added_is_known_until_it_is_removed():
    known, rng, there = complete(), random.Random(5), set()
    for _ in range(60_000):
        key = key_of(rng.randrange(6_000))
        if key in there:
            known.remove(key)
            there.remove(key)
        elif rng.random() < 0.8:
            known.add(key)
            there.add(key)
    assert known.count == len(there) > 1_000
    assert all(map(known.may_have, there))
    absent = [key_of(number) for number in range(6_000) if key_of(number) not in there]
    # Two keys share 32 bits once in a million times here.
    assert Counter(map(known.may_have, absent))[True] <= 2


def test_keys_that_the_walk_has_not_reached_may_be_there():
    known = KnownKeys()
    assert known.may_have(key_of(1))
    known.walk([key_of(1), key_of(5)], key_of(5) + b"\0")
    assert known.may_have(key_of(1))
    assert not known.may_have(key_of(2))
    assert known.may_have(key_of(6))
    # A write beyond the walk is left to the walk, or it would count twice.
    known.add(key_of(7))
    known.walk([key_of(7)], None)
    assert known.count == 3
    assert not known.may_have(key_of(6))
    known.remove(key_of(7))
    assert not known.may_have(key_of(7))


def test_too_many_keys_are_all_asked_of_the_database():
    known = complete(most=10)
    for number in range(11):
        known.add(key_of(number))
    assert known.given_up
    assert known.may_have(key_of(99))
    known.add(key_of(12))
    known.remove(key_of(3))
    assert known.may_have(key_of(3))


def test_writes_and_reads_of_absent_keys_ask_the_database_nothing(tmp_path):
    store = LevelStore(tmp_path / "db")
    db = counted(store)
    store.apply([put(number) for number in range(1_000)], NOW)
    assert store.get_many([key_of(number) for number in range(1_000, 2_000)], NOW) == [None] * 1_000
    reader = store.reader(None, lambda key: True)
    assert reader.of([key_of(3_000)], [100], NOW) == [None]
    assert db.gets == 0
    assert store.get(key_of(7), NOW).value == b"value"
    assert db.gets == 1
    store.close()


def test_a_deleted_key_stays_known_until_its_tombstone_is_swept(tmp_path):
    store = LevelStore(tmp_path / "db")
    store.apply([put(1), delete(1, version=2, expiry=int(NOW) + 10), put(2)], NOW)
    assert store._known.count == 2
    assert store.sweep(NOW + 20) == 1
    assert store._known.count == 1
    assert store.drop([(key_of(2), 1)]) == 1
    assert store._known.count == 0
    store.apply([put(1, b"again", version=5)], NOW)
    assert store.get(key_of(1), NOW).value == b"again"
    store.close()


def test_a_start_learns_the_keys_in_slices_while_writes_go_on(tmp_path):
    count = 3 * AT_ONCE + 10
    filled(tmp_path / "db", count)
    store = LevelStore(tmp_path / "db")
    rng = random.Random(3)
    assert store._known.count == AT_ONCE
    while not store.learn_keys(1):
        store.apply([put(rng.randrange(2 * count), version=rng.randrange(2, 9)) for _ in range(300)], NOW)
        store.drop([(key_of(number), 1) for number in rng.sample(range(count), 100)])
        store.sweep(NOW + rng.randrange(count))
    assert not store._known.given_up
    assert store._known.count == store.stats().records + store.stats().tombstones
    there = {key for key, _ in store.scan(0)}
    assert all(map(store._known.may_have, there))
    store.close()


# In blocks between, and in the last, which ends the walk. The first one has the format: no database opens without it.
@pytest.mark.parametrize("number", [60, 100, 199])
def test_a_damaged_record_is_damaged_and_not_absent(tmp_path, number):
    directory = tmp_path / "db"
    filled(directory, 200)
    store = LevelStore(directory)
    value = store.get(key_of(number), NOW).value
    store.close()
    table = only(directory, "*.ldb")
    content = bytearray(table.read_bytes())
    content[content.index(value)] ^= 0x5A
    table.write_bytes(content)
    store = LevelStore(directory)
    assert store.learn_keys(10_000)
    with pytest.raises(StorageDamaged):
        store.get(key_of(number), NOW)
    store.close()
