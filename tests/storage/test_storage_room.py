"""Room in a store: quotas, free space, writers' shares."""

import pytest
from records import NOW, delete, key_of, put

from kdht.storage import LevelStore, MemoryStore, Result
from kdht.storage.room import (
    HALF_LIFE,
    LEAST_BUFFER,
    MAX_WRITERS,
    MIB,
    UNBOUNDED,
    Limits,
    Pressure,
    Room,
    Space,
    boundless,
    buffer_for,
)

FULL = Result(False, False, 0, 0, True)


class Disk:
    """Its free space is what a test says."""

    def __init__(self, free: int = 1 << 40, size: int = 1 << 40) -> None:
        self.space = Space(free, size)

    def __call__(self) -> Space:
        return self.space


@pytest.fixture(params=["level", "memory"])
def opened(request, tmp_path):
    def open_with(limits: Limits, disk: Disk):
        room = Room(limits, disk)
        if request.param == "memory":
            return MemoryStore(room=room)
        return LevelStore(tmp_path / "db", room=room)

    return open_with


def test_a_quota_refuses_clients_then_members_and_lets_deletions_pass(opened):
    store = opened(Limits(records=8), Disk())
    assert all(outcome.accepted for outcome in store.apply([put(n) for n in range(8)], NOW))
    assert store.room.pressure is Pressure.CLIENTS
    assert not store.room.lets_in(b"who", 5, 0, NOW)
    assert store.apply([put(8)], NOW)[0].accepted, "from another node"
    assert store.apply([put(9)], NOW) == [FULL]
    assert store.apply([put(1)], NOW)[0].accepted, "a repeated write"
    assert store.apply([put(1, b"newer", version=2)], NOW)[0].accepted, "in the place of an older one"
    assert store.get(key_of(9), NOW) is None
    assert all(outcome.accepted for outcome in store.apply([delete(n, version=3) for n in range(3)], NOW))
    assert store.room.pressure is Pressure.NONE
    assert store.room.lets_in(b"who", 5, 0, NOW)
    store.close()


def test_a_quota_of_bytes(opened):
    store = opened(Limits(value_bytes=100), Disk())
    store.apply([put(1, bytes(99))], NOW)
    assert store.room.lets_in(b"who", 5, 0, NOW)
    store.apply([put(2, bytes(9))], NOW)
    assert not store.room.lets_in(b"who", 5, 0, NOW)
    assert "storage.quota " in store.room.why
    store.apply([put(3, bytes(9))], NOW)
    assert store.room.pressure is Pressure.MEMBERS
    store.close()


def test_free_space_refuses_step_by_step(opened):
    disk = Disk(free=64 * MIB)
    store = opened(Limits(min_free=64 * MIB), disk)
    now = NOW
    for free, pressure in ((63, 1), (31, 2), (1, 3), (31, 2), (64, 0)):
        disk.space = disk.space._replace(free=free * MIB)
        now += 1
        outcome = store.apply([put(int(now), version=1)], now)
        assert store.room.pressure == pressure
        assert outcome[0].full == (pressure >= 2)
        assert store.apply([delete(1, version=int(now))], now)[0].full == (pressure == 3)
    store.close()


def test_five_eighths_of_a_small_disk_are_enough():
    room = Room(Limits(min_free=64 * MIB), Disk(free=26 * MIB, size=40 * MIB))
    room.look(NOW)
    assert room.pressure is Pressure.NONE
    room = Room(Limits(min_free=64 * MIB), Disk(free=24 * MIB, size=40 * MIB))
    room.look(NOW)
    assert room.pressure is Pressure.CLIENTS


@pytest.mark.parametrize("buffer_mib", [2, 8, 12])
def test_deletions_are_refused_when_the_log_may_not_fit_any_more(buffer_mib):
    disk = Disk(free=buffer_mib * MIB)
    room = Room(Limits(min_free=64 * MIB, write_buffer=buffer_mib * MIB), disk)
    room.look(NOW)
    assert room.pressure is Pressure.MEMBERS
    disk.space = disk.space._replace(free=buffer_mib * MIB - 1)
    room.look(NOW + 1)
    assert room.pressure is Pressure.ALL


@pytest.mark.parametrize("buffer_mib", [2, 16])
def test_a_database_is_opened_again_with_room_for_what_it_has_in_memory(buffer_mib):
    disk = Disk(free=(2 * buffer_mib + 4) * MIB)
    room = Room(Limits(write_buffer=buffer_mib * MIB), disk)
    assert room.has_room_to_reopen()
    disk.space = disk.space._replace(free=(2 * buffer_mib + 4) * MIB - 1)
    assert not room.has_room_to_reopen()


@pytest.mark.parametrize(
    ("space", "found"),
    [
        (UNBOUNDED, 16 * MIB),
        (Space(free=0, size=256 * MIB), 16 * MIB),
        (Space(free=1 << 40, size=128 * MIB), 8 * MIB),
        (Space(free=2 * MIB, size=2 * MIB), LEAST_BUFFER),
        (Space(free=0, size=0), LEAST_BUFFER),
    ],
)
def test_a_small_disk_gets_a_small_write_buffer(space, found):
    assert buffer_for(16 * MIB, space) == found


@pytest.mark.parametrize("buffer_mib", [1, 4])
def test_the_write_buffer_is_leveldbs(tmp_path, buffer_mib):
    """As much as fits into it is in no table yet."""
    store = LevelStore(tmp_path / "db", room=Room(Limits(write_buffer=buffer_mib * MIB), Disk()))
    for first in range(0, 3000, 100):
        store.apply([put(n, bytes(1000)) for n in range(first, first + 100)], NOW)
    has_tables = any(path.suffix == ".ldb" for path in (tmp_path / "db").iterdir())
    store.close()
    assert has_tables == (buffer_mib == 1)


def test_room_is_seen_again_without_a_write():
    disk = Disk(free=0)
    room = Room(Limits(min_free=64 * MIB), disk)
    room.look(NOW)
    assert not room.lets_in(b"who", 5, 0, NOW)
    disk.space = UNBOUNDED
    assert room.lets_in(b"who", 5, 0, NOW + 1)


@pytest.mark.parametrize(
    ("ttl", "good"), [(0, False), (1, True), (60, True), (61, False), (2**32 - 1, False)]
)
def test_a_value_may_be_kept_for_no_longer_than_max_ttl(ttl, good):
    assert Room(Limits(max_ttl=60), Disk()).lets_in(b"who", 5, ttl, NOW) == good
    assert boundless().lets_in(b"who", 5, ttl, NOW)


def test_a_writer_has_a_share_of_its_own():
    room = Room(Limits(writer_records=2, writer_bytes=100), Disk())
    for _ in range(2):
        assert room.lets_in(b"one", 40, 0, NOW)
        room.wrote(b"one", 40, NOW)
    assert not room.lets_in(b"one", 1, 0, NOW)
    assert not room.lets_in(b"other", 101, 0, NOW)
    assert room.lets_in(b"other", 100, 0, NOW)
    room.deleted(b"one", NOW)
    assert room.lets_in(b"one", 60, 0, NOW)
    assert not room.lets_in(b"one", 61, 0, NOW)
    room.wrote(b"one", 60, NOW)
    assert not room.lets_in(b"one", 1, 0, NOW)
    assert room.lets_in(b"one", 1, 0, NOW + HALF_LIFE), "half of it is forgotten each day"


def test_writers_are_bounded_in_number():
    room = Room(Limits(writer_records=1), Disk())
    for number in range(MAX_WRITERS + 100):
        room.wrote(number.to_bytes(16, "big"), 1, NOW)
    assert len(room._writers._of) == MAX_WRITERS
