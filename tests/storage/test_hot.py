"""The table of hot records: what the cache writes into it, and what it forgets."""

import pytest

from kdht.storage._cache import RecordCache
from kdht.storage._hot import ASKS, ENDED, SIZE, HotTable
from kdht.wire._shared import ID_LEN, MAX_VALUE

NOW = 1_700_000_000.25
ANSWERS = 16
FORBIDDEN = slice(24, 28)
"""Where struct kdht_hot_table has it."""


def key(number: int) -> bytes:
    return number.to_bytes(ID_LEN, "little")


def filled(cache: RecordCache, number: int, version: int = 7, value: bytes = b"v") -> bool:
    (begun,) = cache.begin([key(number)])
    return cache.fill(key(number), begun, version, 0, 0, value)


@pytest.fixture
def memory():
    return bytearray(SIZE)


@pytest.fixture
def table(memory):
    made = HotTable()
    made.open(memory)
    return made


@pytest.fixture
def cache(table):
    return RecordCache(1 << 20, table)


def test_a_record_is_hot_after_some_answers(cache, table):
    filled(cache, 1)
    for _ in range(ANSWERS - 1):
        cache.get(key(1), NOW)
    assert table.take_noted() == []
    cache.get(key(1), NOW)
    assert table.take_noted() == [key(1)]
    assert table.take_noted() == []
    for _ in range(ANSWERS):
        cache.get(key(1), NOW)
    assert table.take_noted() == [key(1)]


def test_the_newest_noted_keys_are_kept_if_they_are_too_many(cache, table):
    for number in range(100):
        filled(cache, number)
        for _ in range(ANSWERS):
            assert cache.get(key(number), NOW) is not None
    assert table.take_noted() == [key(number) for number in range(36, 100)]


def test_only_cached_records_become_hot(cache, table):
    filled(cache, 1)
    cache.heat([key(1), key(2)])
    assert table.holds(key(1))
    assert not table.holds(key(2))


def test_a_change_ends_it_and_the_next_record_takes_its_place(cache, table):
    filled(cache, 1)
    cache.heat([key(1)])
    cache.invalidate(key(1))
    assert not table.holds(key(1))
    filled(cache, 2)
    assert not table.holds(key(2))
    filled(cache, 1, 8)
    assert table.holds(key(1))


def test_a_change_ends_it_after_the_record_lost_its_place_in_the_cache(table):
    cache = RecordCache(2000, table)  # one record
    filled(cache, 1)
    cache.heat([key(1)])
    filled(cache, 2)
    assert cache.get(key(1), NOW) is None
    assert table.holds(key(1))
    cache.invalidate(key(1))
    assert not table.holds(key(1))


def test_a_clear_ends_all(cache, table):
    for number in range(20):
        filled(cache, number << 64)
    cache.heat([key(number << 64) for number in range(20)])
    cache.clear()
    assert not any(table.holds(key(number << 64)) for number in range(20))


def test_the_bytes_of_an_older_record_do_not_show(cache, table, memory):
    number = 0xABCDEF
    for size in (MAX_VALUE, 3):
        filled(cache, number, value=b"x" * size)
        cache.heat([key(number)])
    at = memory.index(key(number)) + 56  # the head of struct kdht_hot_slot
    assert memory[at : at + 8] == b"xxx" + bytes(5)


def test_what_is_forbidden_before_the_memory_is_there_stays_so():
    table, memory = HotTable(), bytearray(SIZE)
    table.forbid(ASKS, True)
    table.forbid(ENDED, True)
    table.open(memory)
    table.forbid(ASKS, False)
    assert memory[FORBIDDEN] == ENDED.to_bytes(4, "little")
    table.forbid(ENDED, False)
    assert memory[FORBIDDEN] == bytes(4)


def test_without_memory_it_wants_some_once_a_record_is_hot():
    table = HotTable()
    cache = RecordCache(1 << 20, table)
    filled(cache, 1)
    cache.heat([key(1)])
    cache.invalidate(key(1))
    cache.clear()
    filled(cache, 1)
    assert not table.wanted
    for _ in range(ANSWERS):
        cache.get(key(1), NOW)
    assert table.wanted
    table.open(bytearray(SIZE))
    assert not table.wanted
    with pytest.raises(ValueError, match="once"):
        table.open(bytearray(SIZE))


def test_too_little_memory_is_refused():
    with pytest.raises(ValueError, match=str(SIZE)):
        HotTable().open(bytearray(SIZE - 1))
