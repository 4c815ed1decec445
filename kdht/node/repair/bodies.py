"""DIGEST's and OFFER's bodies, to bytes and from untrusted bytes, which end in BadPacket only.

DIGEST request           reply                   OFFER request            reply

  0 | sender's ID    |     0 | answerer's ID |     0 | sender's ID   |      0 | answerer's ID    |
 20 | range digest   |    20 | count, digest |    20 | first key     |     20 | a byte per offer |
 53 | range digest...|    32 | ...           |    40 | last key      |        | lack ...         |
                                                 60 | offer ...     |

range digest: key (20), bits (1), number of records (4), digest (8)
offer: key (20), version (8), the last 4 bytes of the record's digest;  lack: key (20), version (8)
"""

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from kdht._shared import ID_BITS, ID_LEN, MAX_BODY
from kdht.errors import BadPacket
from kdht.node.repair.ranges import Range, key_bytes, number

RANGE_DIGEST = struct.Struct(f">{ID_LEN}sBIQ")
DIGEST = struct.Struct(">IQ")
SPAN = struct.Struct(f">{ID_LEN}s{ID_LEN}s")
OFFER = struct.Struct(f">{ID_LEN}sQI")
LACK = struct.Struct(f">{ID_LEN}sQ")

MAX_RANGES = (MAX_BODY - ID_LEN) // RANGE_DIGEST.size
MAX_OFFERS = (MAX_BODY - ID_LEN - SPAN.size) // OFFER.size
MAX_LACKS = (MAX_BODY - ID_LEN - MAX_OFFERS) // LACK.size
MAX_COUNT = 2**32 - 1


class Digest(NamedTuple):
    """Equal for equal sets of records: their number, and the XOR of each one's `mark`."""

    records: int
    value: int


class Want(IntEnum):
    """What a node says to an offer."""

    HAS = 0
    """It has this record, or a newer one."""
    WANTED = 1
    COMING = 2
    """Another node was told WANTED just now."""
    FOREIGN = 3
    """It is not among the key's replicas, as it sees the cluster."""


class Offered(NamedTuple):
    key: bytes
    version: int
    mark: int
    """The last 32 bits of the record's digest: tells records of the same version apart."""


class Lack(NamedTuple):
    """What the sender of an OFFER does not have in that version, or a newer one."""

    key: bytes
    version: int


class Offer(NamedTuple):
    """All records of the sender in first..last, both included; where first > last, just some records."""

    first: int
    last: int
    offered: list[Offered]


NO_SPAN = (1, 0)


def pack_ranges(ranges: Sequence[tuple[Range, Digest]]) -> bytes:
    return b"".join(
        RANGE_DIGEST.pack(key_bytes(range.start), range.bits, min(count, MAX_COUNT), value)
        for range, (count, value) in ranges
    )


def untrusted_ranges(body: bytes) -> list[tuple[Range, Digest]]:
    """Of a DIGEST, without the sender's ID. Raises BadPacket."""
    found = []
    for key, bits, count, value in _items(RANGE_DIGEST, body, MAX_RANGES):
        start = number(key)
        if bits > ID_BITS or start & ((1 << (ID_BITS - bits)) - 1):
            raise BadPacket("BAD_LENGTH", f"a range of {bits} bits")
        found.append((Range(start, bits), Digest(count, value)))
    return found


def pack_digests(digests: Sequence[Digest]) -> bytes:
    return b"".join(DIGEST.pack(min(count, MAX_COUNT), value) for count, value in digests)


def untrusted_digests(body: bytes, expected: int) -> list[Digest]:
    """Of the reply to a DIGEST of `expected` ranges, without the ID. Raises BadPacket."""
    if len(body) != expected * DIGEST.size:
        raise BadPacket("BAD_LENGTH", f"{len(body)} bytes for {expected} digests")
    return [Digest(count, value) for count, value in DIGEST.iter_unpack(body)]


def pack_offer(offer: Offer) -> bytes:
    span = SPAN.pack(key_bytes(offer.first), key_bytes(offer.last))
    return span + b"".join(OFFER.pack(*each) for each in offer.offered)


def untrusted_offer(body: bytes) -> Offer:
    """Of an OFFER, without the sender's ID. Raises BadPacket."""
    if len(body) < SPAN.size:
        raise BadPacket("TRUNCATED", "an offer without its keys")
    first, last = SPAN.unpack_from(body)
    items = _items(OFFER, body[SPAN.size :], MAX_OFFERS)
    return Offer(number(first), number(last), [Offered(*fields) for fields in items])


def pack_wants(wants: Sequence[Want], lacks: Sequence[Lack]) -> bytes:
    return bytes(wants) + b"".join(LACK.pack(*lack) for lack in lacks)


def untrusted_wants(body: bytes, expected: int) -> tuple[list[Want], list[Lack]]:
    """Of the reply to `expected` offers, without the ID. Raises BadPacket."""
    try:
        wants = [Want(code) for code in body[:expected]]
    except ValueError:
        raise BadPacket("BAD_FLAGS", "an unknown answer to an offer") from None
    if len(wants) != expected:
        raise BadPacket("TRUNCATED", f"{len(wants)} answers to {expected} offers")
    return wants, [Lack(*fields) for fields in _items(LACK, body[expected:], MAX_LACKS)]


def _items(layout: struct.Struct, body: bytes, most: int) -> list[Any]:
    if len(body) % layout.size:
        raise BadPacket("BAD_LENGTH", f"{len(body)} bytes of {layout.size} each")
    if len(body) > most * layout.size:
        raise BadPacket("TOO_LONG", f"{len(body)} bytes")
    return list(layout.iter_unpack(body))
