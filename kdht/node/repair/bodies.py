"""DIGEST's and OFFER's bodies, to bytes and from untrusted bytes, which end in BadPacket only.

DIGEST request           reply                   OFFER request            reply

  0 | sender's ID    |     0 | answerer's ID |     0 | sender's ID   |      0 | answerer's ID    |
 20 | replicas       |    20 | replicas      |    20 | first key     |     20 | a byte per offer |
 21 | range, report  |    21 | report        |    40 | last key      |        | lack ...         |
    | range, report..|       | report ...    |    60 | offer ...     |

range: key (20), bits (1)
report: flags (1), number of records (4), digest (8), number of keepers (1), keeper (4) ...
offer: key (20), version (8), the last 4 bytes of the record's digest;  lack: key (20), version (8)
"""

import struct
from collections.abc import Sequence
from enum import IntEnum, IntFlag
from typing import Any, NamedTuple

from kdht.errors import BadPacket
from kdht.node.repair.ranges import Range, key_bytes, number
from kdht.wire._shared import ID_BITS, ID_LEN, MAX_BODY, MAX_REPLICAS

RANGE = struct.Struct(f">{ID_LEN}sB")
REPORT = struct.Struct(">BIQB")
KEEPER = struct.Struct(">I")
SPAN = struct.Struct(f">{ID_LEN}s{ID_LEN}s")
OFFER = struct.Struct(f">{ID_LEN}sQI")
LACK = struct.Struct(f">{ID_LEN}sQ")

# As many as fit into one datagram with their digests.
MAX_RANGES = 31
"""Ranges in one DIGEST without keepers. With keepers fewer fit (`fitting`)."""
MAX_KEEPERS = 32
"""That are named of one range: more would be a group that `ranges.MAX_FREE_BITS` makes, and the rest is left out."""
MAX_REPORTS = MAX_BODY - ID_LEN - 1
MAX_OFFERS = (MAX_BODY - ID_LEN - SPAN.size) // OFFER.size
MAX_LACKS = (MAX_BODY - ID_LEN - MAX_OFFERS) // LACK.size
MAX_COUNT = 2**32 - 1


class Digest(NamedTuple):
    """Equal for equal sets of records: their number, and the XOR of each one's `mark`."""

    records: int
    value: int


class Says(IntFlag):
    """Flags of a report."""

    CAUGHT_UP = 1
    """The sender has caught up on the range."""
    SEES_YOU = 2
    """The other node is among the range's replicas, as it sees the cluster since `sight.STABLE_SECONDS`."""
    KEEPS = 4
    """The sender is one of the replicas itself."""


class Report(NamedTuple):
    """One node's word on a range. `keepers`: the first 4 bytes of each replica's ID, as it sees the cluster.

    Where a request names none, only the digest is asked for, and the reply has no more.
    """

    digest: Digest
    says: int
    """Flags of `Says`."""
    keepers: tuple[int, ...]

    @property
    def size(self) -> int:
        return REPORT.size + KEEPER.size * len(self.keepers)


class Want(IntEnum):
    """The answer to an offer."""

    HAS = 0
    """The answering node has this record or a newer one."""
    WANTED = 1
    COMING = 2
    """Another node was told WANTED just now."""
    FOREIGN = 3
    """The answering node is no replica of the key, as it sees the cluster."""


# Plain numbers: an operation on an enum costs ten times that of its number, and each DIGEST needs dozens.
CAUGHT_UP, SEES_YOU, KEEPS = int(Says.CAUGHT_UP), int(Says.SEES_YOU), int(Says.KEEPS)
ALL_SAID = CAUGHT_UP | SEES_YOU | KEEPS


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


def short(id: bytes) -> int:
    """The first 4 bytes of an ID, as a report names it."""
    # Four of twenty bytes: reports of 31 ranges with all their keepers have to fit. Two nodes of a
    # neighbourhood with the same first 32 bits are as unlikely as a mistake here is harmless: the node waits a
    # little longer.
    return int.from_bytes(id[:4], "big")


def fitting(reports: Sequence[Report]) -> int:
    """The number of ranges that fit in one DIGEST, and in its reply if that names as many keepers."""
    room = MAX_REPORTS
    for count, report in enumerate(reports):
        # The larger of request and reply: the reply has no ranges, but may name more keepers.
        room -= RANGE.size + report.size
        if room < 0 or count == MAX_RANGES:
            return count
    return len(reports)


def pack_ranges(replicas: int, ranges: Sequence[tuple[Range, Report]]) -> bytes:
    """`replicas`: how many each record has at the sender."""
    return bytes([replicas]) + b"".join(
        RANGE.pack(key_bytes(range.start), range.bits) + _pack_report(report) for range, report in ranges
    )


def untrusted_ranges(body: bytes) -> tuple[int, list[tuple[Range, Report]]]:
    """Of a DIGEST, without the sender's ID. Raises BadPacket."""
    replicas, at = _replicas(body), 1
    found: list[tuple[Range, Report]] = []
    while at < len(body):
        if len(body) - at < RANGE.size or len(found) == MAX_RANGES:
            raise BadPacket("BAD_LENGTH", f"{len(body)} bytes after {len(found)} ranges")
        key, bits = RANGE.unpack_from(body, at)
        start = number(key)
        # A range with stray bits would be another range with the same name.
        if bits > ID_BITS or start & ((1 << (ID_BITS - bits)) - 1):
            raise BadPacket("BAD_LENGTH", f"a range of {bits} bits")
        report = _report(body, at + RANGE.size)
        at += RANGE.size + report.size
        found.append((Range(start, bits), report))
    return replicas, found


def pack_reports(replicas: int, reports: Sequence[Report]) -> bytes:
    """The reply to a DIGEST. Keepers that do not fit are left out."""
    room = (MAX_REPORTS - len(reports) * REPORT.size) // KEEPER.size // max(len(reports), 1)
    return bytes([replicas]) + b"".join(
        _pack_report(report._replace(keepers=report.keepers[:room])) for report in reports
    )


def untrusted_reports(body: bytes, expected: int) -> tuple[int, list[Report]]:
    """Of the reply to a DIGEST of `expected` ranges, without the ID. Raises BadPacket."""
    replicas, at = _replicas(body), 1
    found = []
    for _ in range(expected):
        report = _report(body, at)
        at += report.size
        found.append(report)
    if at != len(body):
        raise BadPacket("BAD_LENGTH", f"{len(body)} bytes for {expected} reports")
    return replicas, found


def _replicas(body: bytes) -> int:
    if not body or not 1 <= body[0] <= MAX_REPLICAS:
        raise BadPacket("BAD_LENGTH", "a DIGEST without the number of replicas")
    return body[0]


def _pack_report(report: Report) -> bytes:
    (count, value), says, keepers = report
    named = keepers[:MAX_KEEPERS]
    head = REPORT.pack(says, min(count, MAX_COUNT), value, len(named))
    return head + struct.pack(f">{len(named)}I", *named)


def _report(body: bytes, at: int) -> Report:
    if len(body) - at < REPORT.size:
        raise BadPacket("TRUNCATED", "a report that is cut off")
    says, count, value, named = REPORT.unpack_from(body, at)
    keepers = body[at + REPORT.size : at + REPORT.size + named * KEEPER.size]
    if named > MAX_KEEPERS or len(keepers) != named * KEEPER.size:
        raise BadPacket("TRUNCATED", f"a report of {named} keepers")
    # Unknown flags may change what the others mean.
    if says & ~ALL_SAID:
        raise BadPacket("BAD_FLAGS", f"a report with the flags {says:#x}")
    return Report(Digest(count, value), says, struct.unpack(f">{named}I", keepers))


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
