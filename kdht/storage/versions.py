"""The versions that a record may have. This is the only place with that rule.

A version is a time in microseconds, given by a client or by a node's hybrid clock. Both may be ahead of the true time by
MAX_CLOCK_ERROR, and the clocks of two nodes may differ by the replay window. A greater version is a lie or a fault. If it were
believed, nobody could write its key again, and clocks that follow it would run out of 64 bits.

A self-certified record has another kind of version, 2^63 and more. It proves it itself (`kdht.wire.certified`).

Contract: no clock, no I/O.
"""

from kdht.storage.record import StoredRecord
from kdht.times import UnixTime
from kdht.wire.certified import CERTIFIED, KINDS
from kdht.wire.limits import MAX_CLOCK_ERROR, MAX_VERSION

MICROSECONDS = 1_000_000
DAY = 86400 * MICROSECONDS
ANY_VERSION = MAX_VERSION
"""As `latest`: no version is refused. For reading a store as it is, to repair or count it."""


def micros(now: UnixTime) -> int:
    """A time as a version."""
    return int(now * MICROSECONDS)


def latest_version(now: UnixTime, window: int) -> int:
    """The greatest version that a record may have at `now`. `window`: seconds by which the clocks of two nodes may differ."""
    # What the fastest clock may give is refused by no clock that still takes its messages.
    return micros(now) + MAX_CLOCK_ERROR + window * MICROSECONDS


def latest_readable(now: UnixTime) -> int:
    """The greatest version that is still read from the own disk.

    It is greater than `latest_version`: a clock that was set back must not hide what was acknowledged before. But such a record
    gives its place to any record that is possible.
    """
    # An operator who corrects a clock by hours is usual, by more than a day hardly.
    return micros(now) + DAY


def is_possible_version(version: int, latest: int) -> bool:
    """Whether a record could have this version. For messages that name a version without its record."""
    # A self-certified record's version is no time. Its certificate is checked where the record itself comes.
    return version <= latest or version >= CERTIFIED


def is_possible(record: StoredRecord, latest: int) -> bool:
    """Whether this record could have been written. For every record from a message, a file or the disk.

    The flags of a self-certified record say that its certificate was checked when it came (`certified.check_certified`).
    """
    # Its version has the top bit, so the bound by the clock would refuse it always.
    if record.flags & KINDS:
        return record.version >= CERTIFIED
    return record.version <= latest
