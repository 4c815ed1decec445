"""LevelDB's store decides the common writes in Cython: it must say and keep what the plain rule does."""

from random import Random

import pytest
from records import NOW

from kdht.storage import LevelStore, MemoryStore, Promise, StoredRecord, Write
from kdht.storage.room import Limits, Room, Space
from kdht.storage.versions import micros
from kdht.wire._shared import ID_LEN, RecordFlag
from kdht.wire.certified import CERTIFIED

TIMES = (0.0, 0.2, 30.0, 90.0, 700.0)
"""Seconds that pass between two groups: promises end, and clocks go on."""


def a_record(draw: Random, now: float) -> StoredRecord:
    version = micros(now) + draw.choice((-3, -2, -1, 0, 1, 2, 50_000_000, 400_000_000, 90_000_000_000))
    expiry = draw.choice((0, 0, int(now) - 1, int(now) + 5, int(now) + 100))
    kind = draw.random()
    if kind < 0.2:
        return StoredRecord(version, expiry, int(RecordFlag.TOMBSTONE), b"")
    if kind < 0.3:
        return StoredRecord(CERTIFIED + draw.randint(0, 2), expiry, int(RecordFlag.SIGNED), b"proof")
    return StoredRecord(version, expiry, 0, draw.choice((b"", b"a", b"b" * 1000)))


def a_wish(draw: Random, now: float) -> Write | Promise:
    key = bytes([draw.randint(0, 5)]) * ID_LEN
    record, nonce = a_record(draw, now), draw.randint(1, 2)
    if draw.random() < 0.2:
        return Promise(key, min(record.version, CERTIFIED - 1), nonce, draw.random() < 0.3)
    return Write(key, record, nonce if draw.random() < 0.2 else None)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("limits", [Limits(), Limits(value_bytes=3000, records=4), Limits(min_free=1 << 30)])
def test_both_stores_decide_alike(seed, limits, tmp_path):
    draw, now = Random(seed), NOW
    space = Space(100 << 20, 8 << 30)
    level = LevelStore(tmp_path / "db", room=Room(limits, lambda: space))
    memory = MemoryStore(room=Room(limits, lambda: space))
    for _ in range(60):
        now += draw.choice(TIMES)
        # One wish: LevelDB's store looks at its quota before each group, the other one at each record.
        wishes = [a_wish(draw, now)]
        told: list[list] = [[], []]
        said = [
            store.apply(wishes, now, lambda *change, mine=mine: mine.append(change))
            for store, mine in zip((level, memory), told, strict=True)
        ]
        assert said[0] == said[1], wishes
        assert told[0] == told[1]
    kept = [list(store.scan(now)) for store in (level, memory)]
    assert kept[0] == kept[1]
    assert level.audit(now).problems == []
    level.close()


@pytest.mark.parametrize("seed", range(5))
def test_a_group_is_decided_in_order(seed, tmp_path):
    draw = Random(seed)
    level, memory = LevelStore(tmp_path / "db"), MemoryStore()
    for number in range(20):
        now = NOW + number
        wishes = [a_wish(draw, now) for _ in range(30)]
        assert level.apply(wishes, now) == memory.apply(wishes, now)
    assert list(level.scan(NOW)) == list(memory.scan(NOW))
    level.close()


@pytest.mark.parametrize(
    "write",
    [
        Write(b"short", StoredRecord(1, 0, 0, b"")),
        Write(bytes(ID_LEN), StoredRecord(0, 0, 0, b"")),
        Write(bytes(ID_LEN), StoredRecord(1 << 64, 0, 0, b"")),
        Write(bytes(ID_LEN), StoredRecord(1, -1, 0, b"")),
        Write(bytes(ID_LEN), StoredRecord(1, 0, 1 << 32, b"")),
        Write(bytes(ID_LEN), StoredRecord(1, 0, 0, bytes(2000))),
    ],
)
def test_a_malformed_write_is_refused_with_its_whole_group(write, tmp_path):
    level = LevelStore(tmp_path / "db")
    good = Write(bytes(ID_LEN), StoredRecord(micros(NOW), 0, 0, b"good"))
    with pytest.raises(ValueError, match=r"bytes|version|range"):
        level.apply([good, write], NOW)
    assert list(level.scan(NOW)) == []
    level.close()
