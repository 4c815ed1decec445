"""The same question again, but for its ID: the answer that dnspython made before, with new TTLs and a new serial number.

No I/O and no clock: `now` is passed in. An answer is kept with the *shape* of what was found: its entries without their ends. As
long as a name has that shape, and none of its entries ends within the answer's TTL, all TTLs of the answer are the same and only
they change. Otherwise the same bytes are right within one second of the day.
"""

import struct
from collections.abc import Iterator, Sequence
from itertools import count
from typing import NamedTuple

from dns.rdatatype import AAAA, ANY, OPT, SOA, A

from kdht.faces.dns.answers import Question
from kdht.faces.dns.lookups import Known
from kdht.faces.dns.messages import HEADER, is_cut
from kdht.times import UnixTime

MAX_REPEATED = 16384
"""Different questions. The one that was first answered longest ago is forgotten first."""
ID_LEN = 2
_RECORD_HEAD = struct.Struct(">HHIH")
"""Behind a record's name: type, class, TTL, length."""
_TTL_AT = 4
_FOUR = struct.Struct(">I")
_SOA_NUMBERS = 20
"""Bytes of the five numbers that end an SOA record, the serial number first."""
_POINTER = 0xC0


class Places(NamedTuple):
    """What changes in an answer, and where that is."""

    ttls: tuple[int, ...]
    serials: tuple[int, ...]
    addresses: tuple[slice, ...]
    """The records of an answer of several addresses. Each asker gets another one first, for most take the first."""
    turns: Iterator[int]


class Repeated(NamedTuple):
    """An answer to an asker by UDP without a cookie."""

    answer: bytes
    is_longer: bool
    """Than its question."""
    name: bytes | None
    """That was looked up; None for none."""
    shape: object
    soonest: float
    most_ttl: int
    second: int
    """In which it was made."""
    places: Places | None
    """None: the answer is not the same with other numbers."""


class Repeats:
    """Answers by question."""

    def __init__(self) -> None:
        self._kept: dict[tuple[bytes, bool], Repeated] = {}

    def find(self, data: bytes, *, loopback: bool) -> Repeated | None:
        """The last answer to the same question."""
        return self._kept.get((data[ID_LEN:], loopback))

    def keep(
        self, data: bytes, question: Question, known: Known | None, answer: bytes, now: UnixTime
    ) -> None:
        """Keep the answer to a question by UDP, unless it is for this asker alone. `known`: what it was made of."""
        # One with a cookie is for one asker. One that was cut may be whole for the next asker.
        if question.cookie or is_cut(answer):
            return
        if len(self._kept) >= MAX_REPEATED:
            del self._kept[next(iter(self._kept))]
        made_of = Known((), None, 0.0, 0) if known is None else known
        self._kept[data[ID_LEN:], question.asker.is_loopback] = Repeated(
            answer,
            len(answer) > len(data),
            question.wanted,
            made_of.shape,
            made_of.soonest,
            made_of.most_ttl,
            int(now),
            _changing(question, made_of, answer, now),
        )


def again(repeated: Repeated, known: Known | None, id: bytes, now: UnixTime) -> bytes | None:
    """The answer as it is now; None: it has to be made anew. `known`: what is under `repeated.name` now."""
    second = int(now)
    same = id + repeated.answer[ID_LEN:]
    if known is None or known.shape is not repeated.shape:
        return same if repeated.name is None and second == repeated.second else None
    same_ttl = known.most_ttl == repeated.most_ttl
    if repeated.places is None or not _holds(known, now):
        is_same = same_ttl and known.soonest == repeated.soonest and second == repeated.second
        return same if is_same else None
    places = repeated.places
    if same_ttl and not places.serials and not places.addresses:
        return same
    changed = bytearray(same)
    for at in places.ttls:
        _FOUR.pack_into(changed, at, known.most_ttl)
    for at in places.serials:
        _FOUR.pack_into(changed, at, second & 0xFFFFFFFF)
    if places.addresses:
        _rotate(changed, places.addresses, next(places.turns))
    return bytes(changed)


def _rotate(answer: bytearray, records: Sequence[slice], turn: int) -> None:
    """Another of these records first. All have the same length and lie one behind the other."""
    first = records[turn % len(records)].start
    begin, end = records[0].start, records[-1].stop
    answer[begin:end] = answer[first:end] + answer[begin:first]


def _holds(known: Known, now: UnixTime) -> bool:
    """Whether no entry ends before the TTL does."""
    return known.soonest > now and known.soonest - now >= known.most_ttl


def _changing(question: Question, known: Known, answer: bytes, now: UnixTime) -> Places | None:
    """The places of an answer whose TTLs are all `known.most_ttl`, but for that of an SOA record, which is fixed."""
    # ANY has one record of the face's own, whose TTL is always the zone's.
    if question.wanted is None or question.query.type == ANY or not _holds(known, now):
        return None
    ttls, serials, addresses = [], [], []
    for record in _records(answer):
        if record.kind == SOA:
            serials.append(record.end - _SOA_NUMBERS)
        elif record.kind != OPT and record.ttl != known.most_ttl:
            return None
        elif record.kind != OPT:
            ttls.append(record.ttl_at)
        if record.kind in (A, AAAA) and question.query.type == record.kind:
            addresses.append(slice(record.begin, record.end))
    # With one owner, the question's name, they have one length. That is so with dnspython, and else they stay as they are.
    is_even = len({each.stop - each.start for each in addresses}) == 1
    return Places(
        tuple(ttls), tuple(serials), tuple(addresses) if is_even and len(addresses) > 1 else (), count(1)
    )


class _Record(NamedTuple):
    """A record within an answer."""

    kind: int
    ttl: int
    begin: int
    ttl_at: int
    end: int


def _records(answer: bytes) -> Iterator[_Record]:
    """Of an answer of our own."""
    _, _, questions, *sections = HEADER.unpack_from(answer)
    at = HEADER.size
    for _ in range(questions):
        at = _behind_name(answer, at) + 4
    for _ in range(sum(sections)):
        begin, at = at, _behind_name(answer, at)
        kind, _, ttl, length = _RECORD_HEAD.unpack_from(answer, at)
        end = at + _RECORD_HEAD.size + length
        yield _Record(kind, ttl, begin, at + _TTL_AT, end)
        at = end


def _behind_name(answer: bytes, at: int) -> int:
    while length := answer[at]:
        if length >= _POINTER:
            return at + 2
        at += 1 + length
    return at + 1
