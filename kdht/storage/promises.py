"""Promises: a replica promises to accept no older version of a key while a conditional write is decided.

A promise is a pair (version, nonce). A replica gives it if the version is above that of the stored record, and
the pair is above all pairs promised before, or equal to the last one (a repeated question).

- For HINDERS seconds the replica accepts no record with a lower version.
- A promise ends when a record with its version or a greater one is accepted, when the coordinator gives it
  back, or after LIFETIME.

Why HINDERS is short: after that time the conditional write is hardly under way any more, and repair should not
wait for it. A short time is safe. A replica refuses the decided write if it stores another record than the
one that it noted with the promise. The time only saves both writers a second try.

Why several promises of one key: the last may be given back while the write of an earlier one is on its way.
"""

import struct
from typing import NamedTuple

from kdht.storage.record import StoredRecord
from kdht.storage.versions import is_possible_version, micros
from kdht.times import UnixTime

# Longer than any conditional write may be retried, with its late datagrams. Then a write that a minority took
# may be seen as newer again (docs/design/conditions.md, Limits).
LIFETIME = 600
"""Seconds."""
HINDERS = 5
"""Seconds. More than a coordinator needs for a conditional write."""
# Writers of one key at one coordinator wait for each other, so more than one for each replica needs several
# coordinators at once.
MAX_OF_A_KEY = 4
# All promises are in memory. A client with a condition on each of many keys must not take
# more than some MiB.
MAX_KEYS = 65536
"""Keys with promises. Beyond that no other key gets one."""
NOBODY = 0
"""The nonce of a promise that replaced several. Nobody asked with it, so nobody can give it back."""


class Promise(NamedTuple):
    """A coordinator's question for a promise, or the return of one."""

    key: bytes
    version: int
    nonce: int
    given_back: bool = False


class Pledge(NamedTuple):
    """A promise that was given. `noted`: the stored version at that time. `since`: Unix seconds."""

    version: int
    nonce: int
    noted: int
    since: int


Pledges = tuple[Pledge, ...]
"""All promises of one key, the greatest last."""


class Granted(NamedTuple):
    """The answer to a question for a promise."""

    accepted: bool
    version: int
    """Accepted: the stored version, 0: none. Refused: the stored or promised version that is in the way; the time
    as a version, if the asked one is beyond what any clock may say; 0: there are too many promises."""
    expiry: int = 0
    flags: int = 0


PLEDGE = struct.Struct(">QQQQ")


def pack(pledges: Pledges) -> bytes:
    return b"".join(PLEDGE.pack(*pledge) for pledge in pledges)


def unpack(raw: bytes) -> Pledges:
    """Raises struct.error for bytes that `pack` cannot have made."""
    return tuple(Pledge(*fields) for fields in PLEDGE.iter_unpack(raw))


def live(pledges: Pledges, now: UnixTime) -> Pledges:
    """The promises that are younger than LIFETIME."""
    return tuple(pledge for pledge in pledges if now < pledge.since + LIFETIME)


def hindering(pledges: Pledges, now: UnixTime) -> int:
    """The version below which no record is accepted now. 0: any version is."""
    return max((pledge.version for pledge in pledges if 0 <= now - pledge.since < HINDERS), default=0)


def above(pledges: Pledges, version: int) -> Pledges:
    """The promises that remain after a record with `version` was accepted."""
    return tuple(pledge for pledge in pledges if pledge.version > version)


def grant(
    previous: StoredRecord | None, pledges: Pledges, asked: Promise, now: UnixTime, latest: int, *, room: bool
) -> tuple[Pledges, Granted]:
    """The promises of a key after a question, and the answer. `previous`: the stored record. `latest`: as in `versions`.

    `room`: whether one more key may have promises.
    """
    if not (pledges or room):
        return pledges, Granted(False, 0)
    # Else nobody could write the key until the promise ends.
    if not asked.given_back and not is_possible_version(asked.version, latest):
        return pledges, Granted(False, micros(now))
    # Ended ones do not count any more, even if no sweep has removed them.
    pledges = live(pledges, now)
    pair = asked.version, asked.nonce
    others = tuple(pledge for pledge in pledges if (pledge.version, pledge.nonce) != pair)
    standing = previous.version if previous is not None else 0
    # Also where the promise is not known: the answer is the same, and a lost answer is asked for again.
    if asked.given_back:
        return others, Granted(True, standing)
    # The stored record is as new: the conditional write could never win.
    if asked.version <= standing:
        return pledges, Granted(False, standing)
    # Paxos: no promise below one that was given.
    if others and (others[-1].version, others[-1].nonce) > pair:
        return pledges, Granted(False, others[-1].version)
    # With the version that stands now. The decided write is taken only if it still stands then.
    given = Pledge(*pair, standing, int(now))
    head = (previous.expiry, previous.flags) if previous is not None else (0, 0)
    return (*_merged(others), given), Granted(True, standing, *head)


def _merged(pledges: Pledges) -> Pledges:
    """Make room for one more: the two lowest become one, which is at least as strict as both."""
    if len(pledges) < MAX_OF_A_KEY:
        return pledges
    # Dropping one would let an older write pass it. The higher version of both, for the longer time, is safe.
    first, second, *rest = pledges
    return (second._replace(nonce=NOBODY, since=max(first.since, second.since)), *rest)
