"""Sets: the bodies of ANNOUNCE, MEMBERS and LIST, and the members that a node keeps in memory.

Invariant: any body parses or is BadPacket, and what parses packs to the same bytes. The index gives what a plain dictionary
of records would: whatever came before it was first asked or after, every walk by cursor shows each living member once.

    | choices | body ... |        or        | 01 | steps: place, version, kind, seconds ... |
"""

import contextlib
from collections.abc import Iterator

from fuzz.targets.events import Reader
from kdht.errors import BadPacket
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
    LEAST_REPLY,
    PLACE_LEN,
    RENEWAL,
    SHARED_LEN,
    SOFT,
    id_of,
    member_value,
    pack_announcement,
    pack_lease,
    pack_list,
    pack_listing,
    pack_members,
    pack_question,
    pack_told,
    parse_announcement,
    parse_lease,
    parse_list,
    parse_listing,
    parse_members,
    parse_question,
    parse_told,
)

NOW = 1_800_000_000
SET = hash_key("set")
OTHER = SET[:SHARED_LEN] + bytes(PLACE_LEN)
"""Another set that begins alike: nobody finds its name, but raw keys are anybody's."""
MAX_STEPS = 64
PLACES = [bytes([number]) + bytes(PLACE_LEN - 1) for number in range(1, 200)]


def check_bodies(body: bytes) -> None:
    try:
        record, name = parse_announcement(body)
        how = {"soft": bool(record.flags & SOFT), "renewal": bool(record.flags & RENEWAL)}
        assert pack_announcement(name, record.ttl, record.value, record.version, **how) == body
    except BadPacket:
        pass
    try:
        cursor, flags = parse_question(body)
        assert body.startswith(pack_question(cursor, flags))
    except BadPacket:
        pass
    with contextlib.suppress(BadPacket):
        assert pack_members(parse_members(body)) == body
    with contextlib.suppress(BadPacket):
        assert pack_list(parse_list(body)) == body
    with contextlib.suppress(BadPacket):
        assert pack_listing(parse_listing(body)) == body

    with contextlib.suppress(BadPacket):
        assert pack_told(parse_told(body)) == body
    with contextlib.suppress(BadPacket):
        lease = parse_lease(body)
        assert lease is None or pack_lease(*lease) == body


class World:
    """A store with an index beside it, and what the set should have."""

    def __init__(self) -> None:
        self.now = UnixTime(NOW)
        self.store = MemoryStore()
        self.index = SetIndex(self.store)

    def write(self, reader: Reader) -> None:
        place, version, kind = PLACES[reader.byte() % len(PLACES)], 1 + reader.byte(), reader.byte()
        expiry = int(self.now) + 1 + reader.byte()
        if kind % 4 == 0:
            record = StoredRecord(version, expiry, TOMBSTONE, b"")
        else:
            owner = OTHER if kind % 4 == 1 else SET
            record = StoredRecord(version, expiry, 0, member_value(owner, bytes(kind)))
        self.store.apply([Write(SET[:SHARED_LEN] + place, record)], self.now, self.index.changed)

    def check(self, room: int) -> None:
        living = {
            id_of(key[SHARED_LEN:]): (record.value[PLACE_LEN:], record.expiry)
            for key, record in self.store.scan(self.now)
            if record.value.startswith(SET[SHARED_LEN:])
        }
        walked: dict[int, tuple[bytes, int]] = {}
        cursor = FIRST
        while cursor != END:
            page = self.page(cursor, room)
            assert page.total == len(living)
            assert page.next == END or page.next > cursor
            for member in page.members:
                assert member.id not in walked
                walked[member.id] = member.payload, int(self.now) + member.ttl
            assert len(pack_members(page)) <= room
            cursor = page.next
        assert walked == living
        some = {member.id for member in self.page(ANYWHERE, room).members}
        assert some <= set(living)
        assert bool(some) == bool(living)

    def page(self, cursor: int, room: int):
        part = self.index.part(SET, cursor, ENTRY_LEN, room, self.now, 1 << 63)
        page = page_of_members(self.index.living(SET, part.start, room, self.now), part, room)
        return as_seen(page, self.now)


def one(data: bytes) -> None:
    reader = Reader(data)
    if reader.byte() != 1:
        check_bodies(reader.bytes(MAX_BODY))
        return
    world = World()
    for _ in range(MAX_STEPS):
        if not reader:
            break
        step = reader.byte()
        if step % 8 == 0:
            world.now = UnixTime(world.now + reader.byte())
        elif step % 8 == 1:
            world.check(LEAST_REPLY + reader.byte() * 3)
        else:
            world.write(reader)
    world.check(LEAST_REPLY)


def seeds() -> Iterator[tuple[str, bytes]]:
    yield "soft", b"\0" + pack_announcement(b"web-0001", 30, b"10.0.0.1:80", soft=True)
    yield "announcement", b"\0" + pack_announcement(b"web-0001", 30, b"10.0.0.1:80", 7)
    yield "question", b"\0" + pack_question(FIRST, 1) + bytes(20)
    yield (
        "members",
        b"\0" + bytes.fromhex("00000001 00000000 0000000000000000 1122334455667788 0000001d 0002 6162"),
    )
    yield (
        "list",
        b"\0"
        + bytes.fromhex("00000001 00000000 0000000000000000 112233445566778899aabbcc 0000000000000007")
        + bytes.fromhex("6b49d21e 0002 0000"),
    )
    yield "lease", b"\0" + pack_lease(30, FIRST)
    yield (
        "told",
        b"\0"
        + bytes.fromhex("0000000000000000 0000000000000007 00000000 00000000 0000000000000000")
        + bytes.fromhex("1122334455667788 0000001d 0002 6162"),
    )
    yield "listing", b"\0" + pack_listing(FIRST)
    line = b"".join(bytes([2, place, 5, 2 + place % 7, 9]) for place in range(40))
    yield "walk", b"\1" + line + b"\1\0"
    yield "walk-first", b"\1\1\0" + line + b"\1\x50"
    yield "withdrawn", b"\1" + line[:50] + bytes([2, 3, 6, 4, 9, 1, 0, 0, 20])
    yield "another-set", b"\1" + line[:50] + bytes([2, 3, 6, 5, 9, 2, 4, 6, 5, 9])
