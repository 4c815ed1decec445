"""Sets: where a member's record lies, and the bodies of ANNOUNCE, WITHDRAW, MEMBERS and LIST. Layer 0.

A member is an ordinary record. Its key begins with 8 bytes of the set's key, so both have the same replicas, and goes on
with a hash. Its value begins with the rest of the set's key. So all members of a set are one range of keys.

Parsing gives a value or raises BadPacket, nothing else. docs/design/sets.md has the reasons.
"""

import struct
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any, NamedTuple

from kdht.errors import BadPacket
from kdht.wire import _shared as shared
from kdht.wire.bodies import Record
from kdht.wire.buffer import Buffer

# ANNOUNCE and WITHDRAW:                    MEMBERS:                              its reply:
#
#      0              4              8          0              4              8        0              4              8
#  0 | version                       |      0 | cursor                        |    0 | count        | 0              |
#  8 | ttl          | flags, 0       |      8 | flags        | padding ...         8 | next                          |
# 16 | member's name                 |                                            16 | entry | entry ...
# 24 | payload (ANNOUNCE)
#
# An entry: member 8 | ttl 4 | length 2 | payload. In the reply to LIST: the rest of its key 12 | version 8 | expiry 4 |
# flags 2 | length 2 | payload.

SHARED_LEN = 8
"""Bytes that a member's key has of its set's key."""
PLACE_LEN = shared.ID_LEN - SHARED_LEN
"""Bytes of a member's key behind those: its place in the set."""
NAME_LEN = 8
MAX_PAYLOAD = 256
MAX_MEMBER_TTL = 86400
"""Seconds. The tombstone of a member has to outlive every older copy, so this is bounded."""
MAX_MEMBERS = 65536
"""Of one set."""
NOBODYS = bytes(8)
"""In place of a holder: members of clients without a token."""
ANYWHERE = 0
"""The cursor of a question for a part of the set that the node draws."""
FIRST = 1
"""The cursor of a walk's first question."""
END = 0
"""The cursor behind a walk's last answer."""
QUORUM = 1
"""Flag of a MEMBERS: from a majority of the replicas."""

SET = 1
"""Flag of a WATCH: of the members of the set, not of the record."""

_ASKED = struct.Struct(">QI")
_LEASE = struct.Struct(">IIQ")
_TOLD = struct.Struct(">QQ")
_HEAD = struct.Struct(">IIQ")
_ENTRY = struct.Struct(">QIH")
_LISTED = struct.Struct(f">{PLACE_LEN}sQIHH")
_FROM = struct.Struct(">Q")
HEAD_LEN = _HEAD.size
TOLD_LEN = _TOLD.size
ASKED_LEN = _ASKED.size
FROM_LEN = _FROM.size
ENTRY_LEN = _ENTRY.size
LISTED_LEN = _LISTED.size
LEAST_REPLY = TOLD_LEN + HEAD_LEN + ENTRY_LEN + MAX_PAYLOAD
"""Bytes in which every entry fits."""


class Member(NamedTuple):
    """A member as a reader sees it."""

    id: int
    """Of this announcer in this set: the first 8 bytes of its place."""
    ttl: int
    """Seconds left; 0: it has withdrawn."""
    payload: bytes


class Listed(NamedTuple):
    """A member as a replica has it."""

    place: bytes
    version: int
    expiry: int
    """Unix seconds."""
    flags: int
    payload: bytes


class MembersPage(NamedTuple):
    """A MEMBERS' reply."""

    total: int
    """Members in all, as far as the node knows."""
    next: int
    """The cursor for the rest, END if there is none."""
    members: list[Member]


class ListPage(NamedTuple):
    """A LIST's reply: all of a replica's members from the asked place up to `next`; END: up to the last one."""

    total: int
    next: int
    listed: list[Listed]


# --- Where a member lies


def default_name(payload: bytes) -> bytes:
    """The name of an announcer that chose none: an endpoint announces itself."""
    return blake2b(payload, digest_size=NAME_LEN, person=b"kdht-member").digest()


def member_key(set_key: bytes, holder: bytes, name: bytes) -> bytes:
    """The key of a member's record. `holder`: 8 bytes; each holder's names are its own."""
    place = blake2b(set_key + holder + name, digest_size=PLACE_LEN, person=b"kdht-set").digest()
    return set_key[:SHARED_LEN] + place


def member_value(set_key: bytes, payload: bytes) -> bytes:
    """The value of a member's record."""
    return set_key[SHARED_LEN:] + payload


def set_of(key: bytes, value: bytes) -> bytes:
    """The set that a record would be in, if it is a member's."""
    return key[:SHARED_LEN] + value[:PLACE_LEN]


def id_of(place: bytes) -> int:
    """A member's ID, from its place."""
    return int.from_bytes(place[:8], "big")


# --- ANNOUNCE and WITHDRAW


SOFT = int(shared.RecordFlag.SOFT)
"""Flag of an ANNOUNCE: acknowledge it from the replicas' memory."""
RENEWAL = 0x80
"""Flag of an ANNOUNCE, which no record has: write nothing while the same announcement has half of its time left."""


def pack_announcement(
    name: bytes,
    ttl: int,
    payload: bytes = b"",
    version: int = 0,
    *,
    soft: bool = False,
    renewal: bool = False,
) -> bytes:
    """The body of an ANNOUNCE; of a WITHDRAW without payload, with the greatest TTL of its announcements."""
    return Record(version, ttl, SOFT * soft | RENEWAL * renewal, name + payload).pack()


def parse_announcement(body: Buffer) -> tuple[Record, bytes]:
    """The record, whose value is the payload, and the member's name, from an untrusted body. Raises BadPacket.

    The record may have the flags SOFT and RENEWAL.
    """
    record = Record.parse(body)
    name, payload = record.value[:NAME_LEN], record.value[NAME_LEN:]
    if len(name) < NAME_LEN:
        raise BadPacket("TRUNCATED", f"an announcement in {len(body)} bytes")
    if len(payload) > MAX_PAYLOAD:
        raise BadPacket("TOO_LONG", f"a payload of {len(payload)} bytes")
    if record.flags & ~(SOFT | RENEWAL):
        raise BadPacket("BAD_FLAGS", f"an announcement with the flags {record.flags:#x}")
    if record.ttl > MAX_MEMBER_TTL:
        raise BadPacket("BAD_LENGTH", f"an announcement for {record.ttl} seconds")
    return record._replace(value=payload), name


# --- MEMBERS


def pack_question(cursor: int, flags: int = 0) -> bytes:
    return _ASKED.pack(cursor, flags)


def parse_question(body: Buffer) -> tuple[int, int]:
    """Cursor and flags of an untrusted MEMBERS. Raises BadPacket."""
    if len(body) < _ASKED.size:
        raise BadPacket("TRUNCATED", f"a MEMBERS in {len(body)} bytes")
    cursor, flags = _ASKED.unpack_from(body)
    if flags & ~QUORUM:
        raise BadPacket("BAD_FLAGS", f"a MEMBERS with the flags {flags:#x}")
    return cursor, flags


def pack_members(page: MembersPage) -> bytes:
    parts = [_HEAD.pack(page.total, 0, page.next)]
    for id, ttl, payload in page.members:
        parts += (_ENTRY.pack(id, ttl, len(payload)), payload)
    return b"".join(parts)


def parse_members(body: Buffer) -> MembersPage:
    """From an untrusted reply. Raises BadPacket."""
    count, following = _head(body)
    members = [Member(id, ttl, payload) for (id, ttl, _), payload in _entries(body, _ENTRY)]
    return MembersPage(count, following, members)


# --- WATCH of a set
#
# The request: lease 4 | flags 4 | cursor 8. A reply: where its page begins 8, or 0 | version of the change 8, or 0; then
# as a MEMBERS' reply.


class ToldMembers(NamedTuple):
    """A reply to a WATCH of a set."""

    start: int
    """Of a page: all members from here to its `next` are in it. 0: of a change."""
    version: int
    """Of a change. 0: of a page."""
    page: MembersPage


def pack_lease(seconds: int, cursor: int) -> bytes:
    return _LEASE.pack(seconds, SET, cursor)


def parse_lease(body: Buffer) -> tuple[int, int] | None:
    """Seconds and cursor of an untrusted WATCH; None if it is no WATCH of a set. Raises BadPacket."""
    if len(body) != _LEASE.size:
        return None
    seconds, flags, cursor = _LEASE.unpack(body)
    if flags != SET or cursor == ANYWHERE:
        raise BadPacket("BAD_FLAGS", f"a WATCH with the flags {flags:#x} and the cursor {cursor}")
    return seconds, cursor


def pack_told(told: ToldMembers) -> bytes:
    return _TOLD.pack(told.start, told.version) + pack_members(told.page)


def parse_told(body: Buffer) -> ToldMembers:
    """From an untrusted reply. Raises BadPacket."""
    if len(body) < _TOLD.size:
        raise BadPacket("TRUNCATED", f"a set's news in {len(body)} bytes")
    start, version = _TOLD.unpack_from(body)
    page = parse_members(body[_TOLD.size :])
    if bool(start) == bool(version) or (version and len(page.members) != 1):
        raise BadPacket("BAD_LENGTH", f"a set's news of {len(page.members)} members")
    return ToldMembers(start, version, page)


# --- LIST


def pack_listing(start: int) -> bytes:
    """The body of a LIST: all members from this place on."""
    return _FROM.pack(start)


def parse_listing(body: Buffer) -> int:
    """From an untrusted body. Raises BadPacket."""
    if len(body) != _FROM.size:
        raise BadPacket("BAD_LENGTH", f"a LIST in {len(body)} bytes")
    return int(_FROM.unpack(body)[0])


def pack_list(page: ListPage) -> bytes:
    parts = [_HEAD.pack(page.total, 0, page.next)]
    for place, version, expiry, flags, payload in page.listed:
        parts += (_LISTED.pack(place, version, expiry, flags, len(payload)), payload)
    return b"".join(parts)


def parse_list(body: Buffer) -> ListPage:
    """From an untrusted reply. Raises BadPacket."""
    count, following = _head(body)
    listed = [
        Listed(place, version, expiry, flags, payload)
        for (place, version, expiry, flags, _), payload in _entries(body, _LISTED)
    ]
    return ListPage(count, following, listed)


def fitting(sizes: Iterable[int], room: int, head: int) -> int:
    """How many of entries with payloads of these sizes fit into `room` bytes, behind a head of HEAD_LEN each page."""
    left, number = room - HEAD_LEN, 0
    for size in sizes:
        left -= head + size
        if left < 0:
            break
        number += 1
    return number


def _head(body: Buffer) -> tuple[int, int]:
    if len(body) < _HEAD.size:
        raise BadPacket("TRUNCATED", f"members in {len(body)} bytes")
    if len(body) > shared.MAX_BODY:
        raise BadPacket("TOO_LONG", f"members in {len(body)} bytes")
    count, reserved, following = _HEAD.unpack_from(body)
    if reserved:
        raise BadPacket("BAD_LENGTH", f"members with a reserved field {reserved:#x}")
    return count, following


def _entries(body: Buffer, head: struct.Struct) -> Iterator[tuple[tuple[Any, ...], bytes]]:
    """The fields of each entry, the last of them the payload's length, and its payload."""
    at = _HEAD.size
    while at < len(body):
        begin = at + head.size
        if begin > len(body):
            raise BadPacket("TRUNCATED", f"a member's head at byte {at} of {len(body)}")
        fields = head.unpack_from(body, at)
        at = begin + fields[-1]
        if fields[-1] > MAX_PAYLOAD:
            raise BadPacket("TOO_LONG", f"a member's payload of {fields[-1]} bytes")
        if at > len(body):
            raise BadPacket("TRUNCATED", f"a member's payload that ends at byte {at} of {len(body)}")
        yield fields, bytes(body[begin:at])
