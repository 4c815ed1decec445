"""The members of sets in memory: fair parts, walks, bounds, and what is no member."""

import threading
from collections import Counter
from random import Random

import pytest

from kdht.node.sets import index as module
from kdht.node.sets.index import SetIndex, as_seen, page_of_members
from kdht.storage import MemoryStore, StoredRecord, Write
from kdht.storage.record import TOMBSTONE
from kdht.times import UnixTime
from kdht.wire import hash_key
from kdht.wire._shared import MAX_BODY
from kdht.wire.sets import (
    ANYWHERE,
    END,
    ENTRY_LEN,
    FIRST,
    HEAD_LEN,
    LISTED_LEN,
    MAX_PAYLOAD,
    PLACE_LEN,
    SHARED_LEN,
    member_key,
    member_value,
    pack_list,
    pack_members,
)

NOW = UnixTime(1_800_000_000.0)
LATER = int(NOW) + 60


class World:
    def __init__(self, seed: int = 1) -> None:
        self.store = MemoryStore()
        self.index = SetIndex(self.store)
        self.chance = Random(seed)
        self.scans = 0
        scan = self.store.scan

        def counted(*arguments):
            self.scans += 1
            return scan(*arguments)

        self.store.scan = counted

    def add(
        self,
        name: str,
        number: int,
        payload: bytes = b"\1\2\3\4\5\6",
        *,
        expiry: int = LATER,
        version: int = 1,
    ):
        key = member_key(hash_key(name), bytes(8), b"%08d" % number)
        record = StoredRecord(version, expiry, 0, member_value(hash_key(name), payload))
        self.store.apply([Write(key, record)], NOW, self.index.changed)
        return key

    def bury(self, name: str, number: int, *, expiry: int = LATER):
        key = member_key(hash_key(name), bytes(8), b"%08d" % number)
        self.store.apply([Write(key, StoredRecord(9, expiry, TOMBSTONE, b""))], NOW, self.index.changed)

    def ask(self, name: str, cursor: int, room: int = MAX_BODY, now: UnixTime = NOW):
        part = self.index.part(hash_key(name), cursor, ENTRY_LEN, room, now, self.chance.getrandbits(64))
        page = page_of_members(self.index.living(hash_key(name), part.start, room, now), part, room)
        page = as_seen(page, now)
        assert len(pack_members(page)) <= room
        return page


def test_55_endpoints_fit_one_answer():
    world = World()
    for number in range(55):
        world.add("web", number)
    page = world.ask("web", ANYWHERE)
    assert (page.total, page.next, len(page.members)) == (55, END, 55)
    assert len(pack_members(page)) == HEAD_LEN + 55 * 20 == 1116


def test_every_member_is_shown_equally_often():
    world = World()
    for number in range(300):
        world.add("web", number)
    shown: Counter[int] = Counter()
    asked = 6000
    for _ in range(asked):
        page = world.ask("web", ANYWHERE)
        assert page.next == FIRST
        assert page.total == 300
        shown.update(member.id for member in page.members)
    # 300 entries of 20 bytes make 6 parts of 50: each member is expected 1,000 times, deviation 29.
    assert len(shown) == 300
    assert all(850 < count < 1150 for count in shown.values())


def test_a_walk_sees_those_who_stay_while_others_come_and_go():
    world = World()
    for number in range(1000):
        world.add("web", number, b"%d" % number)
    seen, cursor, coming = set(), FIRST, 1000
    while True:
        page = world.ask("web", cursor)
        seen |= {member.payload for member in page.members}
        if page.next == END:
            break
        cursor = page.next
        for _ in range(30):
            world.add("web", coming, b"%d" % coming)
            world.bury("web", coming - 500)
            coming += 1
    stayed = {b"%d" % number for number in range(500)}
    assert stayed <= seen


def test_the_disk_is_read_once_for_each_set():
    world = World()
    for number in range(10):
        world.add("web", number)
    for _ in range(5):
        assert world.ask("web", FIRST).total == 10
    world.add("web", 10)
    assert world.ask("web", FIRST).total == 11
    assert world.scans == 1


def test_members_end_in_the_second_of_their_expiry():
    world = World()
    world.add("web", 1, b"short", expiry=int(NOW) + 2)
    world.add("web", 2, b"long", expiry=LATER)
    assert [world.ask("web", FIRST, now=UnixTime(NOW + after)).total for after in (0, 1.999, 2.0)] == [
        2,
        2,
        1,
    ]


def test_tombstones_are_told_to_nodes_and_not_to_readers():
    world = World()
    world.add("web", 1, b"a")
    world.add("web", 2, b"b")
    world.bury("web", 2)
    assert [member.payload for member in world.ask("web", FIRST).members] == [b"a"]
    page = world.index.listing(hash_key("web"), FIRST, NOW).page
    assert page.total == 1
    assert sorted((each.flags, each.payload) for each in page.listed) == [(0, b"a"), (TOMBSTONE, b"")]


def test_a_page_for_nodes_ends_where_its_room_ends():
    world = World()
    for number in range(100):
        world.add("web", number)
    page = world.index.listing(hash_key("web"), FIRST, NOW).page
    assert len(page.listed) == (MAX_BODY - HEAD_LEN) // (LISTED_LEN + 6) == 32
    assert len(pack_list(page)) <= MAX_BODY
    assert page.next > page.listed[-1].place[0]
    rest = world.index.listing(hash_key("web"), page.next, NOW).page
    assert not {each.place for each in page.listed} & {each.place for each in rest.listed}


def test_what_lies_beside_is_no_member():
    """Raw keys are anybody's: other records may begin like a set's members."""
    world, web = World(), hash_key("web")
    world.add("web", 1)
    value = member_value(web, b"")
    others = {
        b"no expiry": StoredRecord(1, 0, 0, value),
        b"another set": StoredRecord(1, LATER, 0, bytes(PLACE_LEN)),
        b"too short": StoredRecord(1, LATER, 0, value[:-1]),
        b"too long": StoredRecord(1, LATER, 0, value + bytes(MAX_PAYLOAD + 1)),
    }
    for number, record in enumerate(others.values()):
        key = web[:SHARED_LEN] + bytes([number]) * PLACE_LEN
        world.store.apply([Write(key, record)], NOW, world.index.changed)
    assert world.ask("web", FIRST).total == 1
    # Also if the index has not seen them come.
    assert SetIndex(world.store).listing(web, FIRST, NOW).page.total == 1


def test_sets_that_nobody_asks_for_are_forgotten(monkeypatch):
    monkeypatch.setattr(module, "MAX_ENTRIES", 10)
    world = World()
    for name in ("a", "b", "c"):
        for number in range(4):
            world.add(name, number)
        assert world.ask(name, FIRST).total == 4
    scans = world.scans
    assert world.ask("c", FIRST).total == world.ask("b", FIRST).total == 4
    assert world.scans == scans
    assert world.ask("a", FIRST).total == 4
    assert world.scans == scans + 1


@pytest.mark.parametrize("has", [3, 4])
def test_a_full_set_takes_its_own_members_only(monkeypatch, has):
    monkeypatch.setattr(module, "MAX_MEMBERS", 4)
    world, web = World(), hash_key("web")
    keys = [world.add("web", number) for number in range(has)]
    assert world.index.has_room(web, keys[0], NOW)
    assert world.index.has_room(web, member_key(web, bytes(8), b"new-one."), NOW) is (has < 4)


def test_sets_that_grow_unread_are_forgotten_too(monkeypatch):
    monkeypatch.setattr(module, "MAX_ENTRIES", 10)
    world = World()
    for name in ("a", "b"):
        world.ask(name, FIRST)
    for number in range(20):
        world.add("a", number)
        assert world.index.held <= 10
    assert world.ask("a", FIRST).total == 20


def test_a_record_that_comes_during_the_first_read_is_no_more_forgotten():
    world = World()
    world.add("web", 1)
    scan, threads = world.store.scan, []

    def disturbed(*arguments):
        found = scan(*arguments)
        yield next(found)
        # The range was looked at. Now a writer stores another one, and tells the index.
        threads.append(threading.Thread(target=world.add, args=("web", 2)))
        threads[0].start()
        threads[0].join(0.2)
        yield from found

    world.store.scan = disturbed
    assert world.ask("web", FIRST).total in (1, 2)
    threads[0].join(30)
    assert world.ask("web", FIRST).total == 2


def test_only_a_confirmed_record_spares_a_renewal():
    """A record that merely lies here may lack a majority."""
    world, web = World(), hash_key("web")
    key = world.add("web", 1, expiry=int(NOW) + 30)
    value = member_value(web, b"\1\2\3\4\5\6")

    def spared(ttl: int = 30, after: float = 0.0, value: bytes = value, *, hard: bool = True):
        return world.index.spared(web, key, value, ttl, UnixTime(NOW + after), hard=hard) is not None

    world.ask("web", FIRST)
    assert not spared()
    world.index.confirm(key, 2, hard=True)  # another version
    assert not spared()
    world.index.confirm(key, 1, hard=False)
    assert [spared(hard=False), spared()] == [True, False]
    world.index.confirm(key, 1, hard=True)
    assert spared()
    # Half of the TTL, the same payload, and no shorter TTL than before.
    assert [spared(after=15), spared(after=15.1), spared(ttl=61), spared(ttl=28), spared(value=b"x")] == [
        True, False, False, False, False,
    ]  # fmt: skip
    world.add("web", 1, expiry=int(NOW) + 30, version=2)
    assert not spared()
