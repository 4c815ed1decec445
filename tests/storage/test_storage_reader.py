"""The records that answer GETs at once: what the store would show a reader, and nothing else."""

import random

import pytest

from kdht.storage import LevelStore, StoredRecord, Write, layout, visible
from kdht.storage._cache import RecordCache
from kdht.storage._reader import StoreReader
from kdht.storage.versions import latest_readable
from kdht.wire._shared import ID_LEN, RecordFlag

NOW = 1_700_000_000.5
LATER = int(NOW) + 9
TOMBSTONE = int(RecordFlag.TOMBSTONE)


def key(number: int) -> bytes:
    return number.to_bytes(ID_LEN, "little")


LATEST = latest_readable(NOW)


@pytest.fixture
def store(tmp_path):
    opened = LevelStore(tmp_path / "db")
    yield opened
    opened.close()


def caught_up(key: bytes) -> bool:
    return True


def stored(store: LevelStore, number: int, record: StoredRecord) -> StoredRecord:
    store.apply([Write(key(number), record)], NOW)
    return record


def test_a_record_comes_as_it_is_in_the_store(store):
    records = [
        stored(store, 0, StoredRecord(int(NOW * 1_000_000), 2**40, 0, bytes(1104))),
        stored(store, 1, StoredRecord(1, 0, 0, b"")),
        stored(store, 2, StoredRecord(7, LATER, 0x80, b"value")),
    ]
    reader = store.reader(None, caught_up)
    assert reader.of([key(n) for n in range(4)], [1104] * 4, NOW) == [*records, None]
    assert reader.answered == 3


def test_unclear_records_take_the_ordinary_path(store):
    stored(store, 0, StoredRecord(7, LATER, TOMBSTONE, b""))
    stored(store, 1, StoredRecord(7, LATER, 0, b"expires"))
    stored(store, 2, StoredRecord(7, 0, 0, b"too long"))
    reader = store.reader(None, caught_up)
    keys = [key(n) for n in range(3)]
    assert reader.of(keys, [100, 100, 7], NOW)[0::2] == [None, None]
    assert reader.of(keys, [100, 100, 8], LATER) == [None, None, StoredRecord(7, 0, 0, b"too long")]


def test_a_key_that_is_not_settled_is_not_read_and_not_kept(store):
    record = stored(store, 0, StoredRecord(7, 0, 0, b"value"))
    cache = RecordCache(1 << 20)
    reader = store.reader(cache, lambda asked: asked != key(0))
    assert reader.of([key(0)], [100], NOW) == [None]
    assert cache.get(key(0), NOW) is None
    reader = store.reader(cache, caught_up)
    assert reader.of([key(0)], [100], NOW) == [record]
    assert cache.get(key(0), NOW) is not None


def test_a_change_during_the_read_is_not_kept():
    """The record is replaced between LevelDB's answer and the moment when it would be kept."""
    old, cache = StoredRecord(7, 0, 0, b"old"), RecordCache(1 << 20)

    def read(asked: bytes) -> bytes:
        cache.invalidate(key(0))
        return layout.pack_record(old)

    assert StoreReader(read, cache, caught_up).of([key(0)], [100], NOW) == [old]
    assert cache.get(key(0), NOW) is None


def test_whether_a_key_is_settled_is_asked_before_the_store(store):
    """What settles it after the look at the store may have brought what was not seen there."""
    asked: list[str] = []

    def read(key: bytes) -> None:
        asked.append("store")

    reader = StoreReader(read, None, lambda key: asked.append("settled") or True)
    assert reader.of([key(0)], [100], NOW) == [None]
    assert asked == ["settled", "store"]


@pytest.mark.parametrize(
    "raw", [b"", bytes(21), layout.pack_record(StoredRecord(7, 0, 0, b"value"))[:-1], bytes(22) + b"x"]
)
def test_a_damaged_record_goes_to_the_ordinary_path(raw):
    assert StoreReader(lambda asked: raw, None, caught_up).of([key(0)], [100], NOW) == [None]


def test_one_failing_key_fails_no_other(store):
    record = stored(store, 1, StoredRecord(7, 0, 0, b"value"))

    def read(asked: bytes):
        if asked.endswith(key(0)):
            raise OSError("the disk is gone")
        return layout.pack_record(record)

    cache = RecordCache(1 << 20)
    assert StoreReader(read, cache, caught_up).of([key(0), key(1), b"short"], [100] * 3, NOW) == [
        None,
        record,
        None,
    ]
    closed = store.reader(None, caught_up)
    store.close()
    assert closed.of([key(1)], [100], NOW) == [None]


def test_a_version_beyond_the_clock_is_not_read(store):
    later = NOW + 86400
    stored_then = [Write(key(0), StoredRecord(LATEST + 1, 0, 0, b"ahead"))]
    store.apply(stored_then, later)
    reader = store.reader(None, caught_up)
    assert reader.of([key(0)], [1104], NOW) == [None]
    assert reader.of([key(0)], [1104], later) == [stored_then[0].record]


def test_random_records_agree_with_the_store(store):
    rng = random.Random(3)
    for number in range(300):
        deleted = rng.random() < 0.2
        expiry = rng.choice([0, int(NOW) - 1, int(NOW), int(NOW) + 1, LATER, 2**64 - 1])
        value = b"" if deleted else rng.randbytes(rng.randrange(1105))
        flags = TOMBSTONE if deleted else rng.choice([0, 0x80])
        stored(store, number, StoredRecord(rng.randrange(1, int(NOW * 1_000_000)), expiry, flags, value))
    keys = [key(n) for n in range(320)]
    wanted = [visible(record, NOW) for record in store.get_many(keys, NOW)]
    assert store.reader(None, caught_up).of(keys, [1104] * len(keys), NOW) == wanted
