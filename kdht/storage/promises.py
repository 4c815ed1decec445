"""Promises: what a replica takes no more of a key while a conditional write of it is being decided.

Contract: a promise (version, nonce) is given where the version is above what stands, and where the pair is above all
that were promised, or is the last of them. For HINDERS seconds no record with a lower version is accepted. It is forgotten when
a record with its version or a greater one is accepted, when who asked for it gives it back, or after LIFETIME.
After HINDERS its write is hardly under way any more, and what repair brings is not to wait. That is safe at any time: the decided
write is refused where another record stands than the one that was noted. The time only spares both a second try.
Several of one key are kept, since the last may be given back while the write of an earlier one is under way.
"""

import struct
from typing import NamedTuple

from kdht.storage.record import StoredRecord

LIFETIME = 600
"""Seconds."""
HINDERS = 5
"""Seconds; more than a coordinator takes for a conditional write."""
MAX_OF_A_KEY = 4
MAX_KEYS = 65536
"""With promises; past that none is given for another key."""
NOBODY = 0
"""The nonce of a promise that takes the place of several, so that nobody can give it back."""


class Promise(NamedTuple):
    """What a coordinator asks for, or gives back."""

    key: bytes
    version: int
    nonce: int
    given_back: bool = False


class Pledge(NamedTuple):
    """A promise that was given, when `noted` was the version that stood; `since` is Unix seconds."""

    version: int
    nonce: int
    noted: int
    since: int


Pledges = tuple[Pledge, ...]
"""All of one key, the greatest last."""


class Granted(NamedTuple):
    """What became of a promise that was asked for."""

    accepted: bool
    version: int
    """What stands, 0: nothing; of one that was refused, what stands or is promised, 0: there are too many promises."""
    expiry: int = 0
    flags: int = 0


PLEDGE = struct.Struct(">QQQQ")


def pack(pledges: Pledges) -> bytes:
    return b"".join(PLEDGE.pack(*pledge) for pledge in pledges)


def unpack(raw: bytes) -> Pledges:
    """Raises struct.error for bytes that `pack` never made."""
    return tuple(Pledge(*fields) for fields in PLEDGE.iter_unpack(raw))


def live(pledges: Pledges, now: float) -> Pledges:
    """Those that are not forgotten yet."""
    return tuple(pledge for pledge in pledges if now < pledge.since + LIFETIME)


def hindering(pledges: Pledges, now: float) -> int:
    """Below which version nothing is accepted."""
    return max((pledge.version for pledge in pledges if 0 <= now - pledge.since < HINDERS), default=0)


def above(pledges: Pledges, version: int) -> Pledges:
    """Those that are left once a record of that version was accepted."""
    return tuple(pledge for pledge in pledges if pledge.version > version)


def grant(
    previous: StoredRecord | None, pledges: Pledges, asked: Promise, now: float, *, room: bool
) -> tuple[Pledges, Granted]:
    """The promises of a key after one was asked for, where `previous` stands, and what to tell who asked.

    `room`: whether there may be promises of one more key.
    """
    if not (pledges or room):
        return pledges, Granted(False, 0)
    pledges = live(pledges, now)
    pair = asked.version, asked.nonce
    others = tuple(pledge for pledge in pledges if (pledge.version, pledge.nonce) != pair)
    standing = previous.version if previous is not None else 0
    if asked.given_back:
        return others, Granted(True, standing)
    if asked.version <= standing:
        return pledges, Granted(False, standing)
    if others and (others[-1].version, others[-1].nonce) > pair:
        return pledges, Granted(False, others[-1].version)
    given = Pledge(*pair, standing, int(now))
    head = (previous.expiry, previous.flags) if previous is not None else (0, 0)
    return (*_merged(others), given), Granted(True, standing, *head)


def _merged(pledges: Pledges) -> Pledges:
    """With room for one more: the two lowest become one, which protects what both did."""
    if len(pledges) < MAX_OF_A_KEY:
        return pledges
    first, second, *rest = pledges
    return (second._replace(nonce=NOBODY, since=max(first.since, second.since)), *rest)
